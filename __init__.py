"""LiveTalk for ComfyUI: one portrait and any speech in, a talking video out."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"
"""Holds the nodes' help pages, `docs/<node_id>.md`, and the few lines of JavaScript that tidy up behind a preview."""

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
