"""Two speakers in one picture: which of them each video token listens to (MultiTalk's L-RoPE).

Self-attention already knows which tokens belong together. How strongly a token attends to each
speaker's area in the first latent frame places it on a short axis, on which the two speakers' audio
keys sit at fixed positions; a rotary embedding along that axis does the rest.
"""

import torch
from torch import Tensor

from .attention import AttentionFunction
from .rope import rotation

SPEAKER_POSITIONS = ((0.0, 4.0), (20.0, 24.0))
BACKGROUND_POSITION = 12.0


def speaker_attention(q_BLND: Tensor, k_BLND: Tensor, masks_3S: Tensor, attention: AttentionFunction) -> Tensor:
    """Mean attention of each token and head to each mask's area in the first latent frame: [B, L, N, 3].

    `masks_3S` are 0 or 1 per token of that frame, whose keys come first in `k_BLND`. The weighted sum over a mask is
    attention itself with the mask (divided by its area) as values, so no L x S map is ever held.
    """
    area = masks_3S.shape[1]
    values = torch.zeros_like(k_BLND[:, :area])
    values[..., :3] = (masks_3S / masks_3S.sum(1, keepdim=True)).T[None, :, None].type_as(values)
    return attention(q_BLND, k_BLND[:, :area], values)[..., :3].float()


def counted_heads(heads: int) -> int:
    """How many of the heads place the speakers: an odd last one is left out (reference behaviour)."""
    return 2 * (heads // 2)


def mean_of_heads(strength_BLN3: Tensor) -> Tensor:
    """Mean over the counted heads: [B, L, N, 3] -> [B, L, 3]."""
    return strength_BLN3[:, :, : counted_heads(strength_BLN3.shape[2])].mean(2)


def speaker_positions(strength_BL3: Tensor, low_B13: Tensor, high_B13: Tensor) -> Tensor:
    """Each token's place on the speakers' axis: [B, L] in 0..4 (left), 20..24 (right) or 12 (background).

    `low_B13` and `high_B13` are the least and greatest strength of any token of the video.
    """
    scaled_BL3 = (strength_BL3 - low_B13) / (high_B13 - low_B13 + 1e-8)
    areas = (*SPEAKER_POSITIONS, (BACKGROUND_POSITION, BACKGROUND_POSITION))
    # Scalars, not a tensor of them: that would be copied to the device, and the host would wait for it.
    places = [start + scaled * (end - start) for (start, end), scaled in zip(areas, scaled_BL3.unbind(-1), strict=True)]
    places_BL3 = torch.stack(places, dim=-1)
    strongest_BL1 = strength_BL3.argmax(-1, keepdim=True)
    return places_BL3.gather(-1, strongest_BL1).squeeze(-1)


def speaker_rotation(positions: Tensor, head_dim: int) -> Tensor:
    """Cosines and sines of positions [L] or [B, L] on the speakers' axis: [2, ..., head_dim / 2] in float32."""
    angles = rotation(positions.flatten(), head_dim).unflatten(0, positions.shape)
    return torch.stack([angles.cos(), angles.sin()]).float()
