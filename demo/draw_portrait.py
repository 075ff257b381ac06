"""Draws the demo portrait: a person who does not exist. `python demo/draw_portrait.py` writes portrait.png.

All coordinates are pixels of the finished 512x512 picture, y down; the light comes from the upper left.
Everything is drawn at SCALE times that size and reduced at the end.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE, SCALE, MIDDLE = 512, 3, 256

Point = tuple[float, float]
Colour = tuple[int, int, int]

SKIN, SKIN_LIGHT, SKIN_SHADE, SKIN_DEEP = (238, 190, 162), (255, 226, 205), (203, 138, 112), (150, 86, 70)
BLUSH, LIP_UPPER, LIP_LOWER, LIP_LINE = (228, 124, 112), (184, 88, 86), (208, 112, 106), (120, 48, 50)
HAIR, HAIR_DARK, HAIR_LIGHT = (74, 44, 34), (38, 22, 19), (148, 94, 62)
KNIT, KNIT_DARK, KNIT_LIGHT = (44, 104, 116), (22, 58, 68), (92, 156, 164)


def curve(points: Sequence[Point], closed: bool = True, steps: int = 16) -> list[Point]:
    """A smooth line through `points` (Catmull-Rom)."""
    p = np.asarray(points, dtype=float)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([ends[0], p, ends[1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        parts.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    if not closed:
        parts.append(p[-2:-1])
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]


def mirrored(right: Sequence[Point]) -> list[Point]:
    """A closed outline from its right half, listed from top to bottom."""
    return [*right, *((2 * MIDDLE - x, y) for x, y in reversed(right) if x != MIDDLE)]


def flipped(points: Sequence[Point]) -> list[Point]:
    """The same shape on the other side of the face."""
    return [(2 * MIDDLE - x, y) for x, y in points]


def _blank() -> Image.Image:
    return Image.new("L", (SIZE * SCALE, SIZE * SCALE))


def shape(points: Sequence[Point], smooth: bool = True) -> Image.Image:
    """Mask of a filled outline."""
    mask = _blank()
    outline = curve(points) if smooth else points
    ImageDraw.Draw(mask).polygon([(x * SCALE, y * SCALE) for x, y in outline], fill=255)
    return mask


def ellipse(x: float, y: float, rx: float, ry: float) -> Image.Image:
    """Mask of an ellipse with its middle at (x, y)."""
    mask = _blank()
    ImageDraw.Draw(mask).ellipse([(x - rx) * SCALE, (y - ry) * SCALE, (x + rx) * SCALE, (y + ry) * SCALE], fill=255)
    return mask


def stroke(points: Sequence[Point], width: float) -> Image.Image:
    """Mask of a line that is `width` wide in its middle and tapers to both ends."""
    line = np.asarray(curve(points, closed=False))
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    half = 0.5 * width * np.sin(np.linspace(0.06, 0.94, len(line)) * np.pi)[:, None] ** 0.7
    sides = np.concatenate([line + across * half, (line - across * half)[::-1]])
    return shape([(float(x), float(y)) for x, y in sides], smooth=False)


def union(*masks: Image.Image) -> Image.Image:
    """Mask of what any of `masks` covers."""
    whole = masks[0]
    for mask in masks[1:]:
        whole = ImageChops.lighter(whole, mask)
    return whole


class Canvas:
    """The picture, painted layer over layer."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE))

    def paint(
        self, mask: Image.Image, colour: Colour, opacity: float = 1, blur: float = 0, clip: Image.Image | None = None
    ) -> None:
        """Lay `colour` over what `mask` covers: softened by `blur` pixels, and only inside `clip`."""
        left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
        margin = round(3 * blur * SCALE)
        width, height = mask.size
        box = max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)
        mask = mask.crop(box)
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * SCALE))
        if opacity < 1:
            mask = mask.point(lambda value: value * opacity)
        if clip is not None:
            mask = ImageChops.multiply(mask, clip.crop(box))
        self.image.paste(colour, box, mask)

    def strands(self, inner: Sequence[Point], outer: Sequence[Point], clip: Image.Image, count: int, seed: int) -> None:
        """Hair between two guide lines of equally many points, lit where t is near a third."""
        rng = random.Random(seed)
        for _ in range(count):
            t, wave = rng.random(), rng.uniform(-2.5, 2.5)
            line = [
                (a[0] + t * (b[0] - a[0]) + wave, a[1] + t * (b[1] - a[1])) for a, b in zip(inner, outer, strict=True)
            ]
            lit = rng.random() < 0.75 - abs(t - 0.4)
            opacity = rng.uniform(0.10, 0.34)
            self.paint(stroke(line, rng.uniform(0.8, 2.6)), HAIR_LIGHT if lit else HAIR_DARK, opacity, clip=clip)


def background(canvas: Canvas) -> None:
    """A plain wall, lighter behind the head."""
    canvas.image.paste((150, 170, 178), (0, 0, *canvas.image.size))
    canvas.paint(ellipse(225, 190, 250, 250), (226, 232, 230), 0.9, blur=90)
    canvas.paint(ellipse(430, 470, 170, 190), (112, 134, 146), 0.45, blur=80)


FACE = mirrored([
    (256, 92), (300, 100), (334, 130), (348, 178), (349, 222), (344, 264), (329, 304), (303, 337), (274, 353),
])  # fmt: skip
NECK = [(214, 300), (298, 300), (299, 366), (312, 394), (346, 412), (256, 480), (166, 412), (200, 394), (213, 366)]
BODY = mirrored([
    (256, 446), (288, 439), (312, 424), (325, 402), (342, 398), (390, 416), (438, 442), (466, 486), (476, 540),
    (256, 560),
])  # fmt: skip
HAIR_BACK = mirrored([
    (256, 50), (316, 64), (362, 112), (378, 180), (383, 260), (388, 330), (382, 392), (352, 420), (318, 424),
    (256, 426),
])  # fmt: skip


def back_hair(canvas: Canvas) -> None:
    """The mass of hair behind face and neck."""
    mask = shape(HAIR_BACK)
    canvas.paint(mask, (20, 24, 28), 0.25, blur=12)
    canvas.paint(mask, HAIR)
    canvas.paint(ellipse(256, 350, 90, 120), HAIR_DARK, 0.95, blur=18, clip=mask)
    canvas.paint(ellipse(400, 300, 40, 150), HAIR_DARK, 0.6, blur=16, clip=mask)
    left = [(176, 120), (146, 190), (140, 280), (138, 350), (150, 416)]
    inner = [(200, 130), (180, 200), (176, 280), (178, 350), (196, 404)]
    canvas.strands(left, inner, mask, 70, seed=1)
    canvas.strands(flipped(left), flipped(inner), mask, 70, seed=2)


def body(canvas: Canvas) -> None:
    """Shoulders in a knitted pullover."""
    mask = shape(BODY)
    canvas.paint(ImageChops.offset(mask, 0, -3 * SCALE), SKIN_DEEP, 0.55, blur=4, clip=shape(NECK))
    canvas.paint(mask, KNIT)
    canvas.paint(ellipse(140, 450, 90, 40), KNIT_LIGHT, 0.55, blur=22, clip=mask)
    canvas.paint(ellipse(256, 540, 200, 50), KNIT_DARK, 0.7, blur=24, clip=mask)
    canvas.paint(ellipse(440, 500, 70, 80), KNIT_DARK, 0.8, blur=22, clip=mask)
    for fold in ([(120, 520), (134, 486), (160, 456)], [(392, 520), (380, 486), (354, 456)]):
        canvas.paint(stroke(fold, 16), KNIT_DARK, 0.5, blur=6, clip=mask)
    for row in range(440, 530, 5):
        canvas.paint(stroke([(30, row + 30), (256, row), (482, row + 30)], 1.2), KNIT_DARK, 0.22, blur=0.6, clip=mask)
    collar(canvas, mask)


def collar(canvas: Canvas, clip: Image.Image) -> None:
    """The ribbed edge of the pullover around the neck."""
    edge = [(182, 392), (192, 412), (206, 428), (228, 441), (256, 446)]
    edge = [*edge, *flipped(edge[-2::-1])]
    inner = np.asarray(curve(edge, closed=False))
    outer = inner + (inner - (256, 380)) * 0.2
    canvas.paint(stroke([tuple(p) for p in outer[::8]], 7), KNIT_DARK, 0.75, blur=2.5, clip=clip)
    for n in range(0, len(inner), 2):
        canvas.paint(stroke([tuple(inner[n]), tuple(outer[n])], 1.3), KNIT_DARK, 0.4, blur=0.5, clip=clip)
    lit = [(float(x), float(y)) for x, y in inner[::8] + (outer[::8] - inner[::8]) * 0.35]
    canvas.paint(stroke(lit, 6), KNIT_LIGHT, 0.6, blur=2.5, clip=clip)


def neck(canvas: Canvas) -> None:
    """Neck, collar bones, and the collar over them."""
    mask = shape(NECK)
    canvas.paint(mask, SKIN)
    canvas.paint(ellipse(312, 370, 36, 80), SKIN_SHADE, 0.85, blur=14, clip=mask)
    canvas.paint(ellipse(204, 375, 14, 60), SKIN_SHADE, 0.6, blur=8, clip=mask)
    canvas.paint(
        shape([(190, 300), (322, 300), (314, 366), (262, 386), (206, 362)]), SKIN_DEEP, 0.62, blur=9, clip=mask
    )
    canvas.paint(stroke([(250, 436), (216, 424), (176, 420)], 6), SKIN_SHADE, 0.6, blur=3, clip=mask)
    canvas.paint(stroke([(264, 436), (298, 424), (336, 420)], 6), SKIN_DEEP, 0.4, blur=3, clip=mask)
    canvas.paint(ellipse(226, 408, 12, 20), SKIN_LIGHT, 0.5, blur=9, clip=mask)


def face(canvas: Canvas) -> Image.Image:
    """Head without features; returns its mask."""
    mask = shape(FACE)
    canvas.paint(mask, SKIN)
    canvas.paint(ellipse(356, 250, 44, 130), SKIN_SHADE, 0.9, blur=18, clip=mask)
    canvas.paint(ellipse(158, 280, 18, 100), SKIN_SHADE, 0.55, blur=11, clip=mask)
    canvas.paint(ellipse(262, 362, 70, 24), SKIN_SHADE, 0.75, blur=11, clip=mask)
    canvas.paint(ellipse(256, 98, 110, 36), SKIN_SHADE, 0.8, blur=14, clip=mask)
    canvas.paint(ellipse(238, 156, 46, 24), SKIN_LIGHT, 0.75, blur=16, clip=mask)
    canvas.paint(ellipse(205, 256, 24, 17), SKIN_LIGHT, 0.7, blur=10, clip=mask)
    canvas.paint(ellipse(302, 254, 18, 14), SKIN_LIGHT, 0.5, blur=9, clip=mask)
    canvas.paint(ellipse(252, 338, 16, 9), SKIN_LIGHT, 0.65, blur=6, clip=mask)
    canvas.paint(ellipse(199, 275, 25, 17), BLUSH, 0.34, blur=12, clip=mask)
    canvas.paint(ellipse(313, 275, 25, 17), BLUSH, 0.34, blur=12, clip=mask)
    return mask


def eye(canvas: Canvas, side: int) -> None:
    """One eye; `side` is -1 for the left of the picture, 1 for the right. Drawn for the right one."""

    def put(points: Sequence[Point]) -> list[Point]:
        return [(MIDDLE + side * x, y) for x, y in points]

    x, y = MIDDLE + side * 43.5, 226
    canvas.paint(ellipse(x, y - 6, 30, 17), SKIN_SHADE, 0.6, blur=7)
    almond = [(22.5, 231), (30, 222), (41, 216.5), (52, 217), (61, 222), (66, 229), (57, 234.5), (44, 236.5), (31, 235)]
    mask = shape(put(almond))
    canvas.paint(mask, (250, 246, 243))
    canvas.paint(
        stroke(put([(20, 227), (32, 216), (44, 212), (56, 213), (68, 226)]), 15), (150, 128, 128), 0.6, 2.5, mask
    )
    canvas.paint(ellipse(MIDDLE + side * 24.5, 231, 3.5, 2.6), (224, 140, 130), 0.8, blur=1, clip=mask)
    canvas.paint(ellipse(x, y, 10.6, 10.8), (44, 28, 22), clip=mask)
    canvas.paint(ellipse(x, y, 9.4, 9.6), (98, 62, 36), blur=0.5, clip=mask)
    canvas.paint(ellipse(x + 1.5, y + 4, 6.2, 4.8), (178, 122, 66), 0.9, blur=1.6, clip=mask)
    canvas.paint(ellipse(x, y, 4.5, 4.6), (16, 11, 11), clip=mask)
    canvas.paint(ellipse(x, y - 9.5, 13, 4.5), (30, 18, 16), 0.7, blur=1.8, clip=mask)
    canvas.paint(ellipse(x - 3.4, y - 3.6, 2.7, 2.7), (255, 255, 255), 0.96, blur=0.25)
    canvas.paint(ellipse(x + 3.8, y + 3.8, 1.4, 1.4), (255, 255, 255), 0.55, blur=0.3)
    lash = [(21.5, 231.5), (30, 221.5), (41, 215.6), (52, 216), (61, 221), (70.5, 227)]
    thick = [(61, 218), (52, 212.4), (41, 212), (30, 218.8)]
    canvas.paint(shape(put([*lash, *thick])), (42, 25, 22), 0.96, blur=0.35)
    canvas.paint(stroke(put([(26, 234.5), (44, 237.6), (60, 234), (67, 228)]), 1.8), (140, 84, 72), 0.75, blur=0.6)
    canvas.paint(
        stroke(put([(24, 219), (34, 209.5), (46, 206.6), (58, 209.5), (68, 218)]), 2.4), SKIN_DEEP, 0.6, blur=0.9
    )
    canvas.paint(stroke(put([(28, 241), (44, 245.5), (60, 241)]), 4), SKIN_SHADE, 0.45, blur=2.2)


def brow(canvas: Canvas, side: int) -> None:
    """One eyebrow, of short hairs over a soft ground."""
    upper = [(19, 192.5), (34, 188), (52, 185), (66, 188.5), (79, 200)]
    lower = [(20, 200), (36, 196), (53, 192), (66, 193.5), (79, 200)]
    outline = [(MIDDLE + side * x, y) for x, y in [*upper, *reversed(lower[1:-1]), lower[0]]]
    mask = shape(outline)
    canvas.paint(mask, HAIR, 0.75, blur=1.4)
    grown = mask.filter(ImageFilter.GaussianBlur(1.6 * SCALE))
    rng = random.Random(5)
    top, bottom = curve(upper, closed=False), curve(lower, closed=False)
    for n in range(2, len(top) - 3):
        (x, y0), (_, y1) = top[n], bottom[n]
        y = rng.uniform(y0, y1)
        hair = [(MIDDLE + side * (x + d), y - rise) for d, rise in ((-3, -1.6), (0, 0), (4, 0.6))]
        canvas.paint(stroke(hair, 0.9), HAIR_DARK, 0.45, blur=0.3, clip=grown)


def nose(canvas: Canvas, clip: Image.Image) -> None:
    """Nose: mostly the shade on its far side and the light on its ridge."""
    canvas.paint(
        shape([(266, 206), (274, 214), (272, 246), (282, 272), (268, 282), (263, 246)]), SKIN_SHADE, 0.5, 5, clip
    )
    canvas.paint(shape([(240, 204), (247, 214), (246, 240), (243, 262), (240, 240)]), SKIN_SHADE, 0.4, 4, clip)
    canvas.paint(stroke([(254, 206), (253, 236), (253, 268)], 10), SKIN_LIGHT, 0.75, 4, clip)
    canvas.paint(ellipse(252, 268, 8, 6), (255, 240, 226), 0.75, 3.5, clip)
    canvas.paint(ellipse(257, 285, 23, 5), SKIN_SHADE, 0.85, 3.5, clip)
    for side in (-1, 1):
        wing = [(MIDDLE + side * x, y) for x, y in ((17, 264), (22, 271), (21, 279), (15, 282))]
        canvas.paint(stroke(wing, 3), SKIN_DEEP, 0.55 if side > 0 else 0.4, 1.2, clip)
        nostril = [(MIDDLE + side * x, y) for x, y in ((4, 281), (8, 278), (14, 278.5), (15, 281.5), (9, 283))]
        canvas.paint(shape(nostril), (104, 50, 44), 0.85, 0.9, clip)
    canvas.paint(stroke([(246, 283), (256, 286), (266, 283)], 2), SKIN_DEEP, 0.5, 1, clip)
    canvas.paint(ellipse(256, 293, 5, 6), SKIN_SHADE, 0.4, 3, clip)


def mouth(canvas: Canvas, clip: Image.Image) -> None:
    """A closed mouth with the beginning of a smile."""
    line = [(223, 307.5), (238, 312), (256, 312.5), (274, 312), (289, 307.5)]
    upper = [(223, 307.5), (237, 303.5), (249, 301), (256, 302.8), (263, 301), (275, 303.5), (289, 307.5),
             (274, 313), (256, 313.5), (238, 313)]  # fmt: skip
    lower = [(226, 308.8), (239, 312), (256, 312.5), (273, 312), (286, 308.8), (276, 319.5), (256, 326), (236, 319.5)]
    canvas.paint(ellipse(256, 330, 22, 5), SKIN_SHADE, 0.75, 3.5, clip)
    bottom, top = shape(lower), shape(upper)
    canvas.paint(union(bottom, top), LIP_LOWER, 0.4, 2.5, clip)
    canvas.paint(bottom, LIP_LOWER, 0.95, 0.6)
    canvas.paint(top, LIP_UPPER, 0.95, 0.6)
    canvas.paint(ellipse(250, 318.5, 13, 3), (246, 178, 168), 0.75, 2, bottom)
    canvas.paint(ellipse(270, 320, 16, 6), LIP_UPPER, 0.5, 3, bottom)
    canvas.paint(stroke(line, 2.4), LIP_LINE, 0.9, 0.6)
    for x in (222, 290):
        canvas.paint(ellipse(x, 306.8, 3.2, 2.4), SKIN_DEEP, 0.6, 1.6, clip)


RIGHT_LOCK = [
    (236, 84), (266, 52), (320, 68), (360, 112), (376, 176), (380, 250), (388, 330), (380, 396), (356, 420),
    (342, 392), (350, 330), (349, 262), (342, 206), (318, 160), (276, 128), (244, 106),
]  # fmt: skip
LEFT_LOCK = [
    (246, 60), (204, 60), (164, 90), (142, 140), (134, 200), (130, 270), (124, 340), (134, 400), (158, 418),
    (170, 390), (162, 330), (164, 262), (168, 204), (186, 158), (214, 124), (240, 100),
]  # fmt: skip


def front_hair(canvas: Canvas, head: Image.Image) -> None:
    """The hair over the forehead and beside the face, parted left of the middle, and its shadow."""
    right, left = shape(RIGHT_LOCK), shape(LEFT_LOCK)
    both = union(right, left)
    canvas.paint(ImageChops.offset(both, 3 * SCALE, 6 * SCALE), SKIN_DEEP, 0.65, blur=6, clip=head)
    canvas.paint(both, HAIR)
    canvas.paint(stroke([(242, 70), (240, 86), (240, 104)], 7), HAIR_DARK, 0.8, blur=2.5, clip=both)
    canvas.paint(ellipse(386, 280, 26, 150), HAIR_DARK, 0.7, blur=12, clip=both)
    canvas.paint(ellipse(126, 300, 12, 130), HAIR_DARK, 0.6, blur=9, clip=both)
    canvas.strands(
        [(240, 96), (280, 120), (328, 164), (350, 220), (354, 300), (350, 428)],
        [(242, 54), (310, 60), (366, 116), (386, 200), (392, 300), (368, 428)], right, 170, seed=3,
    )  # fmt: skip
    canvas.strands(
        [(240, 96), (212, 118), (180, 160), (162, 220), (158, 300), (162, 428)],
        [(240, 54), (196, 62), (142, 116), (126, 200), (118, 300), (142, 428)], left, 150, seed=4,
    )  # fmt: skip
    canvas.paint(stroke([(268, 84), (316, 98), (352, 146)], 20), HAIR_LIGHT, 0.42, blur=9, clip=right)
    canvas.paint(stroke([(220, 84), (178, 104), (148, 160)], 20), HAIR_LIGHT, 0.5, blur=8, clip=left)


def portrait() -> Image.Image:
    """The finished 512x512 picture."""
    canvas = Canvas()
    background(canvas)
    back_hair(canvas)
    neck(canvas)
    body(canvas)
    head = face(canvas)
    nose(canvas, head)
    mouth(canvas, head)
    for side in (-1, 1):
        eye(canvas, side)
        brow(canvas, side)
    front_hair(canvas, head)
    return canvas.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    portrait().save(Path(__file__).with_name("portrait.png"), optimize=True)
