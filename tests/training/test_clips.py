"""Real clips as takes: sound and picture in step, frames at 25 a second, and what is left out and why."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from livetalk_core.commands.main import main
from livetalk_core.errors import InputError
from livetalk_core.training.clips import ClipSource, read_frames, survey
from livetalk_core.training.data import TAKE_FRAMES
from livetalk_core.training.detection import Face
from livetalk_core.training.evaluation.subjects import Cast
from livetalk_core.training.filters import framed
from livetalk_core.training.speech import SpeechFolder
from tests.training.evaluation.conftest import bursts
from tests.training.evaluation.renders.conftest import late as later
from tests.training.evaluation.renders.conftest import write_video

RATE = 16_000
BUCKETS = ((64, 64), (96, 64))
SMALL = ((32, 32), (48, 32))
CONFIG = """
[data]
clips = "{clips}"
pool = "{output}/pool"
takes = 2
windows = 2
sizes = [[32, 32], [48, 32]]
[task]
clips = 1
[schedule]
steps = 2
workers = 0
log_every = 1
"""


def write_clip(
    path: Path, seconds: float, fps: int = 25, height: int = 64, width: int = 64, sound: bool = True, late: float = 0.0
) -> Path:
    """A video whose brightness steps with time, 8 levels a second, and whose sound begins at 1 s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt, video.options = width, height, "yuv420p", {"crf": "12", "g": "30"}
        audio = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for number in range(round(seconds * fps)):
            image = np.full((height, width, 3), level(number / fps), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(video.encode(None))
        if audio is not None:
            _write_sound(container, audio, seconds, round(late * RATE))
    return path


def _write_sound(container, audio, seconds: float, first: int = 0) -> None:
    time = np.arange(round(seconds * RATE)) / RATE
    wave = (0.5 * np.sin(2 * np.pi * 300 * time) * (time >= 1)).astype(np.float32)
    for start in range(0, len(wave), 1024):
        block = wave[None, start : start + 1024]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, first + start
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def level(second: float) -> int:
    """The brightness at a time."""
    return 20 + int(second * 8 + 1e-6) % 24 * 9


@pytest.fixture(scope="module")
def speaker_clips(tmp_path_factory) -> Path:
    """A drawn person who speaks, and the same spoiled: cut, with the sound moved, without a face, twice."""
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("speakers")
    cast = Cast(SpeechFolder([bursts()]), 125, (96, 96))
    one, other = (cast.subject(index).drawn(torch.arange(125)) for index in (1, 2))
    sound = (cast.subject(1).take.sound * 0.1).clamp(-1, 1)
    write_video(folder / "good.mp4", one, sound)
    (folder / "good.txt").write_text("A drawn person speaks.\n")
    write_video(folder / "shifted.mp4", one, later(sound, 10))
    write_video(folder / "grey.mp4", torch.zeros_like(one), sound)
    write_video(folder / "two.mp4", torch.cat([one, other], dim=3), sound)
    cut = one.clone()
    cut[:, 60:90] = 0.8 * cut[:, 60:90].roll(2, dims=2) - 0.2
    write_video(folder / "cut.mp4", cut, sound)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", 3)
    write_clip(folder / "fast.mp4", 2, fps=50)
    write_clip(folder / "tall.mp4", 3, height=128, width=80)
    write_clip(folder / "silent.mp4", 2, sound=False)
    write_clip(folder / "short.mp4", 0.8)
    write_clip(folder / "tiny.mp4", 2, height=48, width=48)
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture(scope="module")
def source(folder) -> ClipSource:
    return ClipSource.open(folder, BUCKETS)


def test_what_cannot_be_used_is_left_out_with_its_reason(source):
    assert [clip.path.name for clip in source.clips] == ["a.mp4", "fast.mp4", "tall.mp4"]
    reasons = {path.name: reason for path, reason in source.left_out.items()}
    assert set(reasons) == {"silent.mp4", "short.mp4", "tiny.mp4", "broken.mp4"}
    assert "no sound" in reasons["silent.mp4"]
    assert "at least 33" in reasons["short.mp4"]
    assert "48x48" in reasons["tiny.mp4"]
    assert "3 clips" in str(source) and "4 left out" in str(source) and "short.mp4" in str(source)


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
    write_clip(tmp_path / "silent.mp4", 2, sound=False)
    with pytest.raises(InputError, match=r"(?s)no clip in .*silent\.mp4: .*no sound"):
        ClipSource.open(tmp_path, BUCKETS)


def test_frames_are_those_shown_25_times_a_second(folder):
    for name, fps in (("a.mp4", 25), ("fast.mp4", 50)):
        clip = survey(folder / name, BUCKETS)
        places = list(range(3, 45, 4))
        found = [picture.mean() for picture in read_frames(clip, places)]
        wanted = [level(int((place + 0.5) / 25 * fps) / fps) for place in places]
        assert found == pytest.approx(wanted, abs=4), name


def test_sound_and_picture_are_in_step(source):
    take = source.take(0, (64, 64))
    assert take.sound.shape == (TAKE_FRAMES * 640,)
    onset = int((take.sound.abs() > 0.5).nonzero()[0]) / RATE + take.start / 25
    assert onset == pytest.approx(1.0, abs=0.03)
    index = torch.arange(0, take.frames, 5)
    frames = take.video(index)
    assert frames.shape == (3, len(index), 64, 64)
    wanted = [level((take.start + int(place) + 0.5) / 25) / 127.5 - 1 for place in index]
    assert frames.mean((0, 2, 3)).tolist() == pytest.approx(wanted, abs=0.04)


def test_each_clip_has_the_bucket_of_its_aspect(source):
    assert source.sizes == {(64, 64): 2, (96, 64): 1}
    assert sorted(source.turns) == [(64, 64), (64, 64), (96, 64)]
    take = source.take(5, (96, 64))
    assert take.clip.path.name == "tall.mp4"
    assert take.video(torch.arange(2)).shape == (3, 2, 96, 64)
    with pytest.raises(InputError, match="no clip of size"):
        source.take(0, (32, 32))


def test_takes_are_decided_by_seed_and_index(folder):
    one, two = (ClipSource.open(folder, BUCKETS, seed=4, frames=30) for _ in range(2))
    takes = [(one.take(index), two.take(index)) for index in range(6)]
    assert all(a[:3] == b[:3] and torch.equal(a.sound, b.sound) for a, b in takes)
    assert len({a[:2] for a, _ in takes}) > 2


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory) -> Path:
    """A folder with a configuration that names the clips."""
    output = tmp_path_factory.mktemp("prepared")
    (output / "config.toml").write_text(CONFIG.format(clips=folder, output=output))
    return output


def train(prepared: Path, stage: str, *options: str) -> int:
    return main(["train", stage, "--config", str(prepared / "config.toml"), *options])


def test_clips_are_prepared_and_trained_on(prepared, folder, capsys):
    assert train(prepared, "prepare") == 0
    printed = capsys.readouterr().out
    assert "2 clips" in printed and "5 left out" in printed
    assert "fast.mp4: it is 50 frames long at 25 a second; at least 66 are needed" in printed
    source = ClipSource.open(folder, SMALL, seed=1, least=66)
    size = source.turns[0]
    _check_shard(prepared / f"pool/{size[0]}x{size[1]}-clips-00000.safetensors", source, size)
    assert train(prepared, "adapt", "--output", str(prepared / "run")) == 0
    assert len((prepared / "run/record.jsonl").read_text().splitlines()) == 2


def _check_shard(shard: Path, source: ClipSource, size: tuple[int, int]) -> None:
    """Its takes are the source's: the reference frame is as bright as the clip is at that moment."""
    tensors = load_file(shard)
    assert tensors["weights"].eq(1).all()
    assert tensors["sound"].shape[1] == TAKE_FRAMES
    assert tensors["latents"].shape[1:] == (2, 16, 9, size[0] // 8, size[1] // 8)
    for row, reference in enumerate(tensors["reference"].float()):
        frame = source.take(row, size).start + int(tensors["starts"][row, 0])
        assert float(reference.mean()) == pytest.approx(level(frame / 25), abs=4)


def test_a_folder_without_clips_is_refused_before_anything_is_made(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(CONFIG.format(clips=tmp_path, output=tmp_path))
    assert train(tmp_path, "prepare") == 1
    assert "videos with sound are needed" in capsys.readouterr().err
    assert not (tmp_path / "pool").exists()


def test_sound_that_begins_late_is_late_in_the_take(tmp_path):
    """A container whose sound starts after its picture: silence stands before it, on the picture's clock."""
    path = write_clip(tmp_path / "late.mkv", 4, late=0.6)
    clip = survey(path, BUCKETS)
    take = ClipSource([clip], frames=75).take(0)
    start, loud = take.start, take.sound.abs().unfold(0, 640, 640).mean(1) > 0.2
    first = int(loud.nonzero()[0]) + start
    assert first == pytest.approx((1 + 0.6) * 25, abs=1), "the tone begins 1 s after the sound does"
    (picture,) = read_frames(clip, [first])
    assert picture.mean() == pytest.approx(level((first + 0.5) / 25), abs=3)


def test_filters_leave_out_what_they_name_and_frame_the_face(tmp_path, speaker_clips):
    source = ClipSource.open(speaker_clips, ((64, 64),), filters=("face", "cuts", "sync"))
    assert [clip.path.name for clip in source.clips] == ["good.mp4"]
    reasons = {path.name: reason.partition(":")[0] for path, reason in source.left_out.items()}
    assert "--face" not in "".join(source.left_out.values()), "an option of `evaluate --video` alone"
    assert reasons == {"cut.mp4": "cuts", "grey.mp4": "face", "shifted.mp4": "sync", "two.mp4": "face"}
    assert "face: 2, cuts: 1, sync: 1" in str(source) or "cuts: 1, face: 2, sync: 1" in str(source)
    (clip,) = source.clips
    assert clip.caption == "A drawn person speaks." and source.captions == [clip.caption]
    assert clip.face is not None and clip.shown is not None
    film = source.take(0).film(torch.arange(2)[None])
    places = [clip.face.at(*place) for place in ((0.31, 0.4), (0.69, 0.4), (0.5, 0.79))]
    scale = 64 / clip.shown.width
    for x, y in places:
        row, column = int((y - clip.shown.top) * scale), int((x - clip.shown.left) * scale)
        assert float(film.weight[0, 0, 0, row, column]) > 4
    assert float(film.weight[0, 0, 0, 0, 0]) < 1.1
    with pytest.raises(InputError, match="unknown filters beauty; there are face"):
        ClipSource.open(speaker_clips, ((64, 64),), filters=("beauty",))


def test_a_face_at_the_side_is_brought_to_the_middle():
    box = framed(Face(1400, 300, 200, 200), (1080, 1920), (768, 448))
    assert box.width / box.height == pytest.approx(448 / 768, rel=0.01)
    assert box.height >= 768 and box.right <= 1920 and box.bottom <= 1080
    assert box.left + box.width / 2 == pytest.approx(1500, abs=2)
    assert framed(Face(100, 100, 200, 200), (500, 400), (64, 64)).width == 400, "a near face keeps what there is"
