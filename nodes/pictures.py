"""Pictures of latents, for previews."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..livetalk_core.shapes import Geometry
from ..livetalk_core.streaming.avatar import Avatar


def latent_to_rgb(avatar: Avatar, geometry: Geometry) -> Tensor:
    """The linear map from a latent point to its colour that fits the avatar's portrait best: [C + 1, 3], the last row
    added to all. Colours in -1..1.
    """
    latent_Chw = avatar.first_motion(geometry)[:, 0].float().cpu()
    colors_3hw = F.adaptive_avg_pool2d(
        avatar.reference[0, :, 0].float().cpu(), (latent_Chw.shape[-2], latent_Chw.shape[-1])
    )
    points = torch.cat([latent_Chw, torch.ones_like(latent_Chw[:1])]).flatten(1).T
    return torch.linalg.lstsq(points, colors_3hw.flatten(1).T, driver="gelsd").solution
