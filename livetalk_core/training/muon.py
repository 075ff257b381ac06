"""Muon: momentum whose every matrix is made orthogonal before it is applied, so that no direction is left behind.

Narrow convolutions and small transformers learn with it in about half the steps of AdamW. Kernels count as matrices,
[out, in * taps]; norms, biases and other vectors are left to AdamW's rule. The size of an update is that of AdamW
(arXiv 2502.16982, section 2.2), so one learning rate serves both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration that drives all singular values towards 1."""
ITERATIONS = 5
UPDATE_SIZE = 0.2
"""Root mean square of an AdamW update, in units of its rate."""


class Muon(torch.optim.Optimizer):
    """Matrices by orthogonalised momentum, the rest by AdamW's rule."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.99),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update every parameter that has a gradient."""
        assert closure is None, "the loss is not evaluated again"
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update = self._matrix if is_matrix(parameter) else self._vector
                    parameter.sub_(update(self.state[parameter], gradient, group), alpha=group["lr"])

    def _matrix(self, state: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        beta = group["betas"][0]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - beta)
        direction = orthogonal(gradient.lerp(momentum, beta).flatten(1))
        return (direction * (UPDATE_SIZE * max(direction.shape) ** 0.5)).view_as(gradient)

    def _vector(self, state: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        mean, square = mean / (1 - beta1 ** state["step"]), square / (1 - beta2 ** state["step"])
        return mean / (square.sqrt() + group["eps"])


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter maps several channels to several."""
    return parameter.ndim > 1 and min(parameter.shape[0], parameter[0].numel()) > 1


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix, roughly, whose singular values are all 1; in bfloat16, which is precise enough here."""
    a, b, c = QUINTIC
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
