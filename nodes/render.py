"""The whole talk in one node, written straight to a file."""

import hashlib
from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..livetalk_core.config import StreamConfig
from ..livetalk_core.media.video import partial_path
from ..livetalk_core.streaming.avatar import Avatar
from ..livetalk_core.streaming.render import Render as CoreRender
from ..livetalk_core.streaming.session import Frames, Session
from ..livetalk_core.streaming.sidecar import Sidecar
from . import fleet, host
from .handles import AvatarSocket, Speech, SpeechSocket, check_fit
from .widgets import color_input, seed_input, steps_input

PARTIAL_SIDECAR = ".partial.json"


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
            "second. Any length; memory use stays the same. Shows every finished chunk.",
            search_aliases=["talking avatar", "talking head", "lip sync", "audio to video", "infinite talk"],
            inputs=[
                io.Model.Input("model", tooltip="A LiveTalk model, with any LoRAs."),
                io.Vae.Input("vae", tooltip="The VAE that the avatar was made with: Wan 2.1's, or the embedded one."),
                AvatarSocket.Input("avatar", tooltip="Who speaks, from LiveTalk Avatar."),
                SpeechSocket.Input("speech", tooltip="What is said, from LiveTalk Encode Speech."),
                seed_input(),
                io.String.Input(
                    "filename_prefix",
                    default="video/LiveTalk",
                    tooltip="Folder and name in ComfyUI's output folder; a number and .mp4 are added. "
                    "%date:yyyy-MM-dd% and the like work.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=False,
                    tooltip="Go on with the newest unfinished render of this filename prefix, if there is one; all "
                    "inputs must be the same. Off: start a new file.",
                ),
                steps_input(),
                color_input(),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The finished file; read from disk, not memory.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        avatar: Avatar,
        speech: Speech,
        seed: int,
        filename_prefix: str,
        resume: bool,
        steps: int,
        color_correction: float,
    ) -> io.NodeOutput:
        """Render to the end; on Cancel or failure the partial file stays and its path is said."""
        check_fit(host.require_livetalk(model), avatar, speech)
        stream = StreamConfig(*avatar.size, steps=steps, color_correction=color_correction)
        plan = speech.plan(stream)
        progress = host.Progress(plan.count * steps)
        engine = fleet.engine_for(model, vae)
        session = Session(engine, avatar, speech.features(plan), plan, stream, on_step=progress.on_step)
        output = host.OutputFile(filename_prefix, stream.width, stream.height)
        path = output.path
        if resume and (unfinished := output.newest(PARTIAL_SIDECAR)):
            path = unfinished.with_name(unfinished.name.removesuffix(PARTIAL_SIDECAR) + ".mp4")
        render = CoreRender(
            session, path, seed, speech.source,
            inputs=identity(model, avatar, speech, stream, seed),
            metadata=host.video_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo),
            resume=resume,
        )  # fmt: skip
        run(render, progress)
        saved = ui.SavedResult(path.name, output.subfolder, io.FolderType.output)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=ui.PreviewVideo([saved]))


def run(render: CoreRender, progress: host.Progress) -> None:
    """Render to the end with previews; where it stops early, say where the playable part is."""
    partial, complete = partial_path(render.output), False
    sidecar, steps = Sidecar(render.output, render.inputs), render.session.stream.steps
    newest: Frames | None = None
    if render.resume and sidecar.exists:
        progress.done = sidecar.load()[0].next_chunk * steps
    try:
        for event in render.run():
            if isinstance(event, Frames):
                newest = event
            elif newest:
                progress.show((event.chunk.index + 1) * steps, newest.pixels[-1])
        complete = True
    finally:
        if not complete and partial.exists():
            host.say(f"stopped; what is done plays: {partial} (turn on 'resume' and queue again to go on)")


def identity(model: Any, avatar: Avatar, speech: Speech, stream: StreamConfig, seed: int) -> dict[str, Any]:
    """Everything that a render's frames depend on; a resume needs all of it unchanged."""
    return {
        "model": host.model_identity(model) + fleet.name(model),
        "avatar": avatar.fingerprint,
        "prompt": hashlib.sha256(avatar.text.float().cpu().numpy().tobytes()).hexdigest(),
        "speech": speech.source.fingerprint,
        "audio mode": speech.mode,
        "size": f"{stream.width}x{stream.height}",
        "steps": stream.steps,
        "color correction": stream.color_correction,
        "seed": seed,
    }
