"""Line charts with Pillow alone: several courses with their spread, axes with round numbers, a legend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, SCALE = 820, 420, 2
"""Pixels of the chart, which is drawn `SCALE` times as large and shrunk: that smooths the lines."""
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 64, 48
COLORS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (140, 86, 160), (120, 120, 120), (190, 160, 20))
INK, FAINT = (40, 40, 40), (225, 225, 225)


@dataclass(frozen=True)
class Line:
    """One course: places `x`, values `y`, and (where given) how far they spread to either side."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = field(default_factory=list)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def chart(title: str, x_label: str, lines: Sequence[Line]) -> Image.Image:
    """A chart of at least one line of at least one point."""
    canvas = _Canvas(_span([value for line in lines for value in line.x]), _span(_heights(lines)))
    canvas.axes(title, x_label)
    for index, line in enumerate(lines):
        canvas.line(line, COLORS[index % len(COLORS)])
    canvas.legend([line.name for line in lines])
    return canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _heights(lines: Sequence[Line]) -> list[float]:
    spreads = [(line, line.spread or [0.0] * len(line.y)) for line in lines]
    return [y + side * s for line, spread in spreads for y, s in zip(line.y, spread, strict=True) for side in (-1, 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, kept apart."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)


class _Canvas:
    def __init__(self, x_span: tuple[float, float], y_span: tuple[float, float]) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
        self.draw = ImageDraw.Draw(self.image, "RGBA")
        self.font, self.bold = (ImageFont.load_default(size * SCALE) for size in (13, 16))
        self.x_ticks, self.y_ticks = ticks(*x_span), ticks(*y_span)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point."""
        across = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        up = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        left, bottom = LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return left * SCALE, bottom * SCALE

    def axes(self, title: str, x_label: str) -> None:
        """Title, grid and numbers."""
        self.draw.text((LEFT * SCALE, 10 * SCALE), title, INK, self.bold)
        for y in self.y_ticks:
            start, end = self.at(self.x_ticks[0], y), self.at(self.x_ticks[-1], y)
            self.draw.line([start, end], FAINT, SCALE)
            self.draw.text((start[0] - 8 * SCALE, start[1]), f"{y:.4g}", INK, self.font, anchor="rm")
        for x in self.x_ticks:
            place = self.at(x, self.y_ticks[0])
            self.draw.line([place, (place[0], place[1] + 5 * SCALE)], INK, SCALE)
            self.draw.text((place[0], place[1] + 8 * SCALE), f"{x:.4g}", INK, self.font, anchor="mt")
        self.draw.line(
            [self.at(self.x_ticks[0], self.y_ticks[0]), self.at(self.x_ticks[-1], self.y_ticks[0])], INK, SCALE
        )
        middle = (LEFT + (WIDTH - LEFT - RIGHT) / 2) * SCALE
        self.draw.text((middle, (HEIGHT - 6) * SCALE), x_label, INK, self.font, anchor="ms")

    def line(self, line: Line, color: tuple[int, int, int]) -> None:
        """A course above the band of its spread."""
        if line.spread:
            rows = list(zip(line.x, line.y, line.spread, strict=True))
            band = [self.at(x, y + s) for x, y, s in rows] + [self.at(x, y - s) for x, y, s in reversed(rows)]
            if len(rows) > 1:
                self.draw.polygon(band, fill=(*color, 50))
        points = [self.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        self.draw.line(points, color, 2 * SCALE, joint="curve")
        if len(points) <= 40:
            for x, y in points:
                self.draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=color)

    def legend(self, names: Sequence[str]) -> None:
        """Names in their lines' colours, below the title."""
        x = LEFT * SCALE
        for index, name in enumerate(names):
            self.draw.text((x, 36 * SCALE), name, COLORS[index % len(COLORS)], self.font)
            x += self.draw.textlength(name, self.font) + 24 * SCALE
