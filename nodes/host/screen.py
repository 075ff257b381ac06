"""What the user sees while a node runs: progress, previews, a line of text; and where Cancel takes effect."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Thread
from typing import Any
from weakref import WeakValueDictionary

import comfy.model_management as memory
import comfy.utils
import latent_preview
from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import ExecutionContext, get_executing_context
from PIL import Image
from protocol import BinaryEventTypes
from server import PromptServer
from torch import Tensor

from ...livetalk_core.shapes import Geometry
from ...livetalk_core.streaming.avatar import Avatar
from ..pictures import latent_to_rgb
from .models import latent_format
from .queue import PROMPT_ID

PREVIEW_SIZE = 512
SHOWN_FRAMES = 2
"""A moving preview shows every second frame."""
SECONDS_PER_SHOWN_FRAME = SHOWN_FRAMES / 25
SECONDS_TO_DROP = 1.0
"""A browser keeps a preview for 0.4 s more, and may be busy; only then can the finished video be shown."""

PATIENT = 5 * SECONDS_TO_DROP
"""For a very busy browser."""

Send = Callable[[Image.Image], None]


class Progress:
    """The node's progress bar, a unit for each denoising step and each chunk shown, and its preview. Cancels.

    The preview is the latent at work until the first finished chunk, where the user has previews of samplers on; from
    then on the newest finished chunk, moving.
    """

    def __init__(self, units: int, avatar: Avatar, geometry: Geometry) -> None:
        self.done, self._bar = 0, comfy.utils.ProgressBar(units)
        self._playback: Playback | None = None
        self._previewer = _previewer(avatar, geometry)
        self._preview: tuple[str, Image.Image, int] | None = None

    def on_estimate(self, latent: Tensor) -> None:
        """Take the middle frame of a latent [C,F,h,w] as the preview of the step at work."""
        if self._previewer and self._playback is None:
            middle = latent[None, :, latent.shape[1] // 2, None]
            self._preview = self._previewer.decode_latent_to_preview_image("JPEG", middle)

    def on_step(self, _: int) -> None:
        """Count a denoising step; raises ComfyUI's interrupt when the user has cancelled."""
        memory.throw_exception_if_processing_interrupted()
        self._count()

    def _count(self) -> None:
        self.done += 1
        self._bar.update_absolute(self.done, preview=self._preview)
        self._preview = None

    def skip_to(self, done: int) -> None:
        """Set the units that are done already."""
        self.done = done

    def show(self, frames: Tensor) -> None:
        """Count a finished chunk, and play its frames, [n,H,W,3] uint8, until the next one."""
        memory.throw_exception_if_processing_interrupted()
        self._count()
        self.close()
        self._playback = _play(frames, forever=True)

    def close(self) -> None:
        """Stop playing."""
        if self._playback is not None:
            self._playback.stop()

    def make_way(self, output: Mapping[str, Any]) -> None:
        """Have the browser drop the preview, for the finished video of the node's `output` to be shown in its place."""
        if self._playback is None:
            return
        self.close()
        make_way(output)

    def leave(self, output: Mapping[str, Any]) -> None:
        """Have the browser show the unfinished video of the node's `output` once the prompt has been stopped.

        ComfyUI's history never hears of it: the file is gone when the video is finished.
        """
        running = get_executing_context()
        self.close()
        if running is not None:
            _show_later(running, output, SECONDS_TO_DROP, PATIENT)


class Playback:
    """Sends pictures at their own pace, once or over and over, from a thread of its own."""

    def __init__(self, images: Sequence[Image.Image], send: Send, forever: bool) -> None:
        self._images, self._send, self._forever, self._stopped = images, send, forever, Event()
        self._thread = Thread(target=self._play, name="LiveTalk preview", daemon=True)
        self._thread.start()

    def _play(self) -> None:
        while True:
            for image in self._images:
                if self._stopped.is_set():
                    return
                self._send(image)
                self._stopped.wait(SECONDS_PER_SHOWN_FRAME)
            if not self._forever:
                return

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()
        self._thread.join()


_PLAYED: WeakValueDictionary[str, Playback] = WeakValueDictionary()
"""By node: what plays on beyond its prompt, until it is over."""


def play_once(frames: Tensor) -> None:
    """Play frames, [n,H,W,3] uint8, on the running node, on beyond its end; the last one stays."""
    running = get_executing_context()
    if running is None:
        return
    _stop_playing(running.node_id)
    playback = _play(frames, forever=False)
    if playback is not None:
        _PLAYED[running.node_id] = playback


def _stop_playing(node: str) -> None:
    playback = _PLAYED.pop(node, None)
    if playback is not None:
        playback.stop()


def make_way(output: Mapping[str, Any]) -> None:
    """Have the browser drop the running node's preview, for the finished video of its `output` to be shown instead.

    A busy browser, or one whose page is hidden, may still show the video too early, and fail: it is told once more
    after the prompt, unless another one waits, which shows its own.
    """
    running, client = get_executing_context(), PromptServer.instance.client_id
    if running is None or client is None:
        return
    _stop_playing(running.node_id)
    _drop_preview(running.node_id, client)
    _show_later(running, output, PATIENT)
    time.sleep(SECONDS_TO_DROP)


def _play(frames: Tensor, forever: bool) -> Playback | None:
    """The playback; None where nobody looks."""
    send = _sender()
    return send and Playback([_small(frame) for frame in frames[::SHOWN_FRAMES]], send, forever)


def _previewer(avatar: Avatar, geometry: Geometry) -> Any:
    """What makes a picture of a latent: the user's choice; for the plain one, factors fitted to this avatar.

    Fitted, because each VAE's latents have their own: those of Wan 2.1 show the embedded model's as noise.
    """
    previewer = latent_preview.get_previewer(memory.get_torch_device(), latent_format(geometry)())
    if not isinstance(previewer, latent_preview.Latent2RGBPreviewer):
        return previewer
    factors = latent_to_rgb(avatar, geometry)
    return latent_preview.Latent2RGBPreviewer(factors[:-1].tolist(), factors[-1].tolist())


def _small(frame: Tensor) -> Image.Image:
    image = Image.fromarray(frame.numpy())
    image.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
    return image


def _sender() -> Send | None:
    """Shows pictures on the running node, in the way that the user's browser understands; None where nobody looks."""
    running, server = get_executing_context(), PromptServer.instance
    if running is None or server.client_id is None:
        return None
    client = server.client_id
    if not feature_flags.supports_feature(server.sockets_metadata, client, "supports_preview_metadata"):
        kind = BinaryEventTypes.UNENCODED_PREVIEW_IMAGE
        return lambda image: server.send_sync(kind, ("JPEG", image, PREVIEW_SIZE), client)
    place = _place(running)
    kind = BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA
    return lambda image: server.send_sync(kind, (("JPEG", image, PREVIEW_SIZE), place), client)


def _place(running: ExecutionContext) -> dict[str, str | None]:
    """Where in the graph, subgraphs included, the running node's preview belongs."""
    graph, node = get_progress_state().dynprompt, running.node_id
    return {
        "node_id": node,
        "prompt_id": running.prompt_id,
        "display_node_id": graph.get_display_node_id(node),
        "parent_node_id": graph.get_parent_node_id(node),
        "real_node_id": graph.get_real_node_id(node),
    }


def _drop_preview(node: str, client: str | None) -> None:
    """Browsers drop a node's preview when it begins to run: tell one so, of a prompt that does not exist.

    Without `display_node_id` the node does not look as if it ran. The nodes of the subgraphs around it show it, too.
    """
    prompt, parts = str(uuid.uuid4()), node.split(":")
    state = {"value": 1, "max": 1, "state": "running", "prompt_id": prompt, "display_node_id": None}
    nodes = {each: state | {"node_id": each} for each in (":".join(parts[: n + 1]) for n in range(len(parts)))}
    PromptServer.instance.send_sync("progress_state", {"prompt_id": prompt, "nodes": nodes}, client)


def _show_later(running: ExecutionContext, output: Mapping[str, Any], *pauses: float) -> None:
    """Show a node's `output` after its prompt: for each pause, so many seconds after its preview was dropped."""
    executed = {
        "node": running.node_id,
        "display_node": _place(running)["display_node_id"],
        "output": dict(output),
        "prompt_id": running.prompt_id,
    }
    arguments = (executed, PromptServer.instance.client_id, pauses)
    Thread(target=_show_again, args=arguments, name="LiveTalk video", daemon=True).start()


def _show_again(executed: Mapping[str, Any], client: str | None, pauses: Sequence[float]) -> None:
    """Once the prompt has ended: the preview dropped, what its node gave told once more; not once another has begun.

    Told in a message of its own, for `web/livetalk.js` to show it only where the page still has that graph.
    """
    server = PromptServer.instance
    while any(item[PROMPT_ID] == executed["prompt_id"] for item in server.prompt_queue.get_current_queue()[0]):
        time.sleep(SECONDS_TO_DROP)
    time.sleep(SECONDS_TO_DROP)
    for pause in pauses:
        if _another_has_begun(executed["prompt_id"]):
            return
        _drop_preview(executed["node"], client)
        time.sleep(pause)
        if not _another_has_begun(executed["prompt_id"]):
            server.send_sync("livetalk_shown", dict(executed), client)


def _another_has_begun(prompt_id: str) -> bool:
    server = PromptServer.instance
    return server.prompt_queue.get_tasks_remaining() > 0 or server.last_prompt_id != prompt_id


def say(text: str, log: bool = True) -> None:
    """Show a message on the running node, and log it."""
    if log:
        logging.info("LiveTalk: %s", text)
    running = get_executing_context()
    if running is not None:
        PromptServer.instance.send_progress_text(text, running.node_id)
