"""Places that are looked at before the work: what cannot be written there is named, and nothing is left or followed."""

import os
import threading
import time
from pathlib import Path

import pytest

from livetalk_core import files
from livetalk_core.checkpoints.convert import convert
from livetalk_core.errors import InputError, OutputError
from livetalk_core.files import (
    check_folder,
    check_place,
    fault_of,
    files_below,
    make_folder,
    read_bounded,
    read_secret_file,
    shown,
)
from livetalk_core.media.place import OutputPlace


@pytest.mark.parametrize(
    ("name", "fault"),
    [("a\0b.mp4", "null character"), ("none/a.mp4", "no folder"), ("file/a.mp4", "no folder"), ("", "is a folder")],
)
def test_a_place_for_no_file_is_named(tmp_path, name, fault):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=fault):
        check_place(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_that_cannot_have_a_name_is_no_input():
    place = OutputPlace("a\0b.mp4")
    place.check_differs(Path(__file__), "the sound")
    with pytest.raises(OutputError, match="null character"):
        place.check(resume=False, overwrite=False)


@pytest.mark.parametrize("target", ["nowhere", "talk.mp4"])
def test_a_link_that_leads_nowhere_is_there_and_no_write_protected_file(tmp_path, target):
    link = tmp_path / "talk.mp4"
    link.symlink_to(target)
    with pytest.raises(OutputError, match=r"talk\.mp4 exists"):
        OutputPlace(link).check(resume=False, overwrite=False)
    OutputPlace(link).check(resume=False, overwrite=True)
    assert link.is_symlink()


def test_a_very_long_output_is_shortened():
    with pytest.raises(InputError, match=r"^output x/x/.*\.\.\..*x; a name that ends in \.mp4") as raised:
        OutputPlace("x/" * 3000 + "x")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("name", ["", "/", "."])
def test_weights_are_not_converted_to_a_folder(tmp_path, name):
    with pytest.raises(OutputError, match=r"is a folder; needed is the name of a file"):
        convert(tmp_path, Path(name))


def test_folders_are_made_where_they_can_be(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; needed is a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="what is above it is no folder"):
        make_folder(tmp_path / "file" / "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("pieces", [[b"secret\n"], [b"sec", b"ret"]])
def test_a_secret_comes_through_a_pipe_however_slowly(tmp_path, pieces):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        time.sleep(0.1)
        with pipe.open("wb", buffering=0) as end:
            for piece in pieces:
                end.write(piece)
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_secret_file(pipe, InputError) == b"secret"
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_that_nobody_writes_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIPE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    assert read_secret_file(tmp_path / "pipe", InputError) == b""


def test_paths_are_shown_on_one_line_without_escapes():
    assert shown(Path("a\nb\x1b[31m\u202e\udcff \u4eba.png")) == "a\\nb\\x1b[31m\\u202e\\udcff \u4eba.png"
    assert len(shown(Path("x" * 5000))) < 300


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_or_device_is_never_replaced(tmp_path):
    """Also behind a link, as /dev/stdout is one: who may write everywhere would lose it."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("/dev/null")
    for name in ("pipe.json", "link.json"):
        with pytest.raises(OutputError, match="is no file, and what is written replaces it"):
            check_place(tmp_path / name)
    with pytest.raises(OutputError, match="is a file"):
        check_folder(tmp_path / "pipe.json")
    with pytest.raises(OutputError, match="null character"):
        make_folder(tmp_path / "a\0b")


def test_files_below_a_folder(tmp_path):
    for name in ("b.WAV", "a.wav", "c.mp3", "inner/d.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "e.wav").mkdir()
    (tmp_path / "f.wav").symlink_to("nowhere")
    assert files_below(tmp_path, {".wav"}) == [tmp_path / name for name in ("a.wav", "b.WAV", "inner/d.wav")]
    assert files_below(tmp_path / "none", {".wav"}) == []


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "what macOS keeps beside a file"), (b"book\0\0\0\0mark", "a macOS alias"),
        (b"L\0\0\0\1\x14\2\0\0\0", "a Windows shortcut"), (b"bplist00\xd4", "a property list"),
    ],
)  # fmt: skip
def test_what_stands_for_another_file_is_named(tmp_path, start, what):
    (tmp_path / "a.wav").write_bytes(start + bytes(99))
    assert what in str(fault_of(tmp_path / "a.wav"))
    (tmp_path / "a.wav").write_bytes(b"RIFF" + start)
    assert fault_of(tmp_path / "a.wav") is None


@pytest.mark.parametrize(
    "name",
    ["con.mp4", "NUL.mp4", "aux", "com1.tar.mp4", "LPT² .mp4", "a:b.mp4", "a?.mp4", "a|b.mp4", "a.", "a.mp4 ", "a\tb"],
)
def test_names_that_windows_gives_no_file(tmp_path, monkeypatch, name):
    check_place(tmp_path / name)
    monkeypatch.setattr(files, "WINDOWS", True)
    with pytest.raises(OutputError, match="has a name that Windows gives no file"):
        check_place(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["console.mp4", "a.con.mp4", "com10.mp4", "nul-1.mp4", " a.mp4", "[x] {y} é.mp4"])
def test_names_that_windows_gives(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "WINDOWS", True)
    check_place(tmp_path / name)


def test_what_is_read_whole_has_an_end(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    for path, most in ((tmp_path / "a", 4), (tmp_path, 9), (tmp_path / "none", 9), (Path(os.devnull), 9)):
        with pytest.raises(OSError, match=r".+"):
            read_bounded(path, most)
