"""The whole talk in one node, written straight to a file."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor
from torch.nn import functional as F

from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.coding import Coding
from ..livetalk_core.media.place import partial_path
from ..livetalk_core.media.video import last_frames
from ..livetalk_core.streaming.plan import ChunkPlan
from ..livetalk_core.streaming.render import Render as CoreRender
from ..livetalk_core.streaming.session import Frames, Session
from ..livetalk_core.streaming.sidecar import Sidecar
from . import fleet, host
from .given import checked, pictures
from .guidance import stream_of
from .handles import (
    AvatarSocket,
    Correction,
    CorrectionSocket,
    Portrait,
    Prompt,
    PromptsSocket,
    Speech,
    SpeechSocket,
    check_fit,
    fingerprint,
    prompts_by_chunk,
)
from .pace import Pace, unused_line
from .resume import sampled_with
from .shown import shown_video
from .widgets import coding_inputs, prefix_input, resume_input, save_output_input, seed_input, steps_input

IMAGES = 2
"""The output that gives all frames."""
NOT_COLLECTED = "the frames were not kept in memory; turn on 'collect_images', or connect the video instead"


class Render(io.ComfyNode):
    """Avatar and speech -> a video file, chunk by chunk, in memory that does not grow with its length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkRender",
            display_name="LiveTalk Render",
            category="LiveTalk",
            description="Renders the whole speech to a video file in the output folder, with sound, at 25 frames per "
            "second. Any length; memory use stays the same. Plays every finished chunk.",
            search_aliases=["talking avatar", "talking head", "lip sync", "audio to video", "infinite talk"],
            inputs=[
                io.Model.Input("model", tooltip="A LiveTalk model, with any LoRAs."),
                io.Vae.Input("vae", tooltip="The VAE that the avatar was made with."),
                AvatarSocket.Input("avatar", tooltip="Who speaks, from LiveTalk Avatar."),
                SpeechSocket.Input("speech", tooltip="What is said, from LiveTalk Encode Speech."),
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="Enlarges each chunk before it is written (Load Upscale Model, 2x or 4x). The talk itself "
                    "is made at the avatar's size.",
                ),
                PromptsSocket.Input(
                    "prompts", optional=True, tooltip="Prompts for later parts of the talk, from LiveTalk Prompt."
                ),
                CorrectionSocket.Input(
                    "correction", optional=True, tooltip="What keeps the talk from drifting, from LiveTalk Correction."
                ),
                io.Image.Input(
                    "start_images",
                    optional=True,
                    tooltip="Frames to go on from: last_frames of another render, or the end of any clip. They are not "
                    "repeated in the video, so that it can be joined to theirs.",
                ),
                seed_input(),
                prefix_input(),
                resume_input(
                    "Go on with the newest unfinished video of this filename prefix, if there is one, with the seed "
                    "that it began with; all other inputs must be the same. Off: start a new file."
                ),
                steps_input(),
                io.Boolean.Input(
                    "collect_images",
                    default=False,
                    advanced=True,
                    tooltip="Also keep all frames in memory for the output 'images': 12 bytes a pixel, at 448x768 "
                    "4.1 MB a frame and 6.2 GB a minute. On by itself where 'images' is connected. Off: memory does "
                    "not grow.",
                ),
                *coding_inputs(),
                save_output_input(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The finished file; read from disk, not memory."),
                io.Image.Output(
                    display_name="last_frames",
                    tooltip="The last 5 frames (9 with FlashHead Lite or an InfiniteTalk patch), to go on from.",
                ),
                io.Image.Output(display_name="images", tooltip="All frames; where connected, memory grows."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.dynprompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> bool:
        """Renders anew where 'images' has been connected since: what was kept of the render before has none."""
        return connected(host.running_prompt(), cls.hidden.unique_id, IMAGES)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        vae: Any,
        avatar: Portrait,
        speech: Speech,
        seed: int,
        filename_prefix: str,
        resume: bool,
        steps: int,
        collect_images: bool,
        codec: str,
        crf: int,
        save_output: bool,
        upscale_model: Any = None,
        prompts: tuple[Prompt, ...] = (),
        correction: Correction | None = None,
        start_images: Tensor | None = None,
    ) -> io.NodeOutput:
        """Render to the end; on Cancel or failure the partial file stays and its path is said."""
        config = host.require_livetalk(model)
        check_fit(config, avatar, speech, prompts, vae)
        speech, stream = speech.for_model(config), stream_of(model, avatar, correction, steps, own_chunks=True)
        plan = speech.plan(stream, goes_on=start_images is not None)
        upscaler = None if upscale_model is None else host.Upscaler(upscale_model, avatar.reference)
        coding = Coding(codec, crf)
        output = host.OutputFile(
            filename_prefix, stream.width, stream.height, cls.hidden.prompt, not save_output, coding.suffix
        )
        if resume:
            output = output.unfinished() or output
        made = avatar.avatar(config, stream)
        progress = host.Progress(plan.count * (stream.steps + 1), made, config.geometry)
        engine = fleet.engine_for(model, stream, vae, on_estimate=progress.on_estimate)
        session = Session(
            engine, made, speech.features(plan, made), plan, stream,
            prompts=prompts_by_chunk(prompts, plan), on_step=progress.on_step,
            before=None if start_images is None else frames_before_talk(start_images, stream),
        )  # fmt: skip
        render = CoreRender(
            session, output.path, seed, speech.source,
            inputs=identity(model, vae, speech, session, upscaler and upscaler.identity),
            means={"devices": fleet.devices_of(model)},
            metadata=host.video_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo),
            resume=resume,
            upscaler=upscaler,
            on_packet=host.check_cancelled,
            coding=coding,
        )  # fmt: skip
        # Loops and the like put nodes in as they run, which the prompt that was queued does not have.
        graph = {node: cls.hidden.dynprompt.get_node(node) for node in cls.hidden.dynprompt.all_node_ids()}
        kept = Kept(stream.motion_frames, collect_images or connected(graph, cls.hidden.unique_id, IMAGES))
        try:
            run(render, progress, kept, unused_line(host.unused_changes(model)))
        finally:
            if not coding.for_editors and (partial := partial_path(output.path)).exists():
                progress.leave(shown_video(output, partial, coding, save_output))
        shown = shown_video(output, output.path, coding, save_output)
        if not coding.for_editors:
            progress.make_way(shown)
        video = InputImpl.VideoFromFile(str(output.path))
        return io.NodeOutput(video, kept.last_frames(output.path), kept.images, ui=shown)


def frames_before_talk(images: Tensor, stream: StreamConfig) -> Tensor:
    """The last of an IMAGE [n,H,W,C] as frames that a stream goes on from: [3,motion_frames,H,W] in -1..1.

    Scaled to the stream's size; where there are too few, the first one stands still.
    """
    images = pictures("start_images", images)[-stream.motion_frames :]
    if not images.isfinite().all():
        raise InputError("start_images holds values that are no numbers; connect last_frames of a render")
    images = torch.cat([images[:1].expand(stream.motion_frames - len(images), -1, -1, -1), images])
    size = (stream.height, stream.width)
    frames_n3HW = images.movedim(-1, 1)
    if frames_n3HW.shape[-2:] != size:
        frames_n3HW = F.interpolate(frames_n3HW, size=size, mode="bilinear", antialias=True)
    return frames_n3HW.clamp(0, 1).movedim(1, 0) * 2 - 1


class Kept:
    """The frames that stay in memory: the last ones, and all of them where asked for. [n,H,W,3] in 0..1."""

    def __init__(self, last: int, everything: bool) -> None:
        self._last, self._everything, self._frames = last, everything, torch.empty(0)
        self._all: list[Tensor] = []

    def check_start(self, first: int) -> None:
        """Raise `InputError` where frames were asked for that an earlier run made."""
        if self._everything and first:
            raise InputError(
                f"the first {first} frames of this render are in its file alone; 'collect_images' needs them all in "
                "memory: turn it off and connect the video to Get Video Components"
            )

    def add(self, frames: Tensor) -> None:
        """Take the next frames, [3,n,H,W] in -1..1."""
        images = ((frames.permute(1, 2, 3, 0).float().cpu() + 1) / 2).clamp(0, 1)
        self._frames = torch.cat([self._frames, images])[-self._last :] if len(self._frames) else images
        if self._everything:
            self._all.append(images)

    def last_frames(self, video: Path) -> Tensor:
        """The last few frames: from the finished `video` where an earlier run made some of them."""
        if len(self._frames) >= self._last:
            return self._frames[-self._last :]
        return last_frames(video, self._last).float() / 255

    @property
    def images(self) -> Any:
        """All frames, or what holds back the nodes behind an output that was not asked for."""
        return torch.cat(self._all) if self._everything else host.blocked(NOT_COLLECTED)


def connected(graph: Mapping[str, Any], node: str, output: int) -> bool:
    """Whether a node of the graph takes this output of `node`."""
    inputs = (value for described in graph.values() for value in described.get("inputs", {}).values())
    return any(value == [node, output] for value in inputs)


def run(render: CoreRender, progress: host.Progress, kept: Kept, note: str = "") -> None:
    """Render to the end with previews; where it stops early, say where the playable part is.

    `note` stands below each line that the node shows.
    """
    partial, complete = partial_path(render.output), False
    plan = render.session.plan
    begin = first_chunk(render)
    progress.skip_to(begin * (render.session.stream.steps + 1))
    first = frames_before(plan, begin)
    kept.check_start(first)
    pace, chunk = Pace(first, plan.total_frames), []
    try:
        with closing(render.run()) as events:
            for event in events:
                if isinstance(event, Frames):
                    kept.add(event.frames)
                    chunk.append(event.pixels)
                    continue
                progress.show(torch.cat(chunk))
                host.say(pace.line(frames_before(plan, event.state.next_chunk)) + note, log=False)
                chunk.clear()
        complete = True
    finally:
        progress.close()
        if not complete and partial.exists():
            host.say(f"stopped; turn on 'resume' and run again to go on. What is done: {partial}")


def first_chunk(render: CoreRender) -> int:
    """Index of the chunk that a render begins with: above 0 where it goes on with an unfinished one."""
    sidecar = Sidecar(render.output, render.identity)
    return sidecar.load()[0].next_chunk if render.resume and sidecar.exists else 0


def frames_before(plan: ChunkPlan, index: int) -> int:
    """Frames of the video that the chunks before `index` give."""
    if not index:
        return 0
    last = plan.chunk(index - 1)
    return last.start + last.skip + last.keep


def identity(model: Any, vae: Any, speech: Speech, session: Session, upscale_model: str | None) -> dict[str, Any]:
    """Everything but the seed that a render's frames depend on; a resume needs all of it unchanged.

    The seed is not among it: a resumed render goes on with its own, which a KSampler-like widget may have changed.
    """
    avatar = session.avatar
    return sampled_with(model, avatar, session.stream, session.prompts) | {
        "vae": host.weights_identity(vae),
        "avatar": avatar.fingerprint,
        "start images": None if session.before is None else fingerprint(session.before),
        "speech": speech.fingerprint,
        "upscale model": upscale_model,
    }
