"""The live server with real sockets, and an engine that takes its time."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import av
import numpy as np
import pytest
import torch
from aiohttp import ClientSession, WSServerHandshakeError, web
from casts import timed_cast

from livetalk_core.errors import OutputError, WorkerError
from livetalk_core.live.server.access import Access
from livetalk_core.live.server.app import LiveServer
from livetalk_core.live.server.house import House
from livetalk_core.live.server.voice import SpeechServer


class Stop(Exception):
    pass


@contextmanager
def serving(house=None, access=None):
    """A server whose engine runs on a thread; gives it."""
    over = threading.Event()

    def poll():
        if over.is_set():
            raise Stop

    with LiveServer(house or House(timed_cast(0.2)), access or Access()) as server:

        def perform():
            with suppress(Stop):
                server.house.perform(poll)

        engine = threading.Thread(target=perform)
        engine.start()
        try:
            yield server
        finally:
            over.set()
            engine.join(10)
    assert not engine.is_alive()


class Talk:
    """A caller's socket."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, **message):
        await self.socket.send_json(message)

    async def until(self, kind, seconds=15):
        """The next message of a kind; those between are passed over."""
        end = time.monotonic() + seconds
        while True:
            message = await self.socket.receive(timeout=end - time.monotonic())
            assert message.type.name == "TEXT", f"{message.type.name} while waiting for {kind!r}"
            data = json.loads(message.data)
            if data["type"] == kind:
                return data


def talking(call, *, house=None, access=None, callers=1, headers=None):
    """Run `call(server, client, *talks)` with so many callers' sockets open."""

    async def run(server):
        async with ClientSession(server.url, headers=headers) as client:
            sockets = [await client.ws_connect(f"/talk?caller=c{number}") for number in range(callers)]
            await call(server, client, *map(Talk, sockets))
            for socket in sockets:
                await socket.close()

    with serving(house, access) as server:
        asyncio.run(run(server))


def pcm(seconds, rate=16_000):
    return np.full(int(rate * seconds), 3000, "<i2").tobytes()


async def read(client, path, seconds):
    """The first bytes of a stream that does not end."""
    data, end = b"", time.monotonic() + seconds
    async with client.get(path) as answer:
        assert answer.status == 200, await answer.text()
        while time.monotonic() < end:
            data += await asyncio.wait_for(answer.content.readany(), 5)
    return data


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_speech_in_and_mp4_out(tmp_path, rate):
    async def call(server, client, talk):
        await talk.until("ready")
        watching = asyncio.create_task(read(client, "/stream.mp4?caller=c0", 3))
        await talk.send(type="begin", rate=rate)
        number = (await talk.until("begun"))["utterance"]
        for _ in range(10):
            await talk.socket.send_bytes(pcm(0.1, rate))
        await talk.send(type="end")
        assert (await talk.until("said"))["utterance"] == number
        (tmp_path / "seen.mp4").write_bytes(await watching)
        state = await talk.until("state")
        assert state["offset_seconds"] == 0 and state["first_picture_seconds"] is not None

    talking(call)
    with av.open(str(tmp_path / "seen.mp4")) as file:
        frames = sum(1 for _ in file.decode(video=0))
    with av.open(str(tmp_path / "seen.mp4")) as file:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    assert frames > 40
    assert abs((np.abs(sound) > 0.05).sum() / 48_000 - 1) < 0.1


def test_what_is_wrong_is_told_and_the_session_goes_on():
    async def call(server, client, talk):
        await talk.until("ready")
        for message, found in [
            ('{"type": "begin", "rate": 44100}', "44100 Hz"),
            ('{"type": "begin", "rate": "fast"}', "'fast'"),
            ('{"type": "dance"}', "'dance'"),
            ('{"type": "say", "text": ""}', "1 to 2000 characters"),
            ("[1]", "JSON object"),
            ("{", "no JSON"),
        ]:
            await talk.socket.send_str(message)
            assert found in (await talk.until("error"))["message"]
        await talk.socket.send_bytes(b"12")
        assert "begin" in (await talk.until("error"))["message"]
        await talk.send(type="begin", rate=16_000)
        await talk.socket.send_bytes(b"123")
        assert "3 bytes" in (await talk.until("error"))["message"]
        await talk.send(type="begin", rate=16_000)
        await talk.send(type="end")  # an utterance of no samples
        await talk.until("said")
        await talk.send(type="begin", rate=16_000)
        for _ in range(62):  # 620 s at once, 10 s a message
            await talk.socket.send_bytes(pcm(10))
        assert "600 s of speech wait" in (await talk.until("error"))["message"]
        await talk.send(type="interrupt")
        await talk.until("interrupted")
        async with client.post("/sound?caller=c0", data=b"<html>no sound</html>") as answer:
            assert answer.status == 200
        assert "text file that begins with" in (await talk.until("error"))["message"]
        state = await talk.until("state")
        assert state["state"] in ("idle", "speaking", "starting")

    talking(call)


@pytest.mark.parametrize("between", [True, False])
def test_a_prompt_is_encoded_in_the_engines_thread_or_beside_it_and_holds_from_the_next_chunk(between):
    threads = []

    def encode(text):
        threads.append(threading.current_thread())
        return torch.full((len(text), 12), 7.0)

    cast = timed_cast(0.2, encode_prompt=encode, encode_between=between)
    engine, seen = cast.engine.denoise, []

    def denoise(avatar, *others):
        seen.append((threading.current_thread(), avatar.text))
        return engine(avatar, *others)

    cast.engine.denoise = denoise

    async def call(server, client, talk):
        assert (await talk.until("welcome"))["prompts"] is True
        await talk.until("ready")
        await talk.send(type="prompt", text="A smile.")
        assert (await talk.until("prompted"))["text"] == "A smile."
        until = time.monotonic() + 10
        while not any(len(text) == 8 and text.min() == 7 for _, text in tuple(seen)):
            assert time.monotonic() < until, "the engine never saw it"
            await asyncio.sleep(0.05)

    talking(call, house=House(cast))
    assert len(threads) == 1 and (threads[0] is seen[0][0]) == between


def test_a_page_is_told_where_prompts_cannot_change():
    async def call(server, client, talk):
        assert (await talk.until("welcome"))["prompts"] is False
        await talk.send(type="prompt", text="A smile.")
        assert "prompts cannot change in this session" in (await talk.until("error"))["message"]

    talking(call)


def test_callers_wait_in_line_and_the_engine_is_free_soon_after_one_goes():
    async def call(server, client, first, second):
        await first.until("ready")
        assert (await second.until("waiting"))["place"] == 1
        await second.send(type="begin", rate=16_000)
        assert "the seat" in (await second.until("error"))["message"]
        began = time.monotonic()
        await first.socket.close()
        await second.until("ready")
        assert time.monotonic() - began < 5

    talking(call, callers=2)


def test_a_second_caller_is_refused_where_nobody_may_wait():
    async def call(server, client, first, second):
        await first.until("ready")
        assert "come again later" in (await second.until("busy"))["message"]

    talking(call, house=House(timed_cast(0.2), waiting=0), callers=2)


def test_a_page_that_is_reloaded_keeps_its_session():
    async def call(server, client, talk):
        await talk.until("ready")
        await asyncio.sleep(1)
        await talk.socket.close()
        again = Talk(await client.ws_connect("/talk?caller=c0"))
        await again.until("ready")
        assert (await again.until("state"))["frames"] > 10
        await again.socket.close()

    talking(call)


def test_an_engine_that_fails_is_named_and_a_new_session_works(tmp_path):
    cast = timed_cast(0.2)
    decode = cast.engine.decode

    def fails(latent):
        for number, frames in enumerate(decode(latent)):
            if number == 3 and fails.armed:
                fails.armed = False
                raise WorkerError("worker 1 on cpu was killed, during decode")
            yield frames

    fails.armed, cast.engine.decode = False, fails

    async def call(server, client, talk):
        await talk.until("ready")
        await asyncio.sleep(1.5)
        fails.armed = True
        assert "worker 1 on cpu" in (await talk.until("failed"))["message"]
        again = Talk(await client.ws_connect("/talk?caller=c0"))
        await again.until("ready")
        while not (await again.until("state")).get("frames"):
            pass
        await again.socket.close()

    talking(call, house=House(cast, record=tmp_path / "talk.mp4"))
    for name, least in (("talk.mp4", 10), ("talk-2.mp4", 1)):
        with av.open(str(tmp_path / name)) as file:
            assert sum(1 for _ in file.decode(video=0)) >= least


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, None),
    ],
)
def test_foreign_pages_cannot_reach_the_socket(headers, status):
    async def run(server):
        async with ClientSession(server.url) as client:
            if status is None:
                await (await client.ws_connect("/talk?caller=c0")).close()
                return
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect("/talk?caller=c0", headers=headers)
            assert refused.value.status == status
            async with client.get("/health", headers=headers) as answer:
                assert answer.status == status

    with serving() as server:
        asyncio.run(run(server))


def test_with_a_token_nothing_works_without_it():
    async def run(server):
        async with ClientSession(server.url) as client:
            for shown, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401),
                                  ({"Authorization": "Bearer secret"}, 200)):  # fmt: skip
                async with client.get("/health", headers=shown) as answer:
                    assert answer.status == status
            for hello in ({"type": "hello", "token": "wrong"}, {"type": "begin", "rate": 16_000}, [1]):
                socket = await client.ws_connect("/talk?caller=c0")
                await socket.send_json(hello)
                await socket.receive(timeout=5)
                assert socket.close_code == 4401
            talk = Talk(await client.ws_connect("/talk?caller=c0"))
            await talk.send(type="hello", token="secret")
            await talk.until("ready")
            await talk.socket.close()

    with serving(access=Access("secret")) as server:
        asyncio.run(run(server))


def test_a_reader_that_stops_reading_does_not_hold_up_the_others():
    async def call(server, client, talk):
        await talk.until("ready")
        async with client.get("/stream.mp4?caller=c0") as lazy:
            assert lazy.status == 200
            await asyncio.sleep(0.5)
            before = (await talk.until("state"))["frames"]
            await read(client, "/stream.mp4?caller=c0", 1.5)
            while (await talk.until("state"))["frames"] < before + 30:
                pass

    talking(call)


@pytest.mark.parametrize("answer", ["sound", "html", "hangs", "dies", "error"])
def test_a_speech_server_of_any_kind(answer, monkeypatch):
    """What it gives is spoken, or its fault is told: the session goes on."""
    from aiohttp import ClientTimeout

    monkeypatch.setattr("livetalk_core.live.server.voice.PATIENCE", ClientTimeout(sock_connect=1, sock_read=1))

    async def speech(request):
        assert (await request.json())["input"] == "Hello"
        if answer == "html":
            return web.Response(text="<html>", content_type="text/html")
        if answer == "error":
            return web.Response(status=500, text="no model")
        if answer == "hangs":
            await asyncio.sleep(30)
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        response.content_length = 48_000
        await response.prepare(request)
        await response.write(pcm(0.5, 24_000))
        if answer == "dies":
            request.transport.close()
        else:
            await response.write(pcm(0.5, 24_000))
        return response

    async def call(server, client, talk):
        app = web.Application()
        app.add_routes([web.post("/v1/audio/speech", speech)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/audio/speech"
        await talk.until("ready")
        server.house.caller._voice = SpeechServer(url)
        await talk.send(type="say", text="Hello")
        if answer != "sound":
            assert url in (await talk.until("error"))["message"]
        if answer in ("sound", "dies"):
            await talk.until("said")
        assert (await talk.until("state"))["state"] != "late"
        await runner.cleanup()

    talking(call)


def test_what_keeps_a_server_from_starting_is_raised(monkeypatch):
    def fail(_):
        raise OutputError("no virtual camera")

    house = House(timed_cast(0.2))
    monkeypatch.setattr(house, "start", fail)
    with pytest.raises(OutputError, match="no virtual camera"), LiveServer(house, Access()):
        pass


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen at 127.0.0.1:{port} "):
            LiveServer(House(timed_cast(0.2)), Access(), port=port).__enter__()
