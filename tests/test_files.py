"""Places that are looked at before the work: what cannot be written there is named, and nothing is left or followed."""

from pathlib import Path

import pytest

from livetalk_core.checkpoints.convert import convert
from livetalk_core.errors import InputError, OutputError
from livetalk_core.files import check_place, make_folder
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
