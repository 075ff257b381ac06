"""Cancel anywhere in a render or a job: it stops there, lets go of everything, and resume gives the same video."""

import gc
import threading
import weakref

import psutil
import pytest

from tests.nodes import fake_host
from tests.nodes.fake_host import Interrupted
from tests.nodes.test_job import run, start
from tests.nodes.test_stream import frames_of, parts, render  # noqa: F401 - `parts` is a fixture

RENDER_POINTS = {
    "sampling": ("Progress.on_step", 3, 33),
    "decoding": ("Kept.add", 12, 33),
    "encoding the last frames": ("LocalEngine.encode", 2, 33),
    "showing a chunk": ("Progress.show", 2, 61),
    "finishing": ("check_cancelled", 50, 70),
}
"""What is called when Cancel is pressed, for which time, and the frames of the whole chunks by then."""


@pytest.fixture
def press(pack, host, monkeypatch):
    """Makes the n-th call of a function find that Cancel was pressed; gives the calls so far."""
    owners = {
        "Progress": fake_host.Progress,
        "Kept": pack("nodes.render").Kept,
        "LocalEngine": pack("livetalk_core.streaming.engine").LocalEngine,
        "VideoWriter": pack("livetalk_core.media.video").VideoWriter,
        "check_cancelled": host,
    }

    def at(name, call):
        owner, name = owners[name.split(".")[0]], name.split(".")[-1]
        real, calls = getattr(owner, name), []

        def pressed(*args):
            calls.append(1)
            if len(calls) == call:
                raise Interrupted
            return real(*args)

        monkeypatch.setattr(owner, name, pressed)
        return calls

    return at


@pytest.fixture
def latents(pack, monkeypatch):
    """Weak references to every latent that is made."""
    engine, made = pack("livetalk_core.streaming.engine").LocalEngine, []
    denoise = engine.denoise

    def noted(*args):
        latent = denoise(*args)
        made.append(weakref.ref(latent))
        return latent

    monkeypatch.setattr(engine, "denoise", noted)
    return made


def held_open():
    """Unfinished videos that this process has open."""
    return [file.path for file in psutil.Process().open_files() if file.path.endswith(".mp4")]


@pytest.mark.parametrize("point", RENDER_POINTS)
def test_a_render_stops_lets_go_and_goes_on(nodes, parts, host, tmp_path, press, latents, monkeypatch, point):  # noqa: F811
    name, call, frames = RENDER_POINTS[point]
    render(nodes, parts, filename_prefix="video/whole")
    threads = threading.active_count()
    calls = press(name, call)
    with pytest.raises(Interrupted) as held:
        render(nodes, parts)
    assert len(calls) == call, "stopped there, not later"
    assert not held_open() and threading.active_count() == threads, "nothing goes on while the error is shown"
    partial = tmp_path / "video" / "talk_00001_.partial.mp4"
    assert len(frames_of(partial)) == frames
    assert str(partial) in host.said[-1]
    del held
    gc.collect()
    assert latents and not any(latent() is not None for latent in latents)

    monkeypatch.undo()
    _, last, _ = finished = render(nodes, parts, resume=True).args
    assert finished[0].file == str(tmp_path / "video" / "talk_00001_.mp4")
    whole = tmp_path / "video" / "whole_00001_.mp4"
    assert partial.with_name("talk_00001_.mp4").read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in partial.parent.iterdir()) == ["talk_00001_.mp4", whole.name]
    assert last.shape == (5, 64, 64, 3)


@pytest.mark.parametrize(("point", "call", "chunks"), [("VideoWriter.write", 2, 1), ("check_cancelled", 90, 2)])
def test_a_job_stops_and_goes_on(nodes, parts, host, tmp_path, press, monkeypatch, point, call, chunks):  # noqa: F811
    run(nodes, parts, host, filename_prefix="video/whole")
    calls = press(point, call)
    with pytest.raises(Interrupted):
        run(nodes, parts, host)
    assert len(calls) == call and not host.queued and not held_open()
    monkeypatch.undo()
    assert start(nodes, parts, resume=True)[0].state.next_chunk == chunks
    run(nodes, parts, host, resume=True)
    made, whole = (tmp_path / "video" / f"{name}_00001_.mp4" for name in ("job", "whole"))
    assert made.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in made.parent.iterdir()) == [made.name, whole.name]
