"""What users write for options that several commands share."""

import argparse
from pathlib import Path

import pytest
import torch

from livetalk_core.commands.live.serve import _secret, settings_of
from livetalk_core.commands.loras import Lora
from livetalk_core.commands.main import parser
from livetalk_core.commands.options import (
    count,
    device_and_dtype,
    memory,
    minutes,
    origin,
    port,
    positive,
    rtmp_address,
    seed,
    size,
    web_address,
)
from livetalk_core.config import LARGEST_SEED
from livetalk_core.errors import InputError


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (size, "448x768", (768, 448)),
        (size, "64X64", (64, 64)),
        (positive, "7", 7),
        (memory, "22.5G", int(22.5 * 2**30)),
        (memory, "512m", 512 * 2**20),
        (count, "0", 0),
        (port, "65535", 65535),
        (minutes, "0.5", 0.5),
        (seed, "-3", -3),
        (web_address, "https://[::1]:8880/v1/audio/speech?a=b", "https://[::1]:8880/v1/audio/speech?a=b"),
        (rtmp_address, "rtmps://user:key@live.example.org/app/key", "rtmps://user:key@live.example.org/app/key"),
        (origin, "https://example.org", "https://example.org"),
        (origin, "HTTPS://Example.org:443/", "https://example.org"),
        (origin, "http://[::1]:8080", "http://[::1]:8080"),
        (seed, str(LARGEST_SEED), LARGEST_SEED),
    ],
)
def test_values(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize("read", [web_address, rtmp_address, origin])
def test_what_is_no_address_is_named(read):
    scheme = "rtmp" if read is rtmp_address else "http"
    words = [
        "",
        " ",
        "x",
        "x.flv",
        "/tmp/x.flv",
        "file:///tmp/x",
        "pipe:1",
        f"{scheme}:",
        f"{scheme}://",
        f"{scheme}:///a",
    ]
    words += [f"{scheme}://a:{port}/b" for port in ("99999", "0", "x", "-1")]
    words += [f"{scheme}://a b/c", f"{scheme}://a/\0", f"{scheme}://[::1/a", f"{scheme}://a/ü", "udp://1.2.3.4:5/a"]
    for text in words:
        with pytest.raises(argparse.ArgumentTypeError, match="needed"):
            read(text)


def test_a_stream_has_an_application_and_an_origin_no_path():
    for read, text in (
        (rtmp_address, "rtmp://localhost"),
        (origin, "https://a/b"),
        (origin, "https://u@a"),
        (origin, "*"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="needed"):
            read(text)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (size, ["", "x", "64", "64x", "-64x64", "²x²", "9" * 5000 + "x64", "64 x 64", "64x64x64"]),
        (count, ["", "-1", "x", "²"]),
        (port, ["", "-1", "65536", "99999", "x", "9" * 5000]),
        (minutes, ["", "0", "-1", "nan", "inf", "x"]),
        (positive, ["", "0", "-1", "²", "1.5", "9" * 5000]),
        (memory, ["", "G", "0G", "nanG", "infG", "-5G", "1K"]),
        (seed, ["", "x", "1.5", "²", str(LARGEST_SEED + 1), "9" * 5000]),
    ],
)
def test_what_makes_no_sense_is_named(read, words):
    for text in words:
        with pytest.raises(argparse.ArgumentTypeError, match=r"write|needed"):
            read(text)


def test_a_token_is_one_line_of_text(tmp_path):
    file = tmp_path / "token"
    file.write_bytes(b" secret\n")
    assert _secret(file) == "secret"
    for content, fault in ((b"\xff\xfe", "no text"), (b" \n", "empty"), (bytes(70_000), "more than 65536 bytes")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=fault):
            _secret(file)


def test_live_takes_loras_and_their_strengths():
    words = ["live", "--image", "person.png", "--lora", "a.safetensors", "-0.5", "--lora", "b.safetensors"]
    settings = settings_of(parser(words).parse_args(words), torch.device("cpu"), torch.float32, None)
    assert settings.loras == (Lora(Path("a.safetensors"), -0.5), Lora(Path("b.safetensors"), 1.0))


@pytest.mark.parametrize("line", ["generate --image i --audio a --output o.mp4", "bench", "verify f"])
def test_compiling_for_a_gpu_without_triton_is_refused_before_anything_is_loaded(monkeypatch, line):
    """As on Windows, where it failed at the first step, after minutes of loading."""
    monkeypatch.setattr("livetalk_core.hardware.machine.choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("livetalk_core.hardware.machine.default_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr("livetalk_core.hardware.compiling.has_triton", lambda: False)
    plain, compiled = (parser(words).parse_args(words) for words in (line.split(), [*line.split(), "--compile"]))
    assert device_and_dtype(plain)[0] == torch.device("cuda")
    with pytest.raises(InputError, match="--compile on a GPU needs Triton, which is not installed"):
        device_and_dtype(compiled)
