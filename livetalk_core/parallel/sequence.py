"""Sequence parallelism: each rank holds a share of the video tokens, and every token still sees all others.

Applied from outside to a built transformer, which keeps its weights and its checkpoint. Self-attention exchanges
tokens for heads within a Ulysses group (arXiv 2309.14509), passes keys and values around the ring of such groups and
merges by log-sum-exp (arXiv 2310.01889); cross-attention stays local, since text, image and audio keys are whole on
every rank. The shares are equal: the last ones are padded, and keys of padding are cut off before they are read.

Ulysses' exchange can go in pieces, some heads each: the next one's tokens come, and the last one's result leaves, while
this one's heads are attended. What is sent, and what is computed of each head, are the same.

B batch, L tokens of one share, M tokens of a Ulysses group's shares, N heads, H heads of one rank, D channels a head,
S tokens of a latent frame, F latent frames, U ranks of a Ulysses group.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..models.attention import AttentionFunction
from ..models.speakers import counted_heads, speaker_attention, speaker_positions
from ..models.tokens import Grid, Tokens
from ..models.transformer import Transformer
from .collectives import exchange_soon, gather, least, pass_on, total
from .fp8 import expand, squeeze
from .mesh import Mesh
from .partial_attention import attend_partly, merge


def split_sequence(transformer: Transformer, mesh: Mesh, send_fp8: bool = False, pieces: int = 1) -> Transformer:
    """Make a built transformer hold one share of its tokens; every rank of `mesh` must call it alike.

    All ranks are given whole inputs and get the whole output. With `send_fp8`, what self-attention exchanges is sent
    as FP8, half of bfloat16's bytes: for links slower than NVLink. The output then differs (docs/parallel_work.md).
    Ulysses exchanges in so many `pieces`, as far as a rank has heads; compiled graphs, which cannot wait, in one.
    """
    transformer.tokens = lambda grid: Share(grid, mesh, send_fp8, pieces)
    return transformer


class Share(Tokens):
    """One rank's tokens of a grid."""

    def __init__(self, grid: Grid, mesh: Mesh, send_fp8: bool = False, pieces: int = 1) -> None:
        super().__init__(grid)
        self.mesh, self.send_fp8, self.pieces = mesh, send_fp8, pieces
        self.size = -(-self.count // mesh.ranks)
        self.start = mesh.rank * self.size

    def split(self, x: Tensor) -> Tensor:
        """See `Tokens.split`; past the last token come zeros. A copy, so that the whole need not be kept."""
        held = x[:, self.start : self.start + self.size]
        missing = self.size - held.shape[1]
        return torch.cat([held, held.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1) if missing else held.clone()

    def join(self, x: Tensor) -> Tensor:
        """See `Tokens.join`; the padding is dropped."""
        return rearrange(gather(x, self.mesh.group), "r a l ... -> a (r l) ...")[:, : self.count]

    def attend(
        self, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor, masks_3S: Tensor | None, attention: AttentionFunction
    ) -> tuple[Tensor, Tensor | None]:
        """See `Tokens.attend`."""
        returning: list[Callable[[], Tensor]] = []
        seen: list[tuple[Tensor, Tensor]] = []
        for q_BMHD, k_BMHD, v_BMHD in self._head_pieces(q_BLND, k_BLND, v_BLND):
            returning.append(self._to_tokens(self._attend_heads(q_BMHD, k_BMHD, v_BMHD, attention)))
            if masks_3S is not None:
                seen.append((q_BMHD, k_BMHD))
        out_BLND = joined([arrival() for arrival in returning], 3).flatten(2, 3)
        if masks_3S is None:
            return out_BLND, None
        q_BMHD, k_BMHD = (joined(parts, 2) for parts in zip(*seen, strict=True))
        return out_BLND, self._speakers(q_BMHD, k_BMHD, masks_3S, attention)

    def attend_frames(self, q_BLND: Tensor, k_FSND: Tensor, v_FSND: Tensor, attention: AttentionFunction) -> Tensor:
        """See `Tokens.attend_frames`: the share is padded to the whole frames that it touches."""
        first, before = divmod(self.start, self.per_frame)
        after = -(before + self.size) % self.per_frame
        q = rearrange(F.pad(q_BLND, (0, 0, 0, 0, before, after)), "b (f s) n d -> (b f) s n d", s=self.per_frame)
        touched = q.shape[0] // q_BLND.shape[0]
        k, v = (self._frames(x, first, touched) for x in (k_FSND, v_FSND))
        out = rearrange(attention(q, k, v), "(b f) s n d -> b (f s) n d", f=touched)
        return out[:, before : before + self.size]

    def _frames(self, x_FSND: Tensor, first: int, count: int) -> Tensor:
        """So many frames from one on; past the last, where tokens are padding, it again. No index that is copied."""
        held = x_FSND[min(first, self.grid[0] - 1) : first + count]
        missing = count - len(held)
        return torch.cat([held, x_FSND[-1:].expand(missing, -1, -1, -1)]) if missing else held

    def _real(self, group: int) -> int:
        """How many of a Ulysses group's tokens are no padding."""
        size = self.mesh.ulysses * self.size
        return min(size, max(0, self.count - group * size))

    def _head_pieces(self, *parts_BLND: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Queries, keys and values [B,M,H,D] piece by piece, the next ones on their way meanwhile."""
        first, *others = self._own_heads(parts_BLND[0].shape[2] // self.mesh.ulysses)
        coming = self._to_heads(parts_BLND, first)
        for following in others:
            arrived = coming()
            coming = self._to_heads(parts_BLND, following)
            yield arrived
        yield coming()

    def _own_heads(self, count: int) -> list[slice]:
        """Which of a rank's own heads are exchanged together."""
        pieces = 1 if self.mesh.ulysses == 1 or torch.compiler.is_compiling() else min(self.pieces, count)
        return [slice(count * piece // pieces, count * (piece + 1) // pieces) for piece in range(pieces)]

    def _to_heads(self, parts_BLND: tuple[Tensor, ...], own: slice) -> Callable[[], tuple[Tensor, ...]]:
        """Ask for some heads of all tokens of the Ulysses group, for all ranks' such heads of this share's.

        [B,L,N,D] -> [B,M,H,D], `own` of each rank's heads.
        """
        u = self.mesh.ulysses
        sent = [rearrange(x, "b l (u h) d -> u b l h d", u=u)[:, :, :, own] for x in parts_BLND]
        arrival = self._exchange(torch.stack(sent, dim=1))
        return lambda: rearrange(arrival(), "u p b l h d -> p b (u l) h d").unbind(0)

    def _to_tokens(self, x_BMHD: Tensor) -> Callable[[], Tensor]:
        """Begin the way back: [B,M,H,D] -> [B,L,U,H,D]."""
        arrival = self._exchange(rearrange(x_BMHD, "b (u l) h d -> u b l h d", u=self.mesh.ulysses))
        return lambda: rearrange(arrival(), "u b l h d -> b l u h d")

    def _exchange(self, x: Tensor) -> Callable[[], Tensor]:
        if not self.send_fp8 or self.mesh.ulysses == 1:
            return exchange_soon(x, self.mesh.ulysses_group)
        arrival = exchange_soon(squeeze(x), self.mesh.ulysses_group)
        return lambda: expand(arrival(), x.dtype)

    def _attend_heads(self, q_BMHD: Tensor, k_BMHD: Tensor, v_BMHD: Tensor, attention: AttentionFunction) -> Tensor:
        """Attention of some heads to the tokens of all ranks."""
        if self.mesh.ring > 1:
            return self._attend_ring(q_BMHD, k_BMHD, v_BMHD)
        return attention(q_BMHD, k_BMHD[:, : self.count], v_BMHD[:, : self.count])

    def _attend_ring(self, q_BMHD: Tensor, k_BMHD: Tensor, v_BMHD: Tensor) -> Tensor:
        """Attention to every group's keys as they come by, the next ones on their way meanwhile."""
        ring, parts = self.mesh.ring, torch.stack([k_BMHD, v_BMHD])
        if self.send_fp8:
            parts = squeeze(parts)
        merged: tuple[Tensor, Tensor] | None = None
        for hop in range(ring):
            following = pass_on(parts, self.mesh.ring_group) if hop + 1 < ring else None
            if real := self._real((self.mesh.ring_rank - hop) % ring):
                known = parts[:, :, :real]
                attended = attend_partly(q_BMHD, *(expand(known, q_BMHD.dtype) if self.send_fp8 else known))
                merged = merge(*merged, *attended) if merged else attended
            parts = following() if following else parts
        assert merged is not None, "the first group always holds tokens"
        return merged[0].type_as(q_BMHD)

    def _speakers(self, q_BMHD: Tensor, k_BMHD: Tensor, masks_3S: Tensor, attention: AttentionFunction) -> Tensor:
        """Each of the share's tokens' audio position [B,L]; only sums over heads and bounds leave the rank."""
        mesh, heads = self.mesh, q_BMHD.shape[2]
        keys = self._first_frame(k_BMHD)
        counted = min(heads, max(0, counted_heads(mesh.ulysses * heads) - mesh.ulysses_rank * heads))
        own_BM3 = speaker_attention(q_BMHD, keys, masks_3S, attention)[:, :, :counted].sum(2)
        strength_BM3 = total(own_BM3, mesh.ulysses_group) / counted_heads(mesh.ulysses * heads)
        low_B13, high_B13 = self._bounds(strength_BM3)
        return speaker_positions(strength_BM3.unflatten(1, (mesh.ulysses, -1))[:, mesh.ulysses_rank], low_B13, high_B13)

    def _first_frame(self, k_BMHD: Tensor) -> Tensor:
        """Keys of the first latent frame, wherever they are: [B,S,H,D]."""
        if self.mesh.ring == 1:
            return k_BMHD
        parts = gather(k_BMHD[:, : self.per_frame], self.mesh.ring_group)
        return rearrange(parts, "r b m h d -> b (r m) h d")

    def _bounds(self, strength_BM3: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest strength over all tokens of the video, padding left out: [B,1,3] each."""
        real_M1 = torch.arange(strength_BM3.shape[1], device=strength_BM3.device)[:, None] < self._real(
            self.mesh.ring_rank
        )
        signed = torch.stack([strength_BM3, -strength_BM3]).where(real_M1, torch.inf)
        low, negative_high = least(signed.amin(2, keepdim=True), self.mesh.ring_group).unbind(0)
        return low, -negative_high


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Parts put together along `dim`; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
