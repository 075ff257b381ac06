"""A model's folder as published: where each of its parts lies, and what is said where one does not."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from . import kinds
from .header import INDEX_ENDING, conversion, open_checkpoint


class Place(NamedTuple):
    """Where a part of a model lies in its folder: patterns in order of preference, and how to get it."""

    part: str
    patterns: tuple[str, ...]
    remedy: str
    pickles: tuple[str, ...] = ()


TRANSFORMER = Place(
    "video transformer",
    (f"diffusion_pytorch_model*{INDEX_ENDING}", "diffusion_pytorch_model*.safetensors"),
    "download it, or name its file instead of the folder",
)
TEXT_ENCODER = Place(
    "text encoder",
    ("models_t5_*.safetensors", "umt5_xxl_*.safetensors"),
    "convert the published one, or copy ComfyUI's umt5_xxl file here",
    ("models_t5_*.pth",),
)
TOKENIZER = Place(
    "tokenizer", ("google/umt5-xxl/tokenizer.json",), "copy the folder google/umt5-xxl from the published model"
)
IMAGE_ENCODER = Place(
    "vision encoder",
    ("models_clip_*.safetensors", "clip_vision_h*.safetensors"),
    "convert the published one, or copy ComfyUI's clip_vision_h file here",
    ("models_clip_*.pth",),
)
VAE_FILE = Place(
    "VAE",
    ("Wan2.1_VAE*.safetensors", "wan_2.1_vae*.safetensors", "../VAE_Wan/Wan2.1_VAE*.safetensors"),
    "convert the published one, or copy ComfyUI's wan_2.1_vae file here",
    ("Wan2.1_VAE.pth", "../VAE_Wan/Wan2.1_VAE.pth"),
)
LTX_VAE_FILE = Place(
    "LTX VAE",
    (
        "../VAE_LTX/diffusion_pytorch_model*.safetensors",
        "VAE_LTX/diffusion_pytorch_model*.safetensors",
        "ltx_vae*.safetensors",
    ),
    "download FlashHead's folder VAE_LTX, beside the model's",
)
AUDIO_ENCODER = Place(
    "audio encoder",
    ("chinese-wav2vec2-base", "../chinese-wav2vec2-base"),
    "download the folder TencentGameMate/chinese-wav2vec2-base, into the model's folder or beside it",
)
ENGLISH_AUDIO_ENCODER = Place(
    "audio encoder",
    ("wav2vec2-base-960h", "../wav2vec2-base-960h", "../../wav2vec2-base-960h"),
    "download the folder facebook/wav2vec2-base-960h, beside the model's or one above",
)

ENCODERS = (TEXT_ENCODER, TOKENIZER, IMAGE_ENCODER, VAE_FILE, AUDIO_ENCODER)
"""All that lies beside the 14B transformer."""
BESIDE = {
    kinds.FLASHHEAD_PRO: (VAE_FILE, ENGLISH_AUDIO_ENCODER),
    kinds.FLASHHEAD_LITE: (LTX_VAE_FILE, ENGLISH_AUDIO_ENCODER),
}
"""All that lies beside the transformers of other members."""
MEMBER_FOLDERS = ("Model_Pro", "Model_Lite")
"""In FlashHead's folder: a member's transformer each."""


def files_of(path: Path) -> dict[Place, Path]:
    """The parts of a model that lie in its folder, or beside the transformer's file, if that is named."""
    if path.is_file():
        _check_named(path)
        return {TRANSFORMER: path, **find_all(path.parent, places_beside(path))}
    members = [name for name in MEMBER_FOLDERS if (path / name).is_dir()]
    if members:
        raise CheckpointError(f"{path} holds {' and '.join(members)}; needed is one model: name that folder in it")
    return find_all(path, (TRANSFORMER, *places_beside(path)))


def _check_named(path: Path) -> None:
    """Raise `CheckpointError` for a file that is no transformer: what it lacks beside it is then beside the point."""
    kind = kinds.identify(open_checkpoint(path))
    if kind not in (*kinds.TRANSFORMERS, kinds.WAN):
        raise CheckpointError(
            f"{path} is {kind}; needed is a video transformer's file (of shards their index), or its folder: name that"
        )


def places_beside(path: Path) -> tuple[Place, ...]:
    """What lies beside a transformer: of the 14B model, where none is found that says otherwise."""
    try:
        return BESIDE.get(kinds.identify(open_checkpoint(find(path, TRANSFORMER) if path.is_dir() else path)), ENCODERS)
    except CheckpointError:
        return ENCODERS


def find_vae(path: Path) -> Path:
    """The VAE's file of a model's folder, or beside its transformer's file."""
    place = next(place for place in places_beside(path) if place in (VAE_FILE, LTX_VAE_FILE))
    return find(path if path.is_dir() else path.parent, place)


def find_all(folder: Path, places: Sequence[Place]) -> dict[Place, Path]:
    """The files of these parts, their headers looked at; one `CheckpointError` names all that is missing or damaged."""
    files, faults = dict[Place, Path](), []
    for place in places:
        try:
            files[place] = find(folder, place)
            if place is not TOKENIZER:
                open_checkpoint(files[place])
        except CheckpointError as error:
            faults.append(str(error))
    if len(faults) > 1:
        raise CheckpointError("\n".join([f"{folder} lacks {len(faults)} parts of a model:", *faults]))
    if faults:
        raise CheckpointError(faults[0])
    return files


def find(folder: Path, place: Place) -> Path:
    """The file of a part; a `CheckpointError` says what was looked for and how to get it."""
    for pattern in place.patterns:
        if paths := matches(folder, pattern):
            return _single(paths, place)
    pickles = [pickle for pattern in place.pickles for pickle in matches(folder, pattern)]
    remedy = conversion(pickles[0]) if pickles else place.remedy
    raise CheckpointError(f"{folder} holds no {place.part}; looked for {', '.join(place.patterns)}: {remedy}")


def matches(folder: Path, pattern: str) -> list[Path]:
    """Files whose name fits the pattern's last part, in the folder that its first parts lead to, in order."""
    return sorted((folder / pattern).parent.glob(Path(pattern).name))


def _single(paths: list[Path], place: Place) -> Path:
    if place is TRANSFORMER and len(paths) > 1:
        raise CheckpointError(
            f"{paths[0].parent} holds {len(paths)} files of the {place.part} but not one {place.patterns[0]}; "
            "download the index of the shards, or name one merged file"
        )
    return paths[0]
