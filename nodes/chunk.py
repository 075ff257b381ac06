"""One chunk at a time: sample, then decode, with any nodes between and after."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.config import StreamConfig, TransformerConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.shapes import VideoShape
from ..livetalk_core.streaming.plan import ChunkPlan
from ..livetalk_core.streaming.session import Frames, Session
from ..livetalk_core.streaming.state import StreamState
from . import fleet, host
from .given import checked
from .guidance import stream_of
from .handles import (
    AvatarSocket,
    ChunkState,
    Correction,
    CorrectionSocket,
    Portrait,
    Prompt,
    PromptsSocket,
    Speech,
    SpeechSocket,
    StateSocket,
    check_fit,
    check_vae,
    prompts_by_chunk,
)
from .pace import unused_line
from .resume import check_as_begun, sampled_with
from .widgets import seed_input, steps_input


class SampleChunk(io.ComfyNode):
    """Noise -> the latent of the next chunk of a stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkSampleChunk",
            display_name="LiveTalk Sample Chunk",
            category="LiveTalk",
            description="Samples the next chunk of a talking video (33 frames, of which 5 repeat the chunk before; 9 "
            "with FlashHead Lite). Decode it with LiveTalk Decode Chunk.",
            search_aliases=["talking avatar", "lip sync", "chunk loop"],
            inputs=[
                io.Model.Input("model", tooltip="A LiveTalk model, with any LoRAs."),
                AvatarSocket.Input("avatar", tooltip="Who speaks, from LiveTalk Avatar."),
                SpeechSocket.Input("speech", tooltip="What is said, from LiveTalk Encode Speech."),
                StateSocket.Input(
                    "state",
                    optional=True,
                    tooltip="From the Decode Chunk of the chunk before. Leave it empty for the first chunk.",
                ),
                CorrectionSocket.Input(
                    "correction",
                    optional=True,
                    tooltip="What keeps the talk from drifting, from LiveTalk Correction; the same for all chunks. "
                    "Decode Chunk then uses it too.",
                ),
                PromptsSocket.Input(
                    "prompts", optional=True, tooltip="Prompts for later parts of the talk, from LiveTalk Prompt."
                ),
                seed_input(),
                steps_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The chunk's latent: 9 latent frames in Wan 2.1's format; with FlashHead Lite 5 in LTX's.",
                ),
                StateSocket.Output(display_name="state", tooltip="For LiveTalk Decode Chunk."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        avatar: Portrait,
        speech: Speech,
        seed: int,
        steps: int,
        state: ChunkState | None = None,
        correction: Correction | None = None,
        prompts: tuple[Prompt, ...] = (),
    ) -> io.NodeOutput:
        """The latent of the chunk that follows `state`, and the state to decode it with."""
        config = host.require_livetalk(model)
        check_fit(config, avatar, speech, prompts)
        speech, stream = speech.for_model(config), stream_of(model, avatar, correction, steps)
        plan = speech.plan(stream)
        if state is not None:
            check_continues(state, config, avatar, speech, plan)
        made, later = avatar.avatar(config, stream), prompts_by_chunk(prompts, plan)
        made_with = sampled_with(model, made, stream, later)
        if state is not None and state.begun_with:  # a job, which keeps its seed whatever the widget has become
            check_as_begun(state.begun_with, made_with)
            seed = state.state.seed
        if unused := host.unused_changes(model):
            host.say(unused_line(unused).strip())
        progress = host.Progress(stream.steps, made, config.geometry)
        engine = fleet.engine_for(model, stream, on_estimate=progress.on_estimate)
        session = Session(engine, made, speech.features(plan, made), plan, stream, later, on_step=progress.on_step)
        before = session.start(seed) if state is None else replace(state.state, seed=seed)
        samples = host.raw_latent(session.sample(before).cpu()[None], config.geometry)
        after = ChunkState(avatar, speech, plan, stream, before, sampled=True, config=config, made_with=made_with)
        return io.NodeOutput({"samples": samples}, after)


def check_continues(
    state: ChunkState, config: TransformerConfig, avatar: Portrait, speech: Speech, plan: ChunkPlan
) -> None:
    """Raise `InputError` unless a chunk of this model, avatar and speech, by its `plan`, can follow `state`."""
    if state.sampled:
        raise InputError(
            "this state's chunk is not decoded yet; connect the state of LiveTalk Decode Chunk, not of Sample Chunk"
        )
    if state.avatar.fingerprint != avatar.fingerprint:
        raise InputError(
            "this state belongs to another avatar (portrait or size); use one LiveTalk Avatar for all chunks, or "
            "leave state empty to start anew"
        )
    if state.speech.fingerprint != speech.fingerprint:
        raise InputError(
            "this state belongs to another speech or audio mode; use one LiveTalk Encode Speech for all chunks, or "
            "leave state empty to start anew"
        )
    if state.config not in (None, config):
        raise InputError(
            "this state was made with a model of other widths; use one model for all chunks, or leave state empty to "
            "start anew"
        )
    if state.state.next_chunk >= plan.count:
        raise InputError(
            f"the speech ended with the chunk before ({plan.count} in all, {plan.total_frames} frames); remove this "
            "Sample Chunk, or give a longer speech"
        )


class DecodeChunk(io.ComfyNode):
    """Latent -> the frames that the chunk adds to the video, and the state that the next chunk starts from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkDecodeChunk",
            display_name="LiveTalk Decode Chunk",
            category="LiveTalk",
            description="Decodes a sampled chunk to the frames that it adds to the video, their colours matched to "
            "the portrait, and prepares the next chunk. Put upscalers and the like after it.",
            search_aliases=["vae decode", "talking avatar", "chunk loop"],
            inputs=[
                io.Latent.Input("latent", tooltip="From LiveTalk Sample Chunk."),
                io.Vae.Input("vae", tooltip="The VAE that the avatar was made with."),
                StateSocket.Input("state", tooltip="From the LiveTalk Sample Chunk that made the latent."),
                CorrectionSocket.Input(
                    "correction",
                    optional=True,
                    tooltip="Only to set the colours here; what LiveTalk Sample Chunk got holds otherwise.",
                ),
                io.Boolean.Input(
                    "overlap",
                    default=False,
                    advanced=True,
                    tooltip="Put the last frame of the chunk before in front (in the first chunk, its own first "
                    "frame), for frame interpolation: drop one frame after it, and chunks join without a gap.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="frames", tooltip="The new frames, 25 per second; none of the chunk before."
                ),
                StateSocket.Output(display_name="state", tooltip="For the next LiveTalk Sample Chunk."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, latent: dict[str, Any], vae: Any, state: ChunkState, overlap: bool, correction: Correction | None = None
    ) -> io.NodeOutput:
        """The chunk's new frames [n,H,W,3] in 0..1, and the state of the stream after it."""
        if not state.sampled:
            raise InputError("this state's chunk is decoded already; connect the state of LiveTalk Sample Chunk")
        stream = decoding_stream(state, correction)
        assert state.config is not None, "it was sampled"
        check_vae(state.config, vae, "this node's")
        made = state.avatar.avatar(state.config, stream)
        engine = host.HostEngine(vae=vae)
        session = Session(engine, made, state.speech.features(state.plan, made), state.plan, stream)
        images: list[Tensor] = []
        after = collect(session.decode(state.state, chunk_latent(latent, state), lead=int(overlap)), images)
        if overlap and not state.state.next_chunk and not state.plan.live:
            images.insert(0, images[0][:1])
        after = replace(after, motion=after.motion.cpu())
        own = {"vae": host.weights_identity(vae), "color correction": stream.color_correction, "joins": stream.joins}
        made_with = {**state.made_with, **own}
        decoded = replace(state, state=after, sampled=False, made_with=made_with)
        return io.NodeOutput(torch.cat(images), decoded)


def decoding_stream(state: ChunkState, correction: Correction | None) -> StreamConfig:
    """The stream that the chunk was sampled in; of `correction`, where one is given, its colours and how it joins."""
    if correction is None:
        return state.stream
    if correction.retrospection not in (None, state.stream.correction):
        raise InputError(
            f"retrospection {correction.retrospection.strength} here, but not in LiveTalk Sample Chunk, which has to "
            "correct what it starts from: connect LiveTalk Correction there"
        )
    joins = state.stream.joins if correction.joins is None else correction.joins
    return replace(state.stream, color_correction=correction.color, joins=joins)


def chunk_latent(latent: dict[str, Any], state: ChunkState) -> Tensor:
    """The normalised latent [C,F,h,w] in a LATENT; an error unless it is one chunk of this state's size."""
    samples = latent["samples"]
    chunk = state.plan.chunk(state.state.next_chunk)
    geometry = state.stream.geometry
    shape = VideoShape(chunk.frames, *state.avatar.size).latent(geometry)
    needed = (1, geometry.latent_channels, *shape)
    if tuple(samples.shape) != needed:
        raise InputError(
            f"latent of shape {list(samples.shape)}; this state's chunk has {list(needed)}: connect the latent of the "
            "same LiveTalk Sample Chunk, not resized"
        )
    return host.normalised_latent(samples, geometry)[0]


def collect(frames: Generator[Frames, None, StreamState], images: list[Tensor]) -> StreamState:
    """Append each group of frames to `images` as [n,H,W,3] in 0..1 on the CPU; gives the state after the last."""
    while True:
        try:
            group = next(frames).frames
        except StopIteration as end:
            return end.value
        images.append((group.permute(1, 2, 3, 0).cpu() + 1) / 2)
