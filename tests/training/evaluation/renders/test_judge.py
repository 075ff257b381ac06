"""Videos by any tool: the order of their scores, the lag found, what makes one unusable."""

import json
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from livetalk_core.commands.main import main
from livetalk_core.errors import InputError
from livetalk_core.training.detection import Face, find_faces
from livetalk_core.training.evaluation.renders.judge import Judges, judge
from livetalk_core.training.evaluation.renders.render import Render
from livetalk_core.training.evaluation.renders.report import rows_of
from tests.training.evaluation.renders.conftest import FRAMES, SHIFT, write_video

pytest.importorskip("skimage")
NO_JUDGES = Judges()


@pytest.fixture(scope="module")
def verdicts(folder):
    return {name: judge(folder / f"{name}.mp4", None, NO_JUDGES) for name in ("own", "late_sound", "still")}


def test_lips_in_step_score_and_the_lag_is_that_of_the_sound(verdicts):
    own, moved, still = (verdicts[name].scores.sync for name in ("own", "late_sound", "still"))
    assert own.score > 0.8 and own.lag == 0
    assert moved.lag == -SHIFT, "the mouth is early where the sound is late"
    assert moved.score == pytest.approx(own.score, abs=0.1)
    assert moved.unshifted < own.score - 0.3
    assert abs(still.score) < 0.05 and still.confidence < 0.05
    assert own.silent_motion is not None and own.silent_motion < 0.5
    assert still.silent_motion is None


def test_a_still_picture_is_wholly_the_portrait_and_does_not_move(verdicts):
    own, still = verdicts["own"].scores, verdicts["still"].scores
    assert still.likeness > own.likeness and still.likeness > 0.98
    assert still.head_motion < 0.2 < own.head_motion
    assert still.flicker < own.flicker and still.mouth_flicker < own.mouth_flicker
    assert own.lost == still.lost == 0


def test_what_is_damaged_shows_where_it_is(spoken, tmp_path, verdicts):
    """Eyes blurred away in the second half: likeness and detail of the eyes fall, those of the mouth do not."""
    frames = spoken[0].clone()
    face = verdicts["own"].face
    rows = slice(int(face.top + 0.2 * face.height), int(face.top + 0.55 * face.height))
    half = frames[:, FRAMES // 2 :, rows]
    frames[:, FRAMES // 2 :, rows] = half.mean((2, 3), keepdim=True)
    path = write_video(tmp_path / "eyeless.mp4", frames, spoken[1])
    own, eyeless = verdicts["own"].scores, judge(path, None, Judges(face=face)).scores
    assert eyeless.eyes < own.eyes - 0.15
    assert eyeless.eye_detail < 0.75 * own.eye_detail
    assert eyeless.since_first_second.likeness > own.since_first_second.likeness + 0.1
    assert eyeless.since_first_window.likeness > 0.1


def test_the_face_is_where_the_drawn_one_is(speaker, verdicts):
    eyes = speaker.places[:2]
    face = verdicts["own"].face
    for place, (x, y) in zip(eyes, (face.at(0.31, 0.4), face.at(0.69, 0.4)), strict=True):
        assert (place - torch.tensor([x, y])).abs().max() < 0.15 * face.width


def test_seconds_frame_rates_and_other_sounds_do_not_matter(spoken, folder, tmp_path, verdicts):
    frames, sound = spoken
    doubled = write_video(tmp_path / "fast.mp4", frames.repeat_interleave(2, dim=1), sound, fps=50)
    assert Render.open(doubled).frames == pytest.approx(FRAMES, abs=1)
    assert judge(doubled, None, NO_JUDGES).scores.sync.lag == 0
    silent = write_video(tmp_path / "silent.mp4", frames, None)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((sound.numpy() * 32767).astype("<i2").tobytes())
    apart = judge(silent, tmp_path / "sound.wav", NO_JUDGES).scores.sync
    assert apart.lag == 0 and apart.score == pytest.approx(verdicts["own"].scores.sync.score, abs=0.03)


def test_what_cannot_be_judged_is_named(spoken, tmp_path):
    frames, sound = spoken
    with pytest.raises(InputError, match="no sound; lips are judged against speech"):
        judge(write_video(tmp_path / "a.mp4", frames, None), None, NO_JUDGES)
    with pytest.raises(InputError, match="no picture"):
        judge(write_video(tmp_path / "b.mp4", None, sound), None, NO_JUDGES)
    longer = torch.cat([sound, sound])
    with pytest.raises(InputError, match=r"shows 4\.\d+ s and its sound \(c.mp4\) lasts 8"):
        judge(write_video(tmp_path / "c.mp4", frames, longer), None, NO_JUDGES)
    with pytest.raises(InputError, match="at least 3 s"):
        judge(write_video(tmp_path / "d.mp4", frames[:, :50], sound[: 2 * 16_000]), None, NO_JUDGES)
    noise = torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(0)).expand(-1, FRAMES, -1, -1) * 2 - 1
    with pytest.raises(InputError, match=r"no face is seen in e\.mp4 .* --face LEFT"):
        judge(write_video(tmp_path / "e.mp4", noise, sound), None, NO_JUDGES)
    with pytest.raises(InputError, match="is no face; write LEFT,TOP"):
        Face.parse("10,20,30")
    for text in ("nan,0,64,64", "0,0,inf,inf"):
        with pytest.raises(InputError, match="finite numbers of pixels"):
            Face.parse(text)
    with pytest.raises(InputError, match="lies outside"):
        judge(write_video(tmp_path / "f.mp4", frames, sound), None, Judges(face=Face(500, 500, 60, 60)))


def test_two_faces_are_told(speaker):
    picture = ((speaker.portrait[0, :, 0] + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    two = np.concatenate([picture, picture], axis=1)
    assert len(find_faces([two] * 3, "two")) == 2
    assert len(find_faces([picture] * 3, "one")) == 1


def test_the_command_judges_a_folder_and_leaves_files(folder, spoken, tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("own", "still"):
        (clips / f"{name}.mp4").write_bytes((folder / f"{name}.mp4").read_bytes())
    write_video(clips / "silent.mp4", spoken[0][:, :100], None)
    options = ["--json", tmp_path / "a.json", "--plots", tmp_path / "plots", "--sheet", tmp_path / "sheet.png"]
    assert main(["evaluate", "--clips", str(clips), *map(str, options)]) == 0
    printed = capsys.readouterr().out
    assert "sync score" in printed and "silent.mp4 is left out" in printed
    record = json.loads((tmp_path / "a.json").read_text())
    assert [video["name"] for video in record["videos"]] == ["own.mp4", "still.mp4"]
    assert "no sound" in record["left_out"]["silent.mp4"]
    assert (tmp_path / "plots/over_time.png").exists() and (tmp_path / "plots/lip_sync.png").exists()
    assert Image.open(tmp_path / "sheet.png").size == (8 * 192, 2 * 192)
    assert main(["evaluate", "--video", str(clips / "own.mp4"), "--clips", str(clips)]) == 1
    assert "either --video FILE or --clips FOLDER" in capsys.readouterr().err
    assert main(["evaluate", "--video", str(tmp_path / "none.mp4")]) == 1
    assert "no file at" in capsys.readouterr().err


def test_rows_hold_every_score(verdicts):
    rows = rows_of(verdicts["own"])
    assert {"sync score", "sync lag", "seams period", "since first second likeness", "eyes"} <= set(rows)
    assert rows["similarity"] is None and rows["syncnet"] is None
