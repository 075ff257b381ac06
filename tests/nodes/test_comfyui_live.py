"""LiveTalk Live in a real ComfyUI: it serves, Cancel and the page's End button end it, the recording is its video."""

import asyncio
import json
import threading
import time

import av
import numpy as np
import pytest
from aiohttp import ClientError, ClientSession

from tests.nodes.comfy_server import ComfyServer
from tests.nodes.workflow import ids_of, load, named, small, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

PORT = 8197
SECONDS = 240
"""On a loaded machine a chunk takes long."""


@pytest.fixture(scope="module")
def server(comfyui, base):
    running = ComfyServer(comfyui, base)
    yield running
    running.close()


async def converse(url, ends):
    """Come, say a second of tone, and call `ends` with a function that sends a message when it has been said."""
    async with ClientSession(url) as client:
        end = time.monotonic() + SECONDS
        while True:
            try:
                socket = await client.ws_connect("/talk?caller=test")
                break
            except ClientError:
                assert time.monotonic() < end, "no page"
                await asyncio.sleep(0.5)

        async def until(kind):
            while True:
                message = json.loads((await socket.receive(timeout=SECONDS)).data)
                assert message["type"] not in ("failed", "error"), message
                if message["type"] == kind:
                    return message

        assert (await until("welcome"))["prompts"], "the embedded model has its text encoder by itself"
        await until("ready")
        await socket.send_json({"type": "prompt", "text": "A person is talking and smiling."})
        assert (await until("prompted"))["text"] == "A person is talking and smiling."
        await socket.send_json({"type": "begin", "rate": 16_000})
        await socket.send_bytes(np.full(16_000, 3000, "<i2").tobytes())
        await socket.send_json({"type": "end"})
        await until("said")
        await ends(socket)
        await socket.receive(timeout=5)
        await socket.close()


@pytest.mark.parametrize("way", ["End", "Cancel"])
def test_the_recording_is_the_nodes_video_and_the_next_prompt_runs(server, way):
    prompt = small(to_prompt(load(named("livetalk_live")), server.get("object_info")))
    live = ids_of(prompt)["LiveTalkLive"]
    prompt[live]["inputs"] |= {"port": PORT, "filename_prefix": f"video/{way}"}

    async def ends(socket):
        if way == "End":
            await socket.send_json({"type": "stop"})
        else:
            await asyncio.to_thread(server.interrupt)

    failures = []

    def talk():
        try:
            asyncio.run(converse(f"http://127.0.0.1:{PORT}", ends))
        except BaseException as error:
            failures.append(error)
            server.interrupt()

    talker = threading.Thread(target=talk)
    talker.start()
    outcome = server.run(prompt, timeout=SECONDS)
    talker.join()
    assert not failures, failures
    assert outcome.error is None, outcome.error
    (file,) = outcome.outputs[live]["images"]
    with av.open(str(server.output(file))) as video:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in video.decode(audio=0)])
        assert 0.9 < (np.abs(sound) > 0.05).sum() / 16_000 < 1.1
    again = to_prompt(load(named("livetalk_live")), server.get("object_info"))
    avatar = {key: again[key] for key in again if again[key]["class_type"] != "LiveTalkLive"}
    number = ids_of(avatar)["LoadImage"]
    preview = {"class_type": "PreviewImage", "inputs": {"images": [number, 0]}}
    assert server.run({number: avatar[number], "99": preview}).error is None
