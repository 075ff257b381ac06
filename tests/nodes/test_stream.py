"""Chunk nodes and render node, on the embedded model: they agree, stop, go on, and refuse what does not fit."""

import copy
import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.nodes.fake_host import Interrupted
from tests.nodes.fakes import Graph

SAMPLES = 16_000 * 70 // 25  # 70 frames: chunks of 33, 28 and 9


@pytest.fixture(scope="module")
def parts(nodes):
    """The inputs of one small talk."""
    model, vae, encoder = nodes["LiveTalkEmbeddedModel"][0].execute().args
    generator = torch.Generator().manual_seed(3)
    return {
        "model": model,
        "vae": vae,
        "avatar": avatar_of(nodes, vae, torch.rand(1, 64, 64, 3, generator=generator)),
        "speech": speech_of(nodes, encoder, torch.rand(1, 1, SAMPLES, generator=generator) - 0.5),
        "encoder": encoder,
    }


def avatar_of(nodes, vae, image, size=64):
    made = nodes["LiveTalkAvatar"][0].execute(
        image=image, vae=vae, width=size, height=size, prompt="talking", crop="center", crop_box=""
    )
    return made.args[0]


def made_avatar(parts, stream):
    """The core's avatar of this model and stream."""
    return parts["avatar"].avatar(parts["model"].config, stream)


def speech_of(nodes, encoder, waveform, mode="window"):
    audio = {"waveform": waveform, "sample_rate": 16_000}
    settings = {"audio_encoder": encoder, "audio": audio, "mode": mode, "audio_offset": 0}
    return nodes["LiveTalkEncodeSpeech"][0].execute(**settings).args[0]


def sample(nodes, parts, **changes):
    inputs = {name: parts[name] for name in ("model", "avatar", "speech")} | {"seed": 5, "steps": 2} | changes
    return nodes["LiveTalkSampleChunk"][0].execute(**inputs).args


def decode(nodes, parts, latent, state, **changes):
    inputs = {"latent": latent, "vae": parts["vae"], "state": state, "overlap": False} | changes
    return nodes["LiveTalkDecodeChunk"][0].execute(**inputs).args


def render(nodes, parts, **changes):
    inputs = {name: parts[name] for name in ("model", "vae", "avatar", "speech")}
    inputs |= {"seed": 5, "filename_prefix": "video/talk", "resume": False, "steps": 2, "collect_images": False}
    inputs |= {"codec": "h264", "crf": 18, "save_output": True}
    return nodes["LiveTalkRender"][0].execute(**(inputs | changes))


def correction_of(nodes, color, retrospection=0.0, **more):
    """The node's settings; retrospection at every chunk, whatever the drift."""
    settings = {"retrospection": retrospection, "threshold": 0.0, "interval": 1, "lookback": 1, **more}
    return nodes["LiveTalkCorrection"][0].execute(color_correction=color, **settings).args[0]


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def grey(frames):
    """Frames [n,H,W,3] as brightness: H.264 halves the colours' resolution, and these frames are noise."""
    return frames @ np.array([0.299, 0.587, 0.114])


@pytest.fixture
def errors(pack):
    return pack("livetalk_core.errors")


@pytest.fixture(scope="module")
def chunks(nodes, parts):
    """All three chunks, chained by hand: frames and states."""
    images, states, state = [], [], None
    for _ in range(3):
        latent, sampled = sample(nodes, parts, state=state)
        frames, state = decode(nodes, parts, latent, sampled)
        images.append(frames)
        states.append((latent, sampled, state))
    return images, states


class TestGuidance:
    def guided(self, nodes, parts, text=1.0, audio=2.0, **negative):
        inputs = {"model": parts["model"], "text_guidance": text, "audio_guidance": audio}
        return nodes["LiveTalkGuidance"][0].execute(**inputs, **negative).args[0]

    def test_changes_the_chunk_as_the_cores_engine_does(self, nodes, parts, chunks, pack):
        config, session = pack("livetalk_core.config"), pack("livetalk_core.streaming.session")
        guidance = config.Guidance(3.0, 2.0)
        tokens = torch.full((1, 4, 32), 0.5)
        model = self.guided(nodes, parts, 3.0, 2.0, negative=[[tokens, {}]])
        latent, sampled = sample(nodes, parts, model=model)
        assert sampled.stream.guidance == guidance
        by = {"guidance": guidance, "negative": tokens[0]}
        engine = pack("livetalk_core.streaming.engine").LocalEngine(parts["model"], parts["vae"], **by)
        plan, stream = sampled.plan, sampled.stream
        made = made_avatar(parts, stream)
        whole = session.Session(engine, made, parts["speech"].features(plan, made), plan, stream)
        assert torch.equal(latent["samples"][0], 2 * whole.sample(whole.start(5)) + 1)
        assert not torch.equal(latent["samples"], chunks[1][0][0]["samples"])

    def test_the_model_it_comes_from_is_unchanged(self, nodes, parts, chunks):
        self.guided(nodes, parts)
        latent, _ = sample(nodes, parts)
        assert torch.equal(latent["samples"], chunks[1][0][0]["samples"])

    def test_refuses_a_negative_prompt_that_is_missing_or_of_another_model(self, nodes, parts, errors):
        with pytest.raises(errors.InputError, match="set text_guidance to 1"):
            self.guided(nodes, parts, text=5.0)
        with pytest.raises(errors.InputError, match="8 wide; this model needs 32"):
            self.guided(nodes, parts, text=5.0, negative=[[torch.zeros(1, 4, 8), {}]])

    def test_a_resume_needs_the_same_guidance(self, nodes, parts, host, errors):
        host.cancel_after = 3
        with pytest.raises(Interrupted):
            render(nodes, parts, model=self.guided(nodes, parts, audio=2.0))
        host.cancel_after = None
        with pytest.raises(errors.ResumeError, match="another guidance"):
            render(nodes, parts, model=self.guided(nodes, parts, audio=3.0), resume=True)


class TestStepsAndChunks:
    """What `steps` 0 stands for, and how long the chunks are: what the weights were made for."""

    @pytest.fixture
    def patched(self, nodes, parts, pack):
        """A MODEL as a loader gives it with an InfiniteTalk patch, behind LiveTalk Guidance."""
        guidance, model = pack("nodes.guidance"), parts["model"].clone()
        guidance.mark(model, guidance.Guided(made_for=pack("livetalk_core.config").INFINITETALK))
        inputs = {"model": model, "text_guidance": 1.0, "audio_guidance": 2.0}
        return nodes["LiveTalkGuidance"][0].execute(**inputs).args[0]

    def test_a_distilled_model_takes_four(self, nodes, parts):
        latents = [sample(nodes, parts, steps=steps)[0]["samples"] for steps in (0, 4, 2)]
        assert torch.equal(latents[0], latents[1])
        assert not torch.equal(latents[0], latents[2])

    def test_guidance_alone_takes_as_many_as_undistilled_weights_need(self, nodes, parts):
        inputs = {"model": parts["model"], "text_guidance": 1.0, "audio_guidance": 1.0}
        model = nodes["LiveTalkGuidance"][0].execute(**inputs).args[0]
        stream = sample(nodes, parts, model=model, steps=0)[1].stream
        assert (stream.steps, stream.frame_num, stream.motion_frames) == (40, 33, 5)

    def test_a_patched_model_is_rendered_as_infinitetalk_was_trained(self, nodes, parts, host, patched, pack):
        waveform = torch.rand(1, 1, 100 * 640, generator=torch.Generator().manual_seed(4)) - 0.5
        talk = parts | {"speech": speech_of(nodes, parts["encoder"], waveform)}
        _, last, images = render(nodes, talk, model=patched, steps=0, collect_images=True).args
        assert host.steps == 2 * 40, "two chunks, of 81 and of 19 new frames"
        assert len(images) == 100 and torch.equal(last, images[-9:])

        config, session = pack("livetalk_core.config"), pack("livetalk_core.streaming.session")
        guidance = config.Guidance(1.0, 2.0)
        stream = dataclasses.replace(config.INFINITETALK, height=64, width=64, guidance=guidance)
        engine = pack("livetalk_core.streaming.engine").LocalEngine(parts["model"], parts["vae"], guidance=guidance)
        made, avatar = parts["avatar"], pack("livetalk_core.streaming.avatar")
        avatar = avatar.prepare_avatar(made.reference, made.clip, made.text, engine.encode, stream)
        plan = talk["speech"].plan(stream)
        whole = session.Session(
            engine, avatar, talk["speech"].features(plan, avatar), plan, dataclasses.replace(stream, shift=5.0)
        )
        frames = [event.frames for event in whole.run(whole.start(5)) if isinstance(event, session.Frames)]
        assert torch.equal(images, ((torch.cat(frames, dim=1).permute(1, 2, 3, 0) + 1) / 2).clamp(0, 1))

    def test_steps_that_were_chosen_hold(self, nodes, parts, host, patched):
        assert sample(nodes, parts, model=patched, steps=3)[1].stream.steps == 3
        render(nodes, parts, model=patched, steps=3)
        assert host.steps == 2 * 3


class TestChunks:
    def test_give_every_frame_of_the_speech_once(self, chunks):
        assert [tuple(frames.shape) for frames in chunks[0]] == [(33, 64, 64, 3), (28, 64, 64, 3), (9, 64, 64, 3)]
        assert all(frames.min() >= 0 and frames.max() <= 1 for frames in chunks[0])

    def test_give_what_the_core_gives(self, chunks, parts, pack):
        config, session = pack("livetalk_core.config"), pack("livetalk_core.streaming.session")
        stream = config.StreamConfig(64, 64, steps=2)
        plan = parts["speech"].plan(stream)
        engine = pack("livetalk_core.streaming.engine").LocalEngine(parts["model"], parts["vae"])
        made = made_avatar(parts, stream)
        whole = session.Session(engine, made, parts["speech"].features(plan, made), plan, stream)
        events = [event for event in whole.run(whole.start(5)) if isinstance(event, session.Frames)]
        expected = torch.cat([event.frames for event in events], dim=1).permute(1, 2, 3, 0)
        error = (torch.cat(chunks[0]) - (expected + 1) / 2).abs().max()
        assert error < 1e-3  # the way through LATENT's other scale rounds, and feeds back

    def test_seed_and_state_matter(self, nodes, parts, chunks):
        first, second = chunks[1][0], chunks[1][1]
        other, _ = sample(nodes, parts, seed=6)
        assert not torch.equal(other["samples"], first[0]["samples"])
        again, _ = sample(nodes, parts, state=first[2])
        assert torch.equal(again["samples"], second[0]["samples"])
        reseeded, _ = sample(nodes, parts, state=first[2], seed=6)
        assert not torch.equal(reseeded["samples"], second[0]["samples"])

    def test_color_correction_matters(self, nodes, parts, chunks):
        latent, sampled, _ = chunks[1][0]
        plain, _ = decode(nodes, parts, latent, sampled, correction=correction_of(nodes, 0.0))
        assert (plain - chunks[0][0]).abs().max() > 0.01

    def test_retrospection_reaches_the_next_chunk_as_in_the_core(self, nodes, parts, chunks, pack):
        """Sample Chunk alone is given it; what Decode Chunk hands on carries the review."""
        correction = correction_of(nodes, 1.0, retrospection=1.0)
        latent, sampled = sample(nodes, parts, correction=correction)
        first, state = decode(nodes, parts, latent, sampled)
        latent, sampled = sample(nodes, parts, correction=correction, state=state)
        second, _ = decode(nodes, parts, latent, sampled)
        assert torch.equal(first, chunks[0][0])
        assert not torch.equal(second, chunks[0][1])
        session = pack("livetalk_core.streaming.session")
        plan, stream = state.plan, state.stream
        engine = pack("livetalk_core.streaming.engine").LocalEngine(parts["model"], parts["vae"])
        made = made_avatar(parts, stream)
        whole = session.Session(engine, made, parts["speech"].features(plan, made), plan, stream)
        frames = [e.frames for e in whole.run(whole.start(5)) if isinstance(e, session.Frames) and e.chunk.index == 1]
        expected = (torch.cat(frames, dim=1).permute(1, 2, 3, 0) + 1) / 2
        assert (second - expected).abs().max() < 1e-3

    def test_retrospection_is_off_by_default(self, nodes, chunks):
        assert correction_of(nodes, 1.0).retrospection is None
        assert all(state.state.review is None for _, _, state in chunks[1])

    def test_chunks_are_joined_where_the_widget_says_so(self, nodes, parts, chunks):
        """By Decode Chunk's own settings, or those of Sample Chunk."""
        of = {join: correction_of(nodes, 1.0, join=join) for join in ("with retrospection", "always", "never")}
        assert [each.joins for each in of.values()] == [None, True, False]
        for sampling, decoding in ((None, "always"), ("always", None), ("always", "with retrospection")):
            state, images = None, []
            for _ in range(2):
                latent, sampled = sample(
                    nodes, parts, state=state, **({"correction": of[sampling]} if sampling else {})
                )
                frames, state = decode(
                    nodes, parts, latent, sampled, **({"correction": of[decoding]} if decoding else {})
                )
                images.append(frames)
            assert torch.equal(images[0], chunks[0][0]) and state.state.shown is not None
            changed = (images[1] - chunks[0][1]).abs().amax((1, 2, 3))
            assert changed[0] > 0.01 and changed[8:].max() < 1e-6, "the first frames alone"
        retrospective = correction_of(nodes, 1.0, retrospection=1.0, join="never")
        avatar = parts["avatar"]
        assert not retrospective.stream(chunks[1][0][1].stream, avatar).joined

    def test_refuse_retrospection_where_only_decoding_knows_of_it(self, nodes, parts, chunks, errors):
        latent, sampled, _ = chunks[1][0]
        with pytest.raises(errors.InputError, match="connect LiveTalk Correction there"):
            decode(nodes, parts, latent, sampled, correction=correction_of(nodes, 1.0, retrospection=0.5))

    def test_progress_counts_steps(self, nodes, parts, host):
        sample(nodes, parts, steps=3)
        assert host.steps == 3

    def test_refuse_a_state_out_of_turn(self, nodes, parts, chunks, errors):
        latent, sampled, decoded = chunks[1][0]
        with pytest.raises(errors.InputError, match="not decoded yet"):
            sample(nodes, parts, state=sampled)
        with pytest.raises(errors.InputError, match="decoded already"):
            decode(nodes, parts, latent, decoded)

    def test_refuse_the_chunk_after_the_last(self, nodes, parts, chunks, errors):
        with pytest.raises(errors.InputError, match=r"ended with the chunk before \(3 in all, 70 frames\)"):
            sample(nodes, parts, state=chunks[1][2][2])

    def test_refuse_another_avatar_or_speech(self, nodes, parts, chunks, errors):
        state = chunks[1][0][2]
        with pytest.raises(errors.InputError, match="another avatar"):
            sample(nodes, parts, state=state, avatar=avatar_of(nodes, parts["vae"], torch.zeros(1, 64, 64, 3)))
        with pytest.raises(errors.InputError, match="another speech"):
            sample(nodes, parts, state=state, speech=speech_of(nodes, parts["encoder"], torch.ones(1, 1, SAMPLES)))

    def test_refuse_a_latent_that_is_not_finite(self, nodes, parts, chunks, errors):
        latent, sampled, _ = chunks[1][0]
        spoiled = {"samples": latent["samples"].clone()}
        spoiled["samples"][0, 3, 1, 2, 2] = float("nan")
        with pytest.raises(errors.NumbersError, match=r"^chunk 1 \(from 0\.00 s on\): its latents are not finite"):
            decode(nodes, parts, spoiled, sampled)

    def test_refuse_a_portrait_that_is_not_finite(self, nodes, parts, errors):
        image = torch.rand(1, 64, 64, 3)
        image[0, 5, 5, 0] = float("nan")
        with pytest.raises(errors.InputError, match="the portrait must be finite"):
            avatar_of(nodes, parts["vae"], image)

    def test_refuse_a_resized_latent(self, nodes, parts, chunks, errors):
        _, sampled, _ = chunks[1][0]
        with pytest.raises(errors.InputError, match=r"\[1, 16, 9, 4, 4\].*not resized"):
            decode(nodes, parts, {"samples": torch.zeros(1, 16, 9, 4, 4)}, sampled)


class TestRender:
    def test_writes_the_talk(self, nodes, parts, chunks, host, tmp_path):
        output = render(nodes, parts)
        path = tmp_path / "video" / "talk_00001_.mp4"
        assert output.args[0].file == str(path)
        saved = output.ui["images"][0]
        assert (saved.filename, saved.subfolder, saved.type) == (path.name, "video", "output")
        assert sorted(file.name for file in path.parent.iterdir()) == [path.name]
        frames = frames_of(path)
        assert frames.shape == (70, 64, 64, 3)
        written, made = grey(frames), grey(torch.cat(chunks[0]).numpy() * 255)
        errors = [np.abs(written - np.roll(made, shift, axis=0)).mean() for shift in (-1, 0, 1)]
        assert errors[1] < 0.8 * min(errors[0], errors[2]), "each frame in its place"
        with av.open(str(path)) as video:
            assert video.metadata["workflow"] and video.metadata["prompt"]
            assert abs(video.streams.audio[0].duration * video.streams.audio[0].time_base - 2.8) < 0.05

    def test_shows_every_chunk(self, nodes, parts, host):
        render(nodes, parts)
        assert [len(frames) for frames in host.shown] == [33, 28, 9]
        assert [text.split(",")[0] for text in host.said] == [f"{n} of 70 frames" for n in (33, 61, 70)]
        assert host.steps == 6

    def test_numbers_its_files(self, nodes, parts, host, tmp_path):
        render(nodes, parts)
        assert render(nodes, parts).args[0].file == str(tmp_path / "video" / "talk_00002_.mp4")

    def test_cancel_keeps_the_partial_and_resume_finishes_it(self, nodes, parts, host, tmp_path):
        render(nodes, parts, filename_prefix="video/whole")
        host.cancel_after = host.steps + 5
        with pytest.raises(Interrupted):
            render(nodes, parts)
        partial = tmp_path / "video" / "talk_00001_.partial.mp4"
        assert partial.is_file()
        assert str(partial) in host.said[-1]
        assert len(frames_of(partial)) >= 5

        host.cancel_after, host.shown = None, []
        path = render(nodes, parts, resume=True).args[0].file
        assert path == str(tmp_path / "video" / "talk_00001_.mp4")
        assert len(host.shown) == 1
        assert not partial.exists()
        assert np.array_equal(frames_of(path), frames_of(tmp_path / "video" / "whole_00001_.mp4"))

    @pytest.mark.parametrize(("change", "named"), [({"steps": 3}, "steps")])
    def test_resume_refuses_other_inputs(self, nodes, parts, host, errors, change, named):
        host.cancel_after = 5
        with pytest.raises(Interrupted):
            render(nodes, parts)
        host.cancel_after = None
        with pytest.raises(errors.ResumeError, match=f"another.* {named}"):
            render(nodes, parts, resume=True, **change)

    @pytest.mark.parametrize("change", [{"codec": "av1"}, {"codec": "prores"}, {"crf": 30}])
    def test_resume_refuses_another_coding(self, nodes, parts, host, errors, change):
        host.cancel_after = 3
        with pytest.raises(Interrupted):
            render(nodes, parts)
        host.cancel_after = None
        with pytest.raises(errors.ResumeError, match=next(iter(change))):
            render(nodes, parts, resume=True, **change)

    def test_a_stopped_render_shows_what_is_done(self, nodes, parts, host):
        host.cancel_after = 3
        with pytest.raises(Interrupted):
            render(nodes, parts)
        (shown,) = host.left
        assert shown.filename == "talk_00001_.partial.mp4"

    def test_a_render_that_fails_before_its_first_chunk_shows_nothing(self, nodes, parts, host):
        host.cancel_after = 1
        with pytest.raises(Interrupted):
            render(nodes, parts)
        assert host.left is None

    def test_codec_quality_and_place_are_chosen(self, nodes, parts, host, tmp_path):
        usual = Path(render(nodes, parts).args[0].file)
        small = Path(render(nodes, parts, crf=40).args[0].file)
        made = render(nodes, parts, codec="av1", crf=40, save_output=False)
        other = Path(made.args[0].file)
        assert small.stat().st_size < 0.7 * usual.stat().st_size
        assert other.is_relative_to(tmp_path / "temp") and not usual.is_relative_to(tmp_path / "temp")
        with av.open(str(other)) as video:
            assert video.streams.video[0].codec_context.codec_tag == "av01"
        assert made.ui["livetalk_codec"] == ["av1"] and made.ui["images"]
        assert "livetalk_codec" not in render(nodes, parts).ui
        assert len(frames_of(other)) == 70

    def test_a_film_for_editors_is_named_and_not_played(self, nodes, parts, host):
        host.cancel_after = 3
        with pytest.raises(Interrupted):
            render(nodes, parts, codec="prores")
        assert not host.left
        host.cancel_after = None
        result = render(nodes, parts, codec="prores", resume=True)
        path = Path(result.args[0].file)
        assert path.name == "talk_00001_.mov" and [file.filename for file in result.ui["livetalk_video"]] == [path.name]
        assert "images" not in result.ui and f"prores, which no browser plays: {path}" in host.said
        assert len(frames_of(path)) == 70

    def test_resume_with_nothing_to_resume_starts_anew(self, nodes, parts, host):
        assert frames_of(render(nodes, parts, resume=True).args[0].file).shape[0] == 70

    def test_one_sample_gives_one_frame(self, nodes, parts, host):
        speech = speech_of(nodes, parts["encoder"], torch.ones(1, 1, 1))
        assert len(frames_of(render(nodes, parts, speech=speech).args[0].file)) == 1

    def test_refuses_parts_of_another_model_and_writes_nothing(self, nodes, parts, host, errors, tmp_path):
        text = dataclasses.replace(parts["avatar"], text=torch.zeros(4, 4096))
        with pytest.raises(errors.InputError, match="4096 and 64 wide; this model needs 32 and 64"):
            render(nodes, parts, avatar=text)
        encoder = dataclasses.replace(parts["encoder"], blocks=12)
        with pytest.raises(errors.InputError, match="12 layers of 64 features; this model needs 4 of 64"):
            render(nodes, parts, speech=speech_of(nodes, encoder, torch.ones(1, 1, 100)))
        with pytest.raises(errors.InputError, match="this MODEL is a object"):
            render(nodes, parts, model=object())
        assert not list(tmp_path.iterdir())

    def test_the_14b_model_says_which_encoders_it_needs(self, pack, parts, errors):
        handles, config = pack("nodes.handles"), pack("livetalk_core.config")
        with pytest.raises(errors.InputError, match=r"umt5_xxl .* clip_vision_h"):
            handles.check_fit(config.TransformerConfig(), parts["avatar"], parts["speech"])


class Doubler:
    """An upscaler of the host's: every pixel four times."""

    scale, identity = 2, "2x, doubler"

    def __init__(self, probe):
        self.probe = probe

    def __call__(self, frames):
        return frames.repeat_interleave(2, 2).repeat_interleave(2, 3)


class TestRenderOptions:
    def test_upscales_each_chunk_and_leaves_the_talk_as_it_is(self, nodes, parts, host):
        plain = render(nodes, parts, collect_images=True).args
        large = render(nodes, parts, upscale_model=Doubler, collect_images=True).args
        with av.open(large[0].file) as video:
            assert (video.streams.video[0].width, video.streams.video[0].height) == (128, 128)
        assert large[2].shape == (70, 128, 128, 3)
        assert torch.equal(large[2][:, ::2, ::2], plain[2])

    def test_gives_the_last_frames_and_all_where_asked(self, nodes, parts, host):
        _, last, everything = render(nodes, parts, collect_images=True).args
        assert torch.equal(last, everything[-5:])
        _, last_alone, blocked = render(nodes, parts).args
        assert torch.equal(last_alone, last)
        assert "collect_images" in blocked.message

    def test_images_are_kept_where_another_node_takes_them(self, nodes, parts, host, monkeypatch):
        cls = nodes["LiveTalkRender"][0]
        for output, kept in ((2, True), (1, False)):
            graph = Graph({"1": {"inputs": {}}, "9": {"inputs": {"images": ["1", output]}}})
            monkeypatch.setattr(cls.hidden, "dynprompt", graph)
            assert torch.is_tensor(render(nodes, parts).args[2]) is kept
            monkeypatch.setattr(host, "running_prompt", lambda nodes=graph.nodes: nodes)
            assert cls.fingerprint_inputs() is kept, "connected later, it renders anew"

    def test_goes_on_from_the_frames_of_another_render(self, nodes, parts, host):
        _, last, first = render(nodes, parts, collect_images=True).args
        onward = render(nodes, parts, start_images=last, collect_images=True).args[2]
        again = render(nodes, parts, start_images=first, collect_images=True).args[2]
        assert len(onward) == len(first)
        assert torch.equal(onward, again), "the last frames alone count"
        assert not torch.equal(onward, first)
        larger = last.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert len(render(nodes, parts, start_images=larger[-1:], collect_images=True).args[2]) == len(first)

    def test_says_what_it_does_not_use(self, nodes, parts, host):
        host.unused = ["attn1 output patch", "easycache"]
        render(nodes, parts)
        assert host.said[-1].endswith("left\nnot used by LiveTalk: attn1 output patch, easycache")

    def test_another_vae_is_refused_by_name(self, nodes, parts, host, errors):
        host.cancel_after = host.steps + 3
        with pytest.raises(Interrupted):
            render(nodes, parts)
        host.cancel_after = None
        other = copy.deepcopy(parts["vae"])
        next(other.parameters()).data.mul_(1.01)
        with pytest.raises(errors.ResumeError, match="another vae"):
            render(nodes, parts | {"vae": other}, resume=True)

    def test_images_of_an_earlier_run_are_not_in_memory(self, nodes, parts, host, errors):
        host.cancel_after = host.steps + 5
        with pytest.raises(Interrupted):
            render(nodes, parts)
        host.cancel_after = None
        with pytest.raises(errors.InputError, match="the first 61 frames of this render are in its file alone"):
            render(nodes, parts, resume=True, collect_images=True)

    def test_resumes_with_the_seed_that_it_began_with(self, nodes, parts, host):
        expected = frames_of(render(nodes, parts, filename_prefix="video/whole").args[0].file)
        host.cancel_after = host.steps + 3
        with pytest.raises(Interrupted):
            render(nodes, parts)
        host.cancel_after = None
        assert np.array_equal(frames_of(render(nodes, parts, resume=True, seed=99).args[0].file), expected)

    def test_later_prompts_change_what_comes_after_them(self, nodes, parts, host):
        later = nodes["LiveTalkPrompt"][0].execute(prompt="shouting", from_second=1.5).args[0]
        plain = render(nodes, parts, collect_images=True).args[2]
        changed = render(nodes, parts, prompts=later, collect_images=True).args[2]
        assert torch.equal(changed[:33], plain[:33])
        assert not torch.equal(changed[33:], plain[33:])

    def test_a_chunk_that_is_not_finite_stops_it_and_the_part_before_plays(self, nodes, parts, host, errors, tmp_path):
        tokens = [[torch.full((1, 4, 32), float("nan")), {}]]
        later = nodes["LiveTalkPrompt"][0].execute(prompt="", conditioning=tokens, from_second=1.4).args[0]
        with pytest.raises(errors.NumbersError, match=r"^chunk 2 \(from 1\.32 s on\): its latents are not finite"):
            render(nodes, parts, prompts=later)
        partial = next(tmp_path.rglob("*.partial.mp4"))
        assert len(frames_of(partial)) == 33
        assert f"What is done: {partial}" in host.said[-1]

    def test_prompts_of_another_model_are_refused(self, nodes, parts, host, errors):
        later = nodes["LiveTalkPrompt"][0].execute(prompt="", from_second=0, conditioning=[[torch.zeros(1, 4, 9), {}]])
        with pytest.raises(errors.InputError, match="9 and 64 wide; this model needs 32 and 64"):
            render(nodes, parts, prompts=later.args[0])


class TestOverlap:
    def test_brings_the_frame_before(self, nodes, parts, chunks, pack):
        (latent, sampled, _), plain = chunks[1][1], chunks[0][1]
        frames, _ = decode(nodes, parts, latent, sampled, overlap=True)
        assert torch.equal(frames[1:], plain)
        session = pack("livetalk_core.streaming.session")
        engine = pack("livetalk_core.streaming.engine").LocalEngine(parts["model"], parts["vae"])
        plan = sampled.plan._replace(motion_frames=0)  # as if the chunk repeated nothing: all its frames
        whole = session.Session(engine, sampled.avatar, None, plan, sampled.stream)
        groups = list(whole.decode(sampled.state, (latent["samples"][0] - 1) / 2))
        repeated = torch.cat([group.frames for group in groups], dim=1)[:, 4]
        assert torch.equal(frames[0], (repeated.permute(1, 2, 0) + 1) / 2)

    def test_the_first_chunk_brings_its_own_first_frame(self, nodes, parts, chunks):
        (latent, sampled, _), plain = chunks[1][0], chunks[0][0]
        frames, _ = decode(nodes, parts, latent, sampled, overlap=True)
        assert torch.equal(frames, torch.cat([plain[:1], plain]))


class TestTwoSpeakers:
    @pytest.fixture(scope="class")
    def two(self, nodes, parts):
        generator = torch.Generator().manual_seed(8)
        image = torch.rand(1, 64, 64, 3, generator=generator)
        left, right = torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)
        left[:, :, :24], right[:, :, 40:] = 1, 1
        avatar = nodes["LiveTalkAvatar"][0].execute(
            image=image, vae=parts["vae"], width=64, height=64, prompt="two", crop="center", crop_box="",
            mask_1=left, mask_2=right,
        )  # fmt: skip
        first = {"waveform": torch.rand(1, 1, SAMPLES, generator=generator) - 0.5, "sample_rate": 16_000}
        second = {"waveform": torch.rand(1, 2, SAMPLES, generator=generator) - 0.5, "sample_rate": 32_000}
        speech = nodes["LiveTalkEncodeSpeech"][0].execute(
            audio_encoder=parts["encoder"], audio=first, mode="window", audio_offset=0, audio_2=second
        )
        return parts | {"avatar": avatar.args[0], "speech": speech.args[0]}

    def test_masks_follow_the_picture(self, two):
        masks = two["avatar"].masks
        assert masks.shape == (3, 64, 64)
        assert torch.equal(masks.sum(0), torch.ones(64, 64))
        assert masks[0, :, :24].all() and masks[1, :, 40:].all() and masks[2, :, 24:40].all()

    def test_render_hears_both(self, nodes, two, host):
        path = render(nodes, two).args[0].file
        assert len(frames_of(path)) == 70
        with av.open(path) as video:
            assert (video.streams.audio[0].rate, video.streams.audio[0].layout.name) == (32_000, "stereo")

    def test_each_voice_matters(self, nodes, two, host, parts):
        plain = render(nodes, two, collect_images=True).args[2]
        swapped = dataclasses.replace(two["speech"], voices=two["speech"].voices[::-1], _features={})
        assert not torch.equal(render(nodes, two | {"speech": swapped}, collect_images=True).args[2], plain)

    def test_one_of_several_speaks_alone(self, nodes, two, parts, host):
        masks = two["avatar"].masks
        lone = torch.stack([masks[0], 1 - masks[0], 1 - masks[0]])
        alone = parts | {"avatar": dataclasses.replace(parts["avatar"], masks=lone)}
        assert not torch.equal(
            render(nodes, alone, collect_images=True).args[2], render(nodes, parts, collect_images=True).args[2]
        )

    def test_voices_and_masks_go_together(self, nodes, two, parts, host, errors):
        with pytest.raises(errors.InputError, match="two voices, but the avatar has no speaker masks"):
            render(nodes, two | {"avatar": parts["avatar"]})
        with pytest.raises(errors.InputError, match="two speaker masks, but there is one voice"):
            render(nodes, two | {"speech": parts["speech"]})


def test_encode_speech_says_how_many_chunks(nodes, parts):
    audio = {"waveform": torch.zeros(1, 1, SAMPLES), "sample_rate": 16_000}
    settings = {"audio_encoder": parts["encoder"], "audio": audio, "mode": "window", "audio_offset": 0}
    made = nodes["LiveTalkEncodeSpeech"][0].execute(**settings)
    assert made.args[1] == 3
