"""Members of the family on the command line: they render the demo, are killed in the middle, go on to the same frames.

Their models are of test size, in the folders and files in which they are published.
"""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from livetalk_core.commands.main import main
from livetalk_core.media.place import partial_path
from livetalk_core.parallel.fleet import Fleet
from tests.checkpoints import flashhead
from tests.checkpoints.conftest import published  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
FRAMES = 153
"""Of the demo's speech."""
KILLED = """
import os, signal, sys
from livetalk_core.commands.main import main
from livetalk_core.media.video import VideoWriter
from livetalk_core.streaming.sidecar import Sidecar

save, write, chunks = Sidecar.save, VideoWriter.write, []

def save_and_count(*given):
    save(*given)
    chunks.append(1)

def write_or_die(*given):
    if len(chunks) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*given)

Sidecar.save, VideoWriter.write = save_and_count, write_or_die
main(sys.argv[1:])
"""
"""The command line, killed when the first frames of the third chunk are written."""


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return flashhead.publish(tmp_path_factory.mktemp("family"))


def generate(family, member, output, *options):
    """The demo by a member."""
    inputs = ["--image", str(DEMO / "portrait.png"), "--audio", str(DEMO / "speech.wav"), "--output", str(output)]
    return ["generate", *inputs, *flashhead.options_of(family, member), *options]


def pictures(path):
    """All frames of a video, [n,H,W,3]."""
    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def sound(path):
    """All samples of a video."""
    with av.open(str(path)) as video:
        return np.concatenate([frame.to_ndarray() for frame in video.decode(audio=0)], axis=1)


def killed_and_resumed(command, output):
    """Render in a process that is killed in the third chunk, then go on here; what the part held before."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *command], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not output.exists()
    part = pictures(partial_path(output))
    assert main([*command, "--resume"]) == 0
    return part


def check_equal(whole, resumed, part):
    """The resumed video is the whole one, picture and sound, and begins with what was there before."""
    expected = pictures(whole)
    assert len(expected) == FRAMES
    assert 0 < len(part) < FRAMES and np.array_equal(part, expected[: len(part)])
    assert np.array_equal(pictures(resumed), expected)
    assert np.array_equal(sound(resumed), sound(whole)) and np.abs(sound(whole)).max() > 0.1
    assert np.abs(np.diff(expected.astype(int), axis=0)).max() > 0, "nothing moves"


@pytest.mark.parametrize("member", flashhead.MEMBERS)
def test_the_demo_is_rendered_killed_and_resumed_to_the_same_frames(family, tmp_path, member):
    whole, resumed = tmp_path / "whole.mp4", tmp_path / "talk.mp4"
    assert main(generate(family, member, whole, "--size", "64x64")) == 0
    part = killed_and_resumed(generate(family, member, resumed, "--size", "64x64"), resumed)
    check_equal(whole, resumed, part)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.mp4", "talk.mp4"}


@pytest.mark.slow
@pytest.mark.parametrize("member", flashhead.MEMBERS)
def test_on_two_workers_the_demo_is_killed_and_resumed_to_the_same_frames(family, tmp_path, member):
    """On grids of odd sides, which no two ranks share evenly.

    That ranks give the numbers of one process is `verify --ranks`. Videos are not compared: where a pixel is rounded
    the other way, H.264 chooses otherwise until the next key frame.
    """
    size = "32x96" if member == "flashhead-lite" else "48x80"
    whole, resumed = tmp_path / "whole.mp4", tmp_path / "talk.mp4"
    workers = ["--size", size, "--devices", "cpu x2"]
    assert main(generate(family, member, whole, *workers)) == 0
    part = killed_and_resumed(generate(family, member, resumed, *workers), resumed)
    check_equal(whole, resumed, part)


@pytest.mark.parametrize(
    ("member", "size", "message"),
    [
        ("flashhead-lite", "560x320", "both sides must be multiples of 32: the nearest is 576x320"),
        ("flashhead-pro", "440x320", "both sides must be multiples of 16: the nearest is 448x320"),
    ],
)
def test_a_size_is_asked_for_by_its_multiples(family, tmp_path, capsys, member, size, message):
    assert main(generate(family, member, tmp_path / "talk.mp4", "--size", size)) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("member", "options", "message"),
    [
        ("flashhead-lite", ["--prompt-at", "1", "A smile."], "reads no prompt; leave further prompts and guidance"),
        ("flashhead-pro", ["--guidance", "5", "1"], "reads no prompt; leave further prompts and guidance"),
    ],
)
def test_what_a_member_does_not_read_is_refused(family, tmp_path, capsys, member, options, message):
    command = generate(family, member, tmp_path / "talk.mp4", "--size", "64x64", *options)
    assert main(command) == 1
    assert message in capsys.readouterr().err


def change(path, edit):
    """Edit the tensors of a file in place."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def wrong_vae(folder):
    shutil.copy(folder / "VAE_Wan" / "Wan2.1_VAE.safetensors", folder / "VAE_LTX/diffusion_pytorch_model.safetensors")


def missing_key(folder):
    path = folder / "Model_Pro" / "diffusion_pytorch_model.safetensors"
    change(path, lambda tensors: tensors.pop("blocks.1.cross_attn.k.weight"))


def other_rank(folder):
    path = folder.parent / "leaptalk" / "lora" / "adapter_model.safetensors"
    save_file(flashhead.adapter_weights(flashhead.PRO, rank=3), path)


def adapter_on_lite(folder):
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        shutil.copy(folder / "Model_Lite" / name, folder / "Model_Pro" / name)


BAD_FILES = {
    "Wan's VAE for Lite": ("flashhead-lite", wrong_vae, r"is a Wan 2\.1 VAE; .* needs an LTX VAE"),
    "a key missing": ("flashhead-pro", missing_key, r"missing: blocks\.1\.cross_attn\.k\.weight"),
    "an adapter of another rank": ("leaptalk", other_rank, "of rank 4, which its config says"),
    "LeapTalk on Lite": ("leaptalk", adapter_on_lite, "is FlashHead Lite's video transformer; the adapter"),
}


@pytest.mark.parametrize("devices", [[], ["--devices", "cpu x2"]], ids=["alone", "workers"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_do_not_belong_together_are_named_at_once(family, tmp_path, capsys, name, devices, monkeypatch):
    """In one line, before a worker is started or anything written."""
    member, spoil, message = BAD_FILES[name]
    monkeypatch.setattr(Fleet, "start", pytest.fail)
    flashhead.options_of(family, "leaptalk")
    folder = shutil.copytree(family.parent, tmp_path / "family") / family.name
    spoil(folder)
    before = set(tmp_path.iterdir())
    assert main(generate(folder, member, tmp_path / "talk.mp4", "--size", "64x64", *devices)) == 1
    error = capsys.readouterr().err.split("\r")[-1]
    assert re.search(message, error) and error.startswith("error: "), error
    assert set(tmp_path.iterdir()) == before


def test_leaptalk_on_the_14b_models_build_is_refused(family, published, tmp_path, capsys):  # noqa: F811
    options = [*flashhead.options_of(family, "leaptalk"), "--model", str(published)]
    inputs = ["--image", str(DEMO / "portrait.png"), "--audio", str(DEMO / "speech.wav")]
    assert main(["generate", *inputs, *options, "--output", str(tmp_path / "talk.mp4")]) == 1
    assert re.search("is a LiveTalk video transformer; the adapter .*leaptalk is for", capsys.readouterr().err)


def test_a_render_is_not_resumed_by_another_member(family, tmp_path, capsys):
    """LeapTalk is Pro's own file with an adapter: another model."""
    output = tmp_path / "talk.mp4"
    command = generate(family, "flashhead-pro", output, "--size", "64x64")
    subprocess.run([sys.executable, "-c", KILLED, *command], cwd=ROOT, capture_output=True, check=False)
    assert partial_path(output).exists()
    for member in ("leaptalk", "flashhead-lite"):
        assert main([*generate(family, member, output, "--size", "64x64"), "--resume"]) == 1
        assert "model" in capsys.readouterr().err.splitlines()[-1]
