"""A writer is killed (SIGKILL) in the middle of a chunk; what is on disk plays, and goes on as if nothing happened."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from livetalk_core.media.video import Checkpoint, VideoWriter

ROOT = Path(__file__).resolve().parents[2]
CHUNK, TOTAL, RATE = 28, 140, 44_100

# Imports the same helpers as this process, writes frame by frame, and says what it did on its standard output.
WRITER = """
import importlib.util, json, sys
from livetalk_core.media.video import VideoWriter
spec = importlib.util.spec_from_file_location("helpers", sys.argv[2])
media = importlib.util.module_from_spec(spec)
spec.loader.exec_module(media)
writer = VideoWriter.create(sys.argv[1], 64, 64, media.Helpers.tensor_audio(6))
for frame in range(10**9):
    writer.write(media.pictures(1, first=frame))
    print(json.dumps({"frame": frame + 1}), flush=True)
    if frame % 28 == 27:
        print(json.dumps(writer.end_chunk()._asdict()), flush=True)
"""


def killed_at(path, frame: int) -> Checkpoint | None:
    """Run a writer in a process of its own, kill it once it has taken `frame` frames; its last checkpoint."""
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).with_name("conftest.py"))]
    checkpoint = None
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            report = json.loads(line)
            checkpoint = Checkpoint(**report) if "bytes" in report else checkpoint
            if report.get("frame") == frame:
                process.kill()
                break
    assert process.returncode == -9
    return checkpoint


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, media):
    """The video as a writer makes it that nobody kills."""
    writer = VideoWriter.create(tmp_path_factory.mktemp("whole") / "a.mp4", 64, 64, media.tensor_audio(6))
    for first in range(0, TOTAL, CHUNK):
        writer.write(media.pictures(CHUNK, first=first))
        writer.end_chunk()
    return writer.finish()


@pytest.mark.parametrize("frame", [29, 83, 100])
def test_killed_and_resumed(tmp_path, media, uninterrupted, frame):
    path = tmp_path / "a.mp4"
    checkpoint = killed_at(path, frame)
    partial = tmp_path / "a.partial.mp4"

    # The process may have gone on for a chunk before the signal reached it.
    playable = len(media.decode_video(partial))
    assert playable >= checkpoint.frames == frame // CHUNK * CHUNK and playable % CHUNK == 0
    assert playable > frame - 2 * CHUNK
    sound, expected = media.decode_sound(partial)[:, : playable * RATE // 25], media.decode_sound(uninterrupted)
    assert sound.shape[1] == playable * RATE // 25
    # The sound's last frame waits for the next packet to be complete.
    np.testing.assert_array_equal(sound[:, :-1024], expected[:, : sound.shape[1] - 1024])

    writer = VideoWriter.resume(path, checkpoint, 64, 64, media.tensor_audio(6))
    for first in range(checkpoint.frames, TOTAL, CHUNK):
        writer.write(media.pictures(CHUNK, first=first))
        writer.end_chunk()
    writer.finish()
    np.testing.assert_array_equal(media.decode_video(path), media.decode_video(uninterrupted))
    np.testing.assert_array_equal(media.decode_sound(path), expected)
    assert path.read_bytes() == uninterrupted.read_bytes()
