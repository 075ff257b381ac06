"""The fuzzer of sounds begins with files that are good."""

from tests.fuzz import sound


def test_healthy_files_of_every_kind_are_read(tmp_path):
    from livetalk_core.media.audio import open_audio

    for kind in sound.KINDS:
        path = tmp_path / f"a.{kind}"
        path.write_bytes(sound._made(kind))
        source = open_audio(path)
        assert abs(source.seconds - sound.SECONDS) < 0.15 and not source.notes, (kind, source.seconds, source.notes)
