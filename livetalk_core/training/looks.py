"""What a drawn face looks like: one vector of numbers per face, read off as colours, sizes and styles."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .chance import generator_of

NUMBERS = 160
"""Random numbers of one face; more than are read, so that a new feature changes none of the old ones."""

SKINS = (
    (0.98, 0.86, 0.77), (0.96, 0.80, 0.69), (0.92, 0.74, 0.60), (0.87, 0.67, 0.51), (0.80, 0.58, 0.42),
    (0.70, 0.49, 0.34), (0.58, 0.39, 0.27), (0.47, 0.31, 0.22), (0.37, 0.25, 0.18), (0.95, 0.78, 0.70),
)  # fmt: skip
HAIRS = (
    (0.08, 0.07, 0.07), (0.14, 0.10, 0.08), (0.24, 0.15, 0.10), (0.36, 0.23, 0.14), (0.50, 0.34, 0.20),
    (0.72, 0.55, 0.33), (0.87, 0.74, 0.50), (0.58, 0.26, 0.12), (0.62, 0.60, 0.58), (0.85, 0.84, 0.82),
    (0.45, 0.20, 0.42), (0.20, 0.35, 0.52),
)  # fmt: skip
IRISES = ((0.30, 0.19, 0.10), (0.42, 0.28, 0.14), (0.25, 0.45, 0.62), (0.30, 0.48, 0.32), (0.45, 0.50, 0.52))


@dataclass(frozen=True)
class Looks:
    """Faces, one value [B] (or colour [B,3] in 0..1) each. Lengths: the picture's short side is 1.64 (`faces.VIEW`).

    Places are relative to the head's centre. Weights `has_*` and `*_weight` are 0 (absent) .. 1.
    """

    centre_x: Tensor
    centre_y: Tensor
    head_rx: Tensor
    head_ry: Tensor
    taper: Tensor
    skin: Tensor
    blush: Tensor
    light: Tensor
    freckles: Tensor
    eye_x: Tensor
    eye_y: Tensor
    eye_w: Tensor
    eye_h: Tensor
    eye_tilt: Tensor
    iris: Tensor
    iris_r: Tensor
    lashes: Tensor
    brow_y: Tensor
    brow_arch: Tensor
    brow_half: Tensor
    brow_tilt: Tensor
    brow_color: Tensor
    nose_y: Tensor
    nose_w: Tensor
    mouth_y: Tensor
    mouth_w: Tensor
    lip_up: Tensor
    lip_low: Tensor
    lip: Tensor
    smile: Tensor
    hair: Tensor
    has_hair: Tensor
    hairline: Tensor
    part_x: Tensor
    part_depth: Tensor
    fringe_bend: Tensor
    fringe_jag: Tensor
    volume: Tensor
    strands: Tensor
    side_length: Tensor
    back_width: Tensor
    back_length: Tensor
    wave: Tensor
    beard_weight: Tensor
    moustache_weight: Tensor
    has_glasses: Tensor
    glasses_round: Tensor
    glasses_half: Tensor
    glasses_color: Tensor
    cloth: Tensor
    cloth_trim: Tensor
    neckline_depth: Tensor
    neckline_v: Tensor
    stripes: Tensor
    stripe_rate: Tensor
    has_collar: Tensor
    shoulder: Tensor
    ground_a: Tensor
    ground_b: Tensor
    ground_turn: Tensor
    spots: Tensor
    spot_color: Tensor
    bars: Tensor

    def __len__(self) -> int:
        return len(self.light)

    def take(self, index: Tensor) -> "Looks":
        """The faces of `index` [N]."""
        return self.map(lambda values: values[index])

    def to(self, device: torch.device | str) -> "Looks":
        """The same on another device."""
        return self.map(lambda values: values.to(device))

    def map(self, change) -> "Looks":  # noqa: ANN001 - Tensor -> Tensor
        """Every field changed by a function."""
        return Looks(**{field.name: change(getattr(self, field.name)) for field in fields(self)})


def draw_looks(names: list[tuple[int | str, ...]]) -> Looks:
    """One face for each name; a name always gives the same face."""
    return _read(_Numbers(torch.stack([torch.rand(NUMBERS, generator=generator_of("face", *name)) for name in names])))


class _Numbers:
    """Hands out the columns of [B,NUMBERS] one after another."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.next = numbers, 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        self.next += 1
        return low + (high - low) * self.numbers[:, self.next - 1]

    def chance(self, probability: float) -> Tensor:
        """1 with a probability, else 0."""
        return (self() < probability).float()

    def choice(self, colors: tuple[tuple[float, float, float], ...], jitter: float) -> Tensor:
        """One of some colours, changed a little: [B,3]."""
        table = torch.tensor(colors)
        picked = table[(self() * len(table)).long().clamp_max(len(table) - 1)]
        return (picked * self(1 - jitter, 1 + jitter)[:, None] + jitter / 4 * self.color(-1, 1)).clamp(0.02, 0.98)

    def color(self, low: float, high: float) -> Tensor:
        """Any colour: [B,3]."""
        return torch.stack([self(low, high) for _ in range(3)], dim=1)


def mixed(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Colours between a and b: [B,3]."""
    return torch.lerp(a, b, weight[:, None] if isinstance(weight, Tensor) else torch.as_tensor(weight).to(a))


def _read(u: _Numbers) -> Looks:
    skin, hair = u.choice(SKINS, 0.06), u.choice(HAIRS, 0.15)
    deep = skin * torch.tensor([0.80, 0.52, 0.50])
    bald, long = u.chance(0.08), u.chance(0.45)
    bearded = u.chance(0.30) * (1 - long)
    head_ry, vivid, dark_ground = u(0.43, 0.50), u(), u.chance(0.35)
    ground = u.color(0.15, 0.95) * (1 - 0.55 * dark_ground[:, None])
    rise = u(0.25, 1.0)
    return Looks(
        centre_x=u(-0.06, 0.06), centre_y=u(-0.08, 0.01), head_rx=u(0.325, 0.39), head_ry=head_ry,
        taper=u(0.08, 0.38), skin=skin, blush=u(0.05, 0.35), light=u(-1, 1), freckles=u.chance(0.2) * u(),
        eye_x=u(0.135, 0.165), eye_y=u(-0.07, -0.02), eye_w=u(0.068, 0.090), eye_h=u(0.038, 0.056),
        eye_tilt=u(-0.16, 0.12), iris=u.choice(IRISES, 0.15), iris_r=u(0.034, 0.041), lashes=u(0.3, 1.0),
        brow_y=u(0.085, 0.115), brow_arch=u(0.005, 0.035), brow_half=u(0.007, 0.016), brow_tilt=u(-0.18, 0.06),
        brow_color=mixed(hair * 0.75, skin * 0.45, 0.3),
        nose_y=u(0.095, 0.135), nose_w=u(0.042, 0.066), mouth_y=u(0.225, 0.262), mouth_w=u(0.085, 0.118),
        lip_up=u(0.012, 0.024), lip_low=u(0.018, 0.034),
        lip=mixed(deep, torch.stack([u(0.6, 0.9), u(0.15, 0.4), u(0.2, 0.45)], 1), u(0.0, 0.6)), smile=u(0.0, 0.022),
        hair=hair, has_hair=1 - bald, hairline=-head_ry * u(0.42, 0.78), part_x=u(-0.25, 0.25),
        part_depth=u.chance(0.5) * u(0.05, 0.16), fringe_bend=u(0.0, 0.45), fringe_jag=u.chance(0.5) * u(0.0, 0.03),
        volume=u(0.02, 0.09), strands=u(0.25, 1.0), side_length=long * u(0.2, 0.5) + (1 - long) * u(-0.15, 0.12),
        back_width=long * u(0.42, 0.56) + (1 - long) * u(0.30, 0.40), back_length=long * u(0.3, 0.95),
        wave=u(0.0, 0.03), beard_weight=bearded * u(0.15, 0.95), moustache_weight=bearded * u.chance(0.8) * rise,
        has_glasses=u.chance(0.3), glasses_round=u(0.3, 1.0), glasses_half=u(0.005, 0.011),
        glasses_color=u.color(0.03, 0.5) * vivid[:, None],
        cloth=u.color(0.05, 0.9), cloth_trim=u.color(0.1, 1.0), neckline_depth=u(0.02, 0.3), neckline_v=u.chance(0.5),
        stripes=u.chance(0.3) * u(0.3, 0.9), stripe_rate=u(14, 40), has_collar=u.chance(0.35), shoulder=u(0.62, 0.86),
        ground_a=ground, ground_b=(ground * u(0.5, 1.3)[:, None] + 0.15 * u.color(-1, 1)).clamp(0, 1),
        ground_turn=u(0, 6.28), spots=u.chance(0.4) * u(0.2, 0.6), spot_color=u.color(0.3, 1.0),
        bars=u.chance(0.3) * u(0.05, 0.25),
    )  # fmt: skip
