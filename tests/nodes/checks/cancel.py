"""Cancel stops within a step, and what was stopped can run again."""

import tempfile
from pathlib import Path

import comfy.model_management
import torch
from checks.common import F, H, W, build, chunk, interrupted, stock_vae, transformer, upscale_model
from livetalk_in_comfyui.livetalk_core.checkpoints import nano
from livetalk_in_comfyui.livetalk_core.shapes import WAN
from livetalk_in_comfyui.nodes import host, loaders
from safetensors.torch import save_file


def check_cancel_stops_at_the_next_step():
    _, weights = transformer()
    engine = host.HostEngine(build(weights))
    progress = host.Progress(4, chunk()[0], WAN)
    done = []

    def on_step(step):
        progress.on_step(step)
        done.append(step)
        comfy.model_management.interrupt_current_processing()

    try:
        engine.denoise(*chunk(), on_step)
    except comfy.model_management.InterruptProcessingException:
        assert done == [1]
    else:
        raise AssertionError("not interrupted")
    finally:
        comfy.model_management.interrupt_current_processing(False)


def check_cancel_stops_decoding_between_groups():
    _, stock = stock_vae()
    engine = host.HostEngine(vae=stock)
    interrupted(lambda: list(engine.decode(torch.zeros(16, F, H, W))))


def check_cancel_stops_upscaling_between_frames():
    upscaler = host.Upscaler(upscale_model(2, 2), torch.zeros(1, 3, 1, 64, 64))
    interrupted(lambda: upscaler(torch.zeros(3, 2, 64, 64)))


def check_cancel_stops_loading_between_files():
    _, weights = transformer()
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, Path(folder) / "model.safetensors")
        interrupted(lambda: host.read_weights([Path(folder) / "model.safetensors"]))


def check_cancel_stops_an_encoder():
    encoder = loaders.hosted(nano.audio_encoder("cpu"), "nano")
    interrupted(lambda: encoder.embed(torch.zeros(16_000), 25))
