"""How the measurer is trained and how well it measures: drawn faces of its own, poses of all kinds, exact labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ..chance import generator_of
from ..looks import draw_looks
from ..render import render
from ..strips import save_strip
from ..trainer import Batch, Losses, Task
from .examples import any_poses, degraded, noisy, recoloured
from .geometry import HELD, MIDDLE, SPREAD, Measures, plain, standard
from .measurer import EYES, FIND_SIDE, HEAD, MOUTH, SIDE, Measurer, resized

FACES, POSES, COPIES = 4, 10, 2
"""Of one batch; a face's layers are drawn once for all its poses, each frame is seen clean and degraded."""
MISSED_BY_FIND, MISSED_BY_REFINE = 0.4, 0.15
"""How far, in units of `SPREAD`, the heads are off that the later networks learn to look at."""
SHUT = 0.3
"""Below this opening of the eyes nobody can tell where they look."""


@dataclass
class MeasurerTask(Task):
    """Learns to read poses off frames. The four networks learn side by side: the later ones look at heads found with
    the errors that the earlier ones are expected to make."""

    measurer: Measurer
    seed: int = 0

    def __post_init__(self) -> None:
        self.networks: dict[str, Any] = {"measurer": self.measurer}

    def __getstate__(self) -> dict[str, object]:
        """What worker processes need: no network."""
        return {"seed": self.seed}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("measurer",)

    def batch(self, step: int) -> Batch:
        """Standardised `measures` [N,10]; what each network is to look at; how far `missed` [N,6] the heads are off."""
        chance = generator_of("measurer", self.seed, step)
        looks = draw_looks([("measurer", self.seed, step * FACES + face) for face in range(FACES)])
        pose = any_poses(FACES, POSES, chance)
        drawn = render(looks, pose, SIDE, SIDE).frames
        each = looks.take(torch.arange(FACES).repeat_interleave(POSES))
        measures = standard(Measures.true(each, pose.flat())).repeat(COPIES, 1)
        images = torch.cat([noisy(recoloured(drawn, 0.1, chance), 0.02, chance), degraded(drawn, POSES, chance)])
        missed = torch.randn((len(images), HELD), generator=chance)
        coarse, refined = (plain(measures[:, :HELD] - share * missed) for share in (MISSED_BY_FIND, MISSED_BY_REFINE))
        return {
            "measures": measures, "missed": MISSED_BY_FIND * missed, "find": resized(images, FIND_SIDE),
            "refine": HEAD.cut(images, coarse), "mouth": MOUTH.cut(images, refined), "eyes": EYES.cut(images, refined),
        }  # fmt: skip

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        measures, network = batch["measures"], self.networks["measurer"]
        targets = {
            "find": measures[:, :HELD], "refine": batch["missed"],
            "mouth": measures[:, HELD : HELD + 2], "eyes": measures[:, HELD + 2 :],
        }  # fmt: skip
        losses: Losses = {}
        for name, target in targets.items():
            with torch.autocast(target.device.type, torch.bfloat16):
                estimate = getattr(network, name)(batch[name].contiguous(memory_format=torch.channels_last)).float()
            error = F.smooth_l1_loss(estimate, target, beta=0.1, reduction="none")
            if name == "eyes":
                seen = target[:, :1] > (SHUT - MIDDLE.eyes) / SPREAD.eyes
                error = torch.cat([error[:, :1], error[:, 1:] * seen], dim=1)
            losses[name] = error.mean()
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def sample(self, folder: Path, step: int) -> None:
        """A batch to look at: upright heads, clean above degraded."""
        rows = self.batch(step)["refine"].unflatten(0, (COPIES * FACES, POSES)).transpose(1, 2)
        save_strip(folder / f"sample-{step:07d}.png", list(rows))


def keep(checkpoint: Path, path: Path) -> None:
    """Write the averaged weights of a training checkpoint as the measurer's file: half precision, no counters."""
    weights = load_file(checkpoint / "measurer.average.safetensors")
    halves = {name: values.half() for name, values in weights.items() if not name.endswith("num_batches_tracked")}
    save_file(halves, path)
