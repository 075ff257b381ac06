"""LiveTalk for ComfyUI: one portrait and any speech in, a talking video out."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"
"""Holds the nodes' help pages, `docs/<node_id>.md`; no JavaScript."""

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
