"""Damaged pictures, checkpoints and what lies beside them: whole files with some bytes or numbers changed."""

import contextlib
import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, features
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers

from livetalk_core.checkpoints import load, nano
from livetalk_core.checkpoints.convert import convert
from livetalk_core.errors import LiveTalkError
from livetalk_core.media.image import load_image
from livetalk_core.models.text_encoder import FileTokenizer

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**64,
    1e308,
    True,
    None,
    "",
    "x",
    [],
    {},
)
"""What takes the place of a value in JSON."""
PARTS = ("transformer", "vae", "audio_encoder", "image_encoder", "text_encoder")

Mutate = Callable[[bytes, random.Random], bytes]


def pictures() -> dict[str, bytes]:
    """A small picture in every format and kind."""
    across = np.linspace(0, 255, 80).astype(np.uint8)
    rgb = Image.fromarray(np.stack([*np.meshgrid(across, across[:66]), np.full((66, 80), 99, np.uint8)], -1))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    many = {"save_all": True, "append_images": [rgb]}
    kinds = {
        "rgb.png": (rgb, {"exif": exif, "icc_profile": profile}), "alpha.png": (rgb.convert("RGBA"), {}),
        "palette.png": (rgb.convert("P"), {"transparency": 3}), "16.png": (rgb.convert("I;16"), {}),
        "a.jpg": (rgb, {"exif": exif, "icc_profile": profile}), "progressive.jpg": (rgb, {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}), "a.mpo": (rgb, many), "a.webp": (rgb, {"icc_profile": profile}),
        "lossless.webp": (rgb.convert("RGBA"), {"lossless": True}), "a.tiff": (rgb, {"icc_profile": profile}),
        "lzw.tiff": (rgb, {"compression": "tiff_lzw"}), "jpeg.tiff": (rgb, {"compression": "jpeg"}),
        "pages.tiff": (rgb, many), "float.tiff": (rgb.convert("F"), {}), "32.tiff": (rgb.convert("I"), {}),
        "a.gif": (rgb, {}), "a.bmp": (rgb, {}), "a.ppm": (rgb, {}), "a.tga": (rgb, {}), "a.jp2": (rgb, {}),
    }  # fmt: skip
    if features.check("avif"):
        kinds["a.avif"] = (rgb, {})
    return {name: _saved(image, name, options) for name, (image, options) in kinds.items()}


def _saved(image: Image.Image, name: str, options: dict) -> bytes:
    file = io.BytesIO()
    formats = {"jpg": "JPEG", "tiff": "TIFF", "jp2": "JPEG2000"}
    ending = name.partition(".")[2]
    image.save(file, formats.get(ending, ending.upper()), **options)
    return file.getvalue()


def weights() -> dict[str, bytes]:
    """The embedded model's parts, under their own names."""
    return {part: save(getattr(nano, part)("cpu", torch.float32).state_dict()) for part in PARTS}


def pickles() -> dict[str, bytes]:
    """State dicts in both formats of PyTorch."""
    state = {"w": torch.randn(3, 4), "b": torch.zeros(3).bfloat16(), "n": torch.tensor(5), "t": torch.randn(4, 4).T}
    files = {}
    for name, content in {"plain": state, "inner": {"model": state, "step": 3}}.items():
        for archive in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=archive)
            files[f"{name} {archive}"] = file.getvalue()
    return files


def tokenizers() -> dict[str, bytes]:
    """A tokenizer of a few words."""
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "a": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return {"words": tokenizer.to_str().encode()}


def bytes_changed(content: bytes, chance: random.Random) -> bytes:
    """Some bytes overwritten, taken out, doubled, or the end cut off; most of them near the beginning."""
    result = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        reach = chance.choice((64, 512, len(result)))
        place = chance.randrange(max(1, min(reach, len(result))))
        kind, length = chance.randrange(5), chance.choice((1, 1, 2, 4, 16))
        if kind == 0:
            result[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            result[place : place + length] = bytes([chance.choice((0, 1, 127, 128, 255))]) * length
        elif kind == 2:
            del result[place : place + length]
        elif kind == 3:
            result[place:place] = result[place : place + length]
        elif chance.random() < 0.3:
            del result[place:]
    return bytes(result)


def json_changed(content: bytes, chance: random.Random) -> bytes:
    """A value of a JSON text replaced, taken out or given another name; sometimes bytes of it."""
    if chance.random() < 0.2:
        return bytes_changed(content, chance)
    tree = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 3))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(node[key], (dict, list)) and node[key] and chance.random() < 0.8:
                node = node[key]
                continue
            _change(node, key, chance)
            break
    return json.dumps(tree).encode()


def _change(node: "dict | list", key: "str | int", chance: random.Random) -> None:
    kind = chance.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[str(key) + chance.choice(("", ".weight", "0", "." * 300))] = node.pop(key)
    else:
        node[key] = chance.choice(NUMBERS)


def header_changed(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with another header."""
    if chance.random() < 0.2:
        return bytes_changed(content, chance)
    length = int.from_bytes(content[:8], "little")
    header = json_changed(content[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def read_picture(path: Path) -> None:
    """As `generate` does."""
    load_image(path)


def read_weights(path: Path) -> None:
    """As every model's part, whatever the file is; what is accepted is loaded and converted."""
    for part in PARTS:
        with contextlib.suppress(LiveTalkError):
            getattr(load, f"{part}_part")(path).load("cpu", torch.float32)
    read_pickle(path)


def read_pickle(path: Path) -> None:
    """As `convert` does."""
    output = path.with_name("out.safetensors")
    try:
        convert(path, output)
    finally:
        output.unlink(missing_ok=True)


def read_config(path: Path) -> None:
    """A `config.json` beside a transformer and an audio encoder."""
    for part in ("transformer", "audio_encoder"):
        file = path.with_name(f"{part}.safetensors")
        if not file.exists():
            file.write_bytes(save(getattr(nano, part)("cpu", torch.float32).state_dict()))
        with contextlib.suppress(LiveTalkError):
            getattr(load, f"{part}_part")(file)


def read_tokenizer(path: Path) -> None:
    """As a model's folder does."""
    FileTokenizer(path)("a person talks", 5)


def configs() -> dict[str, bytes]:
    """What lies beside the published models."""
    transformer = {"dim": 192, "num_heads": 6, "num_layers": 6, "text_len": 32, "eps": 1e-6, "audio_channels": 64}
    audio = {"num_attention_heads": 4, "do_stable_layer_norm": False, "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    return {"both": json.dumps(transformer | audio | {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}).encode()}


TARGETS: dict[str, tuple[Callable[[], dict[str, bytes]], Mutate, str, Callable[[Path], None]]] = {
    "pictures": (pictures, bytes_changed, "picture", read_picture),
    "weights": (weights, header_changed, "m.safetensors", read_weights),
    "configs": (configs, json_changed, "config.json", read_config),
    "pickles": (pickles, bytes_changed, "m.pth", read_pickle),
    "tokenizers": (tokenizers, json_changed, "tokenizer.json", read_tokenizer),
}
"""Whole files, how they are damaged, what they are called, and what reads them."""


@cache
def _undamaged(target: str) -> tuple[bytes, ...]:
    return tuple(TARGETS[target][0]().values())


def case_of(target: str) -> Callable[[int, Path], None]:
    """What makes a damaged file of a target from a seed, and has it read."""
    files, (_, mutate, name, read) = _undamaged(target), TARGETS[target]  # made before the cases are forked

    def case(seed: int, folder: Path) -> None:
        chance = random.Random(f"{target} {seed}")
        (folder / name).write_bytes(mutate(chance.choice(files), chance))
        read(folder / name)

    return case
