"""Run by test_processes.py, alone or through torchrun: both stages of nano on a pool, a few steps, all in float32.

STAGE POOL FOLDER STEPS [COPY]: an update is of four batches, whatever the number of processes. With COPY nothing is
trained: what was taken up from FOLDER is written there.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from livetalk_core.checkpoints import nano
from livetalk_core.presets import PRESETS
from livetalk_core.training.adapt import Adaptation
from livetalk_core.training.distill import Distillation
from livetalk_core.training.flow import Denoiser
from livetalk_core.training.keeping import Keeper
from livetalk_core.training.latents import Pool
from livetalk_core.training.trainer import Schedule, Trainer

BATCHES = 4


def denoiser(trained: bool) -> Denoiser:
    """Nano's transformer, checkpointing its activations where it is trained."""
    network = Denoiser.of(nano.transformer("cpu", torch.float32)).requires_grad_(trained).train(trained)
    network.checkpointing = trained
    return network


def main(stage: str, pool: Path, folder: Path, steps: int, copy: Path | None = None) -> None:
    """Train, or copy."""
    accelerator = Accelerator(cpu=True)
    prepared, vae = Pool(pool, 32), nano.vae("cpu", torch.float32)
    if stage == "adapt":
        task = Adaptation(denoiser(True), vae, prepared, clips=1)
    else:
        parts = denoiser(True), denoiser(True), denoiser(False)
        task = Distillation(*parts, vae, prepared, PRESETS["nano"].stream, clips=1, chunks=2, critic_steps=2)
    schedule = Schedule(
        steps, rate=1e-4, final_rate=1.0, warmup=2, workers=0, save_every=1000, log_every=1, ema=0.9,
        accumulate=BATCHES // accelerator.num_processes,
    )  # fmt: skip
    trainer = Trainer(task, schedule, folder, accelerator)
    if copy is None:
        trainer.run()
    else:
        trainer.resume()
        trainer.keeper = Keeper(copy)
        trainer.save()
        trainer.keeper.finish()
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *map(Path, sys.argv[5:]))
