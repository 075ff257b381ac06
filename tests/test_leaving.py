"""The end of the command line: at once, with all that was to be done at the end."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from livetalk_core.__main__ import leave_at_once

class Slow:
    def __del__(self):
        print("taken apart")

slow = Slow()
slow.itself = slow
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
threading.Thread(target=lambda: time.sleep(60), daemon=True).start()
pool = ThreadPoolExecutor(1)  # whose thread waits for more, for ever
pool.submit(time.sleep, 0)
print("message", file=sys.stderr)
sys.stdout.write("printed ")
leave_at_once(3)
"""


def test_nothing_is_lost_and_nothing_taken_apart():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3 and done.stderr == "message\n"
    assert done.stdout.split() == ["printed", "thread", "registered"]


def test_a_reader_that_has_gone_does_not_matter():
    code = "from livetalk_core.__main__ import leave_at_once; print('path'); leave_at_once(0)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == (b"", 0)
