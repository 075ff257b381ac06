"""One caller: what is said by whom into a session, and what is told back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, LiveTalkError
from ..gate import Gate
from ..session import LiveSession
from ..speech import Resampler
from .voice import MOST_CHARACTERS, Voice, pieces_of

ROOM_SECONDS = 0.1
PACES = ("speech", "microphone")
MEASURED_SECONDS = 3.0
RATE_TOLERANCE = 1.3
"""A microphone that sends so many times more than its rate allows sends at another rate."""

Tell = Callable[[dict[str, Any]], None]
"""Sends a message to the caller; returns at once."""


class Caller:
    """Who holds the seat: turns its messages into speech. For the event loop's thread alone."""

    def __init__(self, session: LiveSession, voice: Voice | None, tell: Tell) -> None:
        self.session, self.heard_at = session, time.monotonic()
        self._voice, self._tell = voice, tell
        self._intake: Intake | None = None
        self._saying: asyncio.Task[None] | None = None

    def message(self, message: dict[str, Any]) -> None:
        """Do what a JSON message says; `InputError` for what is none."""
        self.heard_at = time.monotonic()
        kind = message.get("type")
        if kind == "begin":
            self._begin(message.get("rate"), message.get("pace", "speech"))
        elif kind == "end":
            self._end()
        elif kind == "interrupt":
            self.interrupt()
        elif kind == "say":
            self.say(_text(message))
        elif kind == "prompt":
            self._prompt(_text(message))
        else:
            raise InputError(f"message of type {kind!r}; known: begin, end, interrupt, say, prompt")

    def pcm(self, data: bytes) -> None:
        """The next samples of the utterance that was begun; `InputError`, which ends it, where they cannot be taken."""
        self.heard_at = time.monotonic()
        if self._intake is None:
            raise InputError('sound before {"type": "begin", "rate": ...}; send that first')
        try:
            number = self._intake.take(data)
        except InputError:
            self._intake = None
            self.session.end()
            raise
        if number is not None:
            self._tell({"type": "begun", "utterance": number})

    def interrupt(self) -> None:
        """Silence, and nothing more of what was being said."""
        self._stop_saying()
        self.session.interrupt()
        if self._intake is not None:
            self._intake.interrupted()
        self._tell({"type": "interrupted"})

    def say(self, text: str) -> None:
        """Speak a text after what is being said."""
        if self._voice is None:
            raise InputError("no voice: install espeak-ng, or start with --tts URL of a speech server")
        self._after(self._voice.speak(text))

    def play(self, file: Path, done: Callable[[], None]) -> None:
        """Speak a sound file after what is being said; then call `done`."""
        self._after(_pieces(pieces_of(file)), done)

    def close(self) -> None:
        """The caller has gone, and what it said with it."""
        self._stop_saying()
        self.session.interrupt()

    def _begin(self, rate: Any, pace: Any) -> None:
        if not isinstance(rate, int) or pace not in PACES:
            raise InputError(
                f"begin with rate {rate!r}, pace {pace!r}; needs a rate in Hz, and pace {' or '.join(PACES)}"
            )
        self._stop_saying()
        kind = Microphone if pace == "microphone" else Intake
        self._intake = kind(self.session, rate)
        if (number := self._intake.number) is not None:
            self._tell({"type": "begun", "utterance": number})

    def _end(self) -> None:
        if self._intake is not None:
            self._intake.end()
        self._intake = None

    def _prompt(self, text: str) -> None:
        encode = self.session.cast.encode_prompt
        if encode is None:
            raise InputError(
                "prompts cannot change in this session; end it and begin one with another prompt"
                if self.session.cast.avatar.text is not None
                else "this model reads no prompt; it hears the speech alone: say something"
            )

        async def change() -> None:
            if self.session.cast.encode_between:
                self.session.set_prompt(lambda: encode(text))
            else:
                tokens = await asyncio.to_thread(encode, text)
                self.session.set_prompt(lambda: tokens)
            self._tell({"type": "prompted", "text": text})

        self._prompting = asyncio.create_task(change())

    def _after(self, pieces: AsyncIterator[np.ndarray], done: Callable[[], None] = lambda: None) -> None:
        self._end()
        before = self._saying
        self._saying = asyncio.create_task(self._speak(before, pieces, done))

    def _stop_saying(self) -> None:
        if self._saying is not None:
            self._saying.cancel()
        self._saying = None

    async def _speak(
        self, before: "asyncio.Task[None] | None", pieces: AsyncIterator[np.ndarray], done: Callable[[], None]
    ) -> None:
        """One utterance: begun with its first piece, each piece sent when there is room for it."""
        begun = False
        try:
            if before is not None:
                await before
            async for piece in pieces:
                while not self.session.room:
                    await asyncio.sleep(ROOM_SECONDS)
                if not begun:
                    begun = True
                    self._tell({"type": "begun", "utterance": self.session.begin()})
                self.session.add(piece)
        except LiveTalkError as error:
            self._tell({"type": "error", "message": str(error)})
        finally:
            if begun:
                self.session.end()
            if before is not None and not before.done():
                before.cancel()
            done()


class Intake:
    """An utterance that comes as PCM."""

    def __init__(self, session: LiveSession, rate: int) -> None:
        self._session, self._resampler = session, Resampler(rate)
        self.number = self._first()

    def _first(self) -> int | None:
        return self._session.begin()

    def take(self, data: bytes) -> int | None:
        """Speak the next samples; the number of an utterance that begins with them."""
        self._session.add(self._resampler.take(data))
        return None

    def interrupted(self) -> None:
        """What comes from now on is a new utterance."""
        self._session.begin()

    def end(self) -> None:
        """Nothing more comes."""
        self._session.add(self._resampler.rest())
        self._session.end()


class Microphone(Intake):
    """A microphone: its speech is cut into utterances, its silence left out."""

    def __init__(self, session: LiveSession, rate: int) -> None:
        super().__init__(session, rate)
        self._gate, self._rate = Gate(), rate
        self._began, self._samples = time.monotonic(), 0

    def _first(self) -> None:
        return None

    def take(self, data: bytes) -> int | None:
        """See `Intake.take`."""
        self._check_rate(len(data) // 2)
        number = None
        for heard in self._gate.take(self._resampler.take(data)):
            number = self._session.begin() if heard.begins else number
            self._session.add(heard.sound)
            if heard.ends:
                self._session.end()
        return number

    def interrupted(self) -> None:
        """What comes from now on is a new utterance."""
        if self._gate.open:
            self._session.begin()

    def end(self) -> None:
        """Nothing more comes."""
        if self._gate.open:
            self._session.end()

    def _check_rate(self, samples: int) -> None:
        self._samples += samples
        elapsed = time.monotonic() - self._began
        if elapsed > MEASURED_SECONDS:
            rate = (self._samples - samples) / elapsed
            if rate > RATE_TOLERANCE * self._rate:
                raise InputError(f"the microphone sends {rate:.0f} samples a second; {self._rate} were announced")
            self._began, self._samples = time.monotonic(), 0


def _text(message: dict[str, Any]) -> str:
    text = message.get("text")
    if not isinstance(text, str) or not text.strip() or len(text) > MOST_CHARACTERS:
        raise InputError(f"a {message['type']} needs a text of 1 to {MOST_CHARACTERS} characters")
    return text


async def _pieces(pieces: Iterator[np.ndarray]) -> AsyncIterator[np.ndarray]:
    """The pieces, each decoded on another thread when it is asked for."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
