"""No damaged sound ends in a traceback, a crash, a hang or much memory."""

from tests.fuzz import sound
from tests.fuzz.harness import faults


def test_sound(fuzz_seconds):
    assert not faults("tests.fuzz.sound", fuzz_seconds)


def test_healthy_files_of_every_kind_are_read(tmp_path):
    from livetalk_core.media.audio import open_audio

    for kind in sound.KINDS:
        path = tmp_path / f"a.{kind}"
        path.write_bytes(sound._made(kind))
        source = open_audio(path)
        assert abs(source.seconds - sound.SECONDS) < 0.15 and not source.notes, (kind, source.seconds, source.notes)
