"""The command line as its user meets it: results, and one line for each bad input with nothing left behind."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from livetalk_core.checkpoints import nano
from livetalk_core.commands.main import COMMANDS, main, module_of
from livetalk_core.commands.options import ATTENTION, memory
from livetalk_core.commands.prepare import Settings, prepare
from livetalk_core.hardware.kernels import KERNELS, fp8_operations
from livetalk_core.hardware.placement import Placement, residence
from livetalk_core.media.place import OutputPlace, partial_path
from livetalk_core.presets import PRESETS
from livetalk_core.streaming.sidecar import Sidecar

ROOT = Path(__file__).resolve().parents[2]
SIZE = ["--size", "64x64"]


@pytest.fixture
def inputs(tmp_path) -> list[str]:
    """A portrait, and 1.5 s of sound: two chunks."""
    draw_face(tmp_path / "face.png")
    write_wav(tmp_path / "speech.wav", np.sin(np.arange(24_000) * 0.1) * 0.3)
    return generate(tmp_path, "face.png", "speech.wav")


def draw_face(path):
    """Any picture with contrast: a flat one would make all frames flat, by the colour transfer."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 80, 3), np.uint8)).save(path)


def write_wav(path, samples, rate=16_000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


def generate(folder, image, audio) -> list[str]:
    paths = [str(folder / name) for name in (image, audio, "talk.mp4")]
    return ["generate", "--image", paths[0], "--audio", paths[1], "--output", paths[2], *SIZE]


def frames_of(path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def left_in(folder) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_generate_prints_the_path_last(inputs, tmp_path, capsys):
    assert main(inputs) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(tmp_path / "talk.mp4")
    assert "nano, 38 frames (1.52 s)" in captured.err
    assert frames_of(tmp_path / "talk.mp4") == 38
    assert left_in(tmp_path) == {"face.png", "speech.wav", "talk.mp4"}


@pytest.mark.parametrize("mode", ["stream", "whole"])
def test_every_audio_mode_covers_the_speech(inputs, tmp_path, mode):
    assert main([*inputs, "--audio-mode", mode, "--steps", "1"]) == 0
    assert frames_of(tmp_path / "talk.mp4") == 38


@pytest.mark.parametrize("samples", [1, 639, 641])
def test_speech_shorter_than_a_chunk_gives_at_least_a_frame(inputs, tmp_path, samples):
    write_wav(tmp_path / "speech.wav", np.full(samples, 0.1))
    assert main([*inputs, "--steps", "1"]) == 0
    assert frames_of(tmp_path / "talk.mp4") == -(-samples // 640)


def test_prompts_may_change(inputs, tmp_path):
    assert main([*inputs, "--prompt-at", "1.4", "A person smiles."]) == 0
    with av.open(str(tmp_path / "talk.mp4")) as video:
        changed = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    assert main([*inputs, "--overwrite"]) == 0
    with av.open(str(tmp_path / "talk.mp4")) as video:
        plain = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    same = [np.array_equal(a, b) for a, b in zip(changed, plain, strict=True)]
    assert all(same[:33]) and not any(same[33:])


def bad_file(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def bad_image(width, height):
    return lambda folder: Image.new("1", (width, height)).save(folder / "face.png")


def animated(folder):
    frames = [Image.new("RGB", (80, 80), color) for color in ("red", "blue")]
    frames[0].save(folder / "face.png", format="GIF", save_all=True, append_images=frames[1:])


def nan_audio(folder):
    samples = np.zeros((1, 2000), np.float32)
    samples[0, 1000] = np.nan
    with av.open(str(folder / "speech.wav"), "w", format="wav") as out:
        stream = out.add_stream("pcm_f32le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 16_000
        out.mux([*stream.encode(frame), *stream.encode(None)])


def video_without_sound(folder):
    with av.open(str(folder / "speech.wav"), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        out.mux([*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode(None)])


BAD_INPUTS = {
    "no audio stream": (video_without_sound, [], "has no sound"),
    "zero samples": (lambda folder: write_wav(folder / "speech.wav", []), [], "no samples|damaged|cut off"),
    "NaN": (nan_audio, [], "NaN"),
    "a playlist": (bad_file("speech.wav", b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n"), [], "#EXTM3U"),
    "a web page": (bad_file("speech.wav", b"<!DOCTYPE html><html></html>"), [], "DOCTYPE"),
    "an empty sound": (bad_file("speech.wav", b""), [], "is empty"),
    "one pixel": (bad_image(1, 1), [], "1x1 px; at least 64 px"),
    "a line of pixels": (bad_image(20_000, 63), [], "20000x63 px; at least 64 px"),
    "an animation": (animated, [], "2 pictures; a still image"),
    "a text as image": (bad_file("face.png", b"hello"), [], "face.png is a text file"),
    "no such model": (None, ["--model", "nowhere"], "no model at nowhere"),
    "an odd size": (None, ["--size", "100x64"], "multiples of 16: the nearest is 96x64"),
    "a size without end": (None, ["--size", "999936x64"], "999936x64 px; at most 8192 px a side"),
    "a thin picture": (bad_image(30_000, 64), ["--size", "64x8208"], "64x8208 px; at most 8192 px a side"),
    "steps without end": (None, ["--steps", "1000000000"], "1000000000 sampling steps; 1 to 1000"),
    "sound and picture swapped": (lambda folder: write_wav(folder / "face.png", [0.1]), [], "face.png is a sound"),
    "no devices": (None, ["--devices", ""], "devices ''; write auto"),
    "parts of one device": (None, ["--shard-weights"], "--shard-weights is for several devices"),
    "a number of no workers": (None, ["--ranks", "2"], "--ranks is for workers of other hosts"),
    "a name of two lines": (None, ["--image", "a\nb\x1b\u202e.png"], r"image a\\nb\\x1b\\u202e.png does not exist"),
    "no steps": (None, ["--steps", "0"], "0 sampling steps"),
    "no such patch": (None, ["--patch", "nowhere"], "nano takes no patch nowhere"),
    "guidance below zero": (None, ["--guidance", "-1", "2"], "guidance -1.0 by text, 2.0 by audio"),
    "too much color": (None, ["--color-correction", "2"], "needs 0"),
    "no such device": (None, ["--device", "tpu9"], "device 'tpu9' cannot be used"),
    "a device of another PyTorch": (None, ["--device", "hpu"], "device 'hpu' cannot be used"),
    "a device without numbers": (None, ["--device", "meta"], "device 'meta' cannot be used"),
    "not an mp4": (None, ["--output", "talk.avi"], "ends in .mp4"),
    "no such codec": (None, ["--codec", "vp6"], "codec 'vp6'; this PyAV can write h264"),
    "a crf of another codec": (None, ["--crf", "60"], "h264 has 0 .best. to 51"),
    "an editor's codec as mp4": (None, ["--codec", "prores"], "prores needs a name that ends in .mov"),
    "no such folder": (None, ["--output", "/nowhere/talk.mp4"], "is no folder"),
    "a prompt after the end": (None, ["--prompt-at", "9", "x"], "lasts 1.52 s"),
    "a prompt at no time": (None, ["--prompt-at", "nan", "x"], "a prompt at nan s; the speech lasts 1.52 s"),
    "a prompt at the end of time": (None, ["--prompt-at", "inf", "x"], "a prompt at inf s"),
    "too little memory": (None, ["--memory", "1M"], r"--memory 1\.0 MiB .*; nano at 64x64 needs at least \d+\.\d MiB"),
    "compiled and streamed": (None, ["--memory", "1G", "--compile"], "leave one out"),
    "memory for shares": (None, ["--memory", "9G", "--shard-weights", "--devices", "cpu x2"], "streams whole weights"),
    "FP8 in shares": (None, ["--fp8", "--shard-weights", "--devices", "cpu x2"], "--fp8 are for whole weights"),
    "a URL as image": (None, ["--image", "https://127.0.0.1/face.png"], "does not exist"),
    "a URL as sound": (None, ["--audio", "http://127.0.0.1/a.wav"], "does not exist"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gets_one_line_and_leaves_nothing(inputs, tmp_path, capsys, name):
    spoil, options, message = BAD_INPUTS[name]
    if spoil:
        spoil(tmp_path)
    before = left_in(tmp_path)
    assert main([*inputs, *options]) == 1
    error = capsys.readouterr().err.split("\r")[-1]  # what took a while was shown before
    assert re.search(message, error), error
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert left_in(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "not a safetensors file|cut short"),
    ],
)
def test_wrong_checkpoints_are_named(tmp_path, capsys, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert main(["info", str(tmp_path / "model.safetensors")]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_full_disk_keeps_the_partial(inputs, tmp_path, capsys, monkeypatch):
    """The disk fills while the second chunk is written."""
    real, calls = sys.modules["os"].fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    assert main(inputs) == 1
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert "No space left on device" in error and "--resume" in error
    assert frames_of(tmp_path / "talk.partial.mp4") >= 33
    assert main([*inputs, "--resume"]) == 0
    assert frames_of(tmp_path / "talk.mp4") == 38


def start(arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "livetalk_core", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def wait_for(path, process, seconds=120):
    limit = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.02)


@pytest.fixture
def long_inputs(tmp_path):
    """Six seconds of sound."""
    draw_face(tmp_path / "face.png")
    write_wav(tmp_path / "speech.wav", np.sin(np.arange(96_000) * 0.1) * 0.3)
    return generate(tmp_path, "face.png", "speech.wav")


def test_a_film_for_editors_goes_where_nothing_was_said(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = inputs.index("--output")
    assert main([*inputs[:place], *inputs[place + 2 :], "--codec", "prores"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "talk.mov"
    assert frames_of(tmp_path / "talk.mov") == 38


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_stopped_in_the_middle_it_plays_and_resumes_to_the_same_frames(long_inputs, tmp_path, number):
    whole = tmp_path / "whole.mp4"
    assert main([*long_inputs, "--output", str(whole)]) == 0
    process = start(long_inputs)
    partial = partial_path(tmp_path / "talk.mp4")
    wait_for(partial.with_suffix(".safetensors"), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"stopped; what is done plays: {partial}" in error and "--resume" in error
    assert frames_of(partial) >= 33
    assert main([*long_inputs, "--resume"]) == 0
    decoded = []
    for path in (whole, tmp_path / "talk.mp4"):
        with av.open(str(path)) as video:
            decoded.append(np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]))
    assert np.array_equal(*decoded)
    assert left_in(tmp_path) == {"face.png", "speech.wav", "talk.mp4", "whole.mp4"}


def test_resume_with_another_seed_is_refused(inputs, tmp_path, capsys):
    assert main([*inputs, "--prompt-at", "0", "x"]) == 0
    # an unfinished render of the same name
    (tmp_path / "talk.mp4").rename(tmp_path / "talk.partial.mp4")
    said = {"format": 2, "next_chunk": 1, "inputs": {}, "video": {}}
    (tmp_path / "talk.partial.json").write_text(json.dumps(said))
    before = left_in(tmp_path)
    assert main([*inputs, "--seed", "1", "--resume"]) == 1
    error = capsys.readouterr().err
    assert "cannot be read" in error and "what is done plays" not in error
    assert main(inputs) == 1
    assert "unfinished render; --resume goes on with it, --overwrite begins anew" in capsys.readouterr().err
    assert left_in(tmp_path) == before


def test_resume_of_a_finished_video_is_no_error(inputs, tmp_path, capsys):
    assert main(inputs) == 0
    before = (tmp_path / "talk.mp4").read_bytes()
    capsys.readouterr()
    assert main([*inputs, "--resume"]) == 0
    said = capsys.readouterr()
    assert "talk.mp4 is already finished" in said.err and said.out.strip() == str(tmp_path / "talk.mp4")
    assert main(inputs) == 1
    assert "exists; it is not overwritten unasked" in capsys.readouterr().err
    assert (tmp_path / "talk.mp4").read_bytes() == before


def test_a_render_goes_on_with_another_precision(inputs, tmp_path, caplog, monkeypatch):
    begin, stopped = Sidecar.save, []

    def save_once(*arguments):
        begin(*arguments)
        stopped.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sidecar, "save", save_once)
        assert main(inputs) == 130
    assert main([*inputs, "--dtype", "bfloat16", "--resume"]) == 0
    assert "began with precision float32, now bfloat16: it goes on" in caplog.text
    assert frames_of(tmp_path / "talk.mp4") == 38 and stopped == [1]


def test_stopped_when_all_was_done_is_done(inputs, tmp_path, capsys, monkeypatch):
    """Ctrl-C between the last rename and the end."""
    put = OutputPlace._put

    def put_and_stop(*arguments):
        put(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputPlace, "_put", put_and_stop)
    assert main(inputs) == 0
    assert "stopped" not in capsys.readouterr().err
    assert left_in(tmp_path) == {"face.png", "speech.wav", "talk.mp4"}


@pytest.mark.parametrize("spoiled", ["--audio", "--image"])
def test_what_is_read_is_not_written_over(inputs, tmp_path, capsys, spoiled):
    """An input that is called like the output, or like its partial."""
    for name in ("talk.mp4", "talk.partial.mp4"):
        (tmp_path / name).write_bytes(b"precious")
        assert main([*inputs, spoiled, str(tmp_path / name), "--overwrite"]) == 1
        assert "is where the output is written; choose another --output" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("length", [240, 255, 300])
def test_a_name_that_is_too_long_is_found_before_loading(inputs, tmp_path, capsys, length, monkeypatch):
    monkeypatch.setattr("livetalk_core.commands.prepare.open_model", pytest.fail)
    assert main([*inputs, "--output", str(tmp_path / f"{'x' * (length - 4)}.mp4")]) == 1
    assert "File name too long): choose a shorter name" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_before_loading(inputs, capsys, monkeypatch):
    """A folder without permission, a file system that is read only."""
    opened = os.open

    def refuse(path, flags, *rest, **names):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *rest, **names)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("livetalk_core.commands.prepare.open_model", pytest.fail)
    assert main(inputs) == 1
    assert "(Read-only file system): choose a folder that you may write to" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_narrow_output_shows_any_name(inputs, tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    (tmp_path / "\u8bdd").mkdir()
    words = [*inputs, "--output", str(tmp_path / "\u8bdd" / "talk.mp4"), "--steps", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "livetalk_core", *words], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert rb"\u8bdd" in ended.stdout and b"Traceback" not in ended.stderr
    assert (tmp_path / "\u8bdd" / "talk.mp4").is_file()


def test_other_weights_under_the_same_name_are_another_input(inputs, tmp_path, monkeypatch):
    """So that no resume goes on with them."""
    settings = Settings(tmp_path / "face.png", tmp_path / "speech.wav", Path(inputs[6]), size=(64, 64))
    monkeypatch.setattr(nano, "ASSETS", Path(shutil.copytree(nano.ASSETS, tmp_path / "assets")))
    before = prepare(settings)[0].inputs
    assert prepare(settings)[0].inputs == before
    weights = load_file(nano.asset("transformer"))
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, nano.asset("transformer"))
    after = prepare(settings)[0].inputs
    assert [name for name in before if before[name] != after[name]] == ["model"]


def test_bench_keeps_a_record(tmp_path, capsys, caplog):
    record = tmp_path / "bench.json"
    assert main(["bench", *SIZE, "--repeats", "1", "--json", str(record), "--attention", "sage"]) == 0
    kept = json.loads(record.read_text())
    assert {"audio, 8 s", "transformer step", "VAE decode", "VAE encode"} <= set(kept["seconds"])
    assert kept["peak_bytes"] > 0 and kept["machine"]["torch"] and kept["machine"]["commit"]
    assert "frames/s" in capsys.readouterr().out
    assert kept["attention"] == "sdpa", "the kernel that ran"
    assert "'sage' cannot be used here" in caplog.text


@pytest.mark.parametrize("option", ["--json", "--document"])
def test_bench_names_a_place_that_cannot_be_written_before_it_measures(tmp_path, capsys, option):
    assert main(["bench", "--preset", "14b", "--device", "tpu9", option, str(tmp_path / "none/a.json")]) == 1
    assert "none is no folder; a.json is written there" in capsys.readouterr().err


def too_little(fp8=False):
    """A bit less than the embedded model takes at the size of these tests: at least one block is streamed."""
    preset = PRESETS["nano"].sized((64, 64))
    return f"{residence(preset, torch.float32, Placement(fp8)).total // 2**20}M"


def test_streamed_blocks_give_the_same_video(inputs, tmp_path):
    assert main(inputs) == 0
    whole = (tmp_path / "talk.mp4").read_bytes()
    assert main([*inputs, "--memory", too_little(), "--overwrite"]) == 0
    assert (tmp_path / "talk.mp4").read_bytes() == whole


def test_fp8_on_a_cpu_says_that_it_is_simulated(inputs, tmp_path, caplog):
    fp8_operations.cache_clear()
    assert main([*inputs, "--fp8"]) == 0
    assert [message for message in caplog.messages if "simulated" in message] == caplog.messages != []
    assert frames_of(tmp_path / "talk.mp4") == 38


@pytest.mark.parametrize("amount", ["12", "G", "0G", "-1G", "10K", "infG", "nanM"])
def test_an_amount_of_memory_needs_a_unit(amount, capsys):
    with pytest.raises(SystemExit):
        main(["info", f"--memory={amount}"])
    assert "write a number and a unit, such as 14G" in capsys.readouterr().err


def test_an_amount_of_memory_may_have_a_fraction():
    assert memory("22.5G") == 22.5 * 2**30 and memory("512m") == 2**29


@pytest.mark.parametrize("arguments", [["bench", "--repeats"], ["measurer", "--faces"], ["measurer", "--steps"]])
@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_count_is_at_least_one(arguments, count, capsys):
    with pytest.raises(SystemExit):
        main([*arguments[:-1], f"{arguments[-1]}={count}"])
    assert f"'{count}'; a whole number of at least 1 is needed" in capsys.readouterr().err


def test_bench_runs_streamed_in_fp8(tmp_path):
    record, options = tmp_path / "bench.json", ["--fp8", "--memory", too_little(fp8=True)]
    assert main(["bench", *SIZE, "--repeats", "1", *options, "--json", str(record)]) == 0
    kept = json.loads(record.read_text())
    assert kept["dtype"] == "float32, blocks in FP8"
    blocks, of = kept["blocks_on_device"]
    assert 0 <= blocks < of == 6


def test_bench_says_what_would_fit(capsys, monkeypatch):
    monkeypatch.setattr("livetalk_core.commands.bench.parts.available_memory", lambda _: 2**30)
    assert main(["bench", "--preset", "14b", "--dtype", "bfloat16"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"needs \d\d\.\d GiB on cpu; 1\.0 GiB are free: --fp8, --memory or the preset nano", error)


def test_info_counts_before_anything_is_spent(capsys):
    assert main(["info", "14b", "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"transformer weights\s+35\.17 GiB", out)
    kept = [int(count) for count in re.findall(r"(\d+) of 40 blocks stay", out)]
    assert kept == sorted(kept) and kept[-1] == 40 > kept[0], "a line for each card, the smallest first"
    assert re.search(r"^ +24  --fp8 +40 of 40", out, re.MULTILINE)
    assert main(["info"]) == 0
    assert "nano" in capsys.readouterr().out


def test_info_reads_a_checkpoint(golden, capsys):
    assert main(["info", str(golden / "color.safetensors")]) == 0
    assert "no model that LiveTalk knows: 4 tensors" in capsys.readouterr().out


@pytest.mark.parametrize("member", ["Pro", "Lite"])
def test_info_names_a_flashhead_and_what_is_never_read(golden, tmp_path, capsys, member):
    published = load_file(golden / f"head_{member.lower()}.safetensors")
    own = {name.removeprefix("weights."): value for name, value in published.items() if name.startswith("weights.")}
    save_file(own, tmp_path / "model.safetensors")
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"FlashHead {member}'s video transformer: {len(own)} tensors" in out
    assert "never read: audio_emb (8 tensors), text_embedding (4 tensors)" in out
    assert re.search(r"model: .*512x512 px.*\n(.*\n)+.*VAE decode", out)
    assert "text encoder" not in out, "it has none"


def test_info_knows_the_embedded_models_file(capsys):
    assert main(["info", str(nano.asset("transformer"))]) == 0
    out = capsys.readouterr().out
    assert "6 blocks, 192 wide, 6 heads; 128x128 px" in out
    assert main(["info", "nano"]) == 0
    assert counted(out) == counted(capsys.readouterr().out)


def counted(report):
    """What a report counts, without what is free at the moment."""
    return [line.partition(";")[0] for line in report.splitlines() if line.startswith("  ") and "free" not in line]


LONG = "n" * 300
PATHS = {
    "image": ["generate", "--audio", "a.wav", "--image", LONG],
    "model": ["generate", "--image", "face.png", "--audio", "speech.wav", "--model", LONG],
    "info": ["info", LONG],
    "convert": ["convert", LONG, "out.safetensors"],
    "verify": ["verify", LONG],
    "a folder for verify": ["verify", "."],
    "a folder as image": ["generate", "--audio", "a.wav", "--image", "."],
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("fault", ["too long", "forbidden"])
def test_no_path_ends_in_a_traceback(inputs, tmp_path, monkeypatch, capsys, name, fault):
    monkeypatch.chdir(tmp_path)
    if fault == "forbidden":
        real = Path.stat

        def stat(path, **options):
            if path.name == LONG:
                raise PermissionError(13, "Permission denied")
            return real(path, **options)

        monkeypatch.setattr(Path, "stat", stat)
    assert main(PATHS[name]) == 1
    error = capsys.readouterr().err.split("\r")[-1]
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 1000
    assert re.search("cannot be opened|is a folder", error)


def test_info_reads_the_folder_of_any_model(golden, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes((golden / "color.safetensors").read_bytes())
    assert main(["info", str(tmp_path)]) == 0
    assert "no model that LiveTalk knows: 4 tensors" in capsys.readouterr().out


def test_the_core_loads_where_a_system_lacks_unix_modules():
    """As Windows does; packages that ask for them here are imported before."""
    code = "import sys, psutil, transformers.models.umt5.modeling_umt5; "
    code += "sys.modules |= dict.fromkeys(['fcntl', 'resource']); import livetalk_core.commands.generate.watch"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_ctrl_c_during_the_imports_ends_it_without_a_traceback(inputs):
    """The first thing that is shown is that it starts, while the imports go on."""
    process = start(inputs)
    shown = process.stderr.read(9)
    process.send_signal(signal.SIGINT)
    shown += process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "starting" in shown and "Traceback" not in shown and "model nano" not in shown


def test_a_negative_prompt_without_guidance_is_said(inputs, capsys):
    assert main([*inputs, "--steps", "1", "--negative-prompt", "blurred"]) == 0
    assert "--negative-prompt is not heeded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--model", "bogus"], "no model at bogus"), (["--size", "100x100"], "the nearest is 96x96")],
)
def test_evaluate_names_at_once_what_it_cannot_do(capsys, monkeypatch, options, message):
    monkeypatch.setattr("livetalk_core.training.evaluation.command.evaluate", pytest.fail)
    assert main(["evaluate", "--quick", *options]) == 1
    assert message in capsys.readouterr().err


def test_every_preset_is_offered(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--preset", "15b"])
    error = capsys.readouterr().err
    assert all(name in error for name in PRESETS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    assert module_of(name).run.__doc__ == COMMANDS[name][1]


@pytest.mark.parametrize("words", [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_needs_none_of_the_large_packages(words):
    """They take seconds to import."""
    code = "import sys, runpy\nsys.argv = ['livetalk', *sys.argv[1:]]\n"
    code += "try:\n    runpy.run_module('livetalk_core', run_name='__main__')\nexcept SystemExit as end:\n"
    code += "    assert not end.code and not {'torch', 'numpy', 'av', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_every_kernel_is_offered():
    assert ("auto", *KERNELS) == ATTENTION
