"""A live conversation: a page with the face that answers while it is spoken to."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..livetalk_core.config import CorrectionConfig, TransformerConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.live.performer import Cast
from ..livetalk_core.live.reel import Moment
from ..livetalk_core.live.server.access import Access
from ..livetalk_core.live.server.app import LiveServer
from ..livetalk_core.live.server.house import House
from ..livetalk_core.live.server.voice import embedded_voice
from ..livetalk_core.media.coding import USUAL_CODING
from ..livetalk_core.presets import PRESETS
from ..livetalk_core.shapes import FRAMES_PER_SECOND
from . import fleet, host
from .given import checked
from .guidance import stream_of
from .handles import (
    AudioEncoderSocket,
    AvatarSocket,
    Correction,
    CorrectionSocket,
    HostedAudioEncoder,
    Portrait,
    check_avatar,
    check_encoder,
    check_vae,
)
from .inputs import embedded_text, prompt_tokens
from .shown import shown_video
from .widgets import prefix_input, seed_input, steps_input

PORT = 8190
STEADY = Correction(retrospection=CorrectionConfig())
"""Without LiveTalk Correction: a conversation is long, and what follows a cut is to join what was shown."""
NOBODY_CAME = "nobody opened the live page, so there is no recording; queue again and open the page's address"


class Live(io.ComfyNode):
    """Model and avatar -> a page on this machine, and what was said and shown on it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkLive",
            display_name="LiveTalk Live",
            category="LiveTalk",
            description="Serves a page on this machine with the face, which speaks what you type, say or send while "
            "you do. Runs until the page's End button, its closing, or Cancel; then gives the recording.",
            search_aliases=["live avatar", "real time", "realtime", "webrtc", "microphone", "conversation"],
            inputs=[
                io.Model.Input("model", tooltip="A LiveTalk model, with any LoRAs."),
                io.Vae.Input("vae", tooltip="The VAE that the avatar was made with."),
                AvatarSocket.Input("avatar", tooltip="Who speaks, from LiveTalk Avatar."),
                AudioEncoderSocket.Input("audio_encoder", tooltip="What hears the speech, made for this model."),
                io.UpscaleModel.Input(
                    "upscale_model", optional=True, tooltip="Enlarges what is shown; it must be fast enough for it."
                ),
                CorrectionSocket.Input(
                    "correction", optional=True, tooltip="What keeps the face from drifting, from LiveTalk Correction."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="What reads prompts that are changed on the page: Load CLIP of umt5_xxl. Empty: they "
                    "cannot change, but with the embedded model, which has its own.",
                ),
                seed_input(),
                io.Int.Input(
                    "port",
                    default=PORT,
                    min=0,
                    max=65535,
                    tooltip="The page is at http://127.0.0.1: and this number. 0: any that is free.",
                ),
                prefix_input(),
                steps_input(),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The recording; read from disk, not memory.")],
            hidden=[io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Never what it was before: each run is a conversation of its own."""
        return float("nan")

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        vae: Any,
        avatar: Portrait,
        audio_encoder: HostedAudioEncoder,
        seed: int,
        port: int,
        filename_prefix: str,
        steps: int,
        upscale_model: Any = None,
        correction: Correction | None = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Serve until the conversation ends. Cancel ends it too, and what is behind the node goes on."""
        config = host.require_livetalk(model)
        check_encoder(config, audio_encoder)
        check_avatar(config, avatar)
        check_vae(config, vae, "this node's")
        if avatar.masks is not None:
            raise InputError("the avatar has two speaker masks; live there is one voice: leave mask_1 and mask_2 empty")
        stream = stream_of(model, avatar, correction or STEADY, steps, own_chunks=True)
        upscaler = None if upscale_model is None else host.Upscaler(upscale_model, avatar.reference)
        engine = fleet.engine_for(model, stream, vae)
        shown, encoder = avatar.avatar(config, stream), audio_encoder.for_model(config)
        prompts = prompt_encoder(config, clip)
        cast = Cast(engine, shown, encoder, stream, seed, encode_prompt=prompts, encode_between=True, upscaler=upscaler)
        output = host.OutputFile(filename_prefix, stream.width, stream.height, cls.hidden.prompt)
        preview = Preview()
        house = House(cast, embedded_voice(), lambda: [preview], record=output.path, once=True)
        with LiveServer(house, Access(), port=port) as server:
            host.say(f"open {server.url}")
            cancelled = host.run_until_cancelled(lambda: house.perform(lambda: preview.poll(server.url)))
        if not output.path.exists():
            return io.NodeOutput(host.blocked(None if cancelled else NOBODY_CAME))
        host.say(f"the conversation has ended; its recording: {output.path}")
        video = shown_video(output, output.path, USUAL_CODING)
        host.make_way(video)
        return io.NodeOutput(InputImpl.VideoFromFile(str(output.path)), ui=video)


def prompt_encoder(config: TransformerConfig, clip: Any) -> Callable[[str], Tensor] | None:
    """What turns prompts into tokens [L,text_dim], in the node's thread alone; None where they cannot change."""
    if not config.prompted:
        return None
    if clip is None:
        return embedded_text if config.text_dim == PRESETS["nano"].transformer.text_dim else None

    def encode(prompt: str) -> Tensor:
        return prompt_tokens(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)))

    if (width := encode("").shape[-1]) != config.text_dim:
        raise InputError(
            f"clip gives tokens {width} wide; this model needs {config.text_dim}: connect Load CLIP of umt5_xxl, type "
            "wan, or leave clip empty"
        )
    return encode


class Preview:
    """A sink whose newest second of pictures the node shows; and the place where Cancel takes effect."""

    def __init__(self) -> None:
        self._pixels: deque[np.ndarray] = deque(maxlen=FRAMES_PER_SECOND)
        self._shown_at = time.monotonic()

    def __call__(self, moment: Moment) -> None:
        """Take the next moment."""
        self._pixels.append(moment.pixels)

    def close(self) -> None:
        """Nothing more comes."""
        self._pixels.clear()

    def poll(self, url: str) -> None:
        """In the node's thread, several times a second: raises ComfyUI's interrupt, and shows what is new."""
        host.check_cancelled()
        if time.monotonic() - self._shown_at > 1 and len(self._pixels) == FRAMES_PER_SECOND:
            self._shown_at = time.monotonic()
            host.say(f"open {url}", log=False)
            host.play_once(torch.from_numpy(np.stack(tuple(self._pixels))))
