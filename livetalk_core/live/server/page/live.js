// The page: a socket for what is said, WebRTC or Media Source Extensions for what is shown.

const $ = (id) => document.getElementById(id);
const video = $("video");
const RATE = 48000;
const CODECS = 'video/mp4; codecs="avc1.42E01E,mp4a.40.2"';
const SECONDS_TO_CONNECT = 6;
const BEHIND_LIVE = 0.35; // seconds of picture that Media Source Extensions keep in hand
const KEPT_SECONDS = 20;
const JITTER_MS = 80;

const caller = remembered("livetalk-caller", () => crypto.randomUUID());
const token = shownToken();
const headers = token ? { Authorization: `Bearer ${token}` } : {};
let socket, peer, media, retries = 0, state = {}, offset = null, transport = "";

function remembered(key, make) {
  const value = sessionStorage.getItem(key) ?? make();
  sessionStorage.setItem(key, value);
  return value;
}

function shownToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("livetalk-token", given);
    history.replaceState(null, "", location.pathname); // not for the next who looks over the shoulder
  }
  return sessionStorage.getItem("livetalk-token");
}

const path = (name) => `${name}?caller=${caller}`;
const send = (message) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));

// What is said

function connect() {
  socket = new WebSocket(path(location.href.replace(/^http/, "ws").replace(/[?#].*$/, "") + "talk"));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => token && send({ type: "hello", token });
  socket.onmessage = ({ data }) => receive(JSON.parse(data));
  socket.onclose = ({ code }) => {
    stopMicrophone();
    stopMedia();
    if (code === 4401) return veil("A token is needed: open the address that the server printed.");
    if (socket.over) return;
    if (retries++ < 8) setTimeout(connect, 500 * retries);
    veil(retries < 8 ? "Connecting again" : "The server is gone.", retries >= 8 && "Try again");
  };
}

function receive(message) {
  const { type } = message;
  if (type === "state") showState(message);
  else if (type === "welcome") welcome(message);
  else if (type === "ready") ready();
  else if (type === "waiting") veil(`Somebody else is talking. You are number ${message.place} in line.`);
  else if (type === "busy") { socket.over = true; veil("All places are taken. Come again later.", "Try again"); }
  else if (type === "failed") { socket.over = true; veil(`The session ended: ${message.message}`, "Start again"); socket.close(); }
  else if (type === "ended") { socket.over = true; veil("The conversation has ended.", "Start again"); socket.close(); }
  else if (type === "prompted") prompted(message.text);
  else if (type === "error") complain(message.message);
}

let can = {};
function welcome(message) {
  can = message;
  $("face").style.setProperty("--aspect", `${message.width} / ${message.height}`);
  $("text").disabled = $("say").disabled = !message.voice;
  if (!message.voice) $("text").placeholder = "No voice: install espeak-ng, or start with --tts";
  $("prompts").hidden = !message.prompts;
}

let playing = false;
function ready() {
  retries = 0;
  if (playing) return;
  playing = true;
  veil("One moment: the first picture is on its way");
  show().catch((error) => complain(error.message));
}

function complain(text) {
  $("error").textContent = text;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => ($("error").textContent = ""), 8000);
}

function veil(text, button) {
  $("veil").classList.toggle("gone", !text);
  $("notice").textContent = text ?? "";
  $("start").hidden = !button;
  if (button) $("start").textContent = button;
}

$("start").onclick = () => {
  if (socket.readyState === WebSocket.CLOSED) { retries = 0; connect(); veil("Connecting"); }
  else video.play().then(() => veil(null));
};

$("bar").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  send({ type: "say", text });
  $("text").value = "";
};

$("prompts").onclick = () => {
  const shown = $("scene").hidden;
  $("scene").hidden = !shown;
  $("prompts").setAttribute("aria-expanded", shown);
  if (shown) $("prompt").focus();
};

$("scene").onsubmit = (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (text) send({ type: "prompt", text });
};

function prompted(text) {
  $("prompts").title = `The prompt is now: ${text}`;
  $("change").textContent = "Changed";
  setTimeout(() => ($("change").textContent = "Change"), 2000);
}

$("stop").onclick = () => send({ type: "stop" });
$("interrupt").onclick = () => send({ type: "interrupt" });
addEventListener("keydown", ({ key }) => key === "Escape" && send({ type: "interrupt" }));

async function upload(file) {
  const answer = await fetch(path("sound"), { method: "POST", headers, body: file });
  if (!answer.ok) complain((await answer.json().catch(() => ({}))).message ?? answer.statusText);
}
$("sound").onchange = ({ target }) => { if (target.files[0]) upload(target.files[0]); target.value = ""; };
const face = $("face");
face.ondragover = (event) => { event.preventDefault(); face.classList.add("drop"); };
face.ondragleave = () => face.classList.remove("drop");
face.ondrop = (event) => {
  event.preventDefault();
  face.classList.remove("drop");
  if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
};

// The microphone

let ears = null;
$("microphone").onclick = () => (ears ? stopMicrophone() : startMicrophone().catch((error) => {
  stopMicrophone();
  complain(`The microphone cannot be heard: ${error.message}`);
}));

async function startMicrophone() {
  if (!navigator.mediaDevices) throw new Error("browsers allow it on https:// and localhost alone");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
  const context = new AudioContext({ sampleRate: RATE });
  ears = { stream, context };
  await context.audioWorklet.addModule("page/microphone.js");
  const node = new AudioWorkletNode(context, "microphone");
  send({ type: "begin", rate: RATE, pace: "microphone" });
  node.port.onmessage = ({ data }) => {
    if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount < 2 ** 18) socket.send(data.buffer);
    const level = Math.sqrt(data.reduce((sum, sample) => sum + sample * sample, 0) / data.length) / 6000;
    $("microphone").style.setProperty("--level", Math.min(1, level));
  };
  context.createMediaStreamSource(stream).connect(node);
  $("microphone").setAttribute("aria-pressed", "true");
}

function stopMicrophone() {
  if (!ears) return;
  ears.stream.getTracks().forEach((track) => track.stop());
  ears.context.close();
  ears = null;
  send({ type: "end" });
  $("microphone").setAttribute("aria-pressed", "false");
}

// What is shown

async function show() {
  const forced = new URLSearchParams(location.search).get("transport");
  if (can.webrtc && forced !== "mp4" && (await showCall().catch(() => false))) return;
  stopMedia();
  playing = true;
  await showStream();
}

async function showCall() {
  peer = new RTCPeerConnection();
  const stream = new MediaStream();
  const connected = new Promise((resolve) => {
    peer.onconnectionstatechange = () => {
      const now = peer?.connectionState;
      if (now === "connected") resolve(true);
      if (now === "failed" || now === "closed") resolve(false);
    };
    setTimeout(resolve, 1000 * SECONDS_TO_CONNECT, false);
  });
  peer.ontrack = ({ track }) => stream.addTrack(track);
  peer.addTransceiver("video", { direction: "recvonly" });
  peer.addTransceiver("audio", { direction: "recvonly" });
  await peer.setLocalDescription();
  await gathered(peer);
  const { type, sdp } = peer.localDescription;
  const answer = await fetch(path("offer"), { method: "POST", headers, body: JSON.stringify({ type, sdp }) });
  if (!answer.ok) return false;
  await peer.setRemoteDescription(await answer.json());
  for (const receiver of peer.getReceivers()) receiver.jitterBufferTarget = JITTER_MS; // the same for both: in step
  if (!(await connected)) return false;
  transport = "WebRTC";
  video.srcObject = stream;
  play();
  return true;
}

const gathered = (peer) => new Promise((resolve) => {
  const done = () => peer.iceGatheringState === "complete" && resolve();
  peer.onicegatheringstatechange = done;
  setTimeout(resolve, 1500);
  done();
});

async function showStream() {
  const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
  if (!Source) throw new Error("this browser has neither WebRTC here nor Media Source Extensions");
  const source = new Source();
  media = { source, stop: new AbortController() };
  video.disableRemotePlayback = true;
  video.srcObject = null;
  video.src = URL.createObjectURL(source);
  await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
  const buffer = source.addSourceBuffer(CODECS);
  const answer = await fetch(path("stream.mp4"), { headers, signal: media.stop.signal });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message ?? answer.statusText);
  transport = "MP4";
  play();
  const reader = answer.body.getReader();
  try {
    for (let part; !(part = await reader.read()).done; ) await append(buffer, part.value);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

async function append(buffer, data) {
  const updated = () => new Promise((resolve) => buffer.addEventListener("updateend", resolve, { once: true }));
  buffer.appendBuffer(data);
  await updated();
  const { buffered } = buffer;
  if (!buffered.length) return;
  keepUp(buffered.start(0), buffered.end(buffered.length - 1));
  if (video.currentTime - buffered.start(0) > 2 * KEPT_SECONDS) {
    buffer.remove(0, video.currentTime - KEPT_SECONDS);
    await updated();
  }
}

// Stays just behind what has come: a bit faster when it is behind, with a jump when it is far behind.
function keepUp(start, end) {
  const behind = end - video.currentTime;
  if (video.currentTime < start || behind > 1.5) video.currentTime = Math.max(start, end - BEHIND_LIVE);
  video.playbackRate = behind > 2 * BEHIND_LIVE ? 1.05 : 1;
}

function play() {
  video.play().then(() => veil(null), () => veil("Your browser asks for a click before it plays sound", "Start"));
}

function stopMedia() {
  playing = false;
  peer?.close();
  media?.stop.abort();
  peer = media = null;
  stopRecording();
}

// Recording, in the browser

let recorder = null;
$("record").onclick = () => (recorder ? stopRecording() : startRecording());

function startRecording() {
  const stream = video.captureStream?.();
  if (!stream || !globalThis.MediaRecorder) return complain("This browser cannot record; start the server with --record");
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(parts, { type: parts[0]?.type }));
    link.download = `livetalk.${parts[0]?.type.includes("mp4") ? "mp4" : "webm"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  recorder.start(1000);
  $("record").setAttribute("aria-pressed", "true");
}

function stopRecording() {
  if (recorder?.state === "recording") recorder.stop();
  recorder = null;
  $("record").setAttribute("aria-pressed", "false");
}

// Figures

const WORDS = { free: "connecting", starting: "starting", idle: "listening", speaking: "speaking", late: "late: computing" };

function showState(now) {
  state = now;
  $("badge").dataset.state = now.state;
  $("badge").lastElementChild.textContent = WORDS[now.state] ?? now.state;
  const seconds = (value) => (value == null ? "–" : `${value.toFixed(2)} s`);
  const figures = {
    by: transport || "–",
    frames: now.frames ?? 0,
    late: now.late_frames ?? 0,
    lead: `${now.lead_frames ?? 0} frames`,
    speed: now.realtime_factor ? `${now.realtime_factor.toFixed(2)}×` : "–",
    "first picture": seconds(now.first_picture_seconds),
    "sound to picture": offset == null ? "–" : `${Math.round(offset)} ms`,
  };
  $("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const row = document.createElement("div");
    row.append(Object.assign(document.createElement("dt"), { textContent: name }));
    row.append(Object.assign(document.createElement("dd"), { textContent: value }));
    return row;
  }));
}

setInterval(async () => {
  if (!peer) return void (offset = transport === "MP4" ? 0 : null); // one container, one timeline
  const times = {};
  (await peer.getStats()).forEach((report) => {
    if (report.type === "inbound-rtp") times[report.kind] = report.estimatedPlayoutTimestamp;
  });
  offset = times.video && times.audio ? times.video - times.audio : null;
}, 1000);

connect();
