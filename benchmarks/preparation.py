"""What a long recording costs before its first frame, now and at an earlier commit, and how long nothing is shown.

    python -m benchmarks.preparation [--hours 3] [--commit 410cab1] [--shown] [--json FILE]

The demo's speech, repeated, as an MP3; each run is a process of its own. Counted is the processor
time that the sound takes, imports left out; with `--shown` also the longest wait between two signs of life on the
command line (on a machine with nothing else to do).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from livetalk_core.hardware.machine import ROOT, describe

BEFORE = "410cab1"
"""The last commit that decoded a recording three times before the first frame."""
SOUND = """
import json, sys, time
from livetalk_core.media.audio import open_audio
sound, *more = sys.argv[1:]
begun = time.process_time()
source = open_audio(sound)
if more:
    open_audio(sound)
source.statistics(-(-source.samples * 16_000 // source.sample_rate) + 9_000)
print(json.dumps(time.process_time() - begun))
"""
"""What `generate` does with a recording before its first frame; opened a second time for the writer, once."""


def recording(path: Path, hours: float) -> Path:
    """The demo's speech over and over, as an MP3 in stereo at 44.1 kHz."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-stream_loop",
        "-1",
        "-i",
        ROOT / "demo" / "speech.wav",
        "-t",
        str(hours * 3600),
    ]
    subprocess.run([*command, "-ac", "2", "-ar", "44100", "-b:a", "128k", path], check=True)
    return path


def checkout(commit: str, folder: Path) -> None:
    """The files of `commit`."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def processor_seconds(root: Path, sound: Path, *twice: str) -> float:
    """Of the code in `root`."""
    command = [sys.executable, "-c", SOUND, sound, *twice]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def longest_silence(sound: Path, output: Path) -> dict[str, float]:
    """Seconds of wall clock from the start until the first sign of life, and the longest between two from there on.

    It ends with the first chunk: the render is stopped then.
    """
    arguments = ["--image", ROOT / "demo" / "portrait.png", "--audio", sound, "--output", output]
    command = [sys.executable, "-u", "-m", "livetalk_core", "generate", *arguments]
    waits, shown = [], b""
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stderr
        last = time.monotonic()
        while b"/s" not in shown and (text := process.stderr.read(4096)):
            shown += text
            now = time.monotonic()
            waits.append(now - last)
            last = now
        process.terminate()
    return {"first": waits[0], "longest": max(waits[1:])}


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3)
    parser.add_argument("--commit", default=BEFORE, help=f"the earlier one (default: {BEFORE})")
    parser.add_argument("--json", type=Path, help="keep the record in this file")
    parser.add_argument("--shown", action="store_true", help="also start a render and time what it shows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound, earlier = recording(folder / "speech.mp3", options.hours), folder / "earlier"
        earlier.mkdir()
        checkout(options.commit, earlier)
        record: dict[str, Any] = {"hours": options.hours, "commit": options.commit}
        record["then"] = processor_seconds(earlier, sound, "twice")
        record["now"] = processor_seconds(ROOT, sound)
        if options.shown:
            record["shown"] = longest_silence(sound, folder / "shown.mp4")
    record |= {"times_cheaper": record["then"] / record["now"], "machine": describe()}
    text = json.dumps(record, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
