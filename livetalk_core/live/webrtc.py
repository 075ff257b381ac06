"""What leaves, as a WebRTC call: picture and sound of one stream, for a browser (aiortc)."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from ..errors import InputError
from ..shapes import FRAMES_PER_SECOND, SAMPLE_RATE
from .clock import FrameClock
from .mux import SOUND_RATE, OutputLost
from .reel import Moment

WAITING_SECONDS = 1
PACKET_SECONDS = 0.02
OPUS_FRAME = int(SOUND_RATE * PACKET_SECONDS)
"""Samples of a packet of sound."""


RESAMPLER_DELAY = 16
"""Samples at 16 kHz (1 ms) that the resampler keeps back: given first, so that each frame's sound fills its packets."""


class Track(MediaStreamTrack):
    """Frames in line. aiortc asks for one after the other; those that nobody asks for in time end the track."""

    def __init__(self, kind: str, waiting: int) -> None:
        super().__init__()
        self.kind = kind
        self._line: asyncio.Queue[av.VideoFrame | av.AudioFrame | None] = asyncio.Queue(waiting)

    def put(self, frame: av.VideoFrame | av.AudioFrame | None) -> bool:
        """Put one in line, None as the last; False where too many wait."""
        if self._line.full():
            return False
        self._line.put_nowait(frame)
        return True

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        """The next frame; waits for it."""
        frame = await self._line.get()
        if frame is None:
            self.stop()
            raise MediaStreamError
        return frame


class Call:
    """A sink: one browser's call. Made and ended on the event loop, fed from the session's clock.

    Browsers learn what belongs together from the times at which packets leave: so their stamps run on while the
    session's clock stops, and of a frame's 40 ms of sound the second packet leaves 20 ms after the first.
    """

    def __init__(self, on_end: Callable[["Call"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._peer, self._on_end = RTCPeerConnection(), on_end
        self._video = Track("video", WAITING_SECONDS * FRAMES_PER_SECOND)
        self._audio = Track("audio", WAITING_SECONDS * 50)
        self._resampler = av.AudioResampler("s16", "mono", SOUND_RATE, frame_size=OPUS_FRAME)
        self._resampler.resample(_sound_frame(np.zeros(RESAMPLER_DELAY, np.float32)))
        self._clock, self._packets, self._late_packets = FrameClock(), 0, deque[av.AudioFrame]()
        self._lost, self._open, self._stopped = "", False, 0.0
        for track in (self._video, self._audio):
            # One stream's name for both: then browsers play them in step.
            self._peer.addTrack(track)._stream_id = "livetalk"
        self._peer.on("connectionstatechange", self._changed)

    async def answer(self, offer: dict[str, str]) -> dict[str, str]:
        """The answer to a browser's offer, both {"type", "sdp"}; `InputError` for what is none."""
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except Exception as error:  # aiortc raises what its parser happens to meet
            await self._peer.close()
            raise InputError(f"no WebRTC offer ({error}); an SDP offer with picture and sound is needed") from error
        local = self._peer.localDescription
        return {"type": local.type, "sdp": local.sdp}

    def __call__(self, moment: Moment) -> None:
        """Take the next moment."""
        if self._lost:
            raise OutputLost(self._lost)
        self._loop.call_soon_threadsafe(self._put, moment, time.monotonic())

    def close(self) -> None:
        """Hang up."""
        self._lost = self._lost or "the call has ended"
        self._loop.call_soon_threadsafe(self._hang_up)

    def _put(self, moment: Moment, now: float) -> None:
        """Until the call stands nobody would see it; from then on both tracks begin with the same moment."""
        if not self._open or self._lost:
            return
        shown = self._clock.frames / FRAMES_PER_SECOND
        self._clock.sent(now)
        stopped = round(self._clock.stopped / PACKET_SECONDS) * PACKET_SECONDS
        packets = [*self._late_packets, *self._bridge(stopped), *self._sound(moment.sound, stopped)]
        self._late_packets = deque(packets[-1:])
        self._loop.call_later(PACKET_SECONDS, self._put_late_packet)
        fits = self._video.put(self._picture(moment.pixels, shown + stopped))
        if not (fits and all(map(self._audio.put, packets[:-1]))):
            self._lost = f"the call is {WAITING_SECONDS} s behind"

    def _put_late_packet(self) -> None:
        if self._late_packets:
            self._audio.put(self._late_packets.popleft())

    def _bridge(self, stopped: float) -> list[av.AudioFrame]:
        """Silence at the end of a stop: the encoder gives the first packet after one the stamp from before it."""
        if stopped == self._stopped:
            return []
        self._stopped = stopped
        silence = av.AudioFrame.from_ndarray(np.zeros((1, OPUS_FRAME), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        silence.pts = (self._packets - 1) * OPUS_FRAME + round(stopped * SOUND_RATE)
        return [silence]

    def _picture(self, pixels: np.ndarray, at: float) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = round(at * 90_000), Fraction(1, 90_000)
        return frame

    def _sound(self, sound: np.ndarray, stopped: float) -> list[av.AudioFrame]:
        packets = self._resampler.resample(_sound_frame(sound))
        for packet in packets:
            packet.pts, packet.time_base = (
                self._packets * OPUS_FRAME + round(stopped * SOUND_RATE),
                Fraction(1, SOUND_RATE),
            )
            self._packets += 1
        return packets

    async def _changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._open = True
        elif state in ("failed", "closed", "disconnected"):
            self._lost = f"the call is {state}"
            self._on_end(self)

    def _hang_up(self) -> None:
        self._video.put(None)
        self._audio.put(None)
        self._closing = self._loop.create_task(self._peer.close())


def _sound_frame(sound: np.ndarray) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    return frame
