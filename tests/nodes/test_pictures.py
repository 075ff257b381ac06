"""Previews of latents, in the colours of what they will become."""

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from tests.nodes.test_stream import avatar_of
from tests.nodes.workflow import ROOT


def test_a_latent_is_shown_in_the_portraits_colours(pack, nodes):
    """Wan's own factors show the embedded model's latents as noise in green and pink."""
    model, vae, _ = nodes["LiveTalkEmbeddedModel"][0].execute().args
    portrait = np.asarray(Image.open(ROOT / "demo" / "portrait.png").convert("RGB"))
    portrait = avatar_of(nodes, vae, torch.from_numpy(portrait.copy())[None] / 255, size=128)
    avatar = portrait.avatar(model.config, pack("livetalk_core.config").StreamConfig(height=128, width=128))
    geometry = model.config.geometry
    factors = pack("nodes.pictures").latent_to_rgb(avatar, geometry)
    latent_Chw = avatar.first_motion(geometry)[:, 0].float()
    shown = torch.einsum("Chw,Cc->chw", latent_Chw, factors[:-1]) + factors[-1][:, None, None]
    colors = F.adaptive_avg_pool2d(avatar.reference[0, :, 0].float(), shown.shape[1:])
    assert (shown - colors).abs().mean() < 0.1 < (colors.flip(1) - colors).abs().mean()
