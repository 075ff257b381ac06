"""What a real ComfyUI says of the nodes in the example workflows: `python -m tests.browser.capture_object_info`.

Needs COMFYUI_PATH and COMFYUI_PYTHON. Writes `object_info.json`, which the browser tests show to the frontend; a test
compares it with the real server's where there is one.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.graphs import WORKFLOWS
from tests.nodes.comfy_server import ComfyServer, prepare

# The graph that the frontend opens with: without them it would complain.
DEFAULT_GRAPH = {"CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "SaveImage"}
HERE = Path(__file__).resolve().parent
OBJECT_INFO = HERE / "object_info.json"


def needed(object_info: dict[str, Any]) -> dict[str, Any]:
    """The nodes of the pack and of its workflows, without what differs from machine to machine."""
    used = {node.type for make in WORKFLOWS.values() for node in make()} | DEFAULT_GRAPH
    kept = {name: info for name, info in object_info.items() if name in used or name.startswith("LiveTalk")}
    for info in kept.values():
        if "stand_ins" in info["python_module"]:
            info["python_module"] = "comfy_extras.nodes_loop"
    return {name: kept[name] for name in sorted(kept) if not name.startswith("LiveTalkTest")}


def capture() -> dict[str, Any]:
    """Ask a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        prepare(Path(os.environ["COMFYUI_PATH"]), base)
        server = ComfyServer(Path(os.environ["COMFYUI_PATH"]), base)
        try:
            return needed(server.get("object_info"))
        finally:
            server.close()


if __name__ == "__main__":
    OBJECT_INFO.write_text(json.dumps(capture(), indent=1) + "\n", encoding="utf-8")
