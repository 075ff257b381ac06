"""The transformer's blocks, and the attention layers in them.

Two kinds: `Block` (the 14B model's) attends to text and image tokens, then to the sound; `SoundBlock` (FlashHead's) to
the sound alone. What they share is `BaseBlock`; a further kind says how it listens between self-attention and
feed-forward.

B batch, L video tokens (frames x rows x columns), S context tokens, C width, N heads, D channels a head,
F latent frames, P speakers, T audio tokens a latent frame.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import TransformerConfig
from .attention import AttentionFunction
from .passes import PLAIN, Modulation, Passes
from .rope import rotate
from .speakers import SPEAKER_POSITIONS, speaker_rotation
from .tokens import Tokens


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each [B, S, N, D]."""

    k_BSND: Tensor
    v_BSND: Tensor


class Step(NamedTuple):
    """What one evaluation shares between its blocks."""

    rotation: Tensor
    tokens: Tokens
    speaker_masks: Tensor | None
    attention: AttentionFunction
    passes: Passes = PLAIN


def prepared(layer: Any, x: Tensor) -> Any:
    """What comes into several layers like `layer`, made ready once for all of them, where its `operations` can."""
    return layer.prepare(x) if hasattr(layer, "prepare") else x


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
        x_BLC = prepared(self.q, x_BLC)
        q_BLND = step.passes.norm_rotate(self.q(x_BLC), self.norm_q, step.rotation, self.num_heads)
        k_BLND = step.passes.norm_rotate(self.k(x_BLC), self.norm_k, step.rotation, self.num_heads)
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
            each = (k_FSND.shape[1] // 2,)
            middles = [torch.full(each, sum(span) / 2, device=k_FSND.device) for span in SPEAKER_POSITIONS]
            positions_S = torch.cat(middles)
            k_FSND = rotate(k_FSND, speaker_rotation(positions_S, k_FSND.shape[-1]))
        return KeyValue(k_FSND, v_FSND)

    def forward(self, x_BLC: Tensor, audio: KeyValue, positions_BL: Tensor | None, step: Step) -> Tensor:
        """[B,L,C] -> [B,L,C]; `positions_BL` places each token between two speakers."""
        q_BLND = self.q_linear(x_BLC).unflatten(-1, (self.num_heads, -1))
        if positions_BL is not None:
            q_BLND = rotate(q_BLND, speaker_rotation(positions_BL, q_BLND.shape[-1]))
        out_BLND = step.tokens.attend_frames(q_BLND, *audio, step.attention)
        return self.proj(out_BLND.flatten(2))


class SoundAttention(SelfAttention):
    """Cross-attention of each latent frame's tokens to that frame's audio tokens; queries and keys normed."""

    def embed(self, audio_FSC: Tensor) -> KeyValue:
        """Keys and values of the audio tokens [F,T,C]."""
        return KeyValue(self.heads(self.norm_k(self.k(audio_FSC))), self.heads(self.v(audio_FSC)))

    def forward(self, x_BLC: Tensor, audio: KeyValue, step: Step) -> Tensor:
        """[B,L,C] -> [B,L,C]."""
        q_BLND = self.heads(self.norm_q(self.q(x_BLC)))
        return self.o(step.tokens.attend_frames(q_BLND, *audio, step.attention).flatten(2))


class BaseBlock(nn.Module, ABC):
    """Self-attention, what is listened to (`listen`), feed-forward; modulated by the timestep."""

    cross_attention: Callable[..., nn.Module]
    """What makes the first layer to listen with."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.self_attn = SelfAttention(config, operations, **factory)
        self.norm3 = operations.LayerNorm(dim, eps=eps, **factory)
        self.cross_attn = self.cross_attention(config, operations, **factory)
        self.norm2 = operations.LayerNorm(dim, eps=eps, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(dim, config.ffn_dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.ffn_dim, dim, **factory),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, dim, **factory))

    def modulations(self, time_B6C: Tensor) -> tuple[Modulation, Modulation]:
        """A projected timestep's modulation of self-attention and of feed-forward."""
        modulation = self.modulation.to(time_B6C.device).float() + time_B6C
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.chunk(6, dim=1)
        return Modulation(shift, 1 + scale, gate), Modulation(ffn_shift, 1 + ffn_scale, ffn_gate)

    def embed_context(
        self, text_BSC: Tensor | None, image_BSC: Tensor | None
    ) -> tuple[KeyValue | None, KeyValue | None]:
        """Keys and values of embedded text and image tokens, where the block attends to them."""
        return None, None

    def evaluate(
        self,
        x_BLC: Tensor,
        step: Step,
        time_B6C: Tensor,
        text_BSC: Tensor | None,
        image_BSC: Tensor | None,
        audio_FSC: Tensor,
    ) -> Tensor:
        """`forward`, with all that depends on the block's own weights embedded in the same call, of one speaker.

        For training: weights that are split over processes are whole only while their block computes.
        """
        text, image = self.embed_context(text_BSC, image_BSC)
        audio = self.embed_audio(audio_FSC, 1)
        return BaseBlock.forward(self, x_BLC, step, self.modulations(time_B6C), text, image, audio)

    @abstractmethod
    def embed_audio(self, audio_FSC: Tensor, speakers: int) -> KeyValue:
        """Keys and values of the audio tokens [F, P*T, output_dim], once per chunk."""

    @abstractmethod
    def listen(
        self,
        x_BLC: Tensor,
        normed_BLC: Tensor,
        positions_BL: Tensor | None,
        step: Step,
        text: KeyValue | None,
        image: KeyValue | None,
        audio: KeyValue,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B,L,C] and their `norm3` -> tokens, and what was heard last, which is still to be added to them.

        `positions_BL` places each token between two speakers.
        """

    def forward(
        self,
        x_BLC: Tensor,
        step: Step,
        modulations: tuple[Modulation, Modulation],
        text: KeyValue | None,
        image: KeyValue | None,
        audio: KeyValue,
    ) -> Tensor:
        """[B,L,C] -> [B,L,C]."""
        (attending, feeding), passes = modulations, step.passes
        y_BLC, positions_BL = self.self_attn(passes.norm(x_BLC, self.norm1, attending), step)
        x_BLC, y_BLC = passes.join_norm(x_BLC, y_BLC, attending.gate_B1C, self.norm3)
        x_BLC, y_BLC = self.listen(x_BLC, y_BLC, positions_BL, step, text, image, audio)
        x_BLC, y_BLC = passes.join_norm(x_BLC, y_BLC, None, self.norm2, feeding)
        return passes.join(x_BLC, self.ffn(y_BLC), feeding.gate_B1C)


class Block(BaseBlock):
    """Listens to text and image tokens, then to the sound."""

    cross_attention = ContextAttention

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__(config, operations, **factory)
        self.audio_cross_attn = AudioAttention(config, operations, **factory)
        self.norm_x = operations.LayerNorm(config.dim, eps=config.eps, **factory)

    def embed_context(
        self, text_BSC: Tensor | None, image_BSC: Tensor | None
    ) -> tuple[KeyValue | None, KeyValue | None]:
        """See `BaseBlock.embed_context`."""
        assert text_BSC is not None and image_BSC is not None, "`Transformer.embed_tokens` made them"
        layer = cast(ContextAttention, self.cross_attn)
        return layer.embed_text(text_BSC), layer.embed_image(image_BSC)

    def embed_audio(self, audio_FSC: Tensor, speakers: int) -> KeyValue:
        """See `BaseBlock.embed_audio`."""
        return self.audio_cross_attn.embed(audio_FSC, speakers)

    def listen(
        self,
        x_BLC: Tensor,
        normed_BLC: Tensor,
        positions_BL: Tensor | None,
        step: Step,
        text: KeyValue | None,
        image: KeyValue | None,
        audio: KeyValue,
    ) -> tuple[Tensor, Tensor]:
        """See `BaseBlock.listen`."""
        y_BLC = self.cross_attn(normed_BLC, text, image, step.attention)
        x_BLC, y_BLC = step.passes.join_norm(x_BLC, y_BLC, None, self.norm_x)
        return x_BLC, self.audio_cross_attn(y_BLC, audio, positions_BL, step)


class SoundBlock(BaseBlock):
    """Listens to the sound alone, of one speaker."""

    cross_attention = SoundAttention

    def embed_audio(self, audio_FSC: Tensor, speakers: int) -> KeyValue:
        """See `BaseBlock.embed_audio`."""
        return cast(SoundAttention, self.cross_attn).embed(audio_FSC)

    def listen(
        self,
        x_BLC: Tensor,
        normed_BLC: Tensor,
        positions_BL: Tensor | None,
        step: Step,
        text: KeyValue | None,
        image: KeyValue | None,
        audio: KeyValue,
    ) -> tuple[Tensor, Tensor]:
        """See `BaseBlock.listen`."""
        return x_BLC, self.cross_attn(normed_BLC, audio, step)


def run_block(block: BaseBlock, x_BLC: Tensor, step: Step, *conditions: Any) -> Tensor:
    """One block of a step; what may be exchanged for it runs the same block in another way."""
    return block(x_BLC, step, *conditions)
