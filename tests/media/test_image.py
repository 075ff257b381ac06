"""Portraits of all kinds are read, bad ones refused, and the reference frame is the reference model's."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, features
from safetensors.torch import load_file

from livetalk_core.errors import InputError
from livetalk_core.media import image as module
from livetalk_core.media.image import load_image, to_reference

from .profiles import SPACES, cmyk_profile, grey_profile, in_space, press, rgb_profile

RED = (200, 30, 40)


def picture(mode="RGB", color=RED, size=(80, 100)):
    return Image.new(mode, size, color)


def save(tmp_path, image, name="portrait.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_reference_is_the_golden_one(golden):
    tensors = load_file(golden / "stream.safetensors")
    expected = tensors["io.reference"]
    height, width = expected.shape[-2:]
    found = to_reference(tensors["io.image"].numpy(), height, width)
    assert found.dtype == torch.float32 and found.shape == (1, 3, 1, height, width)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(64, 200), (200, 64), (100, 101), (448, 768), (33, 47)])
def test_reference_fills_its_frame(size):
    image = picture(size=(size[0] + 64, size[1] + 64))
    frame = to_reference(image, 96, 64)
    expected = (torch.tensor(RED) / 255 - 0.5) * 2
    assert frame.shape == (1, 3, 1, 96, 64)
    torch.testing.assert_close(frame[0, :, 0], expected[:, None, None].expand(3, 96, 64))


def test_crop_offset_is_rounded_to_even_like_torchvision():
    columns = np.zeros((4, 9, 3), np.uint8)
    columns[:, 2] = 255  # 5 spare columns: offset round(2.5) = 2
    assert (to_reference(columns, 4, 4)[0, 0, 0, :, 0] == 1).all()


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGB", RED, RED),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (*RED, 255), RED),
        ("LA", (77, 255), (77, 77, 77)),
        ("I;16", 0x8080, (128, 128, 128)),
    ],
)
def test_modes(tmp_path, mode, color, expected):
    image = load_image(save(tmp_path, picture(mode, color)))
    assert image.mode == "RGB" and image.getpixel((5, 5)) == expected


def test_half_transparent_is_laid_on_white(tmp_path):
    image = load_image(save(tmp_path, picture("RGBA", (0, 0, 0, 127))))
    assert image.getpixel((0, 0)) == (128, 128, 128)


def test_palette_with_transparency(tmp_path):
    image = picture("P", 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((9, 9), 0)
    assert load_image(save(tmp_path, image)).getpixel((0, 0)) == RED
    assert load_image(save(tmp_path, image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "color"), [("RGBA", (*RED, 0)), ("LA", (77, 0)), ("P", 1)])
@pytest.mark.parametrize("seen", [False, True])
def test_a_picture_of_which_nothing_is_seen_shows_its_colours(tmp_path, caplog, mode, color, seen):
    image, options = picture(mode, color, (80, 600)), {}
    if mode == "P":
        image.putpalette([0, 0, 0, *RED])
        options = {"transparency": 1}
    if seen:  # a pixel of it, in another band of rows
        image.putpixel((9, 590), {"RGBA": (0, 0, 0, 9), "LA": (0, 9), "P": 0}[mode])
    expected = (255, 255, 255) if seen else (77, 77, 77) if mode == "LA" else RED
    assert load_image(save(tmp_path, image, **options)).getpixel((3, 3)) == expected
    assert ("all of it is transparent" in caplog.text) != seen


def test_planes_of_16_bits_are_not_taken_for_bytes(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.full((3, 80, 80), 40_000, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match="planes of 16 bits"):
        load_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", (pixels // 257).astype(np.uint8), photometric="rgb", planarconfig="separate")
    assert load_image(tmp_path / "a.tif").getpixel((3, 3)) == (155, 155, 155)


@pytest.mark.parametrize(
    "content", [b"<!-- Inkscape -->\n<svg a='1'>", b"\xef\xbb\xbf<?xml version='1.0'?><!DOCTYPE svg PUBLIC 'x'>\n<svg>"]
)
def test_svg_however_it_begins(tmp_path, content):
    (tmp_path / "a.svg").write_bytes(content)
    with pytest.raises(InputError, match="is SVG"):
        load_image(tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"error": 404}', "a text file"),
        ("zwölf".encode("utf-16"), "a text file"),
        (b"PK\3\4" + bytes(99), "an archive"),
    ],
)
def test_files_of_other_programs(tmp_path, content, what):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=f"a.png is {what}"):
        load_image(tmp_path / "a.png")


def test_cmyk_jpeg(tmp_path):
    image = load_image(save(tmp_path, picture("CMYK", (0, 255, 255, 0)), "portrait.jpg", quality=95))
    assert np.abs(np.array(image.getpixel((0, 0))) - (255, 0, 0)).max() < 6


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name):
    image = picture(size=(100, 80))
    image.paste((0, 0, 255), (0, 0, 50, 80))
    turned = load_image(save(tmp_path, image, name, exif=orientation(6)))  # to be turned by 90 degrees clockwise
    assert turned.size == (80, 100)
    assert np.abs(np.array([turned.getpixel((40, 10)), turned.getpixel((40, 90))]) - ((0, 0, 255), RED)).max() < 8


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif"])
def test_formats(tmp_path, name):
    image = load_image(save(tmp_path, picture(), name))
    assert np.abs(np.array(image.getpixel((0, 0))) - RED).max() < 8


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff"])
def test_more_than_one_picture_is_refused(tmp_path, name):
    path = save(tmp_path, picture(), name, save_all=True, append_images=[picture(color=(0, 0, 0))])
    with pytest.raises(InputError, match="holds 2 pictures; a still image is needed"):
        load_image(path)


def test_phone_jpeg_with_a_second_picture_is_a_still(tmp_path):
    path = save(tmp_path, picture(), "a.mpo", save_all=True, append_images=[picture()])
    assert load_image(path.rename(tmp_path / "a.jpg")).size == (80, 100)


@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63)])
def test_too_small(tmp_path, size):
    with pytest.raises(InputError, match=f"is {size[0]}x{size[1]} px; at least 64 px"):
        load_image(save(tmp_path, picture(size=size)))


def claimed_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: to be refused before it is decoded."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(20_000, 10_000), (20_000, 20_000), (2**30, 2**30)])
def test_too_large_is_refused_before_decoding(tmp_path, size):
    path = tmp_path / "large.png"
    path.write_bytes(claimed_png(*size))
    with pytest.raises(InputError, match="at most 134 megapixels of PNG"):
        load_image(path)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.png", "P"), ("a.png", "L")])
def test_more_than_67_megapixels_are_scaled_down(tmp_path, name, mode):
    picture = Image.linear_gradient("L").resize((9000, 7600)).convert(mode)
    loaded = load_image(save(tmp_path, picture, name, exif=orientation(3)))
    assert loaded.size == (4500, 3800)
    expected = np.asarray(Image.linear_gradient("L").resize((90, 76)).convert("RGB").rotate(180), int)
    assert np.abs(np.asarray(loaded.resize((90, 76)), int) - expected).max() < 4


def test_a_strip_is_read_and_cut(tmp_path):
    strip = picture(size=(20_000, 64))
    strip.paste((0, 0, 255), (9_000, 0, 11_000, 64))
    frame = to_reference(load_image(save(tmp_path, strip)), 768, 448)
    blue = (torch.tensor((0, 0, 255)) / 255 - 0.5) * 2
    torch.testing.assert_close(frame[0, :, 0], blue[:, None, None].expand(3, 768, 448))


def test_truncated(tmp_path):
    path = save(tmp_path, Image.effect_noise((200, 200), 50).convert("RGB"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        load_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif(tmp_path):
    path = save(tmp_path, Image.effect_noise((80, 80), 50).convert("RGB"), "portrait.avif")
    data = path.read_bytes()
    begin = data.index(b"mdat") + 4
    path.write_bytes(data[:begin] + bytes(len(data) - begin))
    with pytest.raises(InputError, match="cannot be read"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0"])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        load_image(path)


@pytest.mark.parametrize(
    ("start", "verdict"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0", "is HEIC; .*: `pip install pillow-heif`, or save it as PNG or JPEG"),
        (b"\xff\x0a\xfa\x1f", "is JPEG XL; .*pip install pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", "is a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is a document"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="a">', "is SVG"),
        (b"8BPS\0\1", "is a Photoshop file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "is a sound"),
        (b"ID3\3\0", "is a sound"),
        (b"version https://git-lfs.github.com/spec/v1", "is a git-LFS pointer"),
    ],
)
def test_other_kinds_are_named(tmp_path, monkeypatch, start, verdict):
    monkeypatch.setattr(module, "PLUGINS", {})
    for name in ("HEIF", "JXL"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    (tmp_path / "a.jpg").write_bytes(start + bytes(2000))
    with pytest.raises(InputError, match=rf"a\.jpg {verdict}"):
        load_image(tmp_path / "a.jpg")


def test_heic_with_its_plugin(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(in_space(portrait(), "display_p3")).save(tmp_path / "a.heic", quality=-1)
    assert load_image(tmp_path / "a.heic").size == portrait().size


@pytest.mark.parametrize("kind", ["text", "profile"])
def test_a_png_with_much_in_it_is_read(tmp_path, kind):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    options = {"pnginfo": info} if kind == "text" else {"icc_profile": rgb_profile("adobe_rgb") + bytes(2_000_000)}
    limits = PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS
    assert load_image(save(tmp_path, picture(), **options)).size == (80, 100)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, Image.MAX_IMAGE_PIXELS)


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


def test_a_path_that_cannot_be_is_named(tmp_path):
    for path in (tmp_path / ("n" * 300 + ".png"), tmp_path / "a\0.png"):
        with pytest.raises(InputError, match="cannot be opened"):
            load_image(path)


# --- colours ---


def portrait():
    """Smooth colours of all kinds, none at the very edge of sRGB."""
    across, down = np.meshgrid(np.linspace(20, 235, 90), np.linspace(20, 235, 120))
    return Image.fromarray(np.stack([across, down, 255 - (across + down) / 2], -1).round().astype(np.uint8))


def mean_error(found, expected):
    return np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean()


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.jpg"])
@pytest.mark.parametrize("space", SPACES)
def test_colours_of_a_profile_become_srgb(tmp_path, space, name):
    image = in_space(portrait(), space)
    options = {"quality": 95, "subsampling": 0} if name == "a.jpg" else {}
    loaded = load_image(save(tmp_path, image, name, icc_profile=rgb_profile(space), **options))
    assert mean_error(image, portrait()) > 3
    assert mean_error(loaded, portrait()) < 1.5


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_holds_for_transparent_pictures_and_palettes(tmp_path, mode):
    skin = in_space(Image.new("RGB", (80, 100), (224, 172, 140)), "prophoto")
    image = skin.convert(mode, palette=Image.Palette.ADAPTIVE)
    path = save(tmp_path, image, icc_profile=rgb_profile("prophoto"))
    assert np.abs(np.array(load_image(path).getpixel((3, 3))) - (224, 172, 140)).max() <= 3


def test_the_profile_of_srgb_changes_nothing(tmp_path):
    path = save(tmp_path, portrait(), icc_profile=rgb_profile("srgb"))
    assert load_image(path).tobytes() == portrait().tobytes()


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_profile(tmp_path, mode):
    path = save(tmp_path, Image.new(mode, (80, 80), 128 if mode == "L" else (128, 255)), icc_profile=grey_profile(1.0))
    assert abs(load_image(path).getpixel((3, 3))[0] - 188) <= 1  # half the light


def test_cmyk_by_its_profile(tmp_path):
    across, down = np.meshgrid(np.linspace(0, 1, 90), np.linspace(0, 1, 120))
    inks = np.stack([across, down, (across + down) / 2, across * down / 3], -1)
    image = Image.frombytes("CMYK", (90, 120), (inks * 255).round().astype(np.uint8).tobytes())
    loaded = load_image(save(tmp_path, image, "a.tiff", icc_profile=cmyk_profile()))
    assert mean_error(image.convert("RGB"), press(inks) * 255) > 10
    assert mean_error(loaded, press(inks) * 255) < 1.5


@pytest.mark.parametrize("profile", [b"no profile", rgb_profile("display_p3")[:200], grey_profile(2.2)])
def test_a_useless_profile_is_left_aside_with_a_word(tmp_path, caplog, profile):
    path = save(tmp_path, portrait(), icc_profile=profile)
    assert load_image(path).tobytes() == portrait().tobytes()
    assert "portrait.png: its colour profile cannot be used" in caplog.text


# --- depths ---


def tiff(path, values, sample_format, photometric=1):
    """An uncompressed grey TIFF of any numbers."""
    height, width = values.shape
    tags = {
        256: (4, width), 257: (4, height), 258: (3, 8 * values.itemsize), 259: (3, 1), 262: (3, photometric),
        273: (4, 8), 277: (3, 1), 278: (4, height), 279: (4, values.nbytes), 339: (3, sample_format),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.tobytes() + directory)
    return path


RAMP = np.tile(np.arange(256), (64, 1))


@pytest.mark.parametrize(
    ("sample_format", "dtype", "black", "white"),
    [
        (1, "u2", 0, 65535), (2, "i1", -128, 127), (2, "i1", 0, 127), (2, "i2", 0, 32767), (2, "i2", -32768, 32767),
        (2, "i2", 0, 255), (1, "u4", 0, 255), (1, "u4", 0, 65535), (1, "u4", 0, 2**32 - 1), (2, "i4", 0, 2**31 - 1),
        (2, "i4", -(2**31), 2**31 - 1), (2, "i4", 0, 65535), (3, "f4", 0, 1), (3, "f4", 0, 255), (3, "f4", 0, 65535),
    ],
)  # fmt: skip
def test_numbers_of_all_kinds_are_greys(tmp_path, sample_format, dtype, black, white):
    numbers = black + RAMP * ((white - black) / 255)
    numbers = numbers.astype("<" + dtype) if sample_format == 3 else numbers.round().astype("<" + dtype)
    found = np.asarray(load_image(tiff(tmp_path / "a.tif", numbers, sample_format)))[..., 0].astype(int)
    assert np.abs(found - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("sample_format", "numbers"), [(1, (RAMP * 257).astype("<u2")), (3, (RAMP / 255).astype("<f4"))]
)
def test_white_may_be_zero(tmp_path, sample_format, numbers):
    found = np.asarray(load_image(tiff(tmp_path / "a.tif", numbers, sample_format, photometric=0)))[..., 0]
    assert np.abs(found.astype(int) - (255 - RAMP)).max() <= 1


@pytest.mark.parametrize("values", [np.nan, np.inf, -3.0, 1e9])
def test_floating_point_pixels_without_a_known_range(tmp_path, values):
    numbers = (RAMP / 255).astype(np.float32)
    numbers[3, 3] = values
    with pytest.raises(InputError, match="floating-point pixels from"):
        load_image(tiff(tmp_path / "a.tif", numbers, 3))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_may_lack_its_end_mark_and_no_pixel(tmp_path, options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    path = save(tmp_path, noise, "a.jpg", quality=90, **options)
    whole, data = np.asarray(load_image(path)), path.read_bytes()
    for lost in (1, 2):
        path.write_bytes(data[:-lost])
        assert np.array_equal(np.asarray(load_image(path)), whole)
    for lost in (12, 100, len(data) // 2):
        path.write_bytes(data[:-lost])
        with pytest.raises(InputError, match="truncated"):
            load_image(path)


def test_the_preview_of_a_raw_picture_is_no_portrait(tmp_path):
    """DNG and NEF are TIFFs whose only page shows the picture smaller: the picture itself lies deeper."""
    path = save(tmp_path, picture(size=(96, 96)), "a.dng", format="TIFF", tiffinfo={254: 1})
    with pytest.raises(InputError, match=r"a\.dng is a camera's raw picture .* preview of 96x96 px"):
        load_image(path)


def test_a_tiff_with_a_preview_is_a_still(tmp_path):
    preview = picture(size=(64, 64))
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    assert load_image(save(tmp_path, picture(), "a.tif", save_all=True, append_images=[preview])).size == (80, 100)


def test_a_tiff_whose_second_page_is_damaged_is_refused(tmp_path):
    path = save(tmp_path, picture(), "a.tif", save_all=True, append_images=[picture()])
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        second = image._frame_pos[1]
    data[second : second + 14] = struct.pack("<HHHIH", 1, 0x0100, 3, 1, 5)  # one tag alone
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif"):
        load_image(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {"progressive": True}), ("a.webp", {}), ("a.webp", {"lossless": True}), ("a.avif", {}), ("a.heic", {})],
)
def test_zeros_in_place_of_pixels_are_told(tmp_path, name, options):
    """A download that took its room and stopped: decoders show grey, or anything."""
    if name == "a.heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    path = save(tmp_path, noise, name, quality=90, **options)
    whole, data = np.asarray(load_image(path)), path.read_bytes()
    path.write_bytes(data + bytes(4000))  # behind them they do no harm
    assert np.array_equal(np.asarray(load_image(path)), whole)
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))
    with pytest.raises(InputError, match=rf"{name} (holds zeros in place of its last|cannot be read)"):
        load_image(path)


def test_a_damaged_jpeg_is_refused_in_words_of_its_first_reading(tmp_path):
    path = save(tmp_path, picture(), "a.jpg")
    data = path.read_bytes()
    bits = data.index(b"\xff\xc0") + 4
    path.write_bytes(data[:bits] + b"\x0c" + data[bits + 1 :])  # of 12 bits
    with pytest.raises(InputError, match=r"a\.jpg cannot be read \(cannot identify image file\)"):
        load_image(path)


def test_damage_that_changes_no_pixel_is_not_warned_of(tmp_path, recwarn):
    orientations = b"Exif\0\0II*\0\x08\0\0\0" + b"\1\0\x12\1\3\0\2\0\0\0\1\0\1\0" + bytes(4)
    load_image(save(tmp_path, picture(), "a.jpg", exif=orientations))
    assert not recwarn.list
