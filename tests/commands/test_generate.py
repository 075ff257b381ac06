"""The command `generate`: which part of the portrait is shown, and what is said of the rest."""

import wave

import av
import pytest
import torch
from PIL import Image

from livetalk_core.commands.main import main
from livetalk_core.commands.prepare import Settings, prepare
from livetalk_core.media.crop import CENTER, Crop

HEAD = (200, 30, 40)
CUT = "person.png, 360x640, as 64x64: 56% of the picture is shown; cut away: 22% at the top, 22% at the bottom; --crop"


@pytest.fixture
def inputs(tmp_path):
    """A person from head to foot, the head in the upper sixth, and a tenth of a second of sound."""
    person = Image.new("RGB", (360, 640), "white")
    person.paste(HEAD, (150, 20, 210, 100))
    person.paste((20, 40, 90), (110, 100, 250, 640))
    person.save(tmp_path / "person.png")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    return tmp_path / "person.png", tmp_path / "speech.wav", tmp_path / "talk.mp4"


def has_head(reference):
    head = (torch.tensor(HEAD) / 255 - 0.5) * 2
    return bool(((reference[0, :, 0] - head[:, None, None]).abs().amax(dim=0) < 0.1).any())


@pytest.mark.parametrize(
    ("crop", "shown"), [(CENTER, False), (Crop(top=True), True), (Crop.parse("60,0,240,240"), True)]
)
def test_the_head_of_a_person_is_in_the_frame_of_a_crop(inputs, crop, shown):
    render, _ = prepare(Settings(*inputs, size=(64, 64), crop=crop))
    assert has_head(render.session.avatar.reference) == shown


def test_the_pictures_own_shape_shows_all_of_it(inputs, capsys):
    render, _ = prepare(Settings(*inputs, portrait_shape=True))
    assert (render.session.stream.height, render.session.stream.width) == (160, 96)
    assert has_head(render.session.avatar.reference)
    assert "cut away" not in capsys.readouterr().err


def test_what_is_cut_away_is_said(inputs, capsys):
    prepare(Settings(*inputs, size=(64, 64)))
    assert CUT in capsys.readouterr().err


def test_options_choose_the_part(inputs):
    image, audio, output = map(str, inputs)
    options = ["--size", "auto", "--crop", "0,0,360,480", "--steps", "1"]
    assert main(["generate", "--image", image, "--audio", audio, "--output", output, *options]) == 0
    with av.open(output) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (112, 144)


@pytest.mark.parametrize(
    ("crop", "words"), [("left", "needed is top, center, or X,Y,W,H"), ("0,0,900,900", "of a picture of 360x640")]
)
def test_a_crop_that_cannot_be_is_named(inputs, capsys, crop, words):
    image, audio, output = map(str, inputs)
    assert main(["generate", "--image", image, "--audio", audio, "--output", output, "--crop", crop]) == 1
    assert words in capsys.readouterr().err
