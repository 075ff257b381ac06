"""Attention as a function that can be exchanged: models call what they are given.

B batch, L queries, S keys, N heads, D channels a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B,L,N,D], k [B,S,N,D], v [B,S,N,D]) -> [B,L,N,D]: softmax(q k^T / sqrt(D)) v."""


def attend(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
    """Full attention by PyTorch's fused kernels."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BSND, v_BSND))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@torch.compiler.assume_constant_result
def attends_in_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has fused kernels for bfloat16: NVIDIA's from compute capability 8.0 on, and AMD's."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def attend_partly(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys, [B,L,N,D], with the log of each query's sum of exponentials [B,L,N] in float32.

    `merge` puts results for different keys together.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BSND, v_BSND))
    kernels = torch.ops.aten
    if q.device.type == "cpu":
        out, log_sum = kernels._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.device.type != "cuda" or q.shape[-1] % 8:
        log_sum = (q.float() @ k.float().transpose(2, 3) * q.shape[-1] ** -0.5).logsumexp(-1)
        out = F.scaled_dot_product_attention(q, k, v)
    elif q.dtype == torch.bfloat16 and attends_in_bfloat16(q.device):
        out, log_sum = kernels._scaled_dot_product_flash_attention(q, k, v)[:2]
    else:  # float32, or a GPU that is too old for the other kernel: this one then takes float16 and float32 alone
        taken = (x.float() if x.dtype == torch.bfloat16 else x for x in (q, k, v))
        out, log_sum = kernels._scaled_dot_product_efficient_attention(*taken, None, True)[:2]
        out, log_sum = out.type_as(q), log_sum[..., : q.shape[2]]  # the kernel rounds its length up
    return out.transpose(1, 2), log_sum.transpose(1, 2)


def merge(a_BLND: Tensor, a_BLN: Tensor, b_BLND: Tensor, b_BLN: Tensor) -> tuple[Tensor, Tensor]:
    """Two results of `attend_partly` as one, in float32: what attention to the keys of both gives."""
    share_BLN1 = torch.sigmoid(b_BLN - a_BLN)[..., None]
    return torch.lerp(a_BLND.float(), b_BLND.float(), share_BLN1), torch.logaddexp(a_BLN, b_BLN)
