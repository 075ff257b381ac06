"""A model with all its parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..models.audio_encoder import AudioEncoder
from ..models.image_encoder import ImageEncoder
from ..models.ltx_vae import LTXVAE
from ..models.text_encoder import TextEncoder, Tokenizer
from ..models.transformer import Transformer
from ..models.vae import VAE
from ..presets import Preset


@dataclass(frozen=True, eq=False)
class Model:
    """The parts, each loaded when first used: five, or three where the model reads no prompt.

    Text and vision encoder are loaded for one call and freed again: encode prompts and portrait before you
    touch `transformer`, and the two never share memory with it. `preset` holds every part's widths. `fingerprint`
    tells the weights from others under the same name (see `header.fingerprint`).
    """

    name: str
    preset: Preset
    tokenizer: Tokenizer | None
    fingerprint: Callable[[], str]
    load_transformer: Callable[[], Transformer]
    load_vae: Callable[[], VAE | LTXVAE]
    load_audio_encoder: Callable[[], AudioEncoder]
    load_image_encoder: Callable[[], ImageEncoder] | None
    load_text_encoder: Callable[[], TextEncoder] | None

    def __str__(self) -> str:
        return self.name

    @cached_property
    def transformer(self) -> Transformer:
        """The video transformer."""
        return self.load_transformer()

    @cached_property
    def vae(self) -> VAE | LTXVAE:
        """The VAE."""
        return self.load_vae()

    @cached_property
    def audio_encoder(self) -> AudioEncoder:
        """The audio encoder, in float32."""
        return self.load_audio_encoder()

    @torch.inference_mode()
    def encode_texts(self, *prompts: str) -> list[Tensor]:
        """Each prompt's tokens [n, text_dim], n <= text_len, in float32 on the CPU; not of a model that reads none."""
        assert self.load_text_encoder is not None and self.tokenizer is not None, f"{self} reads no prompt"
        encoder, length = self.load_text_encoder(), self.preset.transformer.text_len
        tokens = [encoder.encode(self.tokenizer(prompt, length), length).float().cpu() for prompt in prompts]
        del encoder
        _give_back()
        return tokens

    @torch.inference_mode()
    def encode_image(self, reference: Tensor) -> Tensor:
        """Image tokens [1, 1+patches, clip_dim] of a frame [1,3,1,H,W] in -1..1, in float32 on the CPU.

        Not of a model that reads no prompt.
        """
        assert self.load_image_encoder is not None, f"{self} reads no image tokens"
        encoder = self.load_image_encoder()
        tokens = encoder.embed(encoder.preprocess(reference)).float().cpu()
        del encoder
        _give_back()
        return tokens


def _give_back() -> None:
    """A GPU's memory that a freed encoder took: kept by PyTorch, it would be split by the weights that come next."""
    torch.cuda.empty_cache()
