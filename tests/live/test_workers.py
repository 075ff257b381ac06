"""A worker that is killed under a live session: it is named, the recording plays, a new session works."""

import threading
import time

import av
import psutil
import pytest
import torch

from livetalk_core.checkpoints.load import open_model
from livetalk_core.config import DEFAULT_PROMPT
from livetalk_core.errors import WorkerError
from livetalk_core.live.performer import Cast
from livetalk_core.live.record import Recorder
from livetalk_core.live.session import LiveSession
from livetalk_core.parallel.fleet import Limits, local_fleet
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.fleet_engine import FleetEngine, engine_setup

SIDE = 64
PATIENT = Limits(start=900, silence=60, patience=900, floor=300)


def cast_of(fleet):
    model = open_model("nano", torch.device("cpu"), torch.float32)
    stream = model.preset.sized((SIDE, SIDE)).stream
    engine = FleetEngine(fleet, stream.shift)
    reference = torch.zeros(1, 3, 1, SIDE, SIDE)
    (text,) = model.encode_texts(DEFAULT_PROMPT)
    avatar = prepare_avatar(reference, model.encode_image(reference), text, engine.encode, stream)
    return Cast(engine, avatar, model.audio_encoder, stream)


def run(cast, path, until):
    """A session recorded to `path`, until `until(session)`; what it raised."""
    session = LiveSession(cast, [Recorder(path, SIDE, SIDE)])
    raised = []

    def perform():
        try:
            session.run()
        except WorkerError as error:
            raised.append((time.monotonic(), error))

    thread = threading.Thread(target=perform)
    thread.start()
    deadline = time.monotonic() + 300
    while not until(session) and thread.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return session, thread, raised


def worker_processes():
    """All that this process has begun; other tests' fleets may still stand."""
    return [process for process in psutil.Process().children(recursive=True) if "worker" in process.cmdline()]


@pytest.mark.slow
def test_a_killed_worker_is_named_and_a_new_session_works(tmp_path):
    setup, others = engine_setup("nano", torch.float32), set(worker_processes())
    with local_fleet(["cpu", "cpu"], "engine", fields=setup, limits=PATIENT) as fleet:
        cast = cast_of(fleet)
        _, thread, raised = run(cast, tmp_path / "first.mp4", lambda session: session.figures["frames"] > 3)
        workers = [process for process in worker_processes() if process not in others]
        killed = time.monotonic()
        workers[-1].kill()
        thread.join(60)
        ((at, error),) = raised
        assert at - killed < 15
        assert "cpu" in str(error)
        session, thread, raised = run(cast, tmp_path / "second.mp4", lambda session: session.figures["frames"] > 3)
        session.stop()
        thread.join(60)
        assert not raised
    for name in ("first", "second"):
        with av.open(str(tmp_path / f"{name}.mp4")) as file:
            assert sum(1 for _ in file.decode(video=0)) > 3
