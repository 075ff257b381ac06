"""Colours, the row of sound packets, and the joints between independently encoded chunks."""

import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livetalk_core.errors import InputError
from livetalk_core.media.coding import Coding
from livetalk_core.media.segment import Picture, Segment, fragment, header, read_header, tracks
from livetalk_core.media.sound import AAC_FRAME, AACSound, PCMSound


class Source:
    """As much of an AudioSource as the arithmetic needs."""

    channels = 2

    def __init__(self, sample_rate):
        self.sample_rate = sample_rate


@given(st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000]), st.integers(1, 300_000))
def test_packets_cover_the_picture_and_no_more_than_one_beyond(rate, frames):
    covered = (AACSound(Source(rate)).packets(frames) - 1) * AAC_FRAME
    wanted = frames * rate / 25
    assert wanted <= covered < wanted + AAC_FRAME


@pytest.mark.parametrize(
    ("source", "used"),
    [(44_100, 44_100), (16_000, 16_000), (192_000, 48_000), (37_800, 48_000), (64_000, 48_000), (96_000, 48_000)],
)
def test_rate_is_the_source_s_own_where_telephones_play_it(source, used):
    assert AACSound(Source(source)).rate == used


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 33), (0, 64)])
def test_odd_sizes_are_refused(height, width):
    with pytest.raises(InputError, match=f"{width}x{height} px; video needs even sides"):
        Picture(height, width)


def as_file(*segments: bytes) -> io.BytesIO:
    """One playable file."""
    return io.BytesIO(b"".join(segments))


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 90)])
def test_color_is_bt709_in_tv_range(color):
    picture = Picture(32, 48)
    segment = Segment(picture, None, {}, 1)
    segment.add_image(np.full((32, 48, 3), color, np.uint8), 0)
    with av.open(as_file(header(picture, None, {}), fragment(segment.close()))) as container:
        (frame,) = container.decode(video=0)
        stream = container.streams.video[0].codec_context
        tags = stream.color_primaries, stream.color_trc, stream.colorspace, stream.color_range
    planes = frame.to_ndarray()
    red, green, blue = np.array(color) / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert tags == (1, 1, 1, 1)
    assert abs(planes[:32].mean() - (16 + 219 * luma)) < 1.5
    assert abs(planes[32:40].mean() - (128 + 224 * (blue - luma) / 1.8556)) < 1.5
    assert abs(planes[40:].mean() - (128 + 224 * (red - luma) / 1.5748)) < 1.5


def test_header_does_not_depend_on_metadata_or_content(media):
    picture, sound = Picture(64, 64), AACSound(media.tensor_audio(1))
    plain, tagged = header(picture, sound, {}), header(picture, sound, {"prompt": "x" * 100_000})
    assert len(tagged) > len(plain) + 100_000 and tracks(plain) == tracks(tagged) and len(tracks(plain)) == 2
    assert read_header(as_file(tagged, b"\0\0\0\x10moof")) == tagged
    assert tracks(plain) != tracks(header(Picture(64, 80), sound, {}))
    assert tracks(plain) != tracks(header(picture, None, {}))
    assert tracks(plain) != tracks(header(picture, AACSound(media.tensor_audio(1, 48_000)), {}))
    assert tracks(plain) != tracks(header(picture, AACSound(media.tensor_audio(1, channels=2)), {}))


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_joints_of_the_sound_are_as_good_as_the_rest(media, rate):
    """Every chunk has an encoder of its own; the error where two meet is no larger than elsewhere."""
    source = media.tensor_audio(12, rate)
    picture, sound = Picture(32, 32), AACSound(source)

    def decoded(chunk: int) -> np.ndarray:
        parts = [header(picture, sound, {})]
        for index, first in enumerate(range(0, 300, chunk)):
            segment = Segment(picture, sound, {}, index + 1)
            for frame in range(first, min(300, first + chunk)):
                segment.add_image(np.zeros((32, 32, 3), np.uint8), frame)
            segment.add_sound(first, min(300, first + chunk))
            parts.append(fragment(segment.close()))
        return media.decode_sound(as_file(*parts))[0][: 12 * rate]

    truth = source.read(0, 12 * rate, rate, mono=True)[0]
    joined, single = decoded(28), decoded(300)
    assert len(joined) == len(single) == 12 * rate
    edges = [round(first * rate / 25) for first in range(28, 300, 28)]
    near = np.concatenate([np.arange(edge - AAC_FRAME, edge + 2 * AAC_FRAME) for edge in edges])
    error, usual = (np.sqrt(np.mean((sound[near] - truth[near]) ** 2)) for sound in (joined, single))
    assert error < 1.2 * usual
    assert np.abs(joined - single)[near].max() < 0.02
    assert np.corrcoef(joined, single)[0, 1] > 0.9999


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (11_025, 1)])
def test_uncompressed_sound_is_the_source_to_24_bits(media, rate, channels):
    """At 50 frames a second, where a frame of 11,025 Hz has no whole number of samples, too."""
    source = media.tensor_audio(3, rate, channels)
    picture = Picture(32, 32, 50, Coding("prores"))
    sound, parts = PCMSound(source), [header(picture, PCMSound(source), {})]
    for index, (first, last) in enumerate([(0, 33), (33, 61), (61, 150)]):
        segment = Segment(picture, sound, {}, index + 1)
        for frame in range(first, last):
            segment.add_image(np.zeros((32, 32, 3), np.uint8), frame)
        segment.add_sound(first, last)
        parts.append(fragment(segment.close()))
    decoded = media.decode_sound(as_file(*parts)).reshape(-1, channels).T / 2**31
    assert decoded.shape == (channels, 3 * rate)
    assert np.abs(decoded - source.read(0, 3 * rate, rate, mono=False)).max() < 2**-23


def test_a_header_of_uncompressed_sound_does_not_depend_on_it(media):
    picture = Picture(64, 64, coding=Coding("prores"))
    loud, silent = media.tensor_audio(1), media.tensor_audio(0.001)
    assert tracks(header(picture, PCMSound(loud), {})) == tracks(header(picture, PCMSound(silent), {}))
    assert len(tracks(header(picture, PCMSound(loud), {}))) == 2
