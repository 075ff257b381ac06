"""A WebRTC peer sees and hears the stream; skipped where aiortc is not installed."""

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from test_server import pcm, talking

aiortc = pytest.importorskip("aiortc", reason='WebRTC needs aiortc: pip install "livetalk[live]"')


def test_a_peer_gets_picture_and_sound():
    async def call(server, client, talk):
        assert (await talk.until("welcome"))["webrtc"]
        await talk.until("ready")
        peer, got = aiortc.RTCPeerConnection(), {"video": 0, "audio": 0, "loud": 0}
        readers = []

        async def read(track):
            with suppress(aiortc.mediastreams.MediaStreamError):
                while True:
                    frame = await track.recv()
                    got[track.kind] += 1
                    got["loud"] += track.kind == "audio" and abs(frame.to_ndarray()).max() > 1500

        peer.on("track", lambda track: readers.append(asyncio.ensure_future(read(track))))
        for kind in ("video", "audio"):
            peer.addTransceiver(kind, direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        offer = {"type": peer.localDescription.type, "sdp": peer.localDescription.sdp}
        async with client.post("/offer?caller=c0", json=offer) as answer:
            await peer.setRemoteDescription(aiortc.RTCSessionDescription(**await answer.json()))
        await talk.send(type="begin", rate=16_000)
        await talk.socket.send_bytes(pcm(1.5))
        await talk.send(type="end")
        await talk.until("said")
        for _ in range(100):
            if got["video"] > 20 and got["audio"] > 40 and got["loud"]:
                break
            await asyncio.sleep(0.1)
        assert got["video"] > 20 and got["audio"] > 40 and got["loud"], got
        await peer.close()
        for reader in readers:
            reader.cancel()

    talking(call)


def test_a_frames_sound_leaves_with_it():
    """40 ms are two packets, also the first ones: a packet kept back would be heard 20 ms after its picture."""
    from livetalk_core.live.webrtc import OPUS_FRAME, Call

    async def packets():
        call = Call(lambda _: None)
        click = np.zeros(640, np.float32)
        click[0] = 0.5
        made = [call._sound(click, 0.0) for _ in range(3)]
        call.close()
        return made

    made = asyncio.run(packets())
    assert [[packet.pts for packet in pair] for pair in made] == [
        [2 * OPUS_FRAME * index, (2 * index + 1) * OPUS_FRAME] for index in range(3)
    ]
    for first, second in made:
        at = int(np.abs(first.to_ndarray()).argmax())
        assert at <= 0.002 * 48_000
        assert np.abs(second.to_ndarray()).max() < 300


def test_sound_after_a_stop_has_the_stamp_from_after_it():
    """As aiortc encodes it: a tone begins at the first moment after a stop of half a second."""
    from aiortc.codecs.opus import OpusEncoder

    from livetalk_core.live.reel import Moment
    from livetalk_core.live.webrtc import OPUS_FRAME, Call

    async def encoded():
        call, sent = Call(lambda _: None), []
        call._open, call._audio.put = True, lambda packet: sent.append(packet) or True
        pixels = np.zeros((32, 32, 3), np.uint8)
        for frame, (now, level) in enumerate([(0.0, 0), (0.04, 0), (0.58, 1), (0.62, 1)]):
            sound = level * np.sin(np.arange(640) * 0.4).astype(np.float32) / 2
            call._put(Moment(frame, pixels, sound), now)
            await asyncio.sleep(0.03)
        call.close()
        return sent

    encoder, stamps = OpusEncoder(), {}
    for packet in filter(None, asyncio.run(encoded())):
        payloads, stamp = encoder.encode(packet)
        if payloads and np.abs(packet.to_ndarray()).max() > 3000:
            stamps[packet.pts] = stamp
    first = min(stamps)
    assert first == 4 * OPUS_FRAME + 0.5 * 48_000
    assert abs(stamps[first] - first) < OPUS_FRAME


def test_what_is_no_offer_is_refused():
    async def call(server, client, talk):
        await talk.until("ready")
        async with client.post("/offer?caller=c0", json={"type": "offer", "sdp": "nonsense"}) as answer:
            assert answer.status == 400
            assert "SDP offer" in (await answer.json())["message"]

    talking(call)
