"""Attention to the keys of one rank after another (arXiv 2310.01889): each part, and two of them put together.

B batch, L queries, S keys, N heads, D channels a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..hardware.machine import attends_in_bfloat16


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
