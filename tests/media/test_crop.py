"""Which part of a portrait is shown, what is said of the rest, and the shape that would lose nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from livetalk_core.errors import InputError
from livetalk_core.media.crop import CENTER, Box, Crop, cover, cut_away, shape_of, shown_part
from livetalk_core.shapes import LTX, WAN

TOP = Crop(top=True)
SIDES = st.integers(64, 3000)
FRAMES = st.integers(4, 60).map(lambda count: 16 * count)


def coordinates(width, height):
    """A picture whose red says how far to the right a pixel is, and its green how far down."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 0 * down], -1).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("text", "crop"),
    [("center", CENTER), ("top", TOP), ("100,0,800,900", Crop(box=Box(100, 0, 900, 900)))],
)
def test_words_for_a_crop(text, crop):
    assert Crop.parse(text) == crop


@pytest.mark.parametrize(
    "text", ["", "bottom", "1,2,3", "1,2,3,4,5", "-1,0,80,80", "a,b,c,d", "1.5,0,80,80", "9" * 5000]
)
def test_other_words_are_refused(text):
    with pytest.raises(InputError, match="needed is top, center, or X,Y,W,H"):
        Crop.parse(text)


@pytest.mark.parametrize("text", ["0,0,101,80", "0,1,100,200", "0,0,63,80", "500,500,80,80"])
def test_a_box_outside_of_the_picture_is_refused(text):
    with pytest.raises(InputError, match="of a picture of 100x200 px"):
        cover(Image.new("RGB", (100, 200)), 64, 64, Crop.parse(text))


@pytest.mark.parametrize(
    ("crop", "part"),
    [
        (CENTER, Box(0, 421, 1080, 1499)),
        (TOP, Box(0, 0, 1080, 1078)),
        (Crop.parse("200,300,400,800"), Box(200, 500, 600, 900)),
    ],
)
def test_the_part_that_is_shown(crop, part):
    assert shown_part((1080, 1920), 128, 128, crop) == part


@given(SIDES, SIDES, FRAMES, FRAMES, st.sampled_from([CENTER, TOP]))
def test_a_part_is_of_the_frames_shape_and_inside(width, height, frame_height, frame_width, crop):
    part = shown_part((width, height), frame_height, frame_width, crop)
    assert 0 <= part.left < part.right <= width and 0 <= part.top < part.bottom <= height
    assert part.width in (width - 1, width) or part.height in (height - 1, height)
    assert abs(part.width * frame_height - part.height * frame_width) <= 2 * (frame_height + frame_width)


@pytest.mark.parametrize("size", [(300, 900), (900, 300), (400, 400)])
@pytest.mark.parametrize("crop", [CENTER, TOP, Crop.parse("90,70,200,210")])
def test_what_is_shown_is_that_part(size, crop):
    image = coordinates(*size)
    part = shown_part(image.size, 96, 64, crop)
    corners = np.asarray(cover(image, 96, 64, crop)).astype(float)[[0, -1], [0, -1]]
    across, down = 255 / (size[0] - 1), 255 / (size[1] - 1)
    expected = [(part.left * across, part.top * down, 0), ((part.right - 1) * across, (part.bottom - 1) * down, 0)]
    assert np.abs(corners - expected).max() < 4


def test_a_very_long_picture_shows_what_a_short_one_does():
    long = Image.new("RGB", (30_000, 64))
    long.paste(coordinates(192, 64), (15_000 - 96, 0))
    assert (
        np.asarray(cover(long, 1024, 1024)).tobytes() == np.asarray(cover(coordinates(192, 64), 1024, 1024)).tobytes()
    )


@pytest.mark.parametrize(
    ("size", "frame", "crop", "words"),
    [
        ((1000, 1000), (128, 128), CENTER, None),
        ((1000, 1200), (128, 128), CENTER, None),
        ((1080, 1920), (128, 128), CENTER, "56% of the picture is shown; cut away: 22% at the top, 22% at the bottom"),
        ((1080, 1920), (128, 128), TOP, "56% of the picture is shown; cut away: 44% at the bottom"),
        ((1920, 1080), (768, 448), TOP, "33% of the picture is shown; cut away: 34% at the left, 34% at the right"),
        ((1080, 1920), (128, 128), Crop.parse("0,0,500,500"), None),
    ],
)
def test_what_is_cut_away_is_said(size, frame, crop, words):
    assert cut_away(size, *frame, crop) == words


@pytest.mark.parametrize(
    ("size", "area", "shape"),
    [
        ((1000, 1000), (128, 128), (128, 128)),
        ((1080, 1920), (128, 128), (160, 96)),
        ((1920, 1080), (128, 128), (96, 160)),
        ((1080, 1920), (768, 448), (768, 432)),
        ((448, 768), (768, 448), (768, 448)),
        ((5000, 64), (128, 128), (64, 256)),
    ],
)
def test_the_pictures_own_shape(size, area, shape):
    assert shape_of(size, *area) == shape


def test_the_shape_is_of_the_box():
    assert shape_of((1080, 1920), 128, 128, Crop.parse("0,0,1000,1000")) == (128, 128)


@given(SIDES, SIDES, st.sampled_from([WAN, LTX]))
def test_shapes_are_allowed_and_near(width, height, geometry):
    high, wide = shape_of((width, height), 768, 448, CENTER, geometry)
    multiple = geometry.size_multiple
    assert high % multiple == wide % multiple == 0 and min(high, wide) >= 64
    assert 0.75 * 768 * 448 < high * wide <= 768 * 448
    if max(width, height) < 8 * min(width, height):
        assert abs(math.log(high / wide / (height / width))) < 0.016 * multiple


@pytest.mark.parametrize("size", [(64, 20_000), (30_000, 64), (64, 64)])
@pytest.mark.parametrize("frame", [(8192, 16), (16, 8192), (64, 64)])
@pytest.mark.parametrize("top", [False, True])
def test_pictures_and_frames_of_any_shape(size, frame, top):
    assert cover(Image.new("RGB", size, "gray"), *frame, Crop(top=top)).size == frame[::-1]
