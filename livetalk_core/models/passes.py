"""What a block does between its products: norms, modulation, gates, sums and rotation.

Each of PyTorch's operations is a pass over memory, on a GPU often longer than the arithmetic in it. `Passes` takes them
one by one; what may be exchanged for it does the same in fewer (`hardware/fused.py`).

B batch, L video tokens, C width, N heads, D channels a head.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .rope import rotate


class Modulation(NamedTuple):
    """What a timestep does to one norm and the branch behind it: each [B, 1, C] in float32."""

    shift_B1C: Tensor
    factor_B1C: Tensor
    gate_B1C: Tensor


def modulate(x_BLC: Tensor, by: Modulation) -> Tensor:
    """x * factor + shift, in float32, given back in the dtype of `x`."""
    return torch.addcmul(by.shift_B1C, x_BLC.float(), by.factor_B1C).type_as(x_BLC)


def gated(x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor) -> Tensor:
    """x + y * gate, in float32, given back in the dtype of `x`."""
    return torch.addcmul(x_BLC.float(), y_BLC.float(), gate_B1C).type_as(x_BLC)


class Passes:
    """One operation after the other."""

    def norm(self, x_BLC: Tensor, norm: nn.Module, by: Modulation | None = None) -> Tensor:
        """Layer norm, then modulation where there is one: [B,L,C] -> [B,L,C]."""
        normed = norm(x_BLC)
        return normed if by is None else modulate(normed, by)

    def join(self, x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor | None = None) -> Tensor:
        """A branch's result `y` added to `x`, through its gate where there is one: [B,L,C]."""
        return x_BLC + y_BLC if gate_B1C is None else gated(x_BLC, y_BLC, gate_B1C)

    def join_norm(
        self, x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor | None, norm: nn.Module, by: Modulation | None = None
    ) -> tuple[Tensor, Tensor]:
        """`join`, and the `norm` of its result, with which the next branch begins."""
        joined = self.join(x_BLC, y_BLC, gate_B1C)
        return joined, self.norm(joined, norm, by)

    def norm_rotate(self, x_BLC: Tensor, norm: nn.Module, rotation_2LP: Tensor, heads: int) -> Tensor:
        """Root-mean-square norm over all heads, then each head rotated: [B,L,C] -> [B,L,N,D]."""
        return rotate(norm(x_BLC).unflatten(-1, (heads, -1)), rotation_2LP)


PLAIN = Passes()
