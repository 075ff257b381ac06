"""What a talk's frames depend on, by name: a talk that goes on must have all of it as it was."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import ResumeError
from ..livetalk_core.streaming.avatar import Avatar
from . import host
from .guidance import guided_by
from .handles import fingerprint


def sampled_with(model: Any, avatar: Avatar, stream: StreamConfig, prompts: Mapping[int, Tensor]) -> dict[str, Any]:
    """What the latents of a chunk depend on, beside portrait, speech and seed."""
    settings = {name.replace("_", " "): value for name, value in asdict(stream).items()}
    return {
        "model": host.model_identity(model) + ("" if (guided := guided_by(model)) is None else guided.identity),
        "encoders of the avatar": avatar.encoders,
        "prompt": None if avatar.text is None else fingerprint(avatar.text),
        "later prompts": {str(chunk): fingerprint(text) for chunk, text in prompts.items()},
    } | settings


def check_as_begun(begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ResumeError` where a job goes on with something else than it began with; what neither names is free."""
    now = json.loads(json.dumps(dict(now)))
    changed = [name for name in sorted(set(begun) & set(now)) if begun[name] != now[name]]
    if changed:
        raise ResumeError(
            f"this job was begun with another {', '.join(changed)}; its video would change in the middle: go on with "
            "the same, or turn off 'resume' of LiveTalk Job Start to begin anew"
        )
