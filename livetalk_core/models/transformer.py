"""The video transformer: Wan 2.1's image-to-video blocks with audio cross-attention (MultiTalk / InfiniteTalk).

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
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TransformerConfig
from ..errors import InputError
from ..shapes import LatentShape
from . import operations as default_operations
from .attention import AttentionFunction, attend
from .patches import patchify, token_masks, unpatchify
from .projections import AudioProjection, ImageProjection
from .rope import grid_rotation, rotate
from .speakers import SPEAKER_POSITIONS, speaker_rotation
from .tokens import Grid, Tokens


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each [B, S, N, D]."""

    k_BSND: Tensor
    v_BSND: Tensor


class Context(NamedTuple):
    """What an avatar and its prompt contribute to every block: one entry per block."""

    text: tuple[KeyValue, ...]
    image: tuple[KeyValue, ...]


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


class Modulation(NamedTuple):
    """What a timestep does to one norm and the branch behind it: each [B, 1, C] in float32."""

    shift_B1C: Tensor
    factor_B1C: Tensor
    gate_B1C: Tensor


class TimeContext(NamedTuple):
    """What a timestep contributes: to each block's attention and feed-forward, and to the head (its gate is 1)."""

    blocks: tuple[tuple[Modulation, Modulation], ...]
    head: Modulation


class Step(NamedTuple):
    """What one evaluation shares between its blocks."""

    rotation: Tensor
    tokens: Tokens
    speaker_masks: Tensor | None
    attention: AttentionFunction


def modulate(x_BLC: Tensor, by: Modulation) -> Tensor:
    """x * factor + shift, in float32, given back in the dtype of `x`."""
    return torch.addcmul(by.shift_B1C, x_BLC.float(), by.factor_B1C).type_as(x_BLC)


def gated(x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor) -> Tensor:
    """x + y * gate, in float32, given back in the dtype of `x`."""
    return torch.addcmul(x_BLC.float(), y_BLC.float(), gate_B1C).type_as(x_BLC)


def timestep_embedding(timestep_B: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding, cosines first: [B] in 0..1000 -> [B, channels] in float32."""
    half = channels // 2
    exponents = torch.arange(half, device=timestep_B.device, dtype=torch.float64) / half
    angles = timestep_B.to(torch.float64)[:, None] * 10_000.0**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class SelfAttention(nn.Module):
    """Bidirectional attention over all tokens of a chunk; queries and keys normed, then rotated."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q = operations.Linear(dim, dim, **factory)
        self.k = operations.Linear(dim, dim, **factory)
        self.v = operations.Linear(dim, dim, **factory)
        self.o = operations.Linear(dim, dim, **factory)
        self.norm_q = operations.RMSNorm(dim, eps=config.eps, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=config.eps, **factory)

    def heads(self, x_BLC: Tensor) -> Tensor:
        """[B,L,C] -> [B,L,N,D]."""
        return x_BLC.unflatten(-1, (self.num_heads, -1))

    def forward(self, x_BLC: Tensor, step: Step) -> tuple[Tensor, Tensor | None]:
        """Attended tokens [B,L,C], and with two speakers each token's audio position [B,L]."""
        q_BLND = rotate(self.heads(self.norm_q(self.q(x_BLC))), step.rotation)
        k_BLND = rotate(self.heads(self.norm_k(self.k(x_BLC))), step.rotation)
        v_BLND = self.heads(self.v(x_BLC))
        out_BLND, positions_BL = step.tokens.attend(q_BLND, k_BLND, v_BLND, step.speaker_masks, step.attention)
        return self.o(out_BLND.flatten(2)), positions_BL


class ContextAttention(SelfAttention):
    """Cross-attention to text and image tokens; the two results are added."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__(config, operations, **factory)
        self.k_img = operations.Linear(config.dim, config.dim, **factory)
        self.v_img = operations.Linear(config.dim, config.dim, **factory)
        self.norm_k_img = operations.RMSNorm(config.dim, eps=config.eps, **factory)

    def embed_text(self, text_BSC: Tensor) -> KeyValue:
        """Keys and values of the text tokens."""
        return KeyValue(self.heads(self.norm_k(self.k(text_BSC))), self.heads(self.v(text_BSC)))

    def embed_image(self, image_BSC: Tensor) -> KeyValue:
        """Keys and values of the image tokens."""
        return KeyValue(self.heads(self.norm_k_img(self.k_img(image_BSC))), self.heads(self.v_img(image_BSC)))

    def forward(self, x_BLC: Tensor, text: KeyValue, image: KeyValue, attention: AttentionFunction) -> Tensor:
        """[B,L,C] -> [B,L,C]."""
        q_BLND = self.heads(self.norm_q(self.q(x_BLC)))
        out_BLND = attention(q_BLND, *text) + attention(q_BLND, *image)
        return self.o(out_BLND.flatten(2))


class AudioAttention(nn.Module):
    """Cross-attention of each latent frame's tokens to that frame's audio tokens."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = operations.Linear(config.dim, config.dim, **factory)
        self.kv_linear = operations.Linear(config.output_dim, 2 * config.dim, **factory)
        self.proj = operations.Linear(config.dim, config.dim, **factory)

    def embed(self, audio_FSC: Tensor, speakers: int) -> KeyValue:
        """Keys and values of the audio tokens [F, P*T, output_dim]; with two speakers, keys are rotated apart."""
        kv = rearrange(self.kv_linear(audio_FSC), "f s (two n d) -> two f s n d", two=2, n=self.num_heads)
        k_FSND, v_FSND = kv.unbind(0)
        if speakers == 2:
            middle = torch.tensor([sum(span) / 2 for span in SPEAKER_POSITIONS], device=k_FSND.device)
            positions_S = middle.repeat_interleave(k_FSND.shape[1] // 2)
            k_FSND = rotate(k_FSND, speaker_rotation(positions_S, k_FSND.shape[-1]))
        return KeyValue(k_FSND, v_FSND)

    def forward(self, x_BLC: Tensor, audio: KeyValue, positions_BL: Tensor | None, step: Step) -> Tensor:
        """[B,L,C] -> [B,L,C]; `positions_BL` places each token between two speakers."""
        q_BLND = self.q_linear(x_BLC).unflatten(-1, (self.num_heads, -1))
        if positions_BL is not None:
            q_BLND = rotate(q_BLND, speaker_rotation(positions_BL, q_BLND.shape[-1]))
        out_BLND = step.tokens.attend_frames(q_BLND, *audio, step.attention)
        return self.proj(out_BLND.flatten(2))


class Block(nn.Module):
    """Self-attention, text and image attention, audio attention, feed-forward; modulated by the timestep."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.self_attn = SelfAttention(config, operations, **factory)
        self.norm3 = operations.LayerNorm(dim, eps=eps, **factory)
        self.cross_attn = ContextAttention(config, operations, **factory)
        self.norm2 = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(dim, config.ffn_dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.ffn_dim, dim, **factory),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, dim, **factory))
        self.audio_cross_attn = AudioAttention(config, operations, **factory)
        self.norm_x = operations.LayerNorm(dim, eps=eps, **factory)

    def modulations(self, time_B6C: Tensor) -> tuple[Modulation, Modulation]:
        """A projected timestep's modulation of self-attention and of feed-forward."""
        modulation = self.modulation.to(time_B6C.device).float() + time_B6C
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.chunk(6, dim=1)
        return Modulation(shift, 1 + scale, gate), Modulation(ffn_shift, 1 + ffn_scale, ffn_gate)

    def forward(
        self,
        x_BLC: Tensor,
        step: Step,
        modulations: tuple[Modulation, Modulation],
        text: KeyValue,
        image: KeyValue,
        audio: KeyValue,
    ) -> Tensor:
        """[B,L,C] -> [B,L,C]."""
        attending, feeding = modulations
        attended, positions_BL = self.self_attn(modulate(self.norm1(x_BLC), attending), step)
        x_BLC = gated(x_BLC, attended, attending.gate_B1C)
        x_BLC = x_BLC + self.cross_attn(self.norm3(x_BLC), text, image, step.attention)
        x_BLC = x_BLC + self.audio_cross_attn(self.norm_x(x_BLC), audio, positions_BL, step)
        return gated(x_BLC, self.ffn(modulate(self.norm2(x_BLC), feeding)), feeding.gate_B1C)


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
        self.text_embedding = nn.Sequential(
            linear(config.text_dim, dim, **factory), nn.GELU(approximate="tanh"), linear(dim, dim, **factory)
        )
        self.time_embedding = nn.Sequential(
            linear(config.freq_dim, dim, **factory), nn.SiLU(), linear(dim, dim, **factory)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), linear(dim, 6 * dim, **factory))
        self.blocks = nn.ModuleList(Block(config, operations, **factory) for _ in range(config.num_layers))
        self.head = Head(config, operations, **factory)
        self.img_emb = ImageProjection(config, operations, **factory)
        self.audio_proj = AudioProjection(config, operations, **factory)

    @property
    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def embed_context(self, text_BSC: Tensor, clip_BSC: Tensor) -> Context:
        """Keys and values of text [B, <= text_len, text_dim] and image tokens [B, S, clip_dim], once per avatar.

        Text is padded with zeros to `text_len` before its embedding, as the reference does.
        """
        missing = self.config.text_len - text_BSC.shape[1]
        if missing < 0:
            raise InputError(
                f"prompt of {text_BSC.shape[1]} tokens; at most {self.config.text_len} are read: shorten the prompt"
            )
        text_BSC = self.text_embedding(F.pad(text_BSC.to(self.dtype), (0, 0, 0, missing)))
        image_BSC = self.img_emb(clip_BSC.to(self.dtype))
        return Context(
            tuple(block.cross_attn.embed_text(text_BSC) for block in self._blocks),
            tuple(block.cross_attn.embed_image(image_BSC) for block in self._blocks),
        )

    def embed_audio(self, windows: Tensor) -> AudioContext:
        """Keys and values of the audio windows [P, frames, window, blocks, channels], once per chunk."""
        speakers = windows.shape[0]
        tokens = self.audio_proj(windows.to(self.dtype))
        return AudioContext(tuple(block.audio_cross_attn.embed(tokens, speakers) for block in self._blocks), speakers)

    def embed_timestep(self, timestep_B: Tensor) -> TimeContext:
        """Every block's modulation at a timestep [B] in 0..1000, once per timestep."""
        time_BC = self.time_embedding(timestep_embedding(timestep_B, self.config.freq_dim))
        time_B6C = self.time_projection(time_BC).unflatten(1, (6, -1))
        return TimeContext(
            tuple(block.modulations(time_B6C) for block in self._blocks),
            cast(Head, self.head).modulations(time_BC),
        )

    def embed_scene(self, cond_BCFhw: Tensor, masks_3hw: Tensor | None = None) -> Scene:
        """The condition's patches [B,20,F,h,w], the rotary table and the speakers' masks, once per avatar."""
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
    ) -> Tensor:
        """`forward` for what has been embedded: latent [B,16,F,h,w] -> [B,16,F,h,w] float32."""
        if (scene.speaker_masks is None) != (audio.speakers == 1):
            raise InputError(
                f"{audio.speakers} speaker(s) with{'out' if scene.speaker_masks is None else ''} masks; two speakers "
                "need masks (left, right, background), one needs none"
            )
        x_BLC = self._begin(latent_BCFhw, scene)
        step = Step(scene.rotation, scene.tokens, scene.speaker_masks, attention)
        for block, *given in zip(self._blocks, time.blocks, context.text, context.image, audio.blocks, strict=True):
            x_BLC = block(x_BLC, step, *given)
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
    ) -> Tensor:
        """One evaluation: latent [B,16,F,h,w], timestep [B] in 0..1000, condition [B,20,F,h,w] -> [B,16,F,h,w] float32.

        The clean latent is `latent - sigma * out` with sigma = timestep / 1000. `masks_3hw` (left speaker, right
        speaker, background) is needed with two speakers and refused with one.
        """
        time, scene = self.embed_timestep(timestep_B), self.embed_scene(cond_BCFhw, masks_3hw)
        return self.evaluate(latent_BCFhw, time, scene, context, audio, attention)

    def _begin(self, latent_BCFhw: Tensor, scene: Scene) -> Tensor:
        if scene.cond_BLC is not None:
            patches_BLK = scene.tokens.split(patchify(latent_BCFhw, self.patch))
            return self._embed_patches(patches_BLK, last=False) + scene.cond_BLC
        whole = self.patch_embedding(torch.cat([latent_BCFhw, scene.cond_BCFhw], dim=1).to(self.dtype))
        return scene.tokens.split(whole.flatten(2).transpose(1, 2))

    def _embed_patches(self, patches_BLK: Tensor, last: bool) -> Tensor:
        """The share in the patch embedding of the first input channels, or of the last with the bias: [B,L,C]."""
        conv, values = cast(nn.Conv3d, self.patch_embedding), patches_BLK.shape[-1]
        weight = conv.weight.flatten(1)[:, -values:] if last else conv.weight.flatten(1)[:, :values]
        x = patches_BLK.to(self.dtype)
        return F.linear(x, weight.to(x), conv.bias.to(x) if last and conv.bias is not None else None)
