"""Sidecars of an unfinished render, changed by hand: values of the description, headers and numbers of the tensors."""

import importlib.util
import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from livetalk_core.errors import LiveTalkError
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import ChunkEnd
from tests.fuzz.mutants import header_changed, json_changed

SMALL = Path(__file__).parents[1] / "streaming" / "conftest.py"
NAMES = ("talk.partial.json", "talk.partial.safetensors", "talk.partial.mp4")


def case(seed: int, folder: Path) -> None:
    """A resume with a changed sidecar: refused with the partial untouched, or gone on with."""
    chance = random.Random(seed)
    files = dict(_unfinished())
    change = json_changed if (name := NAMES[chance.random() < 0.3]) == NAMES[0] else header_changed
    files[name] = change(files[name], chance)
    for each, content in files.items():
        (folder / each).write_bytes(content)
    render = replace(_render(), output=folder / "talk.mp4", resume=True)
    try:
        for _ in render.run():
            pass
    except LiveTalkError:
        assert (folder / NAMES[2]).read_bytes()[: len(files[NAMES[2]])] == files[NAMES[2]], "the partial was changed"
        raise
    assert [path.name for path in folder.iterdir()] == ["talk.mp4"]


@lru_cache
def _render() -> Render:
    """Three chunks of small random models."""
    spec = importlib.util.spec_from_file_location("small", SMALL)
    assert spec and spec.loader
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    return Render(
        small.make_session(), Path("talk.mp4"), 3, None, {"portrait": "a", "steps": 4}, means={"devices": "cpu"}
    )


@lru_cache
def _unfinished() -> tuple[tuple[str, bytes], ...]:
    """The files that a render leaves that was stopped after its first chunk."""
    with TemporaryDirectory() as name:
        events = replace(_render(), output=Path(name) / "talk.mp4").run()
        next(event for event in events if isinstance(event, ChunkEnd))
        events.close()
        return tuple((each, (Path(name) / each).read_bytes()) for each in NAMES)


_unfinished()  # before the cases are forked
