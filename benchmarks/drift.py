"""What retrospection calls drift, on drawn people whose disturbance is known; and ghosts where chunks meet.

    python -m benchmarks.drift [--faces 20] [--first 0] [--threshold 0.1] [--chunks 16] [--lookback 4] [--json FILE]

Each person speaks for so many chunks, drawn, not made by a model, and handed on through the embedded model's VAE. Seven
disturbances grow from chunk to chunk and must be found; five change how a person is held, or come with a new prompt,
and must not. Of each: in how many people it was found at all, in how many chunks after retrospection had begun, and the
largest reading of every kind.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk_core.checkpoints import nano
from livetalk_core.config import CorrectionConfig
from livetalk_core.files import check_place, write_durably
from livetalk_core.models.displacement import moved
from livetalk_core.streaming.correction import Corrector, Drift, bent, extent
from livetalk_core.training.data import Take, video
from livetalk_core.training.evaluation.subjects import Cast, Subject, held_out_speech
from livetalk_core.training.looks import Looks

SIZE = (128, 128)
NEW, HANDED = 28, 5
"""Frames that a chunk adds, and that it hands on."""
OTHER = 1000
"""Subjects from this number on are whom the others turn into."""
MORPHED = 0.5
"""How far a person turns into another."""

Show = Callable[[Subject, Subject, Tensor, float], Tensor]
"""Of a subject, and another: frames `index` under a disturbance of 0..1, [3,n,H,W] in -1..1."""


class Disturbance(NamedTuple):
    """What happens, and whether it is drift; `prompted`: at once in the middle, with a new prompt, not slowly."""

    name: str
    show: Show
    drifts: bool
    prompted: bool = False


class Finding(NamedTuple):
    """Of one person: whether it was found at all, the share of chunks in which it was, the largest of each kind."""

    detected: bool
    share: float
    largest: Drift


def blurred(frames: Tensor, deviation: float) -> Tensor:
    """Frames [3,n,H,W] blurred by a Gaussian of so many pixels."""
    reach = max(1, int(3 * deviation))
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * deviation**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    for across in (True, False):
        pad = (reach, reach, 0, 0) if across else (0, 0, reach, reach)
        kernel = weights if across else weights.transpose(2, 3)
        frames = F.conv2d(F.pad(frames.transpose(0, 1), pad, mode="replicate"), kernel, groups=3).transpose(0, 1)
    return frames


def _around_face() -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE[0]), torch.linspace(-1, 1, SIZE[1]), indexing="ij")
    return torch.exp(-(((x / 0.5) ** 2 + (y / 0.6) ** 2) ** 3))


def _posed(subject: Subject, index: Tensor, **shifts: float) -> Tensor:
    """Frames of a subject whose head is held otherwise."""
    pose = subject.take.pose
    held = replace(pose, **{name: getattr(pose, name) + shift for name, shift in shifts.items()})
    return video([subject.take._replace(pose=held)], index[None], subject.size)[0]


def _mixed(take: Take, other: Take, share: float, names: tuple[str, ...]) -> Take:
    looks = {name: torch.lerp(getattr(take.looks, name), getattr(other.looks, name), share) for name in names}
    return take._replace(looks=replace(take.looks, **looks))


def _enlarged(frames: Tensor, scale: float) -> Tensor:
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    field = torch.stack([x, y]) * (1 / scale - 1)
    return moved(frames.transpose(0, 1), field.expand(frames.shape[1], -1, -1, -1)).transpose(0, 1).clamp(-1, 1)


def _shifted(frames: Tensor, down: int) -> Tensor:
    return F.pad(frames.transpose(0, 1), (0, 0, down, 0), mode="replicate")[:, :, : SIZE[0]].transpose(0, 1)


def _blur(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    frames = subject.drawn(index)
    return torch.lerp(frames, blurred(frames, 1.2), amount)


def _blur_face(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    frames = subject.drawn(index)
    return torch.lerp(frames, blurred(frames, 3.0), amount * _around_face())


def _tint(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    return (subject.drawn(index) + amount * torch.tensor([0.12, 0.02, -0.1])[:, None, None, None]).clamp(-1, 1)


def _pale(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    return subject.drawn(index) * (1 - 0.25 * amount)


def _lose_red(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    return subject.drawn(index) * (1 - 0.5 * amount * torch.tensor([1.0, 0.0, 0.0])[:, None, None, None])


def _sharpen(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    frames = subject.drawn(index)
    return (frames + amount * (frames - blurred(frames, 1.0))).clamp(-1, 1)


def _become(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    names = tuple(field.name for field in fields(Looks))
    return video([_mixed(subject.take, other.take, MORPHED * amount, names)], index[None], subject.size)[0]


def _redress(subject: Subject, other: Subject, index: Tensor, amount: float) -> Tensor:
    names = ("cloth", "cloth_trim", "ground_a", "ground_b", "stripes")
    return video([_mixed(subject.take, other.take, amount, names)], index[None], subject.size)[0]


DISTURBANCES = (
    Disturbance("slow blur", _blur, True),
    Disturbance("face blurred away", _blur_face, True),
    Disturbance("colour", _tint, True),
    Disturbance("contrast", _pale, True),
    Disturbance("one channel", _lose_red, True),
    Disturbance("sharpening", _sharpen, True),
    Disturbance("identity morph", _become, True),
    Disturbance("head turned", lambda subject, _, index, amount: _posed(subject, index, yaw=0.35 * amount), False),
    Disturbance("head tilted", lambda subject, _, index, amount: _posed(subject, index, roll=0.2 * amount), False),
    Disturbance("nearer", lambda subject, _, index, amount: _enlarged(subject.drawn(index), 1 + 0.2 * amount), False),
    Disturbance("lower", lambda subject, _, index, amount: _shifted(subject.drawn(index), int(15 * amount)), False),
    Disturbance("new prompt", _redress, False, prompted=True),
)


class Trial(NamedTuple):
    """How it is tried."""

    chunks: int
    config: CorrectionConfig

    def find(self, disturbance: Disturbance, subject: Subject, other: Subject) -> Finding:
        """What retrospection makes of one person's chunks; nothing is corrected, so that drift goes on."""
        portrait = subject.portrait[0]
        corrector = Corrector.of(self.config, _encoded(portrait.expand(-1, HANDED, -1, -1)), 4)
        past, extents = None, []
        for chunk in range(self.chunks):
            index = torch.arange(HANDED) + NEW * (chunk + 1) - HANDED
            frames = disturbance.show(subject, other, index, self._amount(disturbance, chunk))
            like = _encoded(bent(portrait, frames[:, -1:]).expand(-1, HANDED, -1, -1))
            prompted = disturbance.prompted and chunk == self.chunks // 2
            past = corrector.review(chunk, past, _encoded(frames), like, new_prompt=prompted)
            drift = corrector.drift(past)
            if drift is not None:
                extents.append(extent(drift))
        fired = [max(one) > self.config.threshold for one in extents]
        largest = Drift(*(max(kind) for kind in zip(*extents, strict=True)))
        return Finding(any(fired), fmean(fired), largest)

    def _amount(self, disturbance: Disturbance, chunk: int) -> float:
        """Nothing while retrospection learns what the model does by itself, then more and more."""
        if disturbance.prompted:
            return float(chunk >= self.chunks // 2)
        begun = self.config.lookback - 1
        return max(0, chunk - begun) / (self.chunks - 1 - begun)


@torch.inference_mode()
def _encoded(frames: Tensor) -> Tensor:
    return VAE.encode(frames[None])[0]


VAE = nano.vae("cpu", torch.float32)


def people(faces: int, chunks: int, first: int = 0) -> Iterator[tuple[Subject, Subject]]:
    """Held-out people from number `first` on, and whom they turn into."""
    cast = Cast(held_out_speech(None), NEW * chunks, SIZE)
    for number in range(first, first + faces):
        yield cast.subject(number), cast.subject(OTHER + number)


def line(disturbance: Disturbance, findings: list[Finding]) -> str:
    """A line of the table."""
    detected, share = fmean(finding.detected for finding in findings), fmean(finding.share for finding in findings)
    largest = (max(getattr(finding.largest, kind) for finding in findings) for kind in Drift._fields)
    least = (min(getattr(finding.largest, kind) for finding in findings) for kind in Drift._fields)
    kinds = " | ".join(f"{low:.3f} to {high:.3f}" for low, high in zip(least, largest, strict=True))
    return f"| {disturbance.name} | {'yes' if disturbance.drifts else 'no'} | {detected:.0%} | {share:.0%} | {kinds} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first person")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--threshold", type=float, default=CorrectionConfig().threshold)
    parser.add_argument("--lookback", type=int, default=CorrectionConfig().lookback)
    parser.add_argument("--only", choices=[one.name for one in DISTURBANCES], action="append", help="not all twelve")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json:
        check_place(options.json)
    trial = Trial(options.chunks, CorrectionConfig(lookback=options.lookback, threshold=options.threshold))
    print(f"| disturbance | is drift | found in people | in chunks | {' | '.join(Drift._fields)} |\n|{'---|' * 8}")
    cast, rows = list(people(options.faces, options.chunks, options.first)), []
    for disturbance in DISTURBANCES:
        if options.only and disturbance.name not in options.only:
            continue
        findings = [trial.find(disturbance, *pair) for pair in cast]
        print(line(disturbance, findings), flush=True)
        rows.append({"name": disturbance.name, "drifts": disturbance.drifts, "findings": findings})
    if options.json:
        record: dict[str, Any] = {**vars(options), "json": None, "rows": rows}
        write_durably(options.json, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
