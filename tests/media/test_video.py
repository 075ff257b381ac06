"""What the writer leaves on disk: whole, playable, in step, and never something half-written."""

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from livetalk_core.errors import InputError, OutputError, ResumeError, TakenError
from livetalk_core.media import video
from livetalk_core.media.audio import open_audio
from livetalk_core.media.place import OutputPlace, partial_path
from livetalk_core.media.video import Checkpoint, VideoWriter, last_frames

CHUNKS = (33, 28, 28, 11)


@pytest.fixture
def write(media):
    """Writes chunks of the given lengths, in two pieces each, and returns their checkpoints."""

    def chunks(writer, lengths=CHUNKS):
        checkpoints = []
        for length in lengths:
            frames = media.pictures(length, first=writer.checkpoint.frames)
            for piece in (frames[:5], frames[5:]):
                writer.write(torch.from_numpy(piece))
            checkpoints.append(writer.end_chunk())
        return checkpoints

    return chunks


def streams(path):
    with av.open(str(path)) as container:
        return {stream.type: stream.duration * stream.time_base for stream in container.streams}


def tags(path):
    with av.open(str(path)) as container:
        return container.metadata


def test_whole_video(tmp_path, media, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4.5, channels=2))
    write(writer)
    assert writer.finish() == tmp_path / "a.mp4"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert writer.close() is None
    found = streams(tmp_path / "a.mp4")
    assert found["video"] == 4 and found["audio"] == 4  # to the sample: the sound is cut to the picture
    frames = media.decode_video(tmp_path / "a.mp4")
    assert len(frames) == 100
    luma = media.pictures(100) @ np.array([0.2126, 0.7152, 0.0722]) * 219 / 255 + 16
    assert np.abs(frames[:, :64] - luma).mean() < 4


def test_times_and_keyframes(tmp_path, media, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4))
    write(writer)
    with av.open(str(writer.finish())) as container:
        frames = [(frame.pts * frame.time_base, frame.key_frame) for frame in container.decode(video=0)]
        container.seek(2_500_000)
        assert next(container.decode(video=0)).pts is not None
    assert [time for time, _ in frames] == [Fraction(index, 25) for index in range(100)]
    assert {index for index, (_, key) in enumerate(frames) if key} >= {0, 33, 61, 89}


def test_index_is_in_front(tmp_path, media, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(1))
    write(writer, [4])
    data = writer.finish().read_bytes()
    assert b"moof" not in data and data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("seconds", [1.0, 9.0])
def test_sound_is_in_step(tmp_path, media, write, rate, seconds):
    """A sound shorter than the picture is padded with silence, a longer one is cut."""
    source = media.tensor_audio(seconds, rate)
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, source)
    write(writer)
    path = writer.finish()
    rate = min(rate, 48_000)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].rate == rate
        assert next(container.decode(audio=0)).pts == 0
    assert streams(path)["audio"] == 4
    sound, wanted = media.decode_sound(path)[:, : 4 * rate], source.read(0, 4 * rate, rate, mono=False)
    assert sound.shape == wanted.shape
    assert np.sqrt(np.mean((sound - wanted) ** 2)) < 0.05 * np.abs(wanted).max()


def test_without_sound(tmp_path, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer)
    assert streams(writer.finish()) == {"video": 4}


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [2, 1]])
def test_shortest_videos(tmp_path, media, write, lengths):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(0.001, 8000))
    write(writer, lengths)
    path = writer.finish()
    assert len(media.decode_video(path)) == sum(lengths)
    assert streams(path) == {"video": Fraction(sum(lengths), 25), "audio": Fraction(sum(lengths), 25)}


def test_every_chunk_is_on_disk_and_plays_at_once(tmp_path, media, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4))
    for count, length in enumerate(CHUNKS, 1):
        (checkpoint,) = write(writer, [length])
        assert checkpoint == writer.checkpoint
        assert (checkpoint.frames, checkpoint.chunks) == (sum(CHUNKS[:count]), count)
        assert checkpoint.bytes == writer.partial.stat().st_size
        assert len(media.decode_video(writer.partial)) == checkpoint.frames
        seconds = media.decode_sound(writer.partial).shape[1] / 44_100
        assert checkpoint.frames / 25 <= seconds < checkpoint.frames / 25 + 1024 / 44_100


def test_other_even_sizes(tmp_path, media):
    writer = VideoWriter.create(tmp_path / "a.mp4", 130, 98)
    writer.write(media.pictures(3, 130, 98))
    assert media.decode_video(writer.finish()).shape == (3, 195, 98)


def test_metadata_of_any_size(tmp_path, media, write):
    nodes = [{"id": n, "title": 'Größe 人像 "x"'} for n in range(30_000)]
    workflow = json.dumps({"nodes": nodes}, ensure_ascii=False)
    metadata = {"prompt": json.dumps({"1": {}}), "workflow": workflow}
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(1), metadata)
    write(writer, [5])
    assert metadata.items() <= tags(writer.partial).items()  # a kill does not lose it
    assert metadata.items() <= tags(writer.finish()).items()


def test_same_input_gives_the_same_file(tmp_path, media, write):
    for name in ("a.mp4", "b.mp4"):
        writer = VideoWriter.create(tmp_path / name, 64, 64, media.tensor_audio(4))
        write(writer)
        writer.finish()
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


# Stopping and going on


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_resumed_file_equals_the_uninterrupted_one(tmp_path, media, write, stop):
    whole = VideoWriter.create(tmp_path / "whole.mp4", 64, 64, media.tensor_audio(4))
    write(whole)
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4))
    checkpoint = write(writer)[stop]
    writer.write(media.pictures(3))
    assert writer.close() == tmp_path / "a.partial.mp4"
    with writer.partial.open("ab") as file:
        file.write(b"\0\0\1\0moof torn")
    resumed = VideoWriter.resume(tmp_path / "a.mp4", Checkpoint(**checkpoint._asdict()), 64, 64, media.tensor_audio(4))
    assert resumed.partial.stat().st_size == checkpoint.bytes
    write(resumed, CHUNKS[stop + 1 :])
    assert resumed.partial.read_bytes() == whole.partial.read_bytes()
    assert resumed.finish().read_bytes() == whole.finish().read_bytes()


def test_close_before_the_first_chunk_leaves_nothing(tmp_path, media):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    writer.write(media.pictures(3))
    assert writer.close() is None and list(tmp_path.iterdir()) == []


def test_resume_of_another_render(tmp_path, media, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4))
    checkpoint = write(writer, [5])[0]
    writer.close()
    before = writer.partial.read_bytes()
    for height, sound in [(80, media.tensor_audio(4)), (64, media.tensor_audio(4, 16_000)), (64, None)]:
        with pytest.raises(ResumeError, match="another size, sound format or encoder version"):
            VideoWriter.resume(tmp_path / "a.mp4", checkpoint, height, 64, sound)
    assert writer.partial.read_bytes() == before


def test_resume_of_nothing_and_of_too_little(tmp_path, write):
    with pytest.raises(ResumeError, match="does not exist"):
        VideoWriter.resume(tmp_path / "a.mp4", Checkpoint(100, 1, 1), 64, 64)
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    checkpoint = write(writer, [5])[0]
    writer.close()
    with pytest.raises(ResumeError, match=f"its checkpoint needs {checkpoint.bytes + 1}"):
        VideoWriter.resume(tmp_path / "a.mp4", checkpoint._replace(bytes=checkpoint.bytes + 1), 64, 64)
    writer.partial.write_bytes(b"\xff" * checkpoint.bytes)
    with pytest.raises(ResumeError, match="another size"):
        VideoWriter.resume(tmp_path / "a.mp4", checkpoint, 64, 64)


@pytest.mark.parametrize("packet", [1, 150])
def test_a_stopped_copy_leaves_the_partial_and_is_made_anew(tmp_path, media, write, packet):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4))
    checkpoint, copied = write(writer)[-1], []

    def stop():
        copied.append(1)
        if len(copied) == packet:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.finish(stop)
    assert len(copied) == packet
    assert writer.close() == tmp_path / "a.partial.mp4"
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]
    assert len(media.decode_video(writer.partial)) == 100
    resumed = VideoWriter.resume(tmp_path / "a.mp4", checkpoint, 64, 64, media.tensor_audio(4))
    assert len(media.decode_video(resumed.finish())) == 100


@pytest.mark.parametrize("lengths", [(33, 28, 28, 11), (33, 1), (3,)])
def test_last_frames_are_the_end_of_the_video(tmp_path, write, lengths):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer, lengths)
    with av.open(str(writer.finish())) as container:
        every = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.array_equal(video.last_frames(writer.path, 5).numpy(), every[-5:])


# What is refused


def test_nothing_is_overwritten_unasked(tmp_path, media, write):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists; it is not overwritten unasked"):
        VideoWriter.create(path, 64, 64)
    assert list(tmp_path.iterdir()) == [path]
    writer = VideoWriter.create(path, 64, 64, overwrite=True)
    write(writer, [3])
    assert len(media.decode_video(writer.finish())) == 3


def test_an_unfinished_render_is_not_overwritten_unasked(tmp_path, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer, [3])
    writer.close()
    writer.place.describe({"inputs": {}, "video": {}, "next_chunk": 1})
    with pytest.raises(TakenError, match="is an unfinished render; --resume goes on with it, --overwrite begins anew"):
        VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    VideoWriter.create(tmp_path / "a.mp4", 64, 64, overwrite=True).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("beside", [None, "", "{}", '{"format": 2}'])
@pytest.mark.parametrize("name", ["a.partial.mp4", "a.partial.safetensors"])
def test_a_file_that_is_not_known_to_be_ours_is_never_touched(tmp_path, name, beside, overwrite):
    (tmp_path / name).write_bytes(b"precious")
    if beside is not None:
        (tmp_path / "a.partial.json").write_text(beside)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TakenError, match="in the way, and nothing beside it tells that it is LiveTalk's"):
        VideoWriter.create(tmp_path / "a.mp4", 64, 64, overwrite=overwrite)
    assert (tmp_path / name).read_bytes() == b"precious" and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["a.finishing.mp4", "a.mp4.tmp", "a.partial.json.tmp", "a.partial.safetensors.tmp"])
def test_files_and_links_of_foreign_names_stay(tmp_path, write, name):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / name).symlink_to("victim")
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer, [3])
    writer.place.describe({"inputs": {}, "video": {}, "next_chunk": 1})
    writer.finish()
    assert (tmp_path / "victim").read_bytes() == (tmp_path / name).read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "a.mp4", "victim"])
    assert not (tmp_path / "a.mp4").is_symlink()


@pytest.mark.parametrize("target", ["a.partial.mp4", "a.partial.lock", "a.mp4"])
def test_no_file_is_written_through_a_link(tmp_path, write, target):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / target).symlink_to("victim")
    with pytest.raises(OutputError):
        VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    assert (tmp_path / "victim").read_bytes() == b"precious" and (tmp_path / target).is_symlink()


@pytest.mark.parametrize("put", [Path.hardlink_to, lambda path, _: path.write_bytes(b"precious")])
def test_a_file_that_is_called_like_the_lock_is_neither_locked_nor_emptied(tmp_path, put):
    (tmp_path / "victim").write_bytes(b"precious")
    put(tmp_path / "a.partial.lock", tmp_path / "victim")
    with pytest.raises(TakenError, match=r"a\.partial\.lock is in the way: it is no empty file"):
        VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    assert (tmp_path / "victim").read_bytes() == (tmp_path / "a.partial.lock").read_bytes() == b"precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have names")
@pytest.mark.parametrize("name", ["a.partial.lock", "a.partial.json", "a.partial.mp4", "a.partial.safetensors"])
def test_a_pipe_that_is_called_like_one_of_ours_stays_and_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for overwrite in (False, True):
        with pytest.raises(TakenError, match="is in the way"):
            OutputPlace(tmp_path / "a.mp4").check(resume=False, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir() if path.is_fifo()] == [name]


def test_a_description_without_end_is_somebody_elses(tmp_path):
    with (tmp_path / "a.partial.json").open("wb") as file:
        file.truncate(2**40)
    place = OutputPlace(tmp_path / "a.mp4")
    assert place.chunks is None and not place.finished
    with pytest.raises(TakenError, match=r"a\.partial\.json is in the way"):
        place.check(resume=True, overwrite=True)


def test_a_name_like_the_address_of_a_server(tmp_path, media, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = VideoWriter.create("a:b.mp4", 64, 64, media.tensor_audio(1))
    writer.write(media.pictures(25))
    writer.end_chunk()
    writer.finish()
    assert last_frames(Path("a:b.mp4"), 3).shape[0] == 3
    Path("a:b.mp4").rename("http:b.mp4")
    assert open_audio("http:b.mp4").seconds > 0.9


def failing(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("call", ["livetalk_core.media.place.sync", "pathlib.Path.unlink"])
def test_nothing_fails_once_the_video_is_in_place(tmp_path, media, write, monkeypatch, caplog, call):
    """A folder that cannot be synced; files that cannot be deleted since another program has them open."""
    monkeypatch.setattr("livetalk_core.files.PAUSES", ())
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer, [3])
    writer.place.describe({"inputs": {}, "video": {}, "next_chunk": 1})
    put = writer.place._put

    def put_and_fail(*arguments):
        put(*arguments)
        monkeypatch.setattr(call, failing)

    monkeypatch.setattr(writer.place, "_put", put_and_fail)
    assert writer.finish() == tmp_path / "a.mp4"
    monkeypatch.undo()
    assert len(media.decode_video(writer.path)) == 3 and writer.place.chunks in (None, 1)
    if "unlink" in call:
        assert "a.partial.mp4 stays (Permission denied); nothing needs it any more" in caplog.text
        assert OutputPlace(writer.path).finished
        with OutputPlace(writer.path).held():
            OutputPlace(writer.path).clear_ours()
    assert list(tmp_path.iterdir()) == [writer.path]


def test_a_short_lock_by_another_program_is_waited_for(tmp_path, write, monkeypatch):
    """As scanners on Windows hold a file that was just written."""
    replace, calls = os.replace, []

    def held_twice(*arguments):
        calls.append(arguments)
        return failing() if len(calls) < 3 else replace(*arguments)

    monkeypatch.setattr(Path, "replace", lambda *arguments: held_twice(*arguments))
    OutputPlace(tmp_path / "a.mp4").describe({"inputs": {}, "video": {}, "next_chunk": 0})
    assert len(calls) == 3 and [path.name for path in tmp_path.iterdir()] == ["a.partial.json"]


def test_where_there_are_no_hard_links_the_video_is_renamed(tmp_path, media, write, monkeypatch):
    monkeypatch.setattr(os, "link", failing)
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer, [3])
    assert len(media.decode_video(writer.finish())) == 3
    assert list(tmp_path.iterdir()) == [writer.path]


def test_a_damaged_partial_is_not_gone_on_with(tmp_path, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    checkpoint = write(writer, [3, 3])[-1]
    writer.close()
    with pytest.raises(ResumeError, match="does not hold 2 whole chunks"):
        VideoWriter.resume(tmp_path / "a.mp4", checkpoint._replace(bytes=checkpoint.bytes - 8), 64, 64)


def test_two_renders_never_write_one_video(tmp_path, media, write):
    first = VideoWriter.create(tmp_path / "a.mp4", 64, 64, overwrite=True)
    checkpoint = write(first, [3])[0]
    refusal = pytest.raises(OutputError, match=r"a\.partial\.mp4 is being written by another render")
    with refusal:
        VideoWriter.create(tmp_path / "a.mp4", 64, 64, overwrite=True)
    with refusal:
        VideoWriter.resume(tmp_path / "a.mp4", checkpoint, 64, 64)

    def during_the_copy():
        with refusal:
            VideoWriter.create(tmp_path / "a.mp4", 64, 64, overwrite=True)

    assert len(media.decode_video(first.finish(during_the_copy))) == 3


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer, [3])
    writer.path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        writer.finish()
    assert writer.path.read_bytes() == b"precious" and writer.close() == writer.partial


@pytest.mark.parametrize("name", ["a.mkv", "a", "a.mp4.avi"])
def test_other_containers(tmp_path, name):
    with pytest.raises(InputError, match=r"a name that ends in \.mp4 is needed"):
        VideoWriter.create(tmp_path / name, 64, 64)


def test_partial_path():
    assert partial_path("out/talk.v2.MP4") == Path("out/talk.v2.partial.mp4")


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 64, 80, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((2, 64, 64, 4), np.uint8),
    ],
)
def test_other_frames(tmp_path, frames):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    with pytest.raises(InputError, match=r"uint8 \[n, 64, 64, 3\] is needed"):
        writer.write(frames)


def test_no_frames(tmp_path):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    with pytest.raises(InputError, match="no frames"):
        writer.finish()


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"No such file or directory.*: create the folder first"):
        VideoWriter.create(tmp_path / "none" / "a.mp4", 64, 64)


class FullDisk:
    """A file that takes `room` more bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if not self._room:
            raise OSError(28, "No space left on device")
        written = self._file.write(data[: self._room])
        self._room -= written
        return written


def test_full_disk_keeps_the_whole_chunks(tmp_path, media, write):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(4))
    checkpoint = write(writer, [28])[0]
    writer._file = FullDisk(writer._file, 1000)
    writer.write(media.pictures(28, first=28))
    with pytest.raises(OutputError, match=r"a\.partial\.mp4 \(No space left on device\): free some space"):
        writer.end_chunk()
    assert writer.close() == writer.partial and writer.partial.stat().st_size == checkpoint.bytes
    assert len(media.decode_video(writer.partial)) == 28


def test_full_disk_at_the_end_keeps_the_partial(tmp_path, media, write, monkeypatch):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    write(writer)

    def full(source, target, frames, on_packet):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video, "_copy_packets", full)
    with pytest.raises(
        OutputError, match=r"free some space or choose another folder; the video so far is .*a\.partial\.mp4"
    ):
        writer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.partial.lock", "a.partial.mp4"]
    monkeypatch.undo()
    assert len(media.decode_video(writer.finish())) == 100


@pytest.mark.parametrize("rate", [50, 75])
def test_another_frame_rate_keeps_sound_and_picture_in_step(tmp_path, media, rate):
    """Twice or three times the frames (interpolated), chunk by chunk through a resume: the same seconds."""
    sound, path = media.tensor_audio(2), tmp_path / "fast.mp4"
    chunk = np.zeros((rate, 32, 32, 3), np.uint8)
    writer = VideoWriter.create(path, 32, 32, sound, rate=rate)
    writer.write(chunk)
    checkpoint = writer.end_chunk()
    writer.close()
    writer = VideoWriter.resume(path, checkpoint, 32, 32, sound, rate=rate)
    writer.write(chunk)
    writer.finish()
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == rate
        assert sum(1 for _ in container.decode(video=0)) == 2 * rate
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert abs(float(stream.duration * stream.time_base) - 2) < 0.05
