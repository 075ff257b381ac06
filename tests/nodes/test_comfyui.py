"""The pack in a real ComfyUI on the CPU: `COMFYUI_PATH` names the checkout, `COMFYUI_PYTHON` its interpreter."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest

from tests.browser.capture_object_info import OBJECT_INFO, needed
from tests.nodes.comfy_server import FRAMES
from tests.nodes.workflow import ids_of, load, named, small, to_prompt

ROOT = Path(__file__).resolve().parents[2]
CHECKS = [
    name
    for file in sorted((ROOT / "tests" / "nodes" / "checks").glob("*.py"))
    for name in re.findall(r"^def (check_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
]
RENDER = named("livetalk_quick_start")
IMAGES = 2
"""The render node's output that holds all frames."""
STEPS = 4
UNITS = STEPS + 1
"""Of the progress bar, for a chunk: its steps, and its frames."""

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]


@pytest.fixture(scope="module")
def results(comfyui, tmp_path_factory):
    """What `in_comfyui.py` found: check -> error or None; it runs all checks in one process."""
    path = tmp_path_factory.mktemp("checks") / "results.json"
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command = [python, str(ROOT / "tests" / "nodes" / "in_comfyui.py"), str(comfyui), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=path.parent, check=False)
    assert path.exists(), done.stderr[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("check", CHECKS)
def test_host(results, check):
    assert results[check] is None, results[check]


@pytest.fixture(scope="module")
def object_info(server):
    return server.get("object_info")


@pytest.fixture
def talk(object_info):
    """The render workflow's prompt, and the ids of its nodes by type."""
    prompt = to_prompt(load(RENDER), object_info)
    return copy.deepcopy(prompt), ids_of(prompt)


def video(server, outcome, node):
    """The video that a node wrote."""
    (file,) = outcome.outputs[node]["images"]
    return server.output(file)


def frames_in(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def demo_frames():
    """Frames of the demo's speech, rounded up."""
    with av.open(str(ROOT / "demo" / "speech.wav")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        return -(-samples * 25 // container.streams.audio[0].rate)


def test_the_browser_tests_show_what_the_server_says(object_info):
    captured = json.loads(OBJECT_INFO.read_text(encoding="utf-8"))
    assert needed(object_info) == captured, "run: python -m tests.browser.capture_object_info"


def test_translations_are_served(server):
    words = server.get("i18n")
    assert all(words[language]["nodeDefs"]["LiveTalkRender"]["inputs"]["seed"] for language in ("en", "zh", "ja", "ko"))


def test_help_pages_are_served(server):
    assert server.read("extensions/livetalk/docs/LiveTalkRender.md").startswith(b"# LiveTalk Render\n")
    assert server.read("extensions/livetalk/docs/LiveTalkRender.jpg").startswith(b"\xff\xd8")


def test_render_workflow_gives_the_whole_talk(server, talk):
    prompt, ids = talk
    outcome = server.run(prompt, workflow=load(RENDER))
    assert outcome.error is None, outcome.error
    path = video(server, outcome, ids["LiveTalkRender"])
    assert frames_in(path) == demo_frames() == 153
    with av.open(str(path)) as container:
        assert container.streams.audio
        assert json.loads(container.metadata["workflow"])["nodes"]
        assert json.loads(container.metadata["prompt"]).keys() == prompt.keys()
    chunks = 6
    assert len(outcome.previews) > chunks, "each finished chunk moves"
    assert all(image.startswith(b"\xff\xd8") for image in outcome.previews)
    lines = [text for text in outcome.texts if text.endswith(" left")]
    assert [line.split(",")[0] for line in lines] == [f"{n} of 153 frames" for n in (33, 61, 89, 117, 145, 153)]
    assert outcome.progress[-1] == (ids["LiveTalkRender"], chunks * UNITS, chunks * UNITS)


def test_cancel_stops_within_a_step_and_resume_goes_on(server, talk):
    prompt, ids = talk
    inputs = prompt[ids["LiveTalkRender"]]["inputs"]
    inputs |= {"filename_prefix": "video/cancelled", "seed": 2, "resume": True}
    asked = []

    def cancel(outcome):
        if any(text.startswith("61 of") for text in outcome.texts) and not asked:
            asked.append(outcome.progress[-1][1])
            server.interrupt()

    outcome = server.run(prompt, cancel)
    assert outcome.interrupted
    assert outcome.progress[-1][1] <= asked[0] + 1
    folder = server.base / "output" / "video"
    partial = folder / "cancelled_00001_.partial.mp4"
    assert 33 <= frames_in(partial) < 153
    assert any(str(partial) in text for text in outcome.texts)

    outcome = server.run(prompt)
    assert outcome.error is None, outcome.error
    assert outcome.progress[0][1] > STEPS
    assert video(server, outcome, ids["LiveTalkRender"]) == folder / "cancelled_00001_.mp4"
    assert frames_in(folder / "cancelled_00001_.mp4") == 153
    assert not partial.exists()


def test_stock_sampler_says_what_this_model_needs(server):
    size = {"width": 128, "height": 128, "length": 9, "batch_size": 1}
    prompt = {
        "1": {"class_type": "LiveTalkEmbeddedModel", "inputs": {}},
        "2": {"class_type": "EmptyHunyuanLatentVideo", "inputs": size},
        "3": {"class_type": "LotusConditioning", "inputs": {}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["2", 0], "seed": 0,
                "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 1]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }  # fmt: skip
    outcome = server.run(prompt)
    assert outcome.error is not None
    assert "needs LiveTalk's nodes" in outcome.error["exception_message"]


def test_a_stock_lora_changes_what_merging_it_changes_and_bypassed_nothing(server, talk):
    """The same chunk four times: as it is, with a LoRA at strength 0 and 0.7, and with that merged by hand."""
    prompt, ids = small(talk[0]), talk[1]
    model = [ids["LiveTalkEmbeddedModel"], 0]
    prompt[ids["LiveTalkEncodeSpeech"]]["inputs"]["audio"] = ["cut", 0]
    cut = {"audio": [ids["LoadAudio"], 0], "start_index": 0.0, "duration": 1.2}
    prompt["cut"] = {"class_type": "TrimAudioDuration", "inputs": cut}
    render = prompt.pop(ids["LiveTalkRender"])["inputs"]
    models = {"plain": model}
    for name, strength in (("bypassed", 0.0), ("lora", 0.7)):
        given = {"model": model, "lora_name": "talk.safetensors", "strength_model": strength}
        prompt[f"{name} model"] = {"class_type": "LoraLoaderModelOnly", "inputs": given}
        models[name] = [f"{name} model", 0]
    merged = {"lora_name": "talk.safetensors", "strength": 0.7}
    prompt["merged model"] = {"class_type": "LiveTalkTestMergedModel", "inputs": merged}
    models["merged"] = ["merged model", 0]
    for name, link in models.items():
        given = render | {"model": link, "filename_prefix": f"video/lora_{name}", "collect_images": True}
        prompt[name] = {"class_type": "LiveTalkRender", "inputs": given}
    for name, other in (("bypassed", "plain"), ("lora", "plain"), ("merged", "lora")):
        images = {"first": [name, IMAGES], "second": [other, IMAGES]}
        prompt[f"{name} apart"] = {"class_type": "LiveTalkTestApart", "inputs": images}
    outcome = server.run(prompt)
    assert outcome.error is None, outcome.error
    frames, apart = zip(*(outcome.outputs[f"{name} apart"]["apart"] for name in models if name != "plain"), strict=True)
    assert frames == (30, 30, 30)
    bypassed, lora, against_merged = apart
    assert bypassed == 0
    assert lora > 0.05
    assert against_merged < 1e-4


def test_images_connected_after_a_render_are_there(server, talk):
    prompt, ids = small(talk[0]), talk[1]
    prompt[ids["LiveTalkRender"]]["inputs"]["filename_prefix"] = "video/connected"
    assert server.run(prompt).error is None
    again = server.run(prompt)
    assert ids["LiveTalkRender"] not in again.begun, "nothing has changed"
    prompt["shown"] = {"class_type": "PreviewImage", "inputs": {"images": [ids["LiveTalkRender"], IMAGES]}}
    outcome = server.run(prompt)
    assert outcome.error is None, outcome.error
    assert len(outcome.outputs["shown"]["images"]) == FRAMES


def test_images_that_a_loop_takes_are_there(server, talk):
    prompt, ids = small(talk[0]), talk[1]
    render = prompt.pop(ids["LiveTalkRender"])["inputs"] | {"filename_prefix": "video/in_loop"}
    inside = {"type": "LiveTalkRender", "output": IMAGES} | render
    prompt["loop"] = {"class_type": "LiveTalkTestInLoop", "inputs": inside}
    prompt["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["loop", 0]}}
    outcome = server.run(prompt)
    assert outcome.error is None, outcome.error
    assert len(outcome.outputs["shown"]["images"]) == FRAMES


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        ("LiveTalkAvatar", {"image": ["99", 0]}, "a batch of 2; one portrait"),
        ("LiveTalkAvatar", {"crop": "box", "crop_box": "0,0,9,9"}, "needed is a part of it"),
        ("LiveTalkAvatar", {"vae": ["98", 0]}, "neither Wan 2.1's nor FlashHead Lite's"),
        ("LiveTalkAvatar", {"mask_2": ["96", 0]}, "mask_2 is connected, but not mask_1"),
        ("LiveTalkAvatar", {"clip_vision": ["94", 0], "conditioning": ["93", 0]}, "and 64 wide; this model needs 32"),
        ("LiveTalkEncodeSpeech", {"audio_encoder": ["92", 0]}, "2 layers of 64 features; this model needs 4"),
        ("LiveTalkRender", {"speech": ["95", 0]}, "two voices, but the avatar has no speaker masks"),
        ("LiveTalkRender", {"filename_prefix": "../refused"}, "no name inside ComfyUI's output folder"),
        ("LiveTalkRender", {"filename_prefix": "/refused"}, "no name inside ComfyUI's output folder"),
        ("LiveTalkRender", {"filename_prefix": "refused" * 30}, "has a name of 210 bytes"),
        ("LiveTalkRender", {"filename_prefix": "refused\0"}, "or a zero; at most 200 bytes"),
        ("LiveTalkRender", {"model": ["89", 0]}, "another noise schedule (ModelSamplingDiscrete, V_PREDICTION)"),
        ("LiveTalkRender", {"upscale_model": ["91", 0]}, "2 times as wide and 1 times as high"),
        ("LiveTalkRender", {"model": ["90", 0]}, "needs a LiveTalk one"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(server, talk, node, change, message):
    prompt, ids = talk
    prompt["99"] = {"class_type": "RepeatImageBatch", "inputs": {"image": [ids["LoadImage"], 0], "amount": 2}}
    prompt["98"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    mask = {"value": 1.0, "width": 64, "height": 512}
    prompt["97"] = {"class_type": "SolidMask", "inputs": mask}
    prompt["96"] = {"class_type": "SolidMask", "inputs": mask | {"width": 512}}
    twice = {"audio_2": [ids["LoadAudio"], 0]}
    speech = copy.deepcopy(prompt[ids["LiveTalkEncodeSpeech"]])
    prompt["95"] = {"class_type": "LiveTalkEncodeSpeech", "inputs": speech["inputs"] | twice}
    prompt["94"] = {"class_type": "LiveTalkTestCLIPVisionLoader", "inputs": {}}
    prompt["93"] = {"class_type": "LotusConditioning", "inputs": {}}
    prompt["92"] = {"class_type": "LiveTalkTestOtherAudioEncoder", "inputs": {}}
    prompt["91"] = {"class_type": "LiveTalkTestWideUpscaler", "inputs": {}}
    sampling = {"model": [ids["LiveTalkEmbeddedModel"], 0], "sampling": "v_prediction", "zsnr": False}
    prompt["89"] = {"class_type": "ModelSamplingDiscrete", "inputs": sampling}
    prompt["90"] = {"class_type": "LiveTalkTestOtherModel", "inputs": {}}
    prompt[ids["LiveTalkRender"]]["inputs"]["filename_prefix"] = "video/refused"
    prompt[ids[node]]["inputs"] |= change
    refuses(server, prompt, message)


def refuses(server, prompt, message, node=None):
    """Run a prompt that cannot be: one clear line, on the right node, and nothing written."""
    outcome = server.run(prompt)
    assert outcome.error is not None
    assert message in outcome.error["exception_message"]
    assert "\n" not in outcome.error["exception_message"].strip()
    assert node is None or outcome.error["node_id"] == node
    assert not list(server.base.rglob("refused*"))


@pytest.fixture
def chunks(object_info):
    """The job workflow's prompt, and the ids of its nodes by type."""
    prompt = small(to_prompt(load(named("livetalk_job")), object_info))
    prompt[ids_of(prompt)["LiveTalkJobStart"]]["inputs"]["filename_prefix"] = "video/refused"
    return prompt, ids_of(prompt)


def test_a_state_of_another_avatar_is_refused(server, chunks):
    prompt, ids = chunks
    avatar = copy.deepcopy(prompt[ids["LiveTalkAvatar"]])
    avatar["inputs"] |= {"width": 80}
    prompt["99"] = avatar
    sample = copy.deepcopy(prompt[ids["LiveTalkSampleChunk"]])
    sample["inputs"] |= {"avatar": ["99", 0], "state": [ids["LiveTalkDecodeChunk"], 1]}
    prompt["98"] = sample
    decode = copy.deepcopy(prompt[ids["LiveTalkDecodeChunk"]])
    decode["inputs"] |= {"latent": ["98", 0], "state": ["98", 1]}
    prompt["97"] = decode
    prompt[ids["LiveTalkJobEnd"]]["inputs"] |= {"state": ["97", 1], "images": ["97", 0]}
    refuses(server, prompt, "this state belongs to another avatar", node="98")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filename_prefix": "../refused"}, "no name inside ComfyUI's output folder"),
        ({"job": "../refused"}, "is no file name"),
        ({"job": "refused"}, "there is no unfinished job"),
    ],
)
def test_a_job_stays_in_its_folder(server, chunks, change, message):
    prompt, ids = chunks
    prompt[ids["LiveTalkJobStart"]]["inputs"] |= change
    refuses(server, prompt, message, node=ids["LiveTalkJobStart"])
