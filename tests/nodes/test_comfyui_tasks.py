"""The tasks of docs/tasks.md in a real ComfyUI, short; pictures to look at lie in `tests/browser/out/tasks/`."""

import wave

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageOps

from benchmarks.go_on import Part, changes, sound_off
from livetalk_core.media.audio import open_audio
from livetalk_core.training.evaluation.measurer import load_measurer
from tests.nodes.sung import RATE as SUNG_RATE
from tests.nodes.sung import song
from tests.nodes.test_comfyui_workflows import described, sound_of
from tests.nodes.workflow import ROOT, ids_of, load, named, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

LAST_FRAMES, IMAGES = 1, 2
"""Outputs of the render node."""
SHEETS = ROOT / "tests" / "browser" / "out" / "tasks"
RATE, SIDE = 25, 512
TURN_SECONDS = 2.4
"""How long each of the two speaks, one after the other."""
SONG_SECONDS = 10
"""Chords, a line of the song, chords, and most of the next line."""
MIB = 2**20


@pytest.fixture(autouse=True)
def own_inputs(server):
    """What a test puts into the input folder is not there for the next: its loaders would offer it."""
    folder = server.base / "input"
    before = set(folder.iterdir())
    yield
    for path in set(folder.iterdir()) - before:
        path.unlink()


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def keep_sheet(frames, name, count=8):
    """A picture of frames side by side, evenly spaced."""
    SHEETS.mkdir(parents=True, exist_ok=True)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    Image.fromarray(np.concatenate(list(chosen), axis=1)).save(SHEETS / f"{name}.png")


def video_of(server, outcome, node):
    (file,) = outcome.outputs[node]["images"]
    return server.output(file)


def prompt_of(server, name):
    prompt = to_prompt(load(named(name)), server.get("object_info"))
    return prompt, ids_of(prompt)


@pytest.fixture
def podcast(server):
    """The template with a picture of two people, one speaking after the other."""
    prompt, ids = prompt_of(server, "livetalk_two_speakers")
    face = Image.open(ROOT / "demo" / "portrait.png").convert("RGB").resize((SIDE, SIDE))
    both = Image.new("RGB", (2 * SIDE, SIDE))
    both.paste(face, (0, 0))
    both.paste(ImageOps.mirror(face), (SIDE, 0))
    both.save(server.base / "input" / "podcast.png")
    prompt[ids["LoadImage"]]["inputs"]["image"] = "podcast.png"
    for node in prompt.values():
        if node["class_type"] == "SolidMask":
            node["inputs"]["width"] = 2 * SIDE if node["inputs"]["value"] == 0 else SIDE
        if node["class_type"] == "MaskComposite" and node["inputs"]["x"]:
            node["inputs"]["x"] = SIDE
    speech, sound = ids["LiveTalkEncodeSpeech"], [ids["LoadAudio"], 0]
    cut = {"audio": sound, "start_index": 0.0, "duration": TURN_SECONDS}
    silence = {"duration": TURN_SECONDS, "sample_rate": 44_100, "channels": 1}
    prompt["cut"] = {"class_type": "TrimAudioDuration", "inputs": cut}
    prompt["silence"] = {"class_type": "EmptyAudio", "inputs": silence}
    for name, parts in (("audio", ("cut", "silence")), ("audio_2", ("silence", "cut"))):
        inputs = {"audio1": [parts[0], 0], "audio2": [parts[1], 0], "direction": "after"}
        prompt[name] = {"class_type": "AudioConcat", "inputs": inputs}
        prompt[speech]["inputs"][name] = [name, 0]
    return prompt, ids


def test_a_podcast_with_two_people_keeps_both(server, podcast):
    """Who moves cannot be asked of the embedded model, which learned from one person in a picture."""
    prompt, ids = podcast
    prompt[ids["LiveTalkAvatar"]]["inputs"] |= {"width": 256, "height": 128}
    outcome = server.run(prompt, timeout=1200)
    assert not outcome.error, outcome.error
    frames = frames_of(video_of(server, outcome, ids["LiveTalkRender"]))
    keep_sheet(frames, "podcast")
    assert frames.shape == (2 * round(TURN_SECONDS * RATE), 128, 256, 3)
    both = np.asarray(Image.open(server.base / "input" / "podcast.png").resize((256, 128))).astype(np.float32)
    for half in (slice(128), slice(128, 256)):
        assert np.abs(frames[-1][:, half] - both[:, half]).mean() < 20
        assert np.abs(np.diff(frames[:, :, half].astype(np.float32), axis=0)).mean() > 0.2


def test_a_talk_enlarged_to_1080p_takes_no_more_memory_as_it_grows(server):
    prompt, ids = prompt_of(server, "livetalk_any_length_upscaled")
    prompt[ids["LiveTalkAvatar"]]["inputs"] |= {"width": 480, "height": 272}
    prompt[ids["LiveTalkRender"]]["inputs"] |= {"steps": 1, "filename_prefix": "video/talk_1080p"}
    cut(prompt, ids, 4.4)
    process, taken = psutil.Process(server.process.pid), {}

    def look(outcome):
        chunks = sum(text.count(" left") for text in outcome.texts)
        taken[chunks] = max(taken.get(chunks, 0), process.memory_info().rss / MIB)

    outcome = server.run(prompt, look, timeout=2400)
    assert not outcome.error, outcome.error
    frames = frames_of(video_of(server, outcome, ids["LiveTalkRender"]))
    keep_sheet(frames[:, ::4, ::4], "talk_1080p", 4)
    assert frames.shape == (110, 1088, 1920, 3)
    assert taken[3] < taken[2] + 100, taken  # the second chunk is the first one that follows another


def cut(prompt, ids, seconds, start=0.0):
    """A part of the demo's speech as what the template's speech is made of."""
    inputs = {"audio": [ids["LoadAudio"], 0], "start_index": start, "duration": seconds}
    prompt["cut"] = {"class_type": "TrimAudioDuration", "inputs": inputs}
    prompt[ids["LiveTalkEncodeSpeech"]]["inputs"]["audio"] = ["cut", 0]


def short_talk(server, seconds, prefix):
    """The quick start's prompt for a part of its speech, and the ids of its nodes."""
    prompt, ids = prompt_of(server, "livetalk_quick_start")
    cut(prompt, ids, seconds)
    prompt[ids["LiveTalkRender"]]["inputs"] |= {"filename_prefix": f"task/{prefix}"}
    return prompt, ids


def saved(prompt, images, audio, prefix, fps=25.0):
    """Have images and sound saved by ComfyUI's own nodes, by a node called `save`."""
    prompt["video"] = {"class_type": "CreateVideo", "inputs": {"images": images, "audio": audio, "fps": fps}}
    inputs = {"video": ["video", 0], "filename_prefix": f"task/{prefix}", "format": "auto", "codec": "auto"}
    prompt["save"] = {"class_type": "SaveVideo", "inputs": inputs}


def run(server, prompt):
    outcome = server.run(prompt, timeout=1200)
    assert not outcome.error, outcome.error
    return outcome


def test_a_speaker_stands_before_a_background_by_a_mask(server):
    prompt, ids = short_talk(server, 1.2, "speaker")
    Image.linear_gradient("L").resize((320, 180)).convert("RGB").save(server.base / "input" / "background.png")
    talk = [ids["LiveTalkRender"], IMAGES]
    prompt["background"] = {"class_type": "LoadImage", "inputs": {"image": "background.png"}}
    prompt["size"] = {"class_type": "GetImageSize", "inputs": {"image": talk}}
    prompt["backgrounds"] = {
        "class_type": "RepeatImageBatch",
        "inputs": {"image": ["background", 0], "amount": ["size", 2]},
    }
    prompt["all"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    edge = {"mask": ["all", 0], "left": 20, "right": 20, "top": 20, "bottom": 0}
    prompt["soft"] = {"class_type": "FeatherMask", "inputs": edge}
    laid = {"destination": ["backgrounds", 0], "source": talk, "mask": ["soft", 0], "x": 96, "y": 52}
    prompt["over"] = {"class_type": "ImageCompositeMasked", "inputs": laid | {"resize_source": False}}
    saved(prompt, ["over", 0], ["cut", 0], "background")
    frames = frames_of(video_of(server, run(server, prompt), "save"))
    keep_sheet(frames, "background", 4)
    assert frames.shape == (30, 180, 320, 3)
    background = np.asarray(Image.open(server.base / "input" / "background.png")).astype(np.float32)
    beside, speaker = (slice(None), slice(90)), (slice(80, 180), slice(120, 200))
    assert np.abs(frames[-1][beside] - background[beside]).mean() < 3
    assert np.abs(np.diff(frames[(slice(None), *speaker)].astype(np.float32), axis=0)).mean() > 0.2


def test_a_talk_at_50_frames_per_second(server):
    prompt, ids = prompt_of(server, "livetalk_job")
    cut(prompt, ids, 2.4)
    decode = ids["LiveTalkDecodeChunk"]
    prompt[decode]["inputs"]["overlap"] = True
    loaded = {"model_name": "film_net_fp16.safetensors"}
    prompt["rife"] = {"class_type": "FrameInterpolationModelLoader", "inputs": loaded}
    doubled = {"interp_model": ["rife", 0], "images": [decode, 0], "multiplier": 2}
    prompt["twice"] = {"class_type": "FrameInterpolate", "inputs": doubled}
    dropped = {"image": ["twice", 0], "batch_index": 1, "length": 4096}
    prompt["drop"] = {"class_type": "ImageFromBatch", "inputs": dropped}
    prompt[ids["LiveTalkJobEnd"]]["inputs"]["images"] = ["drop", 0]
    for kind in ("ImageUpscaleWithModel", "UpscaleModelLoader"):
        prompt.pop(ids[kind])
    outcomes = list(server.follow(prompt, timeout=1200))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    path = video_of(server, outcomes[-1], ids["LiveTalkJobEnd"])
    keep_sheet(frames_of(path), "job_50_fps", 8)
    assert described(path) == (120, 50, 128, 2.4)


def test_a_job_leaves_a_picture_of_each_frame(server):
    """For editors who want PNGs: ComfyUI's own Save Image behind Decode Chunk, in memory that stays."""
    prompt, ids = prompt_of(server, "livetalk_job")
    cut(prompt, ids, 1.6)
    prompt[ids["LiveTalkAvatar"]]["inputs"] |= {"width": 64, "height": 64}
    decoded = [ids["LiveTalkDecodeChunk"], 0]
    prompt["png"] = {"class_type": "SaveImage", "inputs": {"images": decoded, "filename_prefix": "task/png/frame"}}
    outcomes = list(server.follow(prompt, timeout=1200))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    pictures = sorted((server.base / "output" / "task" / "png").iterdir())
    assert [path.name for path in pictures] == [f"frame_{number:05}_.png" for number in range(1, 41)]


def test_five_portraits_speak_one_speech(server):
    prompt, ids = short_talk(server, 0.8, "five")
    portrait = Image.open(ROOT / "demo" / "portrait.png").convert("RGB")
    red, green, blue = portrait.split()
    people = [portrait, ImageOps.mirror(portrait), Image.merge("RGB", (green, blue, red)),
              Image.merge("RGB", (blue, red, green)), ImageOps.grayscale(portrait).convert("RGB")]  # fmt: skip
    batch = None
    for number, person in enumerate(people):
        person.save(server.base / "input" / f"person_{number}.png")
        prompt[f"load {number}"] = {"class_type": "LoadImage", "inputs": {"image": f"person_{number}.png"}}
        joined = {"image1": batch, "image2": [f"load {number}", 0]}
        if batch:
            prompt[f"batch {number}"] = {"class_type": "ImageBatch", "inputs": joined}
        batch = [f"batch {number}" if batch else f"load {number}", 0]
    prompt["list"] = {"class_type": "RebatchImages", "inputs": {"images": batch, "batch_size": 1}}
    prompt[ids["LiveTalkAvatar"]]["inputs"]["image"] = ["list", 0]
    run(server, prompt)
    paths = sorted((server.base / "output" / "task").glob("five_*.mp4"))
    assert [path.name for path in paths] == [f"five_0000{number}_.mp4" for number in range(1, 6)]
    talks = [frames_of(path) for path in paths]
    keep_sheet(np.stack([frames[-1] for frames in talks]), "five", 5)
    for person, frames in zip(people, talks, strict=True):
        assert frames.shape == (20, 128, 128, 3)
        assert np.abs(frames[-1] - np.asarray(person.resize((128, 128))).astype(np.float32)).mean() < 20


def test_a_song_lies_under_lips_that_follow_the_voice(server):
    """Sung by `sung.py`: the chords begin before the voice, and go on where it rests."""
    voice, played = song(SONG_SECONDS)
    for name, sound in (("voice", voice), ("song", voice + played)):
        write_wav(server.base / "input" / f"{name}.wav", sound / np.abs(voice + played).max())
    prompt, ids = prompt_of(server, "livetalk_quick_start")
    prompt[ids["LoadAudio"]]["inputs"]["audio"] = "voice.wav"
    prompt[ids["LiveTalkRender"]]["inputs"] |= {"filename_prefix": "task/voice"}
    prompt["song"] = {"class_type": "LoadAudio", "inputs": {"audio": "song.wav"}}
    prompt["parts"] = {"class_type": "GetVideoComponents", "inputs": {"video": [ids["LiveTalkRender"], 0]}}
    saved(prompt, ["parts", 0], ["song", 0], "song")
    outcome = run(server, prompt)
    path, alone = video_of(server, outcome, "save"), video_of(server, outcome, ids["LiveTalkRender"])
    frames = frames_of(path)
    keep_sheet(frames, "song", 16)
    assert len(frames) == SONG_SECONDS * RATE
    assert np.abs(frames - frames_of(alone).astype(np.float32)).mean() < 3
    heard = sound_of(path)[: len(voice)]
    assert np.corrcoef(heard, (voice + played)[: len(heard)])[0, 1] > 0.9
    opening = load_measurer().measure(torch.from_numpy(frames).movedim(3, 0).float() / 127.5 - 1).opening.numpy()
    loudness = np.sqrt(np.square(voice[: len(frames) * 640]).reshape(-1, 640).mean(axis=1))
    sung = loudness > 0.1 * loudness.max()
    assert opening[sung].mean() > 4 * opening[~sung].mean()
    assert np.corrcoef(opening, loudness[: len(opening)])[0, 1] > 0.7


def write_wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SUNG_RATE)
        file.writeframes((32_767 * samples).astype("<i2").tobytes())


def test_a_talk_in_two_parts_by_two_nodes_has_no_seam(server):
    """The second render goes on from the last frames of the first; a third begins anew."""
    prompt, ids = short_talk(server, 2.0, "first")
    render, speech = ids["LiveTalkRender"], ids["LiveTalkEncodeSpeech"]
    later = {"audio": [ids["LoadAudio"], 0], "start_index": 2.0, "duration": 2.0}
    prompt["later"] = {"class_type": "TrimAudioDuration", "inputs": later}
    prompt["speech 2"] = {**prompt[speech], "inputs": prompt[speech]["inputs"] | {"audio": ["later", 0]}}
    second = prompt[render]["inputs"] | {"speech": ["speech 2", 0]}
    for name, more in (("second", {"start_images": [render, LAST_FRAMES]}), ("anew", {})):
        inputs = second | more | {"filename_prefix": f"task/{name}"}
        prompt[name] = {"class_type": "LiveTalkRender", "inputs": inputs}
    outcome = run(server, prompt)
    first = part_of(video_of(server, outcome, render), 33)
    second, anew = (part_of(video_of(server, outcome, name), *at) for name, at in (("second", (28,)), ("anew", (33,))))
    gone_on, begun_anew = changes(first, second), changes(first, anew)
    said = open_audio(ROOT / "demo" / "speech.wav").read(0, 4 * 44_100, 44_100, mono=True)
    off = sound_off(first, second, said)
    keep_sheet(np.concatenate([frames_of(first.path), frames_of(second.path)])[46:54], "border")
    (SHEETS / "border.txt").write_text(f"{gone_on}\nanew {begun_anew}\nsound {off}\n", encoding="utf-8")
    assert gone_on.between < max(1.5 * gone_on.at_chunks, 3) and gone_on.between < begun_anew.between / 2
    assert off["at the border"] < 0.05 * off["of the speech"]


def part_of(path, *borders):
    """A finished talk of 50 frames, whose chunks begin at `borders`."""
    frames = torch.from_numpy(frames_of(path)).movedim(3, 0).float() / 127.5 - 1
    assert frames.shape[1] == 50
    return Part(frames, path, list(borders))
