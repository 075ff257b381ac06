"""Voices of espeak-ng: there, or named before a model is loaded."""

import shutil

import pytest

from livetalk_core.errors import InputError
from livetalk_core.live.server.voice import ESPEAK, Espeak, embedded_voice

needs_espeak = pytest.mark.skipif(shutil.which(ESPEAK) is None, reason="espeak-ng is not installed")


@needs_espeak
@pytest.mark.parametrize("name", [None, "en-gb", "en+f3"])
def test_voices_that_are_there(name):
    assert isinstance(embedded_voice(name), Espeak)


@needs_espeak
@pytest.mark.parametrize("name", ["", " ", "nosuchvoice", "-x", "../../etc/passwd", "a\0b", "x" * 5000])
def test_a_voice_that_is_not_there_is_named(name):
    with pytest.raises(InputError, match=r"voice .*espeak-ng --voices") as error:
        embedded_voice(name)
    assert len(str(error.value)) < 300


def test_a_voice_without_espeak(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert embedded_voice() is None
    with pytest.raises(InputError, match="not installed"):
        embedded_voice("en-gb")
