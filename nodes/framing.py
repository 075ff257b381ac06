"""What of a portrait a video shows, and at what size: chosen by hand, or the picture's shape at the model's area."""

from ..livetalk_core.checkpoints import nano
from ..livetalk_core.config import LTXVAEConfig, VAEConfig
from ..livetalk_core.media.crop import Crop, cut_away, shape_of
from ..livetalk_core.presets import PRESETS, Preset

CENTER, TOP, BOX = CROPS = ("center", "top", "box")
LEAST, MOST = 64, 4096
"""Of a side of the video, in pixels."""


def chosen_crop(crop: str, box: str) -> Crop:
    """The crop of the Avatar node's widgets; `box` is `X,Y,W,H` in the portrait's pixels, empty for all of it."""
    if crop != BOX:
        return Crop.parse(crop)
    return Crop.parse(box) if box.strip() else Crop()


def preset_of(vae: VAEConfig | LTXVAEConfig, prompted: bool) -> Preset:
    """Which model an avatar is for, by what it is made with: the VAE, and whether there is a vision encoder."""
    if vae == nano.PRESET.vae:
        return nano.PRESET
    if prompted:
        return PRESETS["14b"]
    return PRESETS["flashhead-pro" if isinstance(vae, VAEConfig) else "flashhead-lite"]


def frame_size(portrait: tuple[int, int], width: int, height: int, crop: Crop, preset: Preset) -> tuple[int, int]:
    """(height, width) of the video of a portrait of (width, height) px; a side of 0 follows from the picture's shape.

    Both 0: at the area that the model was made for. Sides that the model does not have become the nearest it has.
    """
    multiple = preset.geometry.size_multiple
    if not width and not height:
        return shape_of(portrait, preset.stream.height, preset.stream.width, crop, preset.geometry)
    area = crop.area(*portrait)
    sides = height or width * area.height / area.width, width or height * area.width / area.height
    high, wide = (min(MOST, max(LEAST, round(side / multiple) * multiple)) for side in sides)
    return high, wide


def framing_notes(
    portrait: tuple[int, int], asked: tuple[int, int], size: tuple[int, int], crop: Crop, multiple: int
) -> list[str]:
    """What a user should know of the frame: (height, width) that were `asked` for and are given, and what is cut."""
    height, width = size
    notes = [f"{width}x{height} px"]
    if any(asked_side not in (0, side) for asked_side, side in zip(asked, size, strict=True)):
        notes.append(f"the nearest to {asked[1]}x{asked[0]}: sides are multiples of {multiple}")
    cut = cut_away(portrait, height, width, crop)
    return notes + ([cut] if cut else [])
