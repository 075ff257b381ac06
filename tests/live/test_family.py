"""Members of the family live: they idle, speak, are interrupted and go on; prompts they do not read."""

import threading
import time
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from livetalk_core.commands.live.serve import cast_of, settings_of
from livetalk_core.commands.main import parser
from livetalk_core.errors import InputError
from livetalk_core.live.record import Recorder
from livetalk_core.live.server.caller import Caller
from livetalk_core.live.session import LiveSession
from livetalk_core.media.audio import open_audio
from tests.checkpoints import flashhead

DEMO = Path(__file__).resolve().parents[2] / "demo"
SIDE = 64
SECONDS = 2
PATIENCE = 240


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return flashhead.publish(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def speech():
    """The beginning of the demo's, float32 at 16 kHz."""
    return open_audio(DEMO / "speech.wav").read(0, 16_000 * SECONDS, 16_000, mono=True)[0]


def cast(family, member):
    """As `livetalk live` makes it."""
    words = ["live", "--image", str(DEMO / "portrait.png"), "--size", f"{SIDE}x{SIDE}", "--seed", "3"]
    options = parser(words).parse_args([*words, *flashhead.options_of(family, member)])
    return cast_of(options, settings_of(options, torch.device("cpu"), torch.float32, None))


class Spoken:
    """A sink that counts the moments in which something is said."""

    count = 0

    def __call__(self, moment):
        self.count += moment.spoken

    def close(self):
        """See `Sink`."""


@contextmanager
def running(session):
    failures = []

    def perform():
        try:
            session.run()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=perform)
    thread.start()
    try:
        yield failures
    finally:
        session.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive() and failures == []


def until(condition, failures):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert not failures and time.monotonic() < end, failures or "waited in vain"
        time.sleep(0.02)


def say(session, sound):
    number = session.begin()
    session.add(sound)
    session.end()
    return number


@pytest.mark.parametrize("member", flashhead.MEMBERS)
def test_a_member_idles_speaks_is_interrupted_and_goes_on(family, speech, tmp_path, member):
    said, spoken = [], Spoken()
    session = LiveSession(cast(family, member), [Recorder(tmp_path / "talk.mp4", SIDE, SIDE), spoken], said.append)
    with running(session) as failures:
        until(lambda: session.figures["frames"] > 5, failures)
        first = say(session, speech)
        until(lambda: first in said, failures)
        before, second = spoken.count, say(session, speech)
        until(lambda: spoken.count > before + 5, failures)
        generation = session.figures["generation"]
        session.interrupt()
        assert session.figures["generation"] > generation
        third = say(session, speech[:8000])
        until(lambda: third in said, failures)
    assert second not in said
    with av.open(str(tmp_path / "talk.mp4")) as video:
        pictures = np.stack([frame.to_ndarray(format="gray") for frame in video.decode(video=0)])
    with av.open(str(tmp_path / "talk.mp4")) as video:
        sound = np.concatenate([frame.to_ndarray() for frame in video.decode(audio=0)], axis=1)[0]
    assert len(pictures) >= 25 * SECONDS and pictures.std(axis=(1, 2)).min() > 0
    assert abs(len(sound) / 16_000 - len(pictures) / 25) < 0.2
    heard = np.abs(np.correlate(sound, speech[4000:12_000], "valid")).max()
    assert heard > 0.8 * np.square(speech[4000:12_000]).sum(), "the speech is in it"


def test_a_member_that_reads_no_prompt_says_so(family):
    caller = Caller(LiveSession(cast(family, "flashhead-pro")), None, lambda _: None)
    with pytest.raises(InputError, match="this model reads no prompt"):
        caller.message({"type": "prompt", "text": "A smile."})
