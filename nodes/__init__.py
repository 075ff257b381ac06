"""The nodes: thin; each validates, calls the core and wraps what it gives."""

from comfy_api.latest import ComfyExtension, io

from . import host
from .chunk import DecodeChunk, SampleChunk
from .fleet import Devices
from .guidance import SetGuidance
from .inputs import EncodeSpeech, MakeAvatar
from .job import JobEnd, JobStart
from .live import Live
from .loaders import EmbeddedModel, LoadAudioEncoder, LoadModel, LoadVAE
from .render import Render
from .settings import LaterPrompt, SetCorrection


class LiveTalkExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def on_load(self) -> None:
        """Put the example's files where its workflow looks for them."""
        host.place_examples()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of a graph."""
        return [
            EmbeddedModel, LoadModel, SetGuidance, LoadVAE, LoadAudioEncoder, Devices,
            EncodeSpeech, MakeAvatar, LaterPrompt, SetCorrection,
            Render, Live,
            SampleChunk, DecodeChunk, JobStart, JobEnd,
        ]  # fmt: skip


async def comfy_entrypoint() -> LiveTalkExtension:
    """ComfyUI's way into the pack."""
    return LiveTalkExtension()
