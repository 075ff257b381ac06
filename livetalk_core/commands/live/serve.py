"""The live server on the command line: the cast loaded, the page served, the engine run in this thread."""

import argparse
import importlib
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from ...config import CorrectionConfig
from ...errors import InputError
from ...files import read_secret_file
from ...live.mux import Encoded, Target
from ...live.performer import Cast, check_chunk
from ...live.server.access import Access, new_token
from ...live.server.app import LiveServer
from ...live.server.house import House
from ...live.server.listening import check_listens
from ...live.server.voice import SpeechServer, Voice, embedded_voice
from ...live.session import Sink, no_poll
from ...media.coding import USUAL_CODING
from ...media.image import load_image, to_reference
from ...media.place import OutputPlace
from ...parallel.fleet import Fleet
from ..fleet import fleet_of
from ..loading import ModelSettings, load_talker, open_model
from ..loras import Lora
from ..options import device_and_dtype, placement_of
from ..progress import show_stage


def serve(options: argparse.Namespace) -> int:
    """Serve as the options say, until the user stops it; the exit code."""
    check_outputs(options)
    device, dtype = device_and_dtype(options)
    with fleet_of(options, dtype) or nullcontext() as fleet:
        access, voice = access_of(options), voice_of(options)
        cast = cast_of(options, settings_of(options, device, dtype, fleet))
        house = House(
            cast, voice, partial(outputs_of, options, cast),
            lasting=bool(options.rtmp or options.virtual_camera), record=options.record, waiting=options.waiting,
            idle_seconds=60 * options.idle_minutes,
        )  # fmt: skip
        _serve(options, house, access, fleet)
    return 0


def _serve(options: argparse.Namespace, house: House, access: Access, fleet: Fleet | None) -> None:
    with LiveServer(house, access, host_of(options), options.port) as server:
        token = f"#token={access.token}" if access.token else ""
        print(f"model {options.model} on {fleet or options.device}; the page: {server.url}{token}", flush=True)
        if access.token:
            print("others can hear and see this: put a proxy with TLS in front (docs/live.md)", file=sys.stderr)
        house.perform(no_poll)


def check_outputs(options: argparse.Namespace) -> None:
    """Raise an error for what could not be served, recorded or shown, before a model is loaded."""
    check_listens(host_of(options), options.port)
    if options.record is not None:
        USUAL_CODING.check_name(options.record)
        OutputPlace(options.record).check(resume=False, overwrite=False)
    if options.virtual_camera:
        importlib.import_module("pyvirtualcam")


def host_of(options: argparse.Namespace) -> str:
    """The address to listen at."""
    return "127.0.0.1" if options.page_listen is None else options.page_listen


def settings_of(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype, fleet: Fleet | None
) -> ModelSettings:
    """The model, where it runs and how it is sampled, as the options say."""
    return ModelSettings(
        model=options.model, patch=options.patch, size=options.size, steps=options.steps,
        color_correction=options.color_correction,
        correction=CorrectionConfig(strength=options.correction) if options.correction else None,
        joins=options.join, loras=tuple(map(Lora.parse, options.lora)),
        device=device, dtype=dtype, attention=options.attention, compiled=options.compile,
        placement=placement_of(options), fleet=fleet,
    )  # fmt: skip


def cast_of(options: argparse.Namespace, settings: ModelSettings) -> Cast:
    """Who talks: the model loaded, and the avatar made for chunks of the length asked for."""
    portrait, (model, stream) = load_image(options.image), open_model(settings)
    stream = check_chunk(options.chunk or stream.frame_num, stream)
    quick = check_chunk(options.quick_chunk or stream.frame_num, stream).frame_num
    reference = to_reference(portrait, stream.height, stream.width)
    talker = load_talker(settings, model, stream, reference, [options.prompt], show_stage)
    prompted = model.preset.transformer.prompted
    return Cast(
        talker.engine, talker.avatar, model.audio_encoder, stream, options.seed, quick,
        encode_prompt=(lambda prompt: model.encode_texts(prompt)[0]) if prompted else None,
    )  # fmt: skip


def voice_of(options: argparse.Namespace) -> Voice | None:
    """What speaks texts."""
    if options.tts is None:
        if options.tts_key_file is not None:
            raise InputError("--tts-key-file is for --tts; leave it out, or name the server")
        return embedded_voice(options.voice)
    key = _secret(options.tts_key_file) if options.tts_key_file else None
    return SpeechServer(options.tts, options.tts_model, options.voice or "alloy", key)


def outputs_of(options: argparse.Namespace, cast: Cast) -> list[Sink]:
    """What shows a session beside the page."""
    sinks: list[Sink] = []
    if options.rtmp:
        target = Target(options.rtmp, "flv", {})
        sinks.append(Encoded(lambda: target, *cast.shown_size, _say_end))
    if options.virtual_camera:
        from ...live.camera import Camera

        sinks.append(Camera(*cast.shown_size))
    return sinks


def access_of(options: argparse.Namespace) -> Access:
    """Who may use the server."""
    if options.page_listen is None:
        if options.token_file:
            raise InputError("--token-file is for --listen; leave it out, or say where to listen")
        return Access(origins=options.origin)
    return Access(_secret(options.token_file) if options.token_file else new_token(), options.origin)


def _secret(file: Path) -> str:
    try:
        text = read_secret_file(file, InputError).decode().strip()
    except UnicodeDecodeError:
        raise InputError(f"{file} is no text; a file with one line is needed: check the path") from None
    if not text:
        raise InputError(f"{file} is empty; a file with one line is needed")
    return text


def _say_end(error: Exception | None) -> None:
    if error is not None:
        print(f"--rtmp ended: {error}", file=sys.stderr)
