"""What `--send-fp8` costs: the demo's first chunk from workers that send FP8, against one process.

python -m benchmarks.fp8_exchange [--devices "cpu x2"] [--side 128]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.commands.prepare import Settings, prepare
from livetalk_core.parallel.devices import parse_devices
from livetalk_core.parallel.fleet import Fleet, local_fleet
from livetalk_core.streaming.fleet_engine import engine_setup

DEMO = Path(__file__).resolve().parent.parent / "demo"


class Latent(BaseException):
    """The first chunk's latent, on its way out of a render."""


def first_latent(fleet: Fleet | None, side: int) -> Tensor:
    """The clean latent that the render's first chunk arrives at."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            DEMO / "portrait.png", DEMO / "speech.wav", Path(folder) / "talk.mp4", size=(side, side), fleet=fleet
        )
        session = prepare(settings)[0].session

        def stop(latent: Tensor) -> None:
            raise Latent(latent)

        session.engine.decode = stop
        try:
            list(session.run(session.start(0)))
        except Latent as reached:
            return reached.args[0]
    raise AssertionError("a chunk is decoded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cpu x2", help="of the workers")
    parser.add_argument("--side", type=int, default=128, help="width and height in pixels")
    options = parser.parse_args()
    latents = {"one process": first_latent(None, options.side)}
    for name, send_fp8 in (("workers", False), ("workers that send FP8", True)):
        setup = engine_setup("nano", torch.float32, send_fp8=send_fp8)
        with local_fleet(parse_devices(options.devices), "engine", fields=setup) as fleet:
            latents[name] = first_latent(fleet, options.side)
    reference = latents.pop("one process")
    for name, latent in latents.items():
        error = ((latent - reference).norm() / reference.norm()).item()
        print(
            f"{name} on {options.devices}, {options.side}x{options.side}: the latent is {error:.2%} off "
            "(root mean square)"
        )


if __name__ == "__main__":
    main()
