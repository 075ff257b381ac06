"""Clients of a live stream, each in a process of its own: they decode what they receive, and note when it is played."""

import asyncio
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, NamedTuple

import av
import numpy as np

LOUD, WHITE = 0.1, 200
BETWEEN_SECONDS = 0.3
NTP_FRACTION, NTP_ERA = 2**32, 2_208_988_800
"""NTP's parts of a second; its seconds before 1970."""


@dataclass
class Marks:
    """Seconds at which things came: every frame, first white ones, beginnings of tones, loud sound."""

    frames: list[float] = field(default_factory=list)
    white: list[float] = field(default_factory=list)
    tones: list[float] = field(default_factory=list)
    loud: list[float] = field(default_factory=list)
    quiet_seconds: float = 1.0
    """Of sound since the last loud sample."""
    is_white: bool = False
    """Whether the last frame is."""

    def picture(self, frame: av.VideoFrame, at: float) -> None:
        """A frame came, or is to be shown, at a time."""
        self.frames.append(at)
        white = frame.to_ndarray(format="gray").mean() > WHITE
        if white and not self.is_white:  # the last frame is shown again where nothing new is there
            self.white.append(at)
        self.is_white = white

    def sound(self, samples: np.ndarray, rate: int, at: float) -> None:
        """Sound of a time, [n] in -1..1."""
        loud = np.flatnonzero(np.abs(samples) > LOUD)
        if not len(loud):
            self.quiet_seconds += len(samples) / rate
            return
        first = at + loud[0] / rate
        if self.quiet_seconds > BETWEEN_SECONDS:
            self.tones.append(first)
        self.loud.append(at + loud[-1] / rate)
        self.quiet_seconds = (len(samples) - loud[-1]) / rate

    def note(self, frame: av.VideoFrame | av.AudioFrame, at: float) -> None:
        """A frame of picture or sound came, or is to be played, at a time."""
        if isinstance(frame, av.VideoFrame):
            self.picture(frame, at)
            return
        samples = frame.to_ndarray()
        floats = samples.dtype == np.float32
        samples = samples[0] if floats else samples.reshape(-1)[:: frame.layout.nb_channels] / 32768
        self.sound(samples, frame.sample_rate, at)

    def shifted(self, sound: float, picture: float) -> "Marks":
        """The same on other clocks: seconds to add to times of sound and of picture."""
        return Marks(
            [at + picture for at in self.frames], [at + picture for at in self.white],
            [at + sound for at in self.tones], [at + sound for at in self.loud],
        )  # fmt: skip


class AsItComes(NamedTuple):
    """A file of an answer that gives what has come; the answer itself waits for all that is asked for."""

    answer: HTTPResponse

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        return self.answer.read1(size)


def receive_mp4(url: str, until: float) -> tuple[Marks, Marks]:
    """(by the file's own times, by arrival) of the fragmented MP4."""
    played, came = Marks(), Marks()
    with urllib.request.urlopen(url) as answer, av.open(AsItComes(answer), format="mp4") as file:
        for packet in file.demux():
            if time.time() > until:
                break
            for frame in packet.decode():
                played.note(frame, float(frame.time))
                came.note(frame, time.time())
    return played, came


async def receive_webrtc(url: str, until: float) -> tuple[Marks, Marks]:
    """(when it left, by arrival) of a WebRTC call.

    Sender reports (RFC 3550, 6.4.1) are what receivers synchronise by: they put both tracks' stamps on the sender's
    clock. Arrival would not do, since aiortc holds 80 ms of sound back and no picture.
    """
    from aiohttp import ClientSession
    from aiortc import RTCPeerConnection, RTCSessionDescription
    from aiortc.mediastreams import MediaStreamError

    played, came = Marks(), Marks()
    clocks, peer, tasks = _listen_to_reports(), RTCPeerConnection(), []

    async def read(track: Any) -> None:
        with suppress(MediaStreamError, TimeoutError):
            while time.time() < until:
                frame = await asyncio.wait_for(track.recv(), 10)
                played.note(frame, float(frame.time))
                came.note(frame, time.time())

    peer.on("track", lambda track: tasks.append(asyncio.ensure_future(read(track))))
    for kind in ("video", "audio"):
        peer.addTransceiver(kind, direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())
    offer = {"type": peer.localDescription.type, "sdp": peer.localDescription.sdp}
    async with ClientSession() as client, client.post(url, json=offer) as answer:
        await peer.setRemoteDescription(RTCSessionDescription(**await answer.json()))
    await asyncio.sleep(max(0, until - time.time()))
    await asyncio.gather(*tasks, return_exceptions=True)
    await peer.close()
    sound, picture = (float(np.median(clocks[kind])) for kind in ("audio", "video"))
    return played.shifted(sound, picture), came


def _listen_to_reports() -> dict[str, list[float]]:
    """By kind of track, from now on: the sender's clock at stamp 0 of what aiortc decodes, by each report."""
    from aiortc import RTCRtpReceiver
    from aiortc.rtp import RtcpSrPacket

    clocks: dict[str, list[float]] = {"audio": [], "video": []}
    origins: dict[int, int] = {}
    take_rtp, take_rtcp = RTCRtpReceiver._handle_rtp_packet, RTCRtpReceiver._handle_rtcp_packet

    async def rtp(receiver: Any, packet: Any, arrival_time_ms: int) -> None:
        origins.setdefault(packet.ssrc, packet.timestamp)
        await take_rtp(receiver, packet, arrival_time_ms)

    async def rtcp(receiver: Any, packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.ssrc in origins:
            kind, report = receiver.track.kind, packet.sender_info
            stamp = (report.rtp_timestamp - origins[packet.ssrc]) % NTP_FRACTION
            seconds = report.ntp_timestamp / NTP_FRACTION - NTP_ERA
            clocks[kind].append(seconds - stamp / (48_000 if kind == "audio" else 90_000))
        await take_rtcp(receiver, packet)

    RTCRtpReceiver._handle_rtp_packet, RTCRtpReceiver._handle_rtcp_packet = rtp, rtcp
    return clocks
