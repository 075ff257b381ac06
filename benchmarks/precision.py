"""What each lossy choice costs: the embedded model on the demo's portrait and speech, and a golden file's small model.

    python -m benchmarks.precision [--device cpu] [--lip-sync] [--document docs/performance.md]

Latent: root mean square of the difference over that of the exact one, after the 4 steps of the first chunk. Frames:
PSNR of the same chunk, decoded. Lip sync (`evaluate --quick`): correlation of mouth and sound on held-out drawn faces.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from livetalk_core.commands.bench.report import update_document
from livetalk_core.commands.prepare import Settings, prepare
from livetalk_core.commands.verify.golden import Golden
from livetalk_core.config import TransformerConfig
from livetalk_core.hardware.machine import choose_device, commit
from livetalk_core.hardware.placement import Placement, layers_of, place
from livetalk_core.models import fp8
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.shapes import WAN
from livetalk_core.streaming.avatar import Avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import Session, ignore_step
from livetalk_core.training.evaluation import command
from livetalk_core.training.evaluation.entrants import Entrant

ROOT = Path(__file__).resolve().parents[1]
PEAK_TO_PEAK = 2.0
TITLE = "What the lossy choices cost"


class Choice(NamedTuple):
    """A way to run a model."""

    name: str
    dtype: torch.dtype = torch.float32
    fp8: bool = False
    attention: str = "auto"
    file: bool = False
    """Weights as `convert --fp8` writes them."""

    def transformer(self, model: Transformer, device: torch.device) -> Transformer:
        """The model, built of this choice's layers, as it is run."""
        for block in model.blocks if self.file else ():
            scale_weights(block)
        return place(model, device, self.fp8)


EXACT = Choice("float32")
BFLOAT16 = Choice("`--dtype bfloat16`", torch.bfloat16)
CHOICES = (
    BFLOAT16,
    Choice("file of `convert --fp8`", file=True),
    Choice("`--fp8`", fp8=True),
    Choice("`--fp8 --dtype bfloat16`", torch.bfloat16, fp8=True),
    Choice("file of `convert --fp8`, `--fp8`", fp8=True, file=True),
)
ON_GPUS = (Choice("`--attention sage --dtype bfloat16`", torch.bfloat16, attention="sage"),)


class Chunk(NamedTuple):
    """The first chunk."""

    latent: Tensor
    frames: Tensor


def scale_weights(block: nn.Module) -> None:
    """Weights in FP8 with one scale for each."""
    for name, layer in block.named_modules():
        if fp8.is_quantized(f"blocks.0.{name}.weight"):
            linear: Any = layer
            weight, linear.scale_weight = fp8.scaled(linear.weight, rows=False)
            linear.weight = nn.Parameter(weight, requires_grad=False)


def nano_chunk(choice: Choice, device: torch.device) -> Chunk:
    """The demo's first chunk."""
    session = demo_session(choice, device)
    state = session.start(seed=0)
    latent = session.sample(state)
    frames = [event.frames for event in session.decode(state, latent)]
    return Chunk(latent.cpu(), torch.cat(frames, dim=1).cpu())


def demo_session(choice: Choice, device: torch.device) -> Session:
    """As `generate` makes it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            ROOT / "demo/portrait.png", ROOT / "demo/speech.wav", Path(folder) / "talk.mp4", device=device,
            dtype=choice.dtype, attention=choice.attention, placement=Placement(choice.fp8 and not choice.file),
        )  # fmt: skip
        session = prepare(settings)[0].session
    if choice.file:
        engine: Any = session.engine
        layers = layers_of(Placement(choice.fp8), device)
        model = rebuilt(engine.transformer, layers, choice.dtype)
        engine.transformer = choice.transformer(model, device)
    return session


def rebuilt(model: Transformer, layers: Any, dtype: torch.dtype) -> Transformer:
    """The same model of other layers."""
    other = Transformer(model.config, layers, dtype=dtype)
    other.load_state_dict(model.state_dict())
    return other.eval().requires_grad_(False)


def golden_latent(choice: Choice, device: torch.device) -> Tensor:
    """The golden stream's first chunk."""
    golden = Golden(ROOT / "tests/golden/stream.safetensors")
    layers = layers_of(Placement(choice.fp8), device)
    model = Transformer(TransformerConfig(**golden.metadata["config"]), layers, dtype=choice.dtype)
    model.load_state_dict(golden.weights("weights.dit."))
    transformer = choice.transformer(model.eval().requires_grad_(False), device)
    frames, steps = golden.metadata["frame_num"], golden.metadata["steps"]
    reference = torch.zeros(1, 3, 1, golden.metadata["height"], golden.metadata["width"])
    avatar = Avatar(reference, golden.io("cond"), golden.io("clip"), golden.io("text"))
    noise = torch.stack([golden.io(f"noise.{step:03}") for step in range(steps)])
    no_vae: Any = VAE
    engine = LocalEngine(transformer, no_vae, device, golden.metadata["shift"])
    return engine.denoise(avatar, golden.io("audio")[:, :frames], avatar.first_motion(WAN), noise, ignore_step).cpu()


def latent_error(measured: Tensor, reference: Tensor) -> str:
    """In percent."""
    return f"{(measured.float() - reference.float()).norm() / reference.float().norm():.1%}"


def decibels(measured: Tensor, reference: Tensor) -> str:
    """Peak signal to noise."""
    return f"{10 * torch.log10(PEAK_TO_PEAK**2 / (measured - reference).square().mean()):.1f} dB"


def lip_sync(device: torch.device) -> dict[Choice, str]:
    """Mean and deviation over the streams, for the choices that an entrant can make."""
    synced = {}
    for dtype in (torch.float32, torch.bfloat16):
        settings = replace(
            command.QUICK, entrants=(Entrant("nano"), Entrant("nano", fp8=1)), device=device, dtype=dtype
        )
        rows = {row.name: row.spread("lip_sync") for row in command.run(settings, lambda _: None)}
        for choice in (EXACT, *CHOICES):
            if choice.dtype == dtype and not choice.file:
                mean, deviation = rows["nano,fp8=1" if choice.fp8 else "nano"]
                synced[choice] = f"{mean:.3f} ± {deviation:.3f}"
    return synced


def table(device: torch.device, with_lip_sync: bool) -> Iterator[str]:
    """The lines of a Markdown table."""
    choices = CHOICES + (ON_GPUS if device.type == "cuda" else ())
    sync = lip_sync(device) if with_lip_sync else {}
    exact, golden = nano_chunk(EXACT, device), golden_latent(EXACT, device)
    golden_half = golden_latent(BFLOAT16, device)
    yield "| | latent, `nano` | frames, `nano` | lip sync, `nano` | latent, golden size | there, against bfloat16 |"
    yield "|---|---|---|---|---|---|"
    yield f"| {EXACT.name} | | | {sync.get(EXACT, '')} | | |"
    for choice in choices:
        chunk, latent = nano_chunk(choice, device), golden_latent(choice, device)
        against_half = latent_error(latent, golden_half) if choice.dtype == torch.bfloat16 and choice.fp8 else ""
        cells = (
            choice.name, latent_error(chunk.latent, exact.latent), decibels(chunk.frames, exact.frames),
            sync.get(choice, ""), latent_error(latent, golden), against_half,
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--lip-sync", action="store_true", help="also measure it (minutes)")
    parser.add_argument("--document", type=Path, help="also put the table into this Markdown file")
    options = parser.parse_args()
    device = choose_device(options.device)
    how = (
        "FP8 products simulated in float32" if layers_of(Placement(True), device) is fp8.SimulatedOperations else "FP8"
    )
    text = f"Against float32, on {device} ({how}), commit {commit()[:12]}: `python -m benchmarks.precision --lip-sync`."
    section = "\n".join([f"### {TITLE}", "", text, "", *table(device, options.lip_sync)])
    print(section)
    if options.document:
        update_document(options.document, section)


if __name__ == "__main__":
    main()
