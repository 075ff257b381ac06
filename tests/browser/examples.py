"""Which examples a newcomer's evening opens (`first_evening`), with which frontend and which kind of nodes."""

from collections.abc import Iterable
from itertools import cycle

from tests.browser.graphs import FILES
from tests.nodes.workflow import load, named

PINNED = "1.49.6"
"""The frontend that ComfyUI 0.33 pins; the newest is the one that is installed."""
FRONTENDS = (PINNED, "newest")
KINDS = ("canvas", "nodes2")
"""How nodes are drawn: on a canvas, or as elements of the page (Nodes 2.0)."""
Place = tuple[str, str]
"""A frontend and a kind of nodes."""
PLACES = tuple((frontend, kind) for kind in KINDS for frontend in FRONTENDS)
RUN_TWICE = (
    "livetalk_quick_start",
    "livetalk_any_length_upscaled",
    "livetalk_two_speakers",
    "livetalk_job",
    "livetalk_14b_24gb",
    "livetalk_14b_several_gpus",
    "livetalk_flashhead_pro",
    "livetalk_flashhead_lite",
    "livetalk_leaptalk",
    "livetalk_infinitetalk",
)
"""The others: `livetalk_live` runs until it is stopped, `livetalk_loop_interpolation` needs a newer ComfyUI."""


def needed(name: str) -> list[str]:
    """The files that an example asks for and ComfyUI does not bring."""
    values = [value for node in load(named(name))["nodes"] for value in node.get("widgets_values") or []]
    return [file for file in FILES if file in values]


def in_turn(names: Iterable[str], places: Iterable[Place] = PLACES) -> list[tuple[Place, str]]:
    """Each example at one of the places, in turn; those of one place one after the other."""
    return sorted(zip(cycle(places), names, strict=False))
