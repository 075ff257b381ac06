"""Every example workflow in a real ComfyUI, run to its end under each way of caching."""

import copy

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.nodes.comfy_server import FRAMES, ComfyServer
from tests.nodes.workflow import ROOT, ids_of, load, named, small, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

CACHES = {"default": (), "classic": ("--cache-classic",), "none": ("--cache-none",)}
IMAGES = 2
"""The render node's output that holds all frames."""


@pytest.fixture(scope="module", params=CACHES)
def caching_server(request, comfyui, base):
    """A server for each way of caching."""
    server = ComfyServer(comfyui, base, *CACHES[request.param])
    yield server
    server.close()


def prompt_of(server, name):
    return small(to_prompt(load(named(name)), server.get("object_info")))


def described(path):
    """Frames, rate, width and seconds of sound of a video."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        sound = float(audio.duration * audio.time_base)
        return sum(1 for _ in container.decode(video)), video.average_rate, video.width, round(sound, 1)


def sound_of(path):
    """The sound of a file, mono at 16 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def says_the_speech(path):
    """Whether a video's sound is the demo's speech, in its place to the sample: one sample later, 0.88 is left."""
    speech = sound_of(ROOT / "demo" / "speech.wav")
    return np.corrcoef(speech, sound_of(path)[: len(speech)])[0, 1] > 0.99


def videos(server, outcomes):
    """The files that the last of the prompts shows."""
    return [server.output(file) for output in outcomes[-1].outputs.values() for file in output.get("images", [])]


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("livetalk_quick_start", 64),
        ("livetalk_14b_24gb", 64),
        ("livetalk_14b_several_gpus", 64),
        ("livetalk_any_length_upscaled", 256),
        ("livetalk_two_speakers", 64),
        ("livetalk_infinitetalk", 64),
        ("livetalk_job", 256),
    ],
)
def test_workflow_runs_to_its_end(caching_server, name, width):
    workflow = load(named(name))
    outcomes = list(caching_server.follow(prompt_of(caching_server, name), workflow=workflow))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    (path,) = videos(caching_server, outcomes)
    assert described(path) == (FRAMES, 25, width, 6.1)
    assert says_the_speech(path)
    assert not list(path.parent.glob("*.partial*"))
    with av.open(str(path)) as container:
        assert set(container.metadata) >= {"workflow", "prompt"}


def test_runs_under_memory_options(comfyui, base):
    """Those that a CPU takes: beside --cpu, ComfyUI refuses --lowvram and --novram (see `checks/limits.py`).

    Nor does it start with --enable-dynamic-vram, which needs a GPU.
    """
    server = ComfyServer(comfyui, base, "--reserve-vram", "1", "--disable-smart-memory")
    try:
        outcome = server.run(prompt_of(server, "livetalk_14b_24gb"), timeout=600)
        assert not outcome.error, outcome.error
        (path,) = videos(server, [outcome])
        assert described(path) == (FRAMES, 25, 64, 6.1)
    finally:
        server.close()


def test_workers_give_the_frames_of_one_process(comfyui, base):
    """The same render twice in one prompt, by ComfyUI itself and by two workers."""
    server = ComfyServer(comfyui, base)
    try:
        outcome = server.run(both_ways(prompt_of(server, "livetalk_quick_start")), timeout=600)
    finally:
        server.close()
    assert not outcome.error, outcome.error
    frames, apart = outcome.outputs["apart"]["apart"]
    assert frames == FRAMES
    assert apart <= 1e-3


def test_a_lora_in_the_graph_reaches_the_workers(comfyui, base):
    """Three renders in one prompt: as it is, with a LoRA by ComfyUI itself, and with it by two workers."""
    server = ComfyServer(comfyui, base)
    generator = torch.Generator().manual_seed(0)
    parts = {"lora_up": (192, 2), "lora_down": (2, 192)}
    layers = ("blocks.0.self_attn.q", "blocks.3.audio_cross_attn.proj", "blocks.5.cross_attn.o")
    lora = {
        f"diffusion_model.{layer}.{part}.weight": torch.randn(shape, generator=generator) * 0.2
        for layer in layers
        for part, shape in parts.items()
    }
    (base / "models" / "loras").mkdir(exist_ok=True)
    save_file(lora, base / "models" / "loras" / "small.safetensors")
    try:
        outcome = server.run(with_lora(both_ways(prompt_of(server, "livetalk_quick_start"))), timeout=900)
    finally:
        server.close()
    assert not outcome.error, outcome.error
    assert outcome.outputs["apart"]["apart"][1] > 1e-2, "the LoRA changes nothing"
    assert outcome.outputs["with LoRA apart"]["apart"][1] <= 1e-3


def with_lora(prompt):
    """The prompt of `both_ways` with a LoRA before the devices, and a third render with it by ComfyUI itself."""
    devices, spread = prompt["devices"], prompt["spread"]
    loader = {"model": devices["inputs"]["model"], "lora_name": "small.safetensors", "strength_model": 0.7}
    devices["inputs"]["model"] = ["lora", 0]
    changed = copy.deepcopy(spread)
    changed["inputs"] |= {"model": ["lora", 0], "filename_prefix": "video/changed"}
    images = {"first": ["changed", IMAGES], "second": ["spread", IMAGES]}
    return prompt | {
        "lora": {"class_type": "LoraLoaderModelOnly", "inputs": loader},
        "changed": changed,
        "with LoRA apart": {"class_type": "LiveTalkTestApart", "inputs": images},
    }


def both_ways(prompt):
    """A render's prompt with a second render on workers, and how far their frames are apart."""
    ids = ids_of(prompt)
    alone = prompt[ids["LiveTalkRender"]]
    alone["inputs"] |= {"collect_images": True, "filename_prefix": "video/alone"}
    spread = copy.deepcopy(alone)
    spread["inputs"] |= {"model": ["devices", 0], "filename_prefix": "video/spread"}
    devices = {"model": alone["inputs"]["model"], "devices": "cpu x2", "shard_weights": False}
    images = {"first": [ids["LiveTalkRender"], IMAGES], "second": ["spread", IMAGES]}
    return prompt | {
        "devices": {"class_type": "LiveTalkDevices", "inputs": devices},
        "spread": spread,
        "apart": {"class_type": "LiveTalkTestApart", "inputs": images},
    }


def test_loop_workflow_runs_where_there_are_loops(caching_server):
    info = caching_server.get("object_info")
    if "stand_ins" in info["StartLoop"]["python_module"]:
        pytest.skip("livetalk_loop_interpolation: this ComfyUI has no Start Loop (0.36 and later have)")
    outcomes = list(caching_server.follow(prompt_of(caching_server, "livetalk_loop_interpolation")))
    assert not outcomes[0].error
    (path,) = videos(caching_server, outcomes)
    assert described(path) == (2 * FRAMES, 50, 64, 6.1)


def test_loop_body_unrolled_three_times_runs_everywhere(caching_server):
    prompt = unrolled(prompt_of(caching_server, "livetalk_loop_interpolation"), 3)
    outcomes = list(caching_server.follow(prompt))
    assert not outcomes[0].error
    (path,) = videos(caching_server, outcomes)
    assert described(path)[:3] == (2 * (33 + 28 + 28), 50, 64)


def unrolled(prompt, passes):
    """The loop's body once per pass, each handing its state to the next, the images joined as the loop joins them."""
    ids = ids_of(prompt)
    start, end, join = ids["StartLoop"], ids["EndLoop"], ids["RebatchImages"]
    body = [ids[kind] for kind in ("LiveTalkSampleChunk", "LiveTalkDecodeChunk", "FrameInterpolate", "ImageFromBatch")]
    flat = {number: node for number, node in prompt.items() if number not in (start, end, join, *body)}
    carried, images = None, None
    for index in range(passes):
        for number in body:
            node = copy.deepcopy(prompt[number])
            for name, value in list(node["inputs"].items()):
                if isinstance(value, list) and value[0] in body:
                    node["inputs"][name] = [f"{value[0]}.{index}", value[1]]
                elif isinstance(value, list) and value[0] == start:
                    node["inputs"].pop(name)
            flat[f"{number}.{index}"] = node
        if carried:
            flat[f"{body[0]}.{index}"]["inputs"]["state"] = carried
        carried, made = [f"{body[1]}.{index}", 1], [f"{body[3]}.{index}", 0]
        if images:
            flat[f"join.{index}"] = {"class_type": "ImageBatch", "inputs": {"image1": images, "image2": made}}
            made = [f"join.{index}", 0]
        images = made
    flat[ids["CreateVideo"]]["inputs"]["images"] = images
    return flat
