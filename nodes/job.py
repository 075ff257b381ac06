"""Talks of unbounded length through any nodes: one prompt of ComfyUI's queue per chunk.

The job's state lies in files beside its partial video, so memory does not grow, and a job outlives the server.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import AudioSource
from ..livetalk_core.media.coding import USUAL_CODING, Coding
from ..livetalk_core.media.video import Checkpoint, VideoWriter
from ..livetalk_core.shapes import FRAMES_PER_SECOND
from ..livetalk_core.streaming.finite import IMAGES, Watch
from ..livetalk_core.streaming.plan import Chunk
from ..livetalk_core.streaming.sidecar import Sidecar
from . import host
from .given import checked, pictures
from .handles import AvatarSocket, ChunkState, JobSocket, Portrait, Speech, SpeechSocket, StateSocket
from .pace import duration
from .resume import check_as_begun
from .shown import shown_video
from .widgets import coding_inputs, prefix_input, resume_input

CODING = ("codec", "crf")
"""What `Coding.identity` names."""


@dataclass(frozen=True, eq=False)
class Job:
    """A talk that grows by a chunk a prompt: its file, and where it stands.

    `start_node` began this prompt's chunk, at the time `began` of the monotonic clock.
    """

    output: host.OutputFile
    sound: AudioSource
    sidecar: Sidecar
    checkpoint: Checkpoint | None
    start_node: str
    coding: Coding = USUAL_CODING
    began: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """What the job is called: its file's name without the ending."""
        return self.output.path.stem


class JobStart(io.ComfyNode):
    """The next chunk's place in a job: the state to sample from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkJobStart",
            display_name="LiveTalk Job Start",
            category="LiveTalk",
            description="Begins a talk of any length that goes through other nodes chunk by chunk. Each run makes one "
            "chunk; LiveTalk Job End queues the next.",
            search_aliases=["requeue", "batch manager", "unbounded", "long video"],
            inputs=[
                AvatarSocket.Input("avatar", tooltip="Who speaks, from LiveTalk Avatar."),
                SpeechSocket.Input("speech", tooltip="What is said, from LiveTalk Encode Speech."),
                prefix_input(),
                resume_input(
                    "Go on with the newest unfinished job of this filename prefix, if there is one, with its seed; all "
                    "other inputs must be the same. Off: start a new one."
                ),
                io.String.Input(
                    "job",
                    default="",
                    advanced=True,
                    tooltip="Filled in from run to run by LiveTalk Job End: the file that the chunk goes to. Leave it "
                    "empty.",
                ),
                *coding_inputs(),
            ],
            outputs=[
                StateSocket.Output(display_name="state", tooltip="For LiveTalk Sample Chunk; empty at the beginning."),
                JobSocket.Output(display_name="job", tooltip="For LiveTalk Job End."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Never what it was before: each run goes on from the file."""
        return float("nan")

    @classmethod
    @checked
    def execute(
        cls, avatar: Portrait, speech: Speech, filename_prefix: str, resume: bool, job: str, codec: str, crf: int
    ) -> io.NodeOutput:
        """Find the job's file, and the state after its last chunk."""
        (height, width), coding = avatar.size, Coding(codec, crf)
        output = host.OutputFile(filename_prefix, width, height, cls.hidden.prompt, suffix=coding.suffix)
        if job:
            output = output.named(job)
        elif resume:
            output = output.unfinished() or output
        own = {"avatar": avatar.fingerprint, "speech": speech.fingerprint} | coding.identity
        sidecar = Sidecar(output.path, own)
        state, checkpoint = None, None
        if (job or resume) and sidecar.exists:
            begun_with = begun(sidecar)
            sidecar.inputs |= begun_with
            before, checkpoint = sidecar.load()
            # How it is cut into chunks is for LiveTalk Sample Chunk to say, which knows the model.
            usual = StreamConfig()
            plan = speech.plan(usual)
            state = ChunkState(avatar, speech, plan, usual, before, sampled=False, begun_with=begun_with)
        elif job:
            raise InputError(f"there is no unfinished job {job!r}; empty the widget 'job' to start a new one")
        return io.NodeOutput(state, Job(output, speech.source, sidecar, checkpoint, cls.hidden.unique_id, coding))


def begun(sidecar: Sidecar) -> dict[str, Any]:
    """What a job's chunks so far were made with, beside what Job Start knows."""
    inputs = sidecar.place.read_description()["inputs"]
    return {name: value for name, value in inputs.items() if name not in (*sidecar.inputs, *CODING)}


class JobEnd(io.ComfyNode):
    """The chunk's finished frames -> the job's file; then the next chunk is queued, or the video is complete."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkJobEnd",
            display_name="LiveTalk Job End",
            category="LiveTalk",
            description="Adds a chunk's frames to the job's video, with sound, and queues the next chunk. After the "
            "last one it gives the finished video.",
            search_aliases=["requeue", "video combine", "save video", "long video"],
            inputs=[
                JobSocket.Input("job", tooltip="From LiveTalk Job Start."),
                StateSocket.Input("state", tooltip="From LiveTalk Decode Chunk."),
                io.Image.Input(
                    "images",
                    tooltip="The chunk's frames after all other nodes: as many as LiveTalk Decode Chunk gave, or "
                    "twice, three times ... as many (interpolated). Their size may differ.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", tooltip="The finished file. Nodes behind it run once, after the last chunk."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, job: Job, state: ChunkState, images: Tensor) -> io.NodeOutput:
        """Write the chunk; queue the next one, or finish."""
        chunk = finished_chunk(job, state)
        check_as_begun(job.sidecar.inputs, state.made_with)
        job.sidecar.inputs |= state.made_with
        images = pictures("images", images)
        rate = FRAMES_PER_SECOND * times(images, chunk)
        watch = Watch(chunk)
        watch.see(IMAGES, images)
        watch.read()
        writer = open_writer(job, images, rate, host.video_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo))
        try:
            frames = (images.clamp(0, 1) * 255).round().byte()
            writer.write(frames)
            checkpoint = writer.end_chunk()
            complete = state.state.next_chunk == state.plan.count
            if complete:
                writer.finish(host.check_cancelled)
            else:
                job.sidecar.save(replace(state.state, motion=state.state.motion.cpu()), checkpoint)
        finally:
            writer.close()
        host.check_cancelled()
        following = None if complete else host.queue_again(job.start_node, {"job": job.name})
        if following:
            host.play_once(frames)
        return outcome(job, state, following)


def finished_chunk(job: Job, state: ChunkState) -> Chunk:
    """The chunk that leads to `state`; `InputError` unless the job's file waits for it."""
    written = 0 if job.checkpoint is None else job.checkpoint.chunks
    if state.sampled or state.state.next_chunk != written + 1:
        raise InputError(
            f"this state does not follow the job's {written} written chunks; it must come from the LiveTalk Decode "
            "Chunk behind LiveTalk Job Start: connect that one"
        )
    return state.plan.chunk(written)


def times(images: Tensor, chunk: Chunk) -> int:
    """How many images there are for each frame of the chunk, a whole number."""
    if len(images) % chunk.keep or not len(images):
        raise InputError(
            f"{len(images)} images for a chunk of {chunk.keep} frames; as many are needed, or a whole multiple "
            f"({2 * chunk.keep}, {3 * chunk.keep} ...): after frame interpolation drop the first image (see 'overlap' "
            "of LiveTalk Decode Chunk)"
        )
    return len(images) // chunk.keep


def open_writer(job: Job, images: Tensor, rate: int, metadata: dict[str, str]) -> VideoWriter:
    """The job's partial video, new or as it was left."""
    height, width = images.shape[1:3]
    if job.checkpoint is None:
        return VideoWriter.create(job.output.path, height, width, job.sound, metadata, rate=rate, coding=job.coding)
    return VideoWriter.resume(job.output.path, job.checkpoint, height, width, job.sound, rate=rate, coding=job.coding)


def job_line(done: int, count: int, seconds: float) -> str:
    """Where a job stands whose newest chunk took `seconds`: `chunk 3 of 40, 12 s each, 7 min 24 s left`."""
    if done == count:
        return f"chunk {done} of {count}"
    return f"chunk {done} of {count}, {duration(seconds)} each, {duration(seconds * (count - done))} left"


def outcome(job: Job, state: ChunkState, following: str | None) -> io.NodeOutput:
    """What the node gives: for API clients where the job stands; at the end the video, which it also shows.

    An unfinished video is not named: ComfyUI would list it for ever, as a file that is gone when the job ends.
    """
    done, count = state.state.next_chunk, state.plan.count
    host.say(job_line(done, count, time.monotonic() - job.began))
    progress = {"job": job.name, "chunk": done, "chunks": count, "done": following is None, "next_prompt_id": following}
    shown: dict[str, Any] = {"livetalk_job": [progress]}
    if following:
        return io.NodeOutput(host.blocked(), ui=shown)
    path = job.output.path
    video = shown_video(job.output, path, job.coding)
    if not job.coding.for_editors:
        host.make_way(video)
    return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=video | shown)
