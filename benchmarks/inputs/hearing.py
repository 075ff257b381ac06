"""Each kind of sound through the product's reader and writer, and what comes out of it beside what should."""

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from livetalk_core.errors import InputError
from livetalk_core.media.audio import AudioSource, open_audio
from livetalk_core.media.video import VideoWriter
from livetalk_core.shapes import FRAMES_PER_SECOND, frames_of_samples

from . import odd_sounds, rare_sounds, sounds
from .alignment import align, decode
from .sounds import RATE, SECONDS, Kind, ffmpeg, make

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "tests" / "media" / "inputs"
SIDE, CHUNK = 32, 28
MOST_MILLISECONDS = 1.0
UNLIKE, UNLIKE_DAMAGED = 0.05, 2 / 3
"""Part of the audible windows that may differ, and where a file is damaged: one that reaches into silence differs."""
HANDED = {"junk_mid.mp3": 1105 / 44_100, "raw_junk.aac": 1024 / 44_100}
"""Damaged files, and the seconds by which their encoders delayed the speech; ffmpeg loses the time of the damage."""
HANDED_SPEECH = "w_gsm.wav"
"""The speech of these files, undamaged."""

TIMED = ("gap.mp4", "late07.mp4")
SECOND_TRACK = ("two_default2.mp4", "apac_first.mov")


class Row(NamedTuple):
    """A line of the table: the file's kind, what became of it, whether that is right, and why not."""

    kind: str
    result: str
    right: bool
    why: str = ""


def ffmpeg_version() -> str:
    """Of the program that the sound is compared with."""
    words = subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout.split()
    return words[2].partition("-")[0]


def speech(folder: Path) -> Path:
    """The demo's first seconds, as the others are made from them."""
    path = folder / "speech.wav"
    ffmpeg("-i", ROOT / "demo" / "speech.wav", "-t", SECONDS, "-ar", RATE, path)
    return path


def video(source: AudioSource, path: Path) -> int:
    """Write blank pictures with the sound, as a render does; how many frames."""
    frames = frames_of_samples(source.samples, source.sample_rate)
    writer = VideoWriter.create(path, SIDE, SIDE, source)
    for start in range(0, frames, CHUNK):
        writer.write(np.zeros((min(CHUNK, frames - start), SIDE, SIDE, 3), np.uint8))
        writer.end_chunk()
    writer.finish()
    return frames


def heard(name: str, path: Path, truth: Path, refused: str, timed: bool, damaged: bool, delay: float = 0.0) -> Row:
    """Try one file."""
    try:
        source = open_audio(path)
    except InputError as error:
        message = str(error).replace(f"{path.parent}/", "")
        right = bool(refused) and refused in message
        return Row(name, message, right, "" if right else "refused" if not refused else "another message")
    if refused:
        return Row(name, f"{source.seconds:.2f} s", False, "it should be refused")
    output = path.parent / "out.mp4"
    output.unlink(missing_ok=True)
    frames = video(source, output)
    true = np.pad(decode(truth, timed, int(name in SECOND_TRACK)), (round(delay * RATE), 0))
    lie = align(decode(output), true)
    result = f"{frames} frames, {lie.milliseconds:.2f} ms"
    notes = [note.partition(": ")[2].replace(f"{path.parent}/", "") for note in source.notes]
    faults = []
    if lie.milliseconds > MOST_MILLISECONDS:
        faults.append("early or late")
    if lie.windows - lie.alike > (UNLIKE_DAMAGED if damaged else UNLIKE) * lie.windows:
        faults.append(f"{lie.windows - lie.alike} of {lie.windows} windows differ")
    if not damaged and abs(frames - len(true) / RATE * FRAMES_PER_SECOND) > 2.5:
        faults.append(f"{len(true) / RATE * FRAMES_PER_SECOND:.1f} frames are right")
    return Row(name, "; ".join([result, *notes]), not faults, ", ".join(faults))


def try_kind(kind: Kind, spoken: Path) -> Row:
    """Make a file of the kind and try it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path, truth = make(kind, spoken, Path(folder))
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            return Row(kind.name, f"not made by this ffmpeg ({''.join(reason)})", True)
        damaged = kind.against == "clean" or (kind.change is not None and kind.against == "before")
        return heard(kind.name, path, truth, kind.refused, kind.against == "timed", damaged)


GROUPS = sounds.GROUPS | rare_sounds.GROUPS | odd_sounds.GROUPS


def try_sounds(groups: list[str]) -> dict[str, list[Row]]:
    """All kinds of the groups."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = speech(Path(folder))
        return {group: [try_kind(kind, spoken) for kind in GROUPS[group]()] for group in groups}


def try_folder(folder: Path) -> list[Row]:
    """All sounds of a folder, such as the tests' own."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for path in sorted(folder.iterdir()):
            copy = Path(work) / path.name
            copy.write_bytes(path.read_bytes())
            delay = HANDED.get(path.name)
            truth = path if delay is None else folder / HANDED_SPEECH
            rows.append(heard(path.name, copy, truth, "", path.name in TIMED, delay is not None, delay or 0.0))
    return rows
