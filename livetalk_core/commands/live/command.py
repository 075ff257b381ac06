"""The command `live`."""

import argparse
from pathlib import Path

from ...config import DEFAULT_PROMPT, CorrectionConfig
from ..fleet import fleet_options
from ..options import (
    count,
    join_option,
    lora_option,
    machine_options,
    minutes,
    origin,
    placement_options,
    port,
    positive,
    rtmp_address,
    seed,
    size,
    speed_options,
    stoppable,
    web_address,
    words,
)
from ..progress import show_stage

PORT = 8190


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--image", type=Path, required=True, help="the portrait")
    command.add_argument("--model", default="nano", help="'nano' (embedded) or a folder of weights (default: nano)")
    command.add_argument(
        "--patch", type=Path, metavar="PATH",
        help="LeapTalk's folder, for FlashHead Pro: 1 step a chunk; or an InfiniteTalk patch, as for generate",
    )  # fmt: skip
    command.add_argument("--prompt", type=words, default=DEFAULT_PROMPT, help="what is seen")
    command.add_argument("--seed", type=seed, default=0, help="of the noise (default: 0)")
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels (default: the model's)")
    command.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    command.add_argument("--color-correction", type=float, help="0 (off) to 1 (default: 1)")
    command.add_argument(
        "--correction", type=float, metavar="STRENGTH", default=CorrectionConfig().strength,
        help="retrospection, which undoes drift: 0 (off) to 1 (default: %(default)s)",
    )  # fmt: skip
    join_option(command)
    lora_option(command)
    command.add_argument(
        "--chunk", type=positive, metavar="FRAMES",
        help="frames of a chunk, 4n+1 (FlashHead Lite: 8n+1): fewer answer sooner and cost more (default: the model's)",
    )  # fmt: skip
    command.add_argument(
        "--quick-chunk", type=positive, metavar="FRAMES",
        help="frames of the chunk after an interruption (default: those of --chunk)",
    )  # fmt: skip
    _speech_options(command)
    _output_options(command)
    _server_options(command)
    machine_options(command)
    fleet_options(command, listen="--workers-listen")
    speed_options(command)
    placement_options(command)


def _speech_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tts",
        type=web_address,
        metavar="URL",
        help="speaks texts: an OpenAI-compatible /v1/audio/speech (default: espeak-ng)",
    )
    command.add_argument("--tts-model", default="tts-1", help="model that --tts is asked for (default: tts-1)")
    command.add_argument("--tts-key-file", type=Path, help="a file with the key that --tts wants")
    command.add_argument("--voice", help="of espeak-ng, such as en-gb; of --tts (default there: alloy)")


def _output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--record", type=Path, metavar="FILE", help="also into this .mp4; later sessions get a number")
    command.add_argument("--rtmp", type=rtmp_address, metavar="URL", help="also to this server, from the start on")
    command.add_argument("--virtual-camera", action="store_true", help="also as a camera of this machine")


def _server_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", type=port, default=PORT, help=f"of the page (default: {PORT})")
    command.add_argument(
        "--listen", dest="page_listen", metavar="ADDRESS",
        help="for other machines too, such as 0.0.0.0: asks for a token (default: this machine alone)",
    )  # fmt: skip
    command.add_argument("--token-file", type=Path, help="with --listen: a file with the token (default: a new one)")
    command.add_argument(
        "--origin", type=origin, action="append", default=[], help="of a proxy in front: https://example.org"
    )
    command.add_argument(
        "--waiting", type=count, default=16, help="callers that may wait for their turn; 0 refuses them (default: 16)"
    )
    command.add_argument("--idle-minutes", type=minutes, default=30, help="of silence that end a session (default: 30)")


def run(options: argparse.Namespace) -> int:
    """Serve a page with a talking face that answers while it is spoken to."""
    with show_stage("starting"):
        from .serve import serve

    with stoppable():
        return serve(options)
