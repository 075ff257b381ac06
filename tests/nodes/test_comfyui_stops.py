"""Cancel, crash and restart in a real ComfyUI: where work stops, what is left, and how it goes on."""

import itertools
import json

import psutil
import pytest

from tests.nodes.comfy_server import FRAMES, ComfyServer
from tests.nodes.test_comfyui_workflows import described
from tests.nodes.workflow import ids_of, load, named, small, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

CHUNKS = 6
POINTS = {
    "loading": ("nodes.loaders:open_checkpoint", 2, None),
    "sampling": ("nodes.host.models:LiveTalkModel._apply_model", 3, 33),
    "decoding": ("streaming.session:Session._match_color", 12, 33),
    "writing": ("media.video:VideoWriter.write", 12, 33),
    "finishing": ("media.video:_copy_packets", 1, FRAMES),
}
"""Where Cancel is pressed: the function, which of its calls, and the frames that the partial video then has."""
MOST_CALLS_AFTER = {"writing": 4}
"""Writing goes on beside the model: groups that wait are written before the model's next step ends."""
MIB = 2**20
RUN = itertools.count()


@pytest.fixture(scope="module")
def server(comfyui, base):
    running = ComfyServer(comfyui, base)
    yield running
    running.close()


def prompt_of(server, name, **settings):
    """An example workflow at its smallest, with other `settings` of the node that names the file."""
    prompt = small(to_prompt(load(named(name)), server.get("object_info")))
    for node in prompt.values():
        if "filename_prefix" in node["inputs"]:
            node["inputs"] |= settings
    return prompt


def press_cancel_at(server, point="", call=0):
    """Arm the Cancel button, or disarm it; gives how often the point of the time before was reached."""
    inputs = {"point": point, "call": call, "again": next(RUN)}
    outcome = server.run({"1": {"class_type": "LiveTalkTestCancelAt", "inputs": inputs}})
    assert outcome.error is None, outcome.error
    return outcome.outputs["1"]["calls"][0]


@pytest.mark.parametrize("where", POINTS)
def test_cancel_stops_there_and_the_next_run_works(server, where):
    point, call, frames = POINTS[where]
    prompt = prompt_of(server, "livetalk_14b_24gb", filename_prefix=f"video/{where}", seed=call, resume=True)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    press_cancel_at(server, point, call)
    outcome = server.run(prompt)
    assert outcome.interrupted, outcome.error
    calls = press_cancel_at(server)
    assert 0 <= calls - call <= MOST_CALLS_AFTER.get(where, 0)
    partial = server.base / "output" / "video" / f"{where}_00001_.partial.mp4"
    if frames is None:
        assert prompt[outcome.begun[-1]]["class_type"] == "LiveTalkLoadModel"
        assert not partial.exists()
    else:
        assert described(partial)[0] == frames
        assert any(str(partial) in text for text in outcome.texts)

    outcome = server.run(prompt)
    assert outcome.error is None, outcome.error
    made = partial.with_name(f"{where}_00001_.mp4")
    assert described(made) == (FRAMES, 25, 64, 6.1)
    assert [file.name for file in made.parent.glob(f"{where}*")] == [made.name]


def test_cancelled_runs_keep_no_memory(server):
    """Resident memory after ten cancelled runs, over that after the third."""
    process, resident = psutil.Process(server.process.pid), []
    for run in range(10):
        prompt = prompt_of(server, "livetalk_quick_start", filename_prefix="video/again", seed=run)
        outcome = server.run(prompt, lambda now: server.interrupt() if now.progress else None)
        assert outcome.interrupted
        resident.append(process.memory_info().rss // MIB)
    assert resident[-1] - resident[2] < 30, resident


def test_cancelled_job_queues_no_more(server):
    prompt = prompt_of(server, "livetalk_job", filename_prefix="video/stopped", resume=True)
    press_cancel_at(server, "media.video:VideoWriter.write", 2)
    outcomes = list(server.follow(prompt))
    assert press_cancel_at(server) == 2
    assert [outcome.interrupted for outcome in outcomes] == [False, True]
    assert not server.get("queue")["queue_pending"]
    partial = server.base / "output" / "video" / "stopped_00001_.partial.mp4"
    assert described(partial)[0] == 33 + 28
    outcomes = list(server.follow(prompt))
    assert not outcomes[-1].error
    assert [outcome.job["chunk"] for outcome in outcomes] == [3, 4, 5, 6]
    assert described(partial.with_name("stopped_00001_.mp4"))[0] == FRAMES


def test_what_was_queued_goes_on_after_a_crash_where_asked_to(comfyui, base):
    """A render and a job behind it; the server is killed in the middle of each, and started again."""
    server = ComfyServer(comfyui, base)
    render = prompt_of(server, "livetalk_quick_start", filename_prefix="video/first", seed=1, resume=True)
    job = prompt_of(server, "livetalk_job", filename_prefix="video/second", resume=True)
    folder = base / "output" / "video"

    queue_and_kill(server, render, job, lambda: chunks_kept(folder / "first_00001_.partial.json"))
    server = ComfyServer(comfyui, base)
    assert server.get("queue") == {"queue_running": [], "queue_pending": []}
    assert not list(folder.glob("second*"))
    begun = []
    first = server.run(render, lambda now: begun.extend(now.progress[:1]))
    assert first.error is None, first.error
    assert 1 < begun[0][1] <= CHUNKS, "chunks that were done are not made again"
    assert described(folder / "first_00001_.mp4") == (FRAMES, 25, 64, 6.1)

    queue_and_kill(server, job, render, lambda: chunks_kept(folder / "second_00001_.partial.json"))
    server = ComfyServer(comfyui, base)
    try:
        outcomes = list(server.follow(job))
        assert not outcomes[-1].error
        assert outcomes[0].job["chunk"] > 1
        assert described(folder / "second_00001_.mp4")[0] == FRAMES
        render[ids_of(render)["LiveTalkRender"]]["inputs"]["resume"] = False
        assert server.run(render).error is None
        assert described(folder / "first_00002_.mp4")[0] == FRAMES, "not asked to go on, it starts a new file"
        assert not list(folder.glob("first*.partial*")) and not list(folder.glob("second*.partial*"))
    finally:
        server.close()


def chunks_kept(description):
    """How many chunks an unfinished video holds; it is described from before the first one on."""
    return json.loads(description.read_text())["next_chunk"] if description.exists() else 0


def queue_and_kill(server, first, second, when):
    """Queue two prompts; kill the server as a crash would, once `when()` says so."""
    for prompt in (first, second):
        assert "prompt_id" in server.post("prompt", {"prompt": prompt})
    try:
        server.wait_for(when)
    finally:
        server.process.kill()
        server.process.wait()
