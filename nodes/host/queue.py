"""ComfyUI's queue: the running prompt queued once more, outputs held back, Cancel."""

import copy
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management as memory
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...livetalk_core.errors import InputError

PROMPT_ID, PROMPT = 1, 2
"""Places in an item of ComfyUI's queue; the rest of it is passed on as it is, whatever its length."""


def queue_again(node_id: str, inputs: Mapping[str, Any]) -> str:
    """Queue the running prompt again with other `inputs` on one node; gives the new prompt's id.

    It keeps its place in line: it comes before all prompts that were queued after the running one.
    """
    item = _running_item()
    assert item is not None, "called while a node runs"
    prompt = copy.deepcopy(item[PROMPT])
    if node_id not in prompt:
        raise InputError(
            "LiveTalk Job Start lies inside a loop or another node's expansion; it must stand in the graph itself: "
            "move it out, or use LiveTalk Sample Chunk in the loop"
        )
    prompt[node_id]["inputs"] |= inputs
    prompt_id = str(uuid.uuid4())
    PromptServer.instance.prompt_queue.put((item[0], prompt_id, prompt, *item[PROMPT + 1 :]))
    return prompt_id


def running_prompt() -> Mapping[str, Any]:
    """The graph that is running, as it was queued: node id -> what it is. Empty where none runs."""
    item = _running_item()
    return {} if item is None else item[PROMPT]


def _running_item() -> Any:
    running = get_executing_context()
    if running is None:
        return None
    queued = PromptServer.instance.prompt_queue.get_current_queue()[0]
    return next((item for item in queued if item[PROMPT_ID] == running.prompt_id), None)


def check_cancelled() -> None:
    """Raise ComfyUI's interrupt when the user has cancelled."""
    memory.throw_exception_if_processing_interrupted()


def run_until_cancelled(call: Callable[[], None]) -> bool:
    """Whether the user has cancelled the call; what comes after it then goes on."""
    try:
        call()
    except memory.InterruptProcessingException:
        return True
    return False


def blocked(message: str | None = None) -> ExecutionBlocker:
    """What an output gives in place of a value that is not there: nodes behind it do not run.

    With a message, a node behind it fails with it.
    """
    return ExecutionBlocker(message)
