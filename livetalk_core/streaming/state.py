"""What a stream carries from chunk to chunk. Small: it is saved after every chunk."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class StreamState:
    """Where a stream stands: the next chunk's index, the seed of its noise, and its clean latents [C,k,h,w].

    The motion latents of chunk 0 are the encoded portrait (k = 1), later ones the re-encoded last frames (k = 2).
    `review` [n,C,statistics] is what retrospection remembers (`Corrector`), and `shown` [3,1,H,W] the last frame, to
    which the next chunk's are joined; None where that is off.
    """

    next_chunk: int
    seed: int
    motion: Tensor
    review: Tensor | None = None
    shown: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What is saved beside the numbers, on the CPU."""
        kept = {"motion": self.motion, "review": self.review, "shown": self.shown}
        return {name: value.float().cpu().contiguous() for name, value in kept.items() if value is not None}
