"""What a node shows of a video that it has written."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..livetalk_core.media.coding import USUAL_CODING, Coding
from . import host


def shown_video(output: host.OutputFile, path: Path, coding: Coding, saved: bool = True) -> dict[str, Any]:
    """A file beside `output`, in ComfyUI's output folder or the temporary one: played on the node.

    One that not every browser plays has its codec with it, for `web/livetalk.js` to offer the file where the page would
    show an error. One that none plays is only named, for API clients under `livetalk_video`.
    """
    file = ui.SavedResult(path.name, output.subfolder, io.FolderType.output if saved else io.FolderType.temp)
    codec = {} if coding.codec == USUAL_CODING.codec else {"livetalk_codec": [coding.codec]}
    if not coding.for_editors:
        return ui.PreviewVideo([file]).as_dict() | codec
    host.say(f"{coding.codec}, which no browser plays: {path}")
    return {"livetalk_video": [file]} | codec
