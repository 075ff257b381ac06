"""Attention as a function that can be exchanged: models call what they are given.

B batch, L queries, S keys, N heads, D channels a head.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B,L,N,D], k [B,S,N,D], v [B,S,N,D]) -> [B,L,N,D]: softmax(q k^T / sqrt(D)) v."""


def attend(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
    """Full attention by PyTorch's fused kernels."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BSND, v_BSND))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
