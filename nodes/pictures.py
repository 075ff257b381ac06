"""Pictures of latents, for previews."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..livetalk_core.streaming.avatar import Avatar


def latent_to_rgb(avatar: Avatar) -> Tensor:
    """The linear map from a latent point to its colour that fits the avatar's portrait best: [17, 3], the last row
    added to all. Colours in -1..1.
    """
    latent_16hw = avatar.first_motion[:, 0].float().cpu()
    colors_3hw = F.adaptive_avg_pool2d(avatar.reference[0, :, 0].float().cpu(), latent_16hw.shape[-2:])
    points = torch.cat([latent_16hw, torch.ones_like(latent_16hw[:1])]).flatten(1).T
    return torch.linalg.lstsq(points, colors_3hw.flatten(1).T, driver="gelsd").solution
