"""Draws the project's icon (400x400) and banner (21:9): `python docs/draw_icon.py`."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parent
PORTRAIT = DOCS.parent / "demo" / "portrait.png"
ICON, BANNER = 400, (1470, 630)
SCALE = 4
"""Everything is drawn this much larger, then scaled down: smooth edges."""
TOP, BOTTOM, LIGHT, WARM = (24, 38, 72), (64, 42, 110), (240, 244, 255), (255, 122, 110)


def background(width: int, height: int) -> Image.Image:
    """A gradient from night blue to violet."""
    column = Image.new("RGB", (1, height))
    for y in range(height):
        share = y / (height - 1)
        column.putpixel((0, y), tuple(round(a + share * (b - a)) for a, b in zip(TOP, BOTTOM, strict=True)))
    return column.resize((width, height))


def waves(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """Sound that leaves a mouth at (x, y): three arcs."""
    for ring in range(3):
        radius = size * (0.30 + 0.20 * ring)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.arc(box, -38, 38, fill=WARM, width=round(size * 0.07))


def face(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """A round face that looks to the right and speaks, centred at (x, y)."""
    radius = size / 2
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LIGHT)
    for side in (-0.10, 0.24):
        eye = size * 0.055
        cx, cy = x + side * size, y - 0.12 * size
        draw.ellipse((cx - eye, cy - eye * 1.3, cx + eye, cy + eye * 1.3), fill=TOP)
    draw.ellipse((x - 0.08 * size, y + 0.10 * size, x + 0.24 * size, y + 0.34 * size), fill=WARM)


def icon() -> Image.Image:
    """A speaking face on a rounded square."""
    side = ICON * SCALE
    image = background(side, side)
    draw = ImageDraw.Draw(image)
    face(draw, side * 0.38, side * 0.5, side * 0.56)
    waves(draw, side * 0.50, side * 0.55, side * 0.58)
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), side // 6, fill=255)
    image.putalpha(mask)
    return image.resize((ICON, ICON), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """The demo's portrait, a voice, and the name."""
    width, height = BANNER
    image = background(width, height)
    side = height - 120
    with Image.open(PORTRAIT) as portrait:
        picture = portrait.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.new("L", (side * SCALE, side * SCALE), 0)
    ImageDraw.Draw(mask).ellipse((0, 0, side * SCALE, side * SCALE), fill=255)
    image.paste(picture, (80, 60), mask.resize((side, side), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(image)
    for n in range(44):
        x = 660 + n * 17
        level = 12 + 70 * abs(math.sin(n * 0.55) * math.cos(n * 0.21))
        draw.rounded_rectangle((x, 440 - level, x + 8, 440 + level), 4, fill=WARM)
    draw.text((656, 130), "LiveTalk", font=ImageFont.load_default(130), fill=LIGHT)
    draw.text((662, 285), "one portrait, any speech, a talking video", font=ImageFont.load_default(36), fill=LIGHT)
    return image


if __name__ == "__main__":
    icon().save(DOCS / "icon.png", optimize=True)
    banner().save(DOCS / "banner.jpg", quality=88)
