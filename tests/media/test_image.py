"""Portraits of all kinds are read, bad ones refused, and the reference frame is the reference model's."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features
from safetensors.torch import load_file

from livetalk_core.errors import InputError
from livetalk_core.media.image import load_image, to_reference

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
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
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
    assert load_image(save(tmp_path, image)).getpixel((0, 0)) == RED
    assert load_image(save(tmp_path, image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_jpeg(tmp_path):
    image = load_image(save(tmp_path, picture("CMYK", (0, 255, 255, 0)), "portrait.jpg", quality=95))
    assert np.abs(np.array(image.getpixel((0, 0))) - (255, 0, 0)).max() < 6


def test_exif_orientation_is_applied(tmp_path):
    image = picture(size=(100, 80))
    image.paste((0, 0, 255), (0, 0, 50, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = load_image(save(tmp_path, image, exif=exif))
    assert turned.size == (80, 100)
    assert turned.getpixel((40, 10)) == (0, 0, 255) and turned.getpixel((40, 90)) == RED


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


@pytest.mark.parametrize("size", [(20_000, 100), (100, 20_000), (8193, 64), (20_000, 20_000), (2**30, 2**30)])
def test_too_large_is_refused_before_decoding(tmp_path, size):
    path = tmp_path / "large.png"
    path.write_bytes(claimed_png(*size))
    with pytest.raises(InputError, match="at most 8192 px"):
        load_image(path)


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


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        load_image(path)


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


def test_floating_point_pixels(tmp_path):
    with pytest.raises(InputError, match="floating-point"):
        load_image(save(tmp_path, picture("F", 0.5), "a.tiff"))
