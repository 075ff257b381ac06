"""The live page in Chromium, as its viewer gets it: when frames are shown and when sound is heard, by content."""

import time
from typing import Any

LOUD, WHITE = 0.1, 200

# Runs beside the audio: the first and the last loud sample of each block, in the context's samples.
WORKLET = f"""
registerProcessor("marks", class extends AudioWorkletProcessor {{
    process([[channel]]) {{
        const loud = channel ? [...channel.keys()].filter(index => Math.abs(channel[index]) > {LOUD}) : [];
        if (loud.length) this.port.postMessage([currentFrame + loud[0], currentFrame + loud.at(-1)]);
        return true;
    }}
}});
"""
# Times are those of the screen and of the sound card, in seconds since the page began.
OBSERVE = f"""async (worklet) => {{
    const video = document.getElementById("video"), marks = {{frames: [], white: [], tones: [], loud: []}};
    const context2d = new OffscreenCanvas(8, 8).getContext("2d", {{willReadFrequently: true}});
    let wasWhite = false;
    const shown = (_now, {{expectedDisplayTime}}) => {{
        context2d.drawImage(video, 0, 0, 8, 8);
        const pixels = context2d.getImageData(0, 0, 8, 8).data;
        let sum = 0;
        for (let index = 1; index < pixels.length; index += 4) sum += pixels[index];
        marks.frames.push(expectedDisplayTime / 1000);
        const white = sum / 64 > {WHITE};
        if (white && !wasWhite) marks.white.push(expectedDisplayTime / 1000);
        wasWhite = white;
        video.requestVideoFrameCallback(shown);
    }};
    video.requestVideoFrameCallback(shown);
    const context = new AudioContext({{latencyHint: "interactive"}});
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([worklet], {{type: "text/javascript"}})));
    const source = video.srcObject ? context.createMediaStreamSource(video.srcObject)
        : context.createMediaElementSource(video);
    const node = new AudioWorkletNode(context, "marks");
    node.port.onmessage = ({{data}}) => {{
        const {{contextTime, performanceTime}} = context.getOutputTimestamp();
        const at = sample => performanceTime / 1000 + sample / context.sampleRate - contextTime;
        const [first, last] = data.map(at);
        if (!marks.loud.length || first - marks.loud.at(-1) > 0.3) marks.tones.push(first);
        marks.loud.push(last);
    }};
    source.connect(node).connect(context.destination);
    window.marks = marks;
}}"""


# Twice a second: how much earlier than the sound being played the picture being shown was sent, by the browser.
PLAYOUT = """() => {
    const Peer = window.RTCPeerConnection;
    window.playout = [];
    window.RTCPeerConnection = class extends Peer {
        constructor(...settings) {
            super(...settings);
            setInterval(async () => {
                const at = {};
                for (const report of (await this.getStats()).values())
                    if (report.type === "inbound-rtp") at[report.kind] = report.estimatedPlayoutTimestamp;
                if (at.audio && at.video) window.playout.push((at.audio - at.video) / 1000);
            }, 500);
        }
    };
}"""


def observe(url: str, transport: str, until: float) -> tuple[dict[str, Any], list[float]]:
    """Watch the page until a time (of `time.time`).

    Gives `frames`, `white`, `tones` and `loud` in seconds of that clock, and, of a WebRTC call, the browser's own
    estimates of how late the picture is against the sound (s), twice a second.
    """
    from playwright.sync_api import sync_playwright

    from tests.browser.frontend import chromium

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        page = browser.new_page(viewport={"width": 420, "height": 800})
        page.add_init_script("sessionStorage.setItem('livetalk-caller', 'bench')")  # who speaks, and has the seat
        page.add_init_script(f"({PLAYOUT})()")
        page.goto(f"{url}?transport={transport}")
        page.wait_for_function("() => document.getElementById('video').currentTime > 0.3", timeout=120_000)
        page.evaluate(OBSERVE, WORKLET)
        page.wait_for_timeout(1000 * max(0.0, until - time.time()))
        origin = page.evaluate("() => performance.timeOrigin") / 1000
        marks, playout = page.evaluate("() => window.marks"), page.evaluate("() => window.playout")
        browser.close()
    return {name: [origin + at for at in times] for name, times in marks.items()}, playout
