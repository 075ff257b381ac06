"""The parts of a drawn face that move by themselves: eyes, brows and mouth, drawn in small windows of each frame.

N frames, h w pixels of the window; x, y [N,h,w] are places on the face, measured from the part's middle.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .canvas import between, column, ellipse, fill, line
from .looks import Looks

MAX_OPENING = 0.16
"""Height of the fully open mouth; the picture's short side is 1.64."""
UPPER_SHARE = 0.28
"""How much of the opening the upper lip makes."""
DARK = (0.17, 0.035, 0.045)
TEETH = (0.95, 0.94, 0.90)
TONGUE = (0.62, 0.24, 0.25)


@dataclass(frozen=True)
class Pose:
    """How faces are held, one value a frame ([N] or [B,T]).

    x, y; scale; roll, yaw and pitch in radians; gaze -1..1; eyes 0 (closed) .. 1; brow -1..1
    (raised); opening 0..1 and width -1..1 of the mouth.
    """

    x: Tensor
    y: Tensor
    scale: Tensor
    roll: Tensor
    yaw: Tensor
    pitch: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    eyes: Tensor
    brow: Tensor
    opening: Tensor
    width: Tensor

    def map(self, change) -> "Pose":  # noqa: ANN001 - Tensor -> Tensor
        """Every field changed by a function."""
        return Pose(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def flat(self) -> "Pose":
        """[B,T] -> [B*T]."""
        return self.map(lambda values: values.flatten())

    def to(self, device: torch.device | str) -> "Pose":
        """The same on another device."""
        return self.map(lambda values: values.to(device))


def over(rgb_N3hw: Tensor, alpha_Nhw: Tensor, color: Tensor) -> Tensor:
    """Lay a colour ([N,3] or [3]) over a picture."""
    color = color.expand(len(rgb_N3hw), 3)[:, :, None, None]
    return torch.lerp(rgb_N3hw, color.expand_as(rgb_N3hw), alpha_Nhw[:, None].expand_as(rgb_N3hw))


def draw_mouth(rgb: Tensor, x: Tensor, y: Tensor, pixel: Tensor, looks: Looks, pose: Pose) -> tuple[Tensor, Tensor]:
    """A mouth over [N,3,h,w]; gives the picture and the open part's coverage [N,h,w]."""
    half = column(looks.mouth_w * (1 + 0.22 * pose.width))
    bow = (1 - (x / half) ** 2).clamp_min(0)
    inner, outer = bow**0.75, bow**0.55
    height, bend = column(pose.opening) * MAX_OPENING, -column(looks.smile) * ((x / half) ** 2).clamp_max(1.5)
    pout = 1 - 0.18 * column(pose.width)
    top, bottom = bend - UPPER_SHARE * height * inner, bend + (1 - UPPER_SHARE) * height * inner
    dip = 1 - 0.25 * torch.exp(-((x / half / 0.18) ** 2))
    upper = between(y, top - column(looks.lip_up) * pout * outer * dip, top, pixel)
    lower = between(y, bottom, bottom + column(looks.lip_low) * pout * outer, pixel)
    lip = looks.lip
    rgb = over(over(rgb, upper, lip * 0.88), lower, lip)
    rgb = over(rgb, lower * torch.exp(-(((y - bottom) / 0.016 - 0.8) ** 2) - (x / half / 0.5) ** 2) * 0.4, lip.sqrt())
    open_ = between(y, top, bottom, pixel)
    rgb = over(rgb, open_, rgb.new_tensor(DARK))
    rgb = over(
        rgb, open_ * fill(ellipse(x, y - bottom, half * 0.62, 0.32 * height + 1e-3), 0.02), rgb.new_tensor(TONGUE)
    )
    teeth = torch.minimum(top + (0.30 * height).clamp_max(0.026) * inner, bottom)
    rgb = over(rgb, between(y, top, teeth, pixel) * (x.abs() < half * 0.8), rgb.new_tensor(TEETH) * 0.95)
    seam = line(y - (top + bottom) / 2, 0.004, pixel) * (bow > 0) * (1 - 6 * column(pose.opening)).clamp(0, 1)
    return over(rgb, seam * 0.75, lip * 0.42), open_


def draw_eye(
    rgb: Tensor, x: Tensor, y: Tensor, side: float, pixel: Tensor, looks: Looks, pose: Pose
) -> tuple[Tensor, Tensor]:
    """An eye and its brow over [N,3,h,w]; x grows outwards (`side` -1 is the left one in the picture).

    Gives the picture and the coverage of the open part [N,h,w].
    """
    half, tall = column(looks.eye_w), column(looks.eye_h)
    y = y - column(looks.eye_tilt) * x
    bow = (1 - (x / half) ** 2).clamp_min(0)
    bottom = 0.62 * tall * bow**0.9
    top = bottom - column(pose.eyes) * (1.62 * tall) * bow**0.6
    open_ = between(y, top, bottom, pixel)
    rgb = over(rgb, open_, rgb.new_tensor([0.96, 0.955, 0.95]))
    iris_x, iris_y = x - side * column(pose.gaze_x) * 0.026, y + 0.004 - column(pose.gaze_y) * 0.014
    radius = column(looks.iris_r)
    disc = ellipse(iris_x, iris_y, radius, radius)
    rgb = over(rgb, open_ * fill(disc, 0.012), looks.iris * 0.55)
    rgb = over(rgb, open_ * fill(disc + 0.007, 0.012), looks.iris)
    rgb = over(rgb, open_ * fill(disc + radius * 0.55, 0.012), rgb.new_tensor([0.03, 0.03, 0.035]))
    glint = ellipse(iris_x * side + 0.010, iris_y + 0.011, 0.008, 0.008)
    rgb = over(rgb, open_ * fill(glint, 0.012) * 0.95, rgb.new_tensor([1.0, 1.0, 1.0]))
    rgb = over(rgb, between(y, top, top + 0.014, pixel) * open_ * 0.35, looks.skin * 0.25)
    inside = (bow > 0).float()
    lid = line(y - top + 0.002, 0.004 + 0.004 * column(looks.lashes), pixel) * inside
    rgb = over(rgb, lid * (0.55 + 0.4 * column(looks.lashes)), looks.skin * 0.16)
    rgb = over(rgb, line(y - bottom, 0.002, pixel) * inside * 0.4, looks.skin * 0.35)
    crease = line(y + 1.5 * tall * bow**0.5 + 0.004, 0.003, pixel) * inside * column(pose.eyes).clamp(0.2, 1)
    return _brow(over(rgb, crease * 0.35, looks.skin * 0.5), x, y, pixel, looks, pose), open_


def _brow(rgb: Tensor, x: Tensor, y: Tensor, pixel: Tensor, looks: Looks, pose: Pose) -> Tensor:
    along = (x - 0.005) / 0.095
    curve = -column(looks.brow_y) - 0.018 * column(pose.brow) - column(looks.brow_arch) * (1 - (along - 0.25) ** 2)
    distance = y + column(looks.brow_tilt) * x - curve
    half = column(looks.brow_half) * (1 - 0.55 * (along * 0.5 + 0.5).clamp(0, 1))
    ends = ((1 - along.abs()) / 0.12).clamp(0, 1)
    return over(rgb, line(distance, half, pixel + 0.006) * ends * 0.9, looks.brow_color)
