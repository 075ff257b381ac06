"""How portraits become files."""

import io
from typing import Any

from PIL import Image
from pillow_heif import register_heif_opener

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How a picture must lie in the file for each orientation of EXIF."""
Made = tuple[str, str, bytes, Image.Image | str]
"""Kind, file name, content, and what must come of it: a picture or part of a message."""


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    formats = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "heic": "HEIF"}
    ending = name.rpartition(".")[2]
    if ending == "heic":
        register_heif_opener()
    image.save(file, formats.get(ending, ending.upper()), **options)
    return file.getvalue()
