"""ComfyUI's folders: models, numbered output files, what a video remembers of its workflow."""

import copy
import glob
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from comfy.cli_args import args
from PIL import Image

from ...livetalk_core.errors import InputError
from ...livetalk_core.media.coding import SUFFIXES, USUAL_CODING
from ...livetalk_core.media.place import description_path
from ..naming import filled_in

LONGEST_NAME = 200
"""Bytes of a folder or of a prefix; systems allow 255 with the number and the endings that are put to it."""
PICTURE_SIDE = 512
"""Longer side of a picture for the page, in pixels."""


class OutputFile:
    """The next free name in ComfyUI's output folder, numbered after those of the same prefix: `name_00001_.mp4`.

    Or with another `suffix`. The prefix may hold the time and, from `prompt`, widgets of other nodes. With `temporary`,
    in the folder that ComfyUI empties.
    """

    def __init__(
        self,
        prefix: str,
        width: int,
        height: int,
        prompt: Mapping[str, Any] | None,
        temporary: bool = False,
        suffix: str = USUAL_CODING.suffix,
    ) -> None:
        prefix = filled_in(prefix, prompt, datetime.now())
        if not prefix.strip() or Path(prefix).is_absolute() or ".." in Path(prefix).parts:
            raise InputError(
                f"filename prefix {prefix!r} is no name inside ComfyUI's output folder; needs one like video/LiveTalk"
            )
        longest = max(len(os.fsencode(part)) for part in Path(prefix).parts)
        if longest > LONGEST_NAME or "\0" in prefix:
            raise InputError(
                f"filename prefix {prefix[:40]!r} ... has a name of {longest} bytes, or a zero; at most {LONGEST_NAME} "
                "bytes are allowed: give a shorter one"
            )
        output = folder_paths.get_temp_directory() if temporary else folder_paths.get_output_directory()
        folder, name, counter, self.subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
        self.path = Path(folder) / f"{name}_{counter:05}_{suffix}"
        self._numbered = f"{glob.escape(name)}_[0-9][0-9][0-9][0-9][0-9]_"

    def unfinished(self) -> "OutputFile | None":
        """The latest video of this prefix that was begun and is not finished, if there is one, whatever its suffix."""
        begun = []
        for suffix in SUFFIXES:
            ending = description_path(self.path.with_suffix(suffix)).name.removeprefix(self.path.stem)
            paths = self.path.parent.glob(self._numbered + ending)
            begun += [self.path.with_name(path.name.removesuffix(ending) + suffix) for path in paths]
        return self._at(max(begun)) if begun else None

    def named(self, name: str) -> "OutputFile":
        """The file of this folder with another name, without its suffix."""
        if not name.strip() or Path(name).name != name:
            raise InputError(f"{name!r} is no file name; needs one like {self.path.stem}")
        return self._at(self.path.with_name(f"{name}{self.path.suffix}"))

    def _at(self, path: Path) -> "OutputFile":
        other = copy.copy(self)
        other.path = path
        return other


def video_metadata(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """The workflow for a video's metadata, so that a dragged file restores it; empty where the user wants none."""
    if args.disable_metadata:
        return {}
    values = {**(extra or {}), **({} if prompt is None else {"prompt": prompt})}
    return {key: json.dumps(value) for key, value in values.items()}


def temporary_picture(pixels: np.ndarray) -> dict[str, str]:
    """A picture [H,W,3] uint8, made small, in ComfyUI's temporary folder; what the page asks for it by.

    `width` and `height` are those before.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"livetalk_{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}.jpg"
    picture.save(folder / name, quality=85)
    size = {"width": str(pixels.shape[1]), "height": str(pixels.shape[0])}
    return {"filename": name, "subfolder": "", "type": "temp", **size}


def model_files(folder: str) -> list[str]:
    """Names of the safetensors files in one of ComfyUI's model folders."""
    return [name for name in folder_paths.get_filename_list(folder) if name.endswith((".safetensors", ".sft"))]


def model_path(folder: str, name: str) -> Path:
    """Where a file of a model folder lies; an error unless ComfyUI itself lists it."""
    if name not in folder_paths.get_filename_list(folder):
        raise InputError(f"{name!r} is not in ComfyUI's folder {folder!r}; choose a listed file, or press R to refresh")
    return Path(folder_paths.get_full_path_or_raise(folder, name))
