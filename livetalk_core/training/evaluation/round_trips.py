"""What the VAE alone makes of a picture that a stream hands on from chunk to chunk.

No transformer: a held picture's last frames are encoded as the stream does it, decoded, their colours matched, and so
on. All that is lost is lost there.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...config import StreamConfig
from ...models.color import ColorStatistics, match_color
from ...streaming.engine import Codec, LocalEngine
from ...streaming.session import encode_revised
from .photographs import OTHERS, PORTRAITS, picture_of
from .subjects import Cast

FACES = 6
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Trips after which the table says what is left."""


class _CodecEngine(LocalEngine):
    """An engine that denoises nothing."""

    def __init__(self, vae: Codec) -> None:
        self.vae, self.device = vae, torch.device("cpu")


@torch.inference_mode()
def round_trips(vae: Codec, picture: Tensor, trips: int, stream: StreamConfig) -> Tensor:
    """The last frame of a picture [1,3,1,H,W] after each of `trips` trips: [3,trips,H,W]."""
    engine, colors = _CodecEngine(vae), ColorStatistics.of(picture)
    frames = picture[0].expand(-1, stream.motion_frames, -1, -1)
    seen: list[Tensor] = []
    for _ in range(trips):
        latent = encode_revised(engine, frames, stream.revisions)
        decoded = torch.cat([*engine.decode(latent)], dim=1)
        frames = match_color(decoded[None], colors, stream.color_correction)[0]
        seen.append(frames[:, -1])
    return torch.stack(seen, dim=1)


def decibels(frames: Tensor, picture: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of frames [3,N,H,W] in -1..1 to a picture [1,3,1,H,W]: [N]."""
    return -10 * ((frames - picture[0]).square().mean((0, 2, 3)) / 4).log10()


def pictures(cast: Cast, count: int = FACES) -> Mapping[str, Tensor]:
    """Held-out faces and as many photographs, [1,3,1,H,W] each."""
    faces = {f"face {index}": cast.subject(index).portrait for index in range(count)}
    photographs = (*PORTRAITS[:2], *OTHERS)[:count]
    return faces | {f"photograph {index}": picture_of(one, cast.size) for index, one in enumerate(photographs)}


def loss_table(psnr: Mapping[str, Tensor]) -> str:
    """Decibels of each picture after 1 and more trips, and what was lost from the first to the last."""
    trips = len(next(iter(psnr.values())))
    at = [trip for trip in SHOWN if trip < trips] + [trips]
    groups: Mapping[str, Callable[[str], bool]] = {
        **{name: name.__eq__ for name in psnr},
        "faces": lambda name: name.startswith("face"),
        "photographs": lambda name: name.startswith("photograph"),
    }
    lines = [f"{'round trips':<16}" + "".join(f"{trip:>8}" for trip in at) + f"{'lost':>8}"]
    for title, belongs in groups.items():
        mean = torch.stack([values for name, values in psnr.items() if belongs(name)]).mean(0)
        cells = [float(mean[trip - 1]) for trip in at]
        lines.append(f"{title:<16}" + "".join(f"{cell:>8.2f}" for cell in [*cells, cells[0] - cells[-1]]))
    return "\n".join(lines)
