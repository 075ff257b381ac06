"""Who of the people in a portrait speaks: MASKs as the model's areas."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..livetalk_core.errors import InputError
from ..livetalk_core.media.crop import CENTER, Crop
from ..livetalk_core.media.image import to_reference
from .given import one_mask


def speaker_masks(
    mask_1: Tensor | None, mask_2: Tensor | None, size: tuple[int, ...], frame: tuple[int, int], crop: Crop = CENTER
) -> Tensor | None:
    """MASKs [1,H,W] of an image of `size` (H, W) -> first, second, background [3,*frame] of 0 and 1.

    Scaled and cropped as the portrait is. None where none are connected. With `mask_1` alone, all that is not the
    speaker's is the second's, who listens, and background too. Where two masks leave no background, the whole picture
    stands for it: whatever a speaker's area attracts, it attracts more than the mean of the picture does.
    """
    if mask_1 is None and mask_2 is None:
        return None
    if mask_1 is None:
        raise InputError("mask_2 is connected, but not mask_1; who speaks alone is mask_1's: connect the mask there")
    connected = {"mask_1": mask_1} | ({} if mask_2 is None else {"mask_2": mask_2})
    speakers = {name: _in_frame(_scaled(one_mask(name, mask), size), frame, crop) for name, mask in connected.items()}
    areas = torch.cat([*speakers.values()])
    rest = ~areas.any(dim=0, keepdim=True)
    empty = [name for name, area in speakers.items() if not area.any()]
    if mask_2 is None and not rest.any():
        empty.append("those who listen (leave mask_1 empty where nobody else is in the picture)")
    if empty:
        raise InputError(
            f"nothing of the {frame[1]}x{frame[0]} picture is left for {' and '.join(empty)}; each needs an area of at "
            "least 16x16 px: draw the masks again"
        )
    if mask_2 is not None and not rest.any() and (only_second := areas[1:] & ~areas[:1]).any():
        areas[1:] = only_second
    background = rest if rest.any() else torch.ones_like(rest)
    return torch.cat([areas, rest, background] if mask_2 is None else [areas, background]).float()


def _scaled(mask_HW: Tensor, size: tuple[int, ...]) -> Tensor:
    """A mask at the image's size, in 0..1."""
    return F.interpolate(mask_HW[None, None], size=tuple(size), mode="bilinear")[0, 0].clamp(0, 1)


def _in_frame(mask: Tensor, frame: tuple[int, int], crop: Crop) -> Tensor:
    """Where the frame shows a mask [H,W] of the portrait to be above a half: [1,*frame]."""
    pixels = (mask[..., None].expand(-1, -1, 3) * 255).byte().numpy()
    return to_reference(pixels, *frame, crop)[0, :1, 0] > 0
