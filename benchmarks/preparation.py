"""What a long recording costs before its first frame, now and at an earlier commit, and how long nothing is shown.

    python -m benchmarks.preparation [--hours 3] [--commit 410cab1] [--pairs 1] [--kinds mp3 wav] [--shown]
        [--json FILE]

The demo's speech, repeated, in stereo; each run is a process of its own, then and now in turn. Counted is the processor
time that the sound takes, imports left out, the least of all pairs; with `--shown` also the longest waits between two
signs of life on the command line, before the first frame of the long recording and in a whole render of the demo (on a
machine with nothing else to do).
"""

import argparse
import json
import re
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


SPEECH = ROOT / "demo" / "speech.wav"
FRAMES = re.compile(rb"\| [1-9]\d*/\d+ \[")
"""A progress bar that has counted frames."""
KINDS = {"mp3": ["-b:a", "128k"], "wav": ["-c:a", "pcm_s16le", "-rf64", "auto"]}
"""Files that are tried, and how ffmpeg writes them."""


def recording(folder: Path, kind: str, hours: float) -> Path:
    """The demo's speech over and over, in stereo at 44.1 kHz."""
    path = folder / f"speech.{kind}"
    source = ["-stream_loop", "-1", "-i", SPEECH, "-t", str(hours * 3600)]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-ac", "2", "-ar", "44100", *KINDS[kind], path], check=True)
    return path


def compare(earlier: Path, sound: Path, pairs: int) -> dict[str, Any]:
    """Processor seconds of the code in `earlier`, and of ours: the least, since others at work only add to them."""
    runs = [(processor_seconds(earlier, sound, "twice"), processor_seconds(ROOT, sound)) for _ in range(pairs)]
    then, now = map(min, zip(*runs, strict=True))
    return {"then": then, "now": now, "times_cheaper": then / now, "pairs": runs}


def checkout(commit: str, folder: Path) -> None:
    """The files of `commit`."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def processor_seconds(root: Path, sound: Path, *twice: str) -> float:
    """Of the code in `root`."""
    command = [sys.executable, "-c", SOUND, sound, *twice]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def longest_silence(sound: Path, output: Path, to_end: bool) -> dict[str, float]:
    """Seconds of wall clock from the start until the first sign of life, and the longest between two from there on.

    Without `to_end` it ends with the first chunk: the render is stopped then.
    """
    arguments = ["--image", ROOT / "demo" / "portrait.png", "--audio", sound, "--output", output]
    command = [sys.executable, "-u", "-m", "livetalk_core", "generate", *arguments]
    waits, shown = [], b""
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stderr
        last = time.monotonic()
        while (to_end or not FRAMES.search(shown)) and (text := process.stderr.read(4096)):
            shown += text
            now = time.monotonic()
            waits.append(now - last)
            last = now
        process.terminate()
    if to_end and process.returncode:
        raise RuntimeError(f"{sound} failed: {shown[-2000:].decode(errors='replace')}")
    ending = [time.monotonic() - last] if to_end else []
    return {"first": waits[0], "longest": max([*waits[1:], *ending])}


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3)
    parser.add_argument("--commit", default=BEFORE, help=f"the earlier one (default: {BEFORE})")
    parser.add_argument("--pairs", type=int, default=1, help="of runs, then and now (default: 1)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of recordings (default: all)")
    parser.add_argument("--json", type=Path, help="keep the record in this file")
    parser.add_argument("--shown", action="store_true", help="also start a render and time what it shows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = folder / "earlier"
        earlier.mkdir()
        checkout(options.commit, earlier)
        record: dict[str, Any] = {"hours": options.hours, "commit": options.commit}
        for kind in options.kinds:
            sound = recording(folder, kind, options.hours)
            record[kind] = compare(earlier, sound, options.pairs)
            if options.shown:
                record[kind]["shown"] = longest_silence(sound, folder / f"{kind}.mp4", to_end=False)
            sound.unlink()
        if options.shown:
            record["demo_shown"] = longest_silence(SPEECH, folder / "demo.mp4", to_end=True)
    record["machine"] = describe()
    text = json.dumps(record, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
