"""What a filename prefix may hold beside its text: the time, and other nodes' widgets.

The frontend fills these in for core's save nodes alone; here they are filled in when the node runs, in the same way.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

PLACEHOLDER = re.compile(r"%([^%]+)%")
DATE_PARTS = re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
NOT_IN_A_NAME = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
"""What ComfyUI's frontend replaces in a value, since some system does not allow it in a file's name."""


def filled_in(prefix: str, prompt: Mapping[str, Any] | None, now: datetime) -> str:
    """`video/%date:yyyy-MM-dd%/%LiveTalkAvatar.width%` -> `video/2026-11-30/448`; a date's slashes make folders.

    A node is named by its title or its class; what names none, and the placeholders of ComfyUI's server (%year% ...),
    stay as they are.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("date:"):
            folders = formatted(now, name.removeprefix("date:")).split("/")
            return "/".join(NOT_IN_A_NAME.sub("_", folder) for folder in folders)
        text = _widget(prompt or {}, *name.rpartition(".")[::2])
        return match[0] if text is None else NOT_IN_A_NAME.sub("_", text)

    return PLACEHOLDER.sub(value, prefix)


def formatted(time: datetime, pattern: str) -> str:
    """A time in the frontend's patterns: yyyy yy, MM M, dd d, hh h (of 24), mm m, ss s."""
    values = {"y": time.year, "M": time.month, "d": time.day, "h": time.hour, "m": time.minute, "s": time.second}

    def part(match: re.Match[str]) -> str:
        number, width = values[match[0][0]], len(match[0])
        return str(number)[-width:] if match[0][0] == "y" else str(number).zfill(width)

    return DATE_PARTS.sub(part, pattern)


def _widget(prompt: Mapping[str, Any], node: str, widget: str) -> str | None:
    """The widget's value on the first node of that title or class; None where there is none, or a link."""
    for described in prompt.values():
        if node in (described.get("_meta", {}).get("title"), described.get("class_type")):
            value = described.get("inputs", {}).get(widget)
            return None if value is None or isinstance(value, list) else str(value)
    return None
