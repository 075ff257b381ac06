"""The parts of a drawn face that only move as a whole: drawn once a clip as layers, then warped for every frame.

Layers, from the back: ground (never moves), rear (back hair, neck, clothes), head (skin and all upon it that does
not move by itself), front (hair over the forehead, glasses).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .canvas import Layer, between, box, column, ellipse, fill, line, union
from .looks import Looks, mixed

HEAD_SPAN = 0.80
"""The head's layers reach from -0.80 to 0.80 around its centre."""
REAR_SPAN = 1.30
"""The rear layer reaches from -1.30 to 1.30 around the picture's centre."""
OVERSAMPLING = 1.4
VIEW = 0.82
"""What of a face picture is seen: its short side reaches from -0.82 to 0.82."""


class Layers(NamedTuple):
    """Premultiplied pictures of B faces: ground [B,3,H,W]; rear [B,4,r,r]; head and front together [B,8,s,s]."""

    ground: Tensor
    rear: Tensor
    head: Tensor


def draw_layers(looks: Looks, height: int, width: int) -> Layers:
    """All layers of some faces, for frames of a size in pixels."""
    side, device = min(height, width), looks.light.device
    head_side, rear_side = (int(side / VIEW * OVERSAMPLING * span) for span in (HEAD_SPAN, REAR_SPAN / 1.3))
    x, y = _square(head_side, HEAD_SPAN, len(looks), device)
    pixel = 2 * HEAD_SPAN / head_side
    head, front = _head(looks, x, y, pixel), _front(looks, x, y, pixel)
    x, y = _square(rear_side, REAR_SPAN, len(looks), device)
    rear = _rear(looks, x, y, 2 * REAR_SPAN / rear_side)
    return Layers(_ground(looks, height, width), rear.rgba, torch.cat([head.rgba, front.rgba], dim=1))


def picture_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates of a picture's pixel centres, x and y [H,W]; the short side reaches from -VIEW to VIEW."""
    half = min(height, width) / 2
    ys = (torch.arange(height, device=device) + 0.5 - height / 2) * (VIEW / half)
    xs = (torch.arange(width, device=device) + 0.5 - width / 2) * (VIEW / half)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return x, y


def _square(side: int, span: float, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = picture_grid(side, side, device)
    x, y = x * (span / VIEW), y * (span / VIEW)
    return x.expand(batch, -1, -1), y.expand(batch, -1, -1)


def _blob(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """A soft spot, 1 in its middle."""
    return torch.exp(-((x / rx) ** 2) - (y / ry) ** 2)


def head_distance(looks: Looks, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline of the head, narrower towards the chin."""
    rx, ry = column(looks.head_rx), column(looks.head_ry)
    down = (y / ry).clamp(0, 1)
    near = ((x / (rx * (1 - column(looks.taper) * down**2))) ** 2 + (y / ry).abs() ** 2.2).sqrt()
    return (near - 1) * rx


def _head(looks: Looks, x: Tensor, y: Tensor, pixel: float) -> Layer:
    layer, rx, skin = Layer(x), column(looks.head_rx), looks.skin
    shade, glow = skin * skin.new_tensor([0.72, 0.60, 0.58]), mixed(skin, torch.ones_like(skin), 0.35)
    outline = head_distance(looks, x, y)
    ears = ellipse(x.abs() - rx, y - 0.02, 0.045, 0.085)
    layer.paint(fill(ears, pixel), skin * 0.93)
    layer.paint(_blob(x.abs() - rx - 0.008, y - 0.02, 0.020, 0.05) * 0.6, shade, within=True)
    layer.paint(fill(outline, pixel), skin)
    layer.paint((1 + outline / 0.16).clamp(0, 1) ** 2 * 0.45, shade, within=True)
    side = column(looks.light)
    layer.paint((x / rx * side).clamp(0, 1) * 0.38, shade, within=True)
    layer.paint(_blob(x + 0.14 * side, y + 0.26, 0.16, 0.10) * 0.5, glow, within=True)
    _cheeks_and_sockets(layer, looks, x, y, shade, glow)
    _nose(layer, looks, x, y, pixel, shade, glow)
    _beard(layer, looks, x, y, outline)
    return layer


def _cheeks_and_sockets(layer: Layer, looks: Looks, x: Tensor, y: Tensor, shade: Tensor, glow: Tensor) -> None:
    red = looks.skin * looks.skin.new_tensor([1.0, 0.62, 0.60])
    layer.paint(_blob(x.abs() - 0.19, y - 0.12, 0.085, 0.065) * column(looks.blush), red, within=True)
    spots = (torch.sin(x * 95 + torch.sin(y * 61) * 2) * torch.sin(y * 107 + torch.cos(x * 73)) - 0.55).clamp(0, 0.4)
    layer.paint(spots * _blob(x.abs() - 0.15, y - 0.09, 0.11, 0.06) * column(looks.freckles) * 2, shade, within=True)
    eye_x, eye_y = column(looks.eye_x), column(looks.eye_y)
    layer.paint(_blob(x.abs() - eye_x, y - eye_y + 0.015, 0.095, 0.06) * 0.38, shade, within=True)
    layer.paint(_blob(x.abs() - eye_x, y - eye_y - 0.062, 0.07, 0.014) * 0.28, shade, within=True)
    mouth_y = column(looks.mouth_y)
    layer.paint(_blob(x, y - mouth_y - 0.085, 0.09, 0.022) * 0.4, shade, within=True)
    layer.paint(_blob(x, y - mouth_y - 0.135, 0.07, 0.035) * 0.3, glow, within=True)


def _nose(layer: Layer, looks: Looks, x: Tensor, y: Tensor, pixel: float, shade: Tensor, glow: Tensor) -> None:
    bottom, half, side = column(looks.nose_y), column(looks.nose_w), column(looks.light)
    layer.paint(_blob(x - 0.035 * torch.where(side < 0, -1.0, 1.0), y - 0.01, 0.022, 0.11) * 0.35, shade, within=True)
    layer.paint(_blob(x + 0.008 * side, y - bottom + 0.10, 0.016, 0.11) * 0.55, glow, within=True)
    layer.paint(_blob(x, y - bottom + 0.012, 0.026, 0.022) * 0.55, glow, within=True)
    layer.paint(_blob(x, y - bottom - 0.022, half * 1.2, 0.015) * 0.6, shade, within=True)
    wing = line(ellipse(x.abs() - half * 0.75, y - bottom, half * 0.42, 0.026), 0.004, pixel + 0.012)
    layer.paint(wing * (x.abs() > half * 0.75).float() * 0.7, shade, within=True)
    nostril = fill(ellipse(x.abs() - half * 0.45, y - bottom - 0.014, half * 0.26, 0.008), pixel, 0.006)
    layer.paint(nostril * 0.85, shade * 0.5, within=True)


def _beard(layer: Layer, looks: Looks, x: Tensor, y: Tensor, outline: Tensor) -> None:
    rx, mouth_y = column(looks.head_rx), column(looks.mouth_y)
    edge = mouth_y - 0.075 - 0.30 * ((x.abs() / rx) ** 2 - 0.25)
    grown = ((y - edge) / 0.035).clamp(0, 1) * (-outline / 0.015).clamp(0, 1)
    bare = _blob(x, y - mouth_y - 0.01, column(looks.mouth_w) * 1.05, 0.05)
    color = mixed(looks.hair, looks.skin * 0.5, 0.15)
    layer.paint(grown * (1 - bare) * column(looks.beard_weight), color, within=True)
    moustache = fill(ellipse(x, y - mouth_y + 0.052 + 1.2 * x**2, column(looks.mouth_w) * 0.95, 0.017), 0.02)
    layer.paint(moustache * column(looks.moustache_weight), color, within=True)


def _strands(looks: Looks, x: Tensor, y: Tensor) -> Tensor:
    """The hair's colour, lighter and darker along its strands: [B,3,h,w]."""
    turn = torch.atan2(x - column(looks.part_x) * 0.5, -(y + 0.25))
    waves = torch.sin(turn * 31 + 2 * torch.sin(y * 9)) + 0.6 * torch.sin(turn * 67 + y * 13 + x * 5)
    shine = _blob(torch.hypot(x, y) - 0.42, y + 0.4, 0.05, 0.25)
    light = 1 + column(looks.strands) * (0.10 * waves) + 0.35 * shine
    return (looks.hair[:, :, None, None] * light[:, None] + 0.05 * shine[:, None]).clamp(0, 1)


def _front(looks: Looks, x: Tensor, y: Tensor, pixel: float) -> Layer:
    layer, rx, ry = Layer(x), column(looks.head_rx), column(looks.head_ry)
    volume, part = column(looks.volume), column(looks.part_x)
    cap = ellipse(x, y + 0.02, rx + volume + 0.015, ry + volume)
    jag = column(looks.fringe_jag) * torch.sin(x * 42 + 3 * torch.sin(x * 13))
    notch = column(looks.part_depth) * torch.exp(-(((x - part) / 0.11) ** 2))
    hairline = column(looks.hairline) + column(looks.fringe_bend) * (x - part * 0.6) ** 2 * 2 + jag - notch
    over = torch.maximum(cap, y - hairline)
    beside = torch.maximum(torch.maximum(cap, y - column(looks.side_length)), rx * 0.88 - x.abs())
    beside = torch.maximum(beside, -(y + ry))
    hair = union(over, beside, 0.06)
    shadow = (1 - (y - hairline).clamp_min(0) / 0.05).clamp(0, 1) * (y > hairline).float()
    face = fill(head_distance(looks, x, y), pixel) * column(looks.has_hair)
    layer.paint(shadow * face * 0.22, looks.skin * 0.4)
    layer.paint(fill(hair, pixel) * column(looks.has_hair), _strands(looks, x, y))
    _glasses(layer, looks, x, y, pixel)
    return layer


def _glasses(layer: Layer, looks: Looks, x: Tensor, y: Tensor, pixel: float) -> None:
    there, half = column(looks.has_glasses), column(looks.glasses_half)
    lens_y = y - column(looks.eye_y) - 0.012
    radius = 0.092
    lens = box(x.abs() - column(looks.eye_x), lens_y, radius, radius * 0.82, column(looks.glasses_round) * 0.075)
    layer.paint(fill(lens, pixel) * 0.07 * there, torch.ones_like(looks.skin))
    layer.paint(line(lens, half, pixel) * there, looks.glasses_color)
    middle = (x.abs() < column(looks.eye_x) - radius).float()
    layer.paint(line(lens_y + 0.02 + 2 * x**2, half, pixel) * middle * there, looks.glasses_color)
    temple = (x.abs() > column(looks.eye_x) + radius).float() * (x.abs() < column(looks.head_rx)).float()
    layer.paint(line(lens_y + 0.03, half, pixel) * temple * there, looks.glasses_color)


def _rear(looks: Looks, x: Tensor, y: Tensor, pixel: float) -> Layer:
    layer = Layer(x)
    head_x, head_y = x - column(looks.centre_x), y - column(looks.centre_y)
    volume, ry = column(looks.volume), column(looks.head_ry)
    wavy = head_x + column(looks.wave) * torch.sin(head_y * 24)
    crown = ellipse(wavy, head_y + 0.03, column(looks.head_rx) + volume + 0.01, ry + volume + 0.01)
    reach = (column(looks.back_length) + ry) / 2
    fall = box(wavy, head_y + ry * 0.4 - reach, column(looks.back_width) - 0.03, reach, 0.16)
    long = torch.where(column(looks.back_length) > 0.05, union(crown, fall, 0.12), crown)
    layer.paint(fill(long, pixel) * column(looks.has_hair), _strands(looks, head_x, head_y) * 0.72)
    _neck_and_clothes(layer, looks, x, y, head_x, pixel)
    return layer


def _neck_and_clothes(layer: Layer, looks: Looks, x: Tensor, y: Tensor, head_x: Tensor, pixel: float) -> None:
    neck_half, skin = column(looks.head_rx) * 0.56, looks.skin
    shade = skin * skin.new_tensor([0.70, 0.58, 0.56])
    neck = box(head_x, y - 0.55, neck_half + 0.25 * (y - 0.55).clamp_min(0) ** 2, 0.45, 0.05)
    layer.paint(fill(neck, pixel), skin * 0.92)
    layer.paint(_blob(head_x, y - column(looks.centre_y) - column(looks.head_ry), 0.30, 0.14) * 0.6 * fill(neck, pixel),
                shade)  # fmt: skip
    body = ellipse(x, y - 1.23, column(looks.shoulder), 0.73)
    layer.paint(fill(body, pixel), looks.cloth)
    wave = torch.sin(y * column(looks.stripe_rate)).clamp(0, 0.25) * 4
    layer.paint(wave * column(looks.stripes) * fill(body, pixel), looks.cloth_trim, within=True)
    layer.paint((1 + body / 0.3).clamp(0, 1) ** 2 * 0.3 * fill(body, pixel), looks.cloth * 0.5, within=True)
    depth, pointed = column(looks.neckline_depth), column(looks.neckline_v)
    half = neck_half * 1.05 + 0.05
    cut_round = ellipse(head_x, y - 0.52, half, depth + 0.06)
    cut_v = head_x.abs() / half * (depth + 0.16) + (y - 0.54) - depth - 0.05
    cut = torch.maximum(torch.where(pointed > 0, cut_v * 0.6, cut_round), body)
    layer.paint(fill(cut, pixel), skin * 0.95)
    layer.paint(line(cut, 0.012, pixel) * fill(body, pixel), mixed(looks.cloth, looks.cloth_trim, 0.5))
    flap = between(y, 0.47 + (head_x.abs() - neck_half).abs() * 0.9, 0.63 + head_x.abs() * 0.35, pixel)
    collar = flap * fill((head_x.abs() - half * 0.95).abs() - 0.10, pixel) * column(looks.has_collar)
    layer.paint(collar, mixed(looks.cloth, looks.cloth_trim, 0.75))


def _ground(looks: Looks, height: int, width: int) -> Tensor:
    x, y = (v.expand(len(looks), -1, -1) for v in picture_grid(height, width, looks.light.device))
    turn = column(looks.ground_turn)
    mix = ((x * turn.cos() + y * turn.sin()) * 0.4 + 0.5).clamp(0, 1)[:, None]
    ground = torch.lerp(looks.ground_a[:, :, None, None], looks.ground_b[:, :, None, None], mix)
    spots = (_blob(x - turn.sin() * 0.7, y + turn.cos() * 0.6, 0.3, 0.3)
             + _blob(x + turn.cos() * 0.8, y + 0.5, 0.22, 0.22)).clamp(0, 1)  # fmt: skip
    ground = torch.lerp(ground, looks.spot_color[:, :, None, None], (spots * column(looks.spots))[:, None])
    bars = torch.sin(x * 7 + turn).sign() * column(looks.bars) * 0.5
    return (ground * (1 + bars[:, None])).clamp(0, 1)
