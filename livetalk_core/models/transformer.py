"""The video transformer: Wan 2.1's, with blocks that hear (MultiTalk / InfiniteTalk, FlashHead).

Parameter names are the published checkpoint's. What stays the same over steps is computed once and handed on: by
`embed_context` text and image keys and values, and by `embed_scene` the condition's patches and the rotary table (both
once per avatar); by `embed_audio` keys and values of the sound (once per chunk); by `embed_timestep` each timestep's
modulation (once per schedule). `evaluate` does the rest; `forward` does all but the contexts anew.

B batch, L video tokens (frames x rows x columns), S context tokens, C width, N heads, D channels a head,
F latent frames, h w latent rows and columns, P speakers, T audio tokens a latent frame.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TransformerConfig
from ..errors import InputError
from ..shapes import LatentShape
from . import operations as default_operations
from .attention import AttentionFunction, attend
from .blocks import BaseBlock, Block, KeyValue, SoundBlock, Step, run_block
from .passes import PLAIN, Modulation, Passes, modulate
from .patchify import patchify, token_masks, unpatchify
from .projections import AudioProjection, ImageProjection
from .rope import grid_rotation
from .tokens import Grid, Tokens


class Context(NamedTuple):
    """What an avatar and its prompt contribute to every block: one entry per block, None where it reads neither."""

    text: tuple[KeyValue | None, ...]
    image: tuple[KeyValue | None, ...]


class AudioContext(NamedTuple):
    """What the sound contributes to every block: keys and values [F, P*T, N, D], one entry per block."""

    blocks: tuple[KeyValue, ...]
    speakers: int


class Scene(NamedTuple):
    """What stays the same for an avatar at one size: the condition, its share of every token, the tokens' places.

    There is no share where the patch embedding is a layer of foreign `operations`, which only it knows how to apply.
    """

    cond_BCFhw: Tensor
    cond_BLC: Tensor | None
    grid: Grid
    tokens: Tokens
    rotation: Tensor
    speaker_masks: Tensor | None


class TimeContext(NamedTuple):
    """What a timestep contributes: to each block's attention and feed-forward, and to the head (its gate is 1)."""

    blocks: tuple[tuple[Modulation, Modulation], ...]
    head: Modulation


def timestep_embedding(timestep_B: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding, cosines first: [B] in 0..1000 -> [B, channels] in float32."""
    half = channels // 2
    exponents = torch.arange(half, device=timestep_B.device, dtype=torch.float64) / half
    angles = timestep_B.to(torch.float64)[:, None] * 10_000.0**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class Head(nn.Module):
    """Last norm and projection to patches, in float32."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False, **factory)
        self.head = operations.Linear(config.dim, config.geometry.patch**2 * config.out_dim, **factory)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim, **factory))

    def modulations(self, time_BC: Tensor) -> Modulation:
        """An embedded timestep's modulation of the norm."""
        shift, scale = (self.modulation.to(time_BC.device).float() + time_BC[:, None]).chunk(2, dim=1)
        return Modulation(shift, 1 + scale, torch.ones_like(shift))

    def forward(self, x_BLC: Tensor, modulation: Modulation) -> Tensor:
        """[B,L,C] -> [B,L,K] in float32, the values of each token's patch."""
        return self.head(modulate(self.norm(x_BLC).float(), modulation))


class Transformer(nn.Module):
    """The denoiser. `operations` gives the layers; attention is handed to each call.

    `tokens` makes what holds a forward's tokens: all of them, unless it is exchanged for a share.
    """

    tokens: Callable[[Grid], Tokens]

    def __init__(
        self,
        config: TransformerConfig,
        operations: Any = default_operations,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype or torch.get_default_dtype()
        self.tokens = Tokens
        factory = {"device": device, "dtype": dtype}
        linear: Callable[..., nn.Module] = operations.Linear
        dim = config.dim
        self.patch = config.geometry.patch
        patch = (1, self.patch, self.patch)
        self.patch_embedding = operations.Conv3d(config.in_dim, dim, kernel_size=patch, stride=patch, **factory)
        if config.prompted:
            self.text_embedding = nn.Sequential(
                linear(config.text_dim, dim, **factory), nn.GELU(approximate="tanh"), linear(dim, dim, **factory)
            )
        self.time_embedding = nn.Sequential(
            linear(config.freq_dim, dim, **factory), nn.SiLU(), linear(dim, dim, **factory)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), linear(dim, 6 * dim, **factory))
        block = Block if config.prompted else SoundBlock
        self.blocks = nn.ModuleList(block(config, operations, **factory) for _ in range(config.num_layers))
        self.head = Head(config, operations, **factory)
        if config.prompted:
            self.img_emb = ImageProjection(config, operations, **factory)
        self.audio_proj = AudioProjection(config, operations, **factory)

    @property
    def _blocks(self) -> list[BaseBlock]:
        return cast(list[BaseBlock], list(self.blocks))

    def embed_context(self, text_BSC: Tensor | None, clip_BSC: Tensor | None) -> Context:
        """Keys and values of text [B, <= text_len, text_dim] and image tokens [B, S, clip_dim], once per avatar.

        Text is padded with zeros to `text_len` before its embedding, as the reference does. A model without prompts
        reads neither.
        """
        tokens = self.embed_tokens(text_BSC, clip_BSC)
        text, image = zip(*(block.embed_context(*tokens) for block in self._blocks), strict=True)
        return Context(text, image)

    def embed_tokens(self, text_BSC: Tensor | None, clip_BSC: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What all blocks' keys and values are made of: [B,text_len,C] and [B,S,C]; see `embed_context`."""
        if not self.config.prompted:
            return None, None
        if text_BSC is None or clip_BSC is None:
            raise InputError("an avatar without prompt and image tokens; this model reads both: encode them")
        missing = self.config.text_len - text_BSC.shape[1]
        if missing < 0:
            raise InputError(
                f"prompt of {text_BSC.shape[1]} tokens; at most {self.config.text_len} are read: shorten the prompt"
            )
        text: Tensor = self.text_embedding(F.pad(text_BSC.to(self.dtype), (0, 0, 0, missing)))
        return text, self.img_emb(clip_BSC.to(self.dtype))

    def embed_audio(self, windows: Tensor) -> AudioContext:
        """Keys and values of the audio windows [P, frames, window, blocks, channels], once per chunk."""
        speakers = windows.shape[0]
        tokens = self.audio_proj(windows.to(self.dtype))
        return AudioContext(tuple(block.embed_audio(tokens, speakers) for block in self._blocks), speakers)

    def embed_timestep(self, timestep_B: Tensor) -> TimeContext:
        """Every block's modulation at a timestep [B] in 0..1000, once per timestep."""
        time_BC, time_B6C = self.embed_time(timestep_B)
        return TimeContext(
            tuple(block.modulations(time_B6C) for block in self._blocks),
            cast(Head, self.head).modulations(time_BC),
        )

    def embed_time(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """What all modulations at a timestep [B] in 0..1000 are made of: the head's [B,C], the blocks' [B,6,C]."""
        time_BC = self.time_embedding(timestep_embedding(timestep_B, self.config.freq_dim))
        return time_BC, self.time_projection(time_BC).unflatten(1, (6, -1))

    def embed_scene(self, cond_BCFhw: Tensor, masks_3hw: Tensor | None = None) -> Scene:
        """The condition's patches [B,C,F,h,w], the rotary table and the speakers' masks, once per avatar."""
        if masks_3hw is not None and not self.config.prompted:
            raise InputError("masks of two speakers; this model hears one: leave them out, or use the 14B model")
        if self.config.repeats_portrait:
            cond_BCFhw = cond_BCFhw[:, :, :1].expand_as(cond_BCFhw)
        grid = LatentShape(*cond_BCFhw.shape[2:]).grid(self.config.geometry)
        tokens = self.tokens(grid)
        rotation = grid_rotation(grid, self.config.head_dim, cond_BCFhw.device)
        # A weight that is split over ranks is there only while its layer runs.
        own = isinstance(self.patch_embedding, default_operations.Conv3d) and hasattr(self.patch_embedding, "weight")
        return Scene(
            cond_BCFhw,
            self._embed_patches(tokens.split(patchify(cond_BCFhw, self.patch)), last=True) if own else None,
            grid,
            tokens,
            tokens.split(rotation),
            None if masks_3hw is None else token_masks(masks_3hw, grid),
        )

    def evaluate(
        self,
        latent_BCFhw: Tensor,
        time: TimeContext,
        scene: Scene,
        context: Context,
        audio: AudioContext,
        attention: AttentionFunction = attend,
        run_block: Callable[..., Tensor] = run_block,
        passes: Passes = PLAIN,
    ) -> Tensor:
        """`forward` for what has been embedded: latent [B,C,F,h,w] -> [B,C,F,h,w] float32."""
        if (scene.speaker_masks is None) != (audio.speakers == 1):
            raise InputError(
                f"{audio.speakers} speaker(s) with{'out' if scene.speaker_masks is None else ''} masks; two speakers "
                "need masks (left, right, background), one needs none"
            )
        x_BLC = self._begin(latent_BCFhw, scene)
        step = Step(scene.rotation, scene.tokens, scene.speaker_masks, attention, passes)
        for block, *conditions in zip(
            self._blocks, time.blocks, context.text, context.image, audio.blocks, strict=True
        ):
            x_BLC = run_block(block, x_BLC, step, *conditions)
        return unpatchify(scene.tokens.join(self.head(x_BLC, time.head)), scene.grid, self.patch)

    def forward(
        self,
        latent_BCFhw: Tensor,
        timestep_B: Tensor,
        cond_BCFhw: Tensor,
        context: Context,
        audio: AudioContext,
        masks_3hw: Tensor | None = None,
        attention: AttentionFunction = attend,
        passes: Passes = PLAIN,
    ) -> Tensor:
        """One evaluation: latent [B,C,F,h,w], timestep [B] in 0..1000, condition [B,in_dim-C,F,h,w] -> [B,C,F,h,w].

        In float32; C is the latent's channels, `out_dim`.
        The clean latent is `latent - sigma * out` with sigma = timestep / 1000. `masks_3hw` (left speaker, right
        speaker, background) is needed with two speakers and refused with one.
        """
        time, scene = self.embed_timestep(timestep_B), self.embed_scene(cond_BCFhw, masks_3hw)
        return self.evaluate(latent_BCFhw, time, scene, context, audio, attention, passes=passes)

    def _begin(self, latent_BCFhw: Tensor, scene: Scene) -> Tensor:
        if scene.cond_BLC is not None:
            patches_BLK = scene.tokens.split(patchify(latent_BCFhw, self.patch))
            return self._embed_patches(patches_BLK, last=False) + scene.cond_BLC
        embedded = self.patch_embedding(torch.cat([latent_BCFhw, scene.cond_BCFhw], dim=1).to(self.dtype))
        return scene.tokens.split(embedded.flatten(2).transpose(1, 2))

    def _embed_patches(self, patches_BLK: Tensor, last: bool) -> Tensor:
        """The share in the patch embedding of the first input channels, or of the last with the bias: [B,L,C]."""
        conv, values = cast(nn.Conv3d, self.patch_embedding), patches_BLK.shape[-1]
        weight = conv.weight.flatten(1)[:, -values:] if last else conv.weight.flatten(1)[:, :values]
        x = patches_BLK.to(self.dtype)
        return F.linear(x, weight.to(x), conv.bias.to(x) if last and conv.bias is not None else None)
