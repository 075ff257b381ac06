"""What self-correction gives: students distilled behind rollouts of K chunks, K = 1 (without it), 3 and 5.

    python -m benchmarks.rollouts --speech FOLDER --folder FOLDER [--seeds 8] [--rounds 60] [--json FILE]

At a scale where drift can appear and a CPU can repeat it: the embedded model at 32x32 px, stage 1 short and on clean
motion latents alone, heads at their liveliest, and the colour step off, in training and after it. For each seed the
students differ in K alone. Streams of `CHUNKS` chunks of the same held-out people are held against them as drawn:

- off: per region of 8x8 px, how far a chunk's mean colour is from the drawn person's in the same chunk, in percent of
  black to white;
- drift, the measure that was chosen before any student was made: off in the last quarter less off in the first;
- sharpness and motion, in the last quarter: mean second difference, and mean change from frame to frame, over those of
  the drawn person.

Printed are means over the seeds and, of the differences to K = 1, a confidence interval of 95 % (Student's t, paired).
The same command goes on where it stopped: what each student gave lies in the folder.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk_core.checkpoints import nano
from livetalk_core.config import DEFAULT_PROMPT
from livetalk_core.files import check_place, make_folder, write_durably
from livetalk_core.hardware.machine import describe
from livetalk_core.training.adapt import Adaptation
from livetalk_core.training.chance import generator_of
from livetalk_core.training.data import TakeSource
from livetalk_core.training.distill import Distillation
from livetalk_core.training.flow import Denoiser
from livetalk_core.training.keeping import averaged
from livetalk_core.training.latents import Encoders, Pool, Preparation, prepare_take, save_texts
from livetalk_core.training.speech import SpeechFolder
from livetalk_core.training.trainer import Batch, Schedule, Trainer

SIZE = (32, 32)
STREAM = replace(nano.PRESET.stream, height=SIZE[0], width=SIZE[1], color_correction=0.0)
FRAMES, NEW = STREAM.frame_num, STREAM.new_frames
CHUNKS, PEOPLE = 12, 6
REGION = 8
"""Pixels of a region's side."""
COUNTS = (1, 3, 5)
"""K."""
CRITIC_STEPS = 2
TAKES = 48
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Student's t for so many pairs."""


class Scores(NamedTuple):
    """Of one student: means over people, and chunks; see above."""

    drift: float
    off: float
    sharpness: float
    motion: float


class Scale:
    """The parts, the takes that are learned from, and stage 1, made once and kept in `folder`."""

    def __init__(self, folder: Path, speech: Path) -> None:
        make_folder(folder)
        self.folder, self.speech = folder, speech
        self.model = nano.open_nano("cpu", torch.float32)
        self.vae = self.model.load_vae()
        self.encoders = Encoders(self.vae, self.model.audio_encoder, self.model.load_image_encoder())
        self.texts = self.model.encode_texts(DEFAULT_PROMPT)

    def pool(self, seed: int) -> Pool:
        """Drawn people to learn from."""
        place = self.folder / "pool"
        source = TakeSource(SpeechFolder.open(self.speech), seed=9)
        list(Preparation(TAKES, (SIZE,), windows=4).fill(place, source.scene, self.encoders))
        save_texts(place, self.texts)
        return Pool(place, self.model.preset.transformer.text_len, seed)

    def network(self, weights: Path | None, name: str, trained: bool) -> Denoiser:
        """The transformer, with a run's averaged weights where one is named."""
        network = Denoiser.of(nano.transformer("cpu", torch.float32)).requires_grad_(trained).train(trained)
        if weights is not None:
            network.load_state_dict(averaged(weights, name))
        return network

    def stage_1(self, steps: int) -> Path:
        """The run of the teacher."""
        place = self.folder / "stage-1"
        task = Adaptation(self.network(None, "", True), self.vae, self.pool(0), clips=4)
        Trainer(task, Schedule(steps, rate=5e-4, warmup=20, ema=0.98, workers=0, save_every=100), place).run()
        return place

    @cached_property
    def people(self) -> tuple[Batch, Tensor]:
        """Held-out people: their batch, and the frames of all chunks as drawn, [B,3,T,H,W]."""
        frames = FRAMES + (CHUNKS - 1) * NEW
        source = TakeSource(SpeechFolder.open(self.speech, held=True), seed=0, name="held", frames=frames)
        scenes = [source.scene(index, SIZE) for index in range(PEOPLE)]
        takes = [prepare_take(scene, self.encoders, FRAMES, 1, index) for index, scene in enumerate(scenes)]
        made = {name: torch.stack([take[name] for take in takes]).float() for name in ("cond", "clip", "sound")}
        mask = torch.zeros(PEOPLE, 4, *made["cond"].shape[2:])
        mask[:, :, 0] = 1
        text = F.pad(self.texts[0], (0, 0, 0, self.model.preset.transformer.text_len - len(self.texts[0])))
        batch = {
            **made, "cond": torch.cat([mask, made["cond"]], dim=1), "text": text.expand(PEOPLE, -1, -1),
            "reference": torch.stack([take["reference"] for take in takes])[:, :, None] / 127.5 - 1,
            "start": torch.zeros(PEOPLE, dtype=torch.long),
        }  # fmt: skip
        return batch, torch.cat([scene.film(torch.arange(frames)[None]).video for scene in scenes])

    def task(self, teacher: Path, student: Path | None, count: int, seed: int) -> Distillation:
        """A distillation at this scale; `student`: a run that has one already."""
        first = self.network(*((teacher, "transformer") if student is None else (student, "student")), True)
        critic, frozen = (self.network(teacher, "transformer", trained) for trained in (True, False))
        return Distillation(
            first, critic, frozen, self.vae, self.pool(seed), STREAM, clips=2, chunks=count,
            critic_steps=CRITIC_STEPS, guidance=1.25, motion_weight=0.0,
        )  # fmt: skip

    @torch.inference_mode()
    def scores(self, task: Distillation) -> Scores:
        """What streams of the task's student are like."""
        batch, drawn = self.people
        off, sharpness, motion = zip(*_measured(task, batch, drawn), strict=True)
        quarter = CHUNKS // 4
        early, late = fmean(off[:quarter]), fmean(off[-quarter:])
        return Scores(late - early, late, fmean(sharpness[-quarter:]), fmean(motion[-quarter:]))


def _measured(task: Distillation, batch: Batch, drawn: Tensor) -> Iterator[tuple[float, float, float]]:
    """Off, sharpness and motion of each chunk."""
    noise = generator_of("rollouts")
    condition = task.beginning(batch, CHUNKS)
    for chunk in range(CHUNKS):
        motion, frames = task.go_on(condition, batch, noise)
        true, made = (x[:, :, STREAM.motion_frames :] for x in (drawn[:, :, chunk * NEW :][:, :, :FRAMES], frames))
        off = 50 * (_regions(made) - _regions(true)).abs().mean()
        ratios = (measure(made) / measure(true) for measure in (_edges, _changes))
        yield float(off), *map(float, ratios)
        if chunk + 1 < CHUNKS:
            condition = condition._replace(audio=task.sound(batch, chunk + 1, CHUNKS), motion=motion)


def _regions(frames: Tensor) -> Tensor:
    return F.avg_pool2d(frames.mean(2), REGION)


def _edges(frames: Tensor) -> Tensor:
    return frames.diff(n=2, dim=-1).abs().mean() + frames.diff(n=2, dim=-2).abs().mean()


def _changes(frames: Tensor) -> Tensor:
    return frames.diff(dim=2).abs().mean()


def student(scale: Scale, teacher: Path, count: int, seed: int, rounds: int) -> Scores:
    """Train and measure one, unless that is done."""
    kept = scale.folder / f"k{count}-seed{seed}-rounds{rounds}.json"
    if not kept.exists():
        run = kept.with_suffix("")
        steps = rounds * (CRITIC_STEPS + 1)
        schedule = Schedule(
            steps, rate=1e-4, betas=(0.5, 0.99), weight_decay=0.0, final_rate=0.1, warmup=6, ema=0.95, seed=seed,
            workers=0, save_every=steps,
        )  # fmt: skip
        Trainer(scale.task(teacher, None, count, seed), schedule, run).run()
        scores = scale.scores(scale.task(teacher, run, count, seed))
        write_durably(kept, json.dumps(scores._asdict()).encode())
        shutil.rmtree(run)
    return Scores(**json.loads(kept.read_text()))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The mean of paired differences, and how far its confidence interval of 95 % reaches on either side."""
    pairs = [one - other for one, other in zip(ours, theirs, strict=True)]
    return fmean(pairs), T_95[len(pairs)] * stdev(pairs) / len(pairs) ** 0.5


def table(stage_1: Scores, students: dict[int, list[Scores]]) -> str:
    """Means, and differences to K = 1 where there are two seeds or more."""
    lines = [f"| | {' | '.join(Scores._fields)} |", "|---" * (1 + len(Scores._fields)) + "|"]
    lines.append(f"| stage 1 | {' | '.join(f'{value:.3f}' for value in stage_1)} |")
    columns = {count: list(zip(*scores, strict=True)) for count, scores in students.items()}
    for count, values in columns.items():
        lines.append(f"| K = {count} | {' | '.join(f'{fmean(value):.3f}' for value in values)} |")
    for count, values in columns.items():
        if count != 1 and len(values[0]) > 1:
            pairs = (difference(ours, theirs) for ours, theirs in zip(values, columns[1], strict=True))
            cells = " | ".join(f"{mean:+.3f} ± {reach:.3f}" for mean, reach in pairs)
            lines.append(f"| K = {count} less K = 1 | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8, choices=range(1, 9))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--stage-1-steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json:
        check_place(options.json)
    scale = Scale(options.folder, options.speech)
    teacher = scale.stage_1(options.stage_1_steps)
    students: dict[int, list[Scores]] = {count: [] for count in COUNTS}
    stage_1 = scale.scores(scale.task(teacher, None, 1, 0))
    for seed in range(options.seeds):
        for count in COUNTS:
            students[count].append(student(scale, teacher, count, seed, options.rounds))
        print(f"{seed + 1} seeds\n{table(stage_1, students)}\n", flush=True)
        if options.json:
            kept: dict[str, Any] = {
                "size": SIZE, "chunks": CHUNKS, "people": PEOPLE, "rounds": options.rounds,
                "stage_1_steps": options.stage_1_steps, "machine": describe(), "stage_1": stage_1._asdict(),
                "students": {count: [scores._asdict() for scores in all_of] for count, all_of in students.items()},
            }  # fmt: skip
            write_durably(options.json, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
