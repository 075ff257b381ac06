"""The live page in Chromium: type, hear, speak, interrupt, change the prompt, reload, close; by WebRTC and by MP4."""

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import numpy as np
import pytest

from tests.browser.conftest import ROOT, SCREENSHOTS

PATIENCE_SECONDS = 120
FREE_SECONDS = 5
SPEECH = ROOT / "demo" / "speech.wav"

# Brightness of the lower middle of the face, where the mouth is, as the page shows it.
MOUTH = """() => {
    const video = document.getElementById("video");
    const canvas = new OffscreenCanvas(64, 64), context = canvas.getContext("2d");
    context.drawImage(video, 0, 0, 64, 64);
    return Array.from(context.getImageData(20, 36, 24, 18).data).filter((_, index) => index % 4 === 1);
}"""


class SpeechServer(BaseHTTPRequestHandler):
    """Answers every text with the demo's speech."""

    def do_POST(self):
        body = SPEECH.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """The page of `livetalk live` with the embedded model, in a process of its own."""
    voice = ThreadingHTTPServer(("127.0.0.1", 0), SpeechServer)
    threading.Thread(target=voice.serve_forever, daemon=True).start()
    tts = f"http://127.0.0.1:{voice.server_port}/v1/audio/speech"
    command = [sys.executable, "-m", "livetalk_core", "live", "--image", "demo/portrait.png", "--port", "0"]
    with subprocess.Popen([*command, "--tts", tts], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next((line for line in process.stdout if "the page: " in line), "")
            yield re.search(r"http://\S+", line)[0].rstrip("/")
        finally:
            process.terminate()
            voice.shutdown()


@contextmanager
def page_of(address, query=""):
    """The page, with a microphone that plays the demo's speech."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
    from tests.browser.frontend import chromium

    if chromium() is None:
        pytest.skip("no Chromium: install it (Debian: apt install chromium), or name it in CHROMIUM")
    sound = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             f"--use-file-for-fake-audio-capture={SPEECH}", "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", *sound])
        page = browser.new_page(viewport={"width": 420, "height": 800}, permissions=["microphone"])
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.goto(address + query)
        yield page
        browser.close()


def health(address):
    with urlopen(f"{address}/health", timeout=10) as answer:
        return json.load(answer)


def until(address, *states, seconds=PATIENCE_SECONDS):
    """Wait for a state of the session; the seconds that it took."""
    start = time.monotonic()
    while (state := health(address)["state"]) not in states:
        assert time.monotonic() - start < seconds, f"{state} after {seconds} s; expected one of {states}"
        time.sleep(0.1)
    return time.monotonic() - start


def until_heard(address):
    """Wait for the first frame of something said. The state would not do: silence, too, may be late."""
    start = time.monotonic()
    while health(address).get("first_picture_seconds") is None:
        assert time.monotonic() - start < PATIENCE_SECONDS, "nothing was said"
        time.sleep(0.1)


def wait_for_picture(page):
    page.wait_for_function("() => document.getElementById('video').currentTime > 0.3")
    page.wait_for_function("() => document.getElementById('veil').classList.contains('gone')")


def mouth_motion(page, seconds):
    """Mean change of the mouth's brightness between what is shown 0.1 s apart."""
    shots = []
    for _ in range(int(seconds / 0.1)):
        shots.append(page.evaluate(MOUTH))
        page.wait_for_timeout(100)
    return float(np.abs(np.diff(np.array(shots, float), axis=0)).mean())


def shown_by(page):
    return page.evaluate("() => document.querySelector('#figures dd').textContent")


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["WebRTC", "MP4"])
def test_a_typed_sentence_is_spoken_interrupted_and_the_engine_freed(address, transport):
    if transport == "WebRTC" and importlib.util.find_spec("aiortc") is None:
        pytest.skip("aiortc is not installed: pip install livetalk[live]")
    with page_of(address, "/?transport=mp4" if transport == "MP4" else "") as page:
        wait_for_picture(page)
        page.wait_for_function(f"() => document.querySelector('#figures dd')?.textContent === '{transport}'")
        still = mouth_motion(page, 1.5)
        page.fill("#text", "Good morning. This is a face that answers.")
        page.press("#text", "Enter")
        until_heard(address)
        page.wait_for_timeout(500)
        speaking = mouth_motion(page, 2.5)
        page.screenshot(path=SCREENSHOTS / f"live_{transport}.png")
        assert speaking > 2 * still, f"the mouth moved {speaking:.2f} while it spoke, {still:.2f} without a word"
        page.click("#interrupt")
        until(address, "idle")
        page.click("#prompts")
        page.fill("#prompt", "A person is talking and smiling.")
        page.press("#prompt", "Enter")
        page.wait_for_selector("#change:has-text('Changed')")
        page.reload()
        wait_for_picture(page)
        assert page.text_content("#error") == ""
    assert until(address, "free") < FREE_SECONDS


@pytest.mark.slow
def test_the_microphone_is_answered_and_the_page_ends_the_talk(address):
    with page_of(address, "/?transport=mp4") as page:
        wait_for_picture(page)
        page.click("#microphone")
        page.wait_for_selector("#microphone[aria-pressed=true]")
        until_heard(address)
        page.click("#microphone")
        until(address, "idle")
        page.click("#stop")
        page.get_by_text("The conversation has ended.").wait_for()
        until(address, "free", seconds=FREE_SECONDS)
        page.click("#start")
        wait_for_picture(page)
    until(address, "free", seconds=FREE_SECONDS)
