"""LiveTalk's core: one portrait and any speech in, a talking video out. Imports no ComfyUI."""

__version__ = "0.1.0"
