"""The vision encoder: a CLIP vision transformer read before its last layer, its layers from `transformers`.

Only what is read exists here: the embeddings and all layers but the last. No norm follows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoder

from ..config import ImageEncoderConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's channel statistics."""
NORM_EPSILON = 1e-5


def preprocess(frame: Tensor, image_size: int) -> Tensor:
    """A frame [1,3,1,H,W] in -1..1 -> pixels [1,3,image_size,image_size] as the encoder reads them.

    Bicubic without antialiasing, the aspect ratio not kept, as the reference does.
    """
    size = (image_size, image_size)
    pixels = F.interpolate(frame[:, :, 0].float(), size=size, mode="bicubic", align_corners=False)
    mean, std = pixels.new_tensor([MEAN, STD])[:, :, None, None]
    return (pixels / 2 + 0.5 - mean) / std


class ImageEncoder(nn.Module):
    """A frame to tokens."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        patch, patches = config.patch_size, (config.image_size // config.patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, config.dim, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(config.dim))
        self.position_embedding = nn.Parameter(torch.empty(1 + patches, config.dim))
        self.pre_norm = nn.LayerNorm(config.dim, eps=NORM_EPSILON)
        self.encoder = CLIPEncoder(_stock_config(config))  # pyright: ignore[reportArgumentType] - as CLIP itself does

    def preprocess(self, frame: Tensor) -> Tensor:
        """A frame [1,3,1,H,W] in -1..1 -> pixels [1,3,image_size,image_size]."""
        return preprocess(frame, self.config.image_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels [1,3,image_size,image_size] -> [1, 1+patches, dim], the class token first."""
        patches = self.patch_embedding(pixels.to(self.class_embedding)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return self.encoder(inputs_embeds=self.pre_norm(tokens + self.position_embedding))[0]


def _stock_config(config: ImageEncoderConfig) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=config.dim,
        intermediate_size=config.dim * config.mlp_ratio,
        num_hidden_layers=config.num_layers - 1,
        num_attention_heads=config.num_heads,
        hidden_act="gelu",
        layer_norm_eps=NORM_EPSILON,
        attention_dropout=0.0,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] - every config takes it
    )
