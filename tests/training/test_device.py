"""A step of both stages on a CUDA device that is not there: nothing is left behind on the CPU. Not the way back, which
PyTorch refuses without a device."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from benchmarks.dry_run.device import CUDA, pretended
from livetalk_core.models.vae import VAE
from livetalk_core.presets import PRESETS
from livetalk_core.training.adapt import Adaptation
from livetalk_core.training.chance import generator_of
from livetalk_core.training.distill import Distillation
from livetalk_core.training.flow import Denoiser, attend_plainly

NANO = PRESETS["nano"]
FRAMES, LATENTS, SIDE = 33, 9, 4


def on_cuda(network: nn.Module, trained: bool) -> nn.Module:
    network.to(CUDA)
    for weight in network.parameters():
        weight.requires_grad_(trained)
    return network


def batch_on(device: torch.device) -> dict[str, torch.Tensor]:
    """A drawn batch as the trainer hands it on; numbers that decide how much is computed are real."""
    batch = {
        "latent": torch.zeros(1, 16, LATENTS, SIDE, SIDE), "cond": torch.zeros(1, 20, LATENTS, SIDE, SIDE),
        "clip": torch.zeros(1, NANO.image_tokens, 64), "text": torch.zeros(1, 32, 32),
        "weight": torch.ones(1, LATENTS, SIDE, SIDE), "sound": torch.zeros(1, 200, 4, 64),
        "reference": torch.zeros(1, 3, 1, 8 * SIDE, 8 * SIDE),
    }  # fmt: skip
    return {name: values.to(device) for name, values in batch.items()}


class Number:
    """A count that came from the batch: known to the host without asking the device."""

    def __init__(self, value: int) -> None:
        self.value = value

    def tolist(self) -> list[int]:
        return [self.value]

    def clamp_max(self, most: int) -> "Number":
        return Number(min(self.value, most))

    def __add__(self, more: int) -> "Number":
        return Number(self.value + more)

    def __int__(self) -> int:
        return self.value


def denoiser(trained: bool) -> Denoiser:
    return on_cuda(Denoiser(NANO.transformer, dtype=torch.float32), trained)


@pytest.fixture
def cuda(monkeypatch):
    """A batch on the device. Chances are taken, as pretended numbers decide nothing; attention has its gradients."""
    for stage in ("adapt", "distill"):
        monkeypatch.setattr(f"livetalk_core.training.{stage}.happens", lambda probability, _: probability > 0.4)
    monkeypatch.setattr("livetalk_core.training.flow.attend", attend_plainly)
    with pretended(nullcontext()):
        yield {**batch_on(CUDA), "start": Number(0), "number": Number(0)}


def test_a_step_of_stage_1_stays_on_the_device(cuda):
    task = Adaptation(denoiser(True), None, None, clips=1, soften=1.0)
    losses = task.losses(cuda, 0, generator_of("device"))
    assert losses["loss"].device == CUDA and losses["loss"].requires_grad


@pytest.mark.parametrize(("step", "trained"), [(0, "critic"), (2, "student")])
def test_a_step_of_stage_2_stays_on_the_device(cuda, step, trained):
    vae = on_cuda(VAE(NANO.vae, dtype=torch.float32), False)
    pool = type("Pool", (), {"seed": 0})()
    task = Distillation(
        denoiser(True), denoiser(True), denoiser(False), vae, pool, NANO.stream, clips=1, chunks=2, critic_steps=2
    )
    losses = task.losses(cuda, step, generator_of("device"))
    assert task.trains(step) == (trained,)
    assert losses["loss"].device == CUDA and losses["loss"].requires_grad
