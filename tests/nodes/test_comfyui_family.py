"""FlashHead Pro, FlashHead Lite and LeapTalk in a real ComfyUI: rendered, stopped and resumed to the same frames."""

import av
import numpy as np
import pytest

from tests.nodes.comfy_server import ComfyServer
from tests.nodes.test_comfyui_stops import chunks_kept, queue_and_kill
from tests.nodes.workflow import ids_of, load, named, small, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

WORKFLOW = {"pro": "livetalk_flashhead_pro", "lite": "livetalk_flashhead_lite", "leaptalk": "livetalk_leaptalk"}
NEW_FRAMES = {"pro": 28, "lite": 24, "leaptalk": 28}
FRAMES = 70


@pytest.fixture(scope="module")
def object_info(server):
    return server.get("object_info")


def talk(object_info, member, prefix):
    """The member's workflow for 70 frames, and the ids of its nodes by type."""
    prompt = small(to_prompt(load(named(WORKFLOW[member])), object_info))
    ids = ids_of(prompt)
    cut = {"audio": [ids["LoadAudio"], 0], "start_index": 0.0, "duration": FRAMES / 25}
    prompt["cut"] = {"class_type": "TrimAudioDuration", "inputs": cut}
    prompt[ids["LiveTalkEncodeSpeech"]]["inputs"]["audio"] = ["cut", 0]
    render = prompt[ids["LiveTalkRender"]]["inputs"]
    render |= {"filename_prefix": f"video/{prefix}", "resume": True, "steps": 0}
    return prompt, ids


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


@pytest.mark.parametrize("member", WORKFLOW)
def test_a_member_is_rendered_cancelled_and_resumed_to_the_same_frames(server, object_info, member):
    prompt, ids = talk(object_info, member, f"{member}_whole")
    whole = server.run(prompt)
    assert whole.error is None, whole.error
    folder = server.base / "output" / "video"
    expected = frames_of(folder / f"{member}_whole_00001_.mp4")
    assert len(expected) == FRAMES
    steps, chunks = (1 if member == "leaptalk" else 4), 1 + -(-(FRAMES - 33) // NEW_FRAMES[member])
    assert whole.progress[-1] == (ids["LiveTalkRender"], chunks * (steps + 1), chunks * (steps + 1))

    prompt, ids = talk(object_info, member, f"{member}_stopped")
    stopped = server.run(prompt, cancel_after(server, steps + 2))
    assert stopped.interrupted, stopped.error
    assert (folder / f"{member}_stopped_00001_.partial.mp4").exists()
    resumed = server.run(prompt)
    assert resumed.error is None, resumed.error
    assert resumed.progress[0][1] > steps, "it began anew"
    assert np.array_equal(frames_of(folder / f"{member}_stopped_00001_.mp4"), expected)


def test_each_member_goes_on_to_the_same_frames_after_its_server_was_killed(comfyui, base, object_info):
    """Killed as a crash would, in the second chunk or later; a server that is started anew takes the render up."""
    folder, server = base / "output" / "video", ComfyServer(comfyui, base)
    try:
        for member in WORKFLOW:
            whole, _ = talk(object_info, member, f"{member}_whole")
            assert server.run(whole).error is None
            killed, _ = talk(object_info, member, f"{member}_killed")
            kept = folder / f"{member}_killed_00001_.partial.json"
            queue_and_kill(server, killed, whole, lambda kept=kept: chunks_kept(kept))
            assert kept.exists() and not (folder / f"{member}_killed_00001_.mp4").exists()
            server = ComfyServer(comfyui, base)
            resumed = server.run(killed)
            assert resumed.error is None, resumed.error
            expected = frames_of(folder / f"{member}_whole_00001_.mp4")
            assert np.array_equal(frames_of(folder / f"{member}_killed_00001_.mp4"), expected)
            assert len(expected) == FRAMES and not kept.exists()
    finally:
        server.close()


def cancel_after(server, units):
    """Presses Cancel, once, when so many units of the progress bar are done."""
    pressed = []

    def look(outcome):
        if not pressed and outcome.progress and outcome.progress[-1][1] >= units:
            pressed.append(True)
            server.interrupt()

    return look


def test_lites_vae_is_a_stock_vae(server, object_info):
    prompt, ids = talk(object_info, "lite", "unused")
    encode = {"pixels": ["scaled", 0], "vae": [ids["LiveTalkLoadVAE"], 0]}
    scale = {"image": [ids["LoadImage"], 0], "width": 64, "height": 64, "upscale_method": "area", "crop": "disabled"}
    del prompt[ids["LiveTalkRender"]]
    prompt |= {
        "scaled": {"class_type": "ImageScale", "inputs": scale},
        "encode": {"class_type": "VAEEncode", "inputs": encode},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["encode", 0], "vae": encode["vae"]}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }
    outcome = server.run(prompt)
    assert outcome.error is None, outcome.error


@pytest.mark.parametrize(
    ("member", "other", "message"),
    [
        ("lite", "VAELoader", "LiveTalk Avatar's vae is Wan 2.1's VAE; FlashHead Lite needs FlashHead Lite's LTX VAE"),
        ("pro", "LiveTalkLoadVAE", "vae is FlashHead Lite's LTX VAE; FlashHead Pro needs Wan 2.1's VAE"),
    ],
)
def test_another_members_vae_is_refused_by_name(server, object_info, member, other, message):
    prompt, ids = talk(object_info, member, "refused")
    name = "wan_2.1_vae.safetensors" if other == "VAELoader" else "flashhead_ltx_vae.safetensors"
    prompt["other"] = {"class_type": other, "inputs": {"vae_name": name}}
    for node in ("LiveTalkAvatar", "LiveTalkRender"):
        prompt[ids[node]]["inputs"]["vae"] = ["other", 0]
    refuses(server, prompt, message)


def test_leaptalks_lora_on_lite_is_refused_by_name(server, object_info):
    prompt, ids = talk(object_info, "lite", "refused")
    render = prompt[ids["LiveTalkRender"]]["inputs"]
    lora = {"model": render["model"], "lora_name": "leaptalk.safetensors", "strength_model": 1.0}
    prompt["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    render["model"] = ["lora", 0]
    refuses(server, prompt, "FlashHead Pro")


def refuses(server, prompt, message):
    outcome = server.run(prompt)
    assert outcome.error is not None
    assert message in outcome.error["exception_message"]
    assert not list(server.base.rglob("refused*"))
