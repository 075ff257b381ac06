"""The re-queue pair on the embedded model: a chunk a run, the same video as the render node's, resumed, refused."""

import copy
import dataclasses

import av
import pytest
import torch

from tests.nodes.fake_host import Blocked, Interrupted
from tests.nodes.test_stream import correction_of, decode, frames_of, grey, parts, render, sample  # noqa: F401 - `parts` is a fixture


@pytest.fixture
def errors(pack):
    return pack("livetalk_core.errors")


def start(nodes, parts, **changes):  # noqa: F811
    inputs = {name: parts[name] for name in ("avatar", "speech")}
    inputs |= {"filename_prefix": "video/job", "resume": False, "job": "", "codec": "h264", "crf": 18} | changes
    return nodes["LiveTalkJobStart"][0].execute(**inputs).args


def chunk(nodes, parts, state, **changes):  # noqa: F811
    latent, sampled = sample(nodes, parts, state=state, **changes)
    return decode(nodes, parts, latent, sampled)


def end(nodes, job, state, images):
    return nodes["LiveTalkJobEnd"][0].execute(job=job, state=state, images=images)


def run(nodes, parts, host, finish=lambda images: images, sampling=None, **changes):  # noqa: F811
    """One prompt after the other, as ComfyUI's queue would run them; gives each one's output."""
    outputs, queued = [], {}
    while queued is not None:
        state, job = start(nodes, parts, **(changes | queued))
        images, after = chunk(nodes, parts, state, **(sampling or {}))
        outputs.append(end(nodes, job, after, finish(images)))
        queued = host.queued.pop()[1] if host.queued else None
    return outputs


def test_gives_the_video_of_the_render_node(nodes, parts, host, tmp_path):  # noqa: F811
    outputs = run(nodes, parts, host)
    rendered = render(nodes, parts).args[0].file
    path = tmp_path / "video" / "job_00001_.mp4"
    assert outputs[-1].args[0].file == str(path)
    assert sorted(file.name for file in path.parent.glob("job*")) == [path.name]
    made, expected = frames_of(path), frames_of(rendered)
    assert made.shape == expected.shape
    assert abs(grey(made) - grey(expected)).mean() < 1
    with av.open(str(path)) as video:
        assert abs(float(video.streams.audio[0].duration * video.streams.audio[0].time_base) - 2.8) < 0.05
        assert video.metadata["workflow"] and video.metadata["prompt"]


def test_images_that_are_not_finite_are_not_written(nodes, parts, host, errors, tmp_path):  # noqa: F811
    def spoil(images):
        return torch.where(torch.arange(len(images))[:, None, None, None] == 20, torch.nan, images)

    with pytest.raises(errors.NumbersError, match=r"^chunk 1 .* its images are not finite"):
        run(nodes, parts, host, finish=spoil)
    assert not list(tmp_path.rglob("*.mp4"))


def test_says_where_it_stands_and_what_comes_next(nodes, parts, host):  # noqa: F811
    outputs = run(nodes, parts, host)
    stands = [output.ui["livetalk_job"][0] for output in outputs]
    assert [(job["chunk"], job["chunks"], job["done"]) for job in stands] == [
        (1, 3, False),
        (2, 3, False),
        (3, 3, True),
    ]
    assert [job["next_prompt_id"] is None for job in stands] == [False, False, True]
    named = [[file.filename for file in output.ui.get("images", [])] for output in outputs]
    assert named == [[], [], ["job_00001_.mp4"]], "an unfinished file would stay listed when it is gone"
    assert [len(frames) for frames in host.shown] == [33, 28], "each unfinished chunk is played"
    (video,) = host.made_way
    assert video["images"] == outputs[-1].ui["images"], "the last of them gives place to the video, once"
    assert all(isinstance(output.args[0], Blocked) and output.args[0].message is None for output in outputs[:-1])


def test_frames_may_be_larger_and_more(nodes, parts, host):  # noqa: F811
    def finish(images):
        return images.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)

    path = run(nodes, parts, host, finish)[-1].args[0].file
    with av.open(str(path)) as video:
        assert video.streams.video[0].average_rate == 50
        assert sum(1 for _ in video.decode(video=0)) == 140
        assert video.streams.video[0].width == 128


def test_a_new_run_starts_anew_and_resume_goes_on(nodes, parts, host, tmp_path):  # noqa: F811
    state, job = start(nodes, parts)
    images, after = chunk(nodes, parts, state)
    end(nodes, job, after, images)
    host.queued.clear()  # the server went down
    assert start(nodes, parts)[0] is None
    resumed, _ = start(nodes, parts, resume=True)
    assert resumed.state.next_chunk == 1
    assert torch.equal(resumed.state.motion, after.state.motion)
    outputs = run(nodes, parts, host, resume=True)
    assert [output.ui["livetalk_job"][0]["chunk"] for output in outputs] == [2, 3]
    assert len(frames_of(tmp_path / "video" / "job_00001_.mp4")) == 70


def test_cancel_queues_no_more_and_keeps_the_chunk(nodes, parts, host, tmp_path):  # noqa: F811
    state, job = start(nodes, parts)
    images, after = chunk(nodes, parts, state)
    host.cancelled = True
    with pytest.raises(Interrupted):
        end(nodes, job, after, images)
    assert not host.queued
    assert len(frames_of(tmp_path / "video" / "job_00001_.partial.mp4")) == 33
    assert start(nodes, parts, resume=True)[0].state.next_chunk == 1


def test_refuses_frames_that_are_no_multiple(nodes, parts, host, errors, tmp_path):  # noqa: F811
    state, job = start(nodes, parts)
    images, after = chunk(nodes, parts, state)
    with pytest.raises(errors.InputError, match="65 images for a chunk of 33 frames"):
        end(nodes, job, after, torch.cat([images, images])[1:])
    assert not list(tmp_path.rglob("*.mp4"))


def test_refuses_a_chunk_out_of_turn(nodes, parts, host, errors):  # noqa: F811
    state, job = start(nodes, parts)
    images, first = chunk(nodes, parts, state)
    _, second = chunk(nodes, parts, first)
    with pytest.raises(errors.InputError, match="does not follow the job's 0 written chunks"):
        end(nodes, job, second, images)


def test_refuses_another_speech_and_names_that_are_none(nodes, parts, host, errors):  # noqa: F811
    state, job = start(nodes, parts)
    images, after = chunk(nodes, parts, state)
    end(nodes, job, after, images)
    with pytest.raises(errors.InputError, match="no unfinished job 'other'"):
        start(nodes, parts, job="other")
    audio = {"waveform": torch.ones(1, 1, 100), "sample_rate": 16_000}
    other = (
        nodes["LiveTalkEncodeSpeech"][0]
        .execute(audio_encoder=parts["encoder"], audio=audio, mode="window", audio_offset=0)
        .args[0]
    )
    with pytest.raises(errors.ResumeError, match="another speech"):
        start(nodes, parts | {"speech": other}, resume=True)


def test_is_never_what_it_was(nodes):
    value = nodes["LiveTalkJobStart"][0].fingerprint_inputs()
    assert value != value


def test_retrospection_outlives_the_prompt(nodes, parts, host, errors):  # noqa: F811
    """Its memory of the last chunks is in the job's file."""
    correction = correction_of(nodes, 1.0, retrospection=1.0)
    state, job = start(nodes, parts)
    images, after = chunk(nodes, parts, state, correction=correction)
    end(nodes, job, after, images)
    resumed, _ = start(nodes, parts, resume=True)
    assert torch.equal(resumed.state.review, after.state.review)
    at_once, kept = (chunk(nodes, parts, given, correction=correction)[0] for given in (after, resumed))
    assert torch.equal(at_once, kept)
    with pytest.raises(errors.ResumeError, match="begun with another correction"):
        chunk(nodes, parts, resumed)


def begun(nodes, parts):  # noqa: F811
    """A job of one chunk, whose server went down."""
    state, job = start(nodes, parts)
    images, after = chunk(nodes, parts, state)
    end(nodes, job, after, images)
    return start(nodes, parts, resume=True)


def later_prompt(nodes):
    return nodes["LiveTalkPrompt"][0].execute(prompt="smile", from_second=1.5).args[0]


@pytest.mark.parametrize("named", ["steps", "prompt", "later prompts", "model"])
def test_goes_on_with_what_it_began_with_or_says_what_is_another(nodes, parts, host, errors, named):  # noqa: F811
    state, _ = begun(nodes, parts)
    model = copy.copy(parts["model"])
    model.name = "another"
    changed = {
        "steps": {"steps": 3},
        "prompt": {"avatar": dataclasses.replace(parts["avatar"], text=parts["avatar"].text + 1)},
        "later prompts": {"prompts": later_prompt(nodes)},
        "model": {"model": model},
    }
    with pytest.raises(errors.ResumeError, match=f"begun with another {named};"):
        sample(nodes, parts, state=state, **changed[named])


def test_another_vae_is_refused_before_it_is_written(nodes, parts, host, errors, tmp_path):  # noqa: F811
    state, job = begun(nodes, parts)
    latent, sampled = sample(nodes, parts, state=state)
    vae = copy.deepcopy(parts["vae"])
    vae.decoder.head[0].gamma.mul_(1.1)
    images, after = decode(nodes, parts, latent, sampled, vae=vae)
    with pytest.raises(errors.ResumeError, match="begun with another vae;"):
        end(nodes, job, after, images)
    assert len(frames_of(tmp_path / "video" / "job_00001_.partial.mp4")) == 33


def test_another_codec_is_refused(nodes, parts, host, errors):  # noqa: F811
    begun(nodes, parts)
    with pytest.raises(errors.ResumeError, match="another codec"):
        start(nodes, parts, resume=True, codec="av1")


def test_keeps_its_seed_whatever_the_widget_has_become(nodes, parts, host):  # noqa: F811
    state, _ = begun(nodes, parts)
    same, other = (sample(nodes, parts, state=state, seed=seed)[0]["samples"] for seed in (5, 6))
    assert torch.equal(same, other)


def test_prompts_change_in_its_course(nodes, parts, host):  # noqa: F811
    plain, changed = (
        run(nodes, parts, host, sampling=extra)[-1].args[0].file for extra in ({}, {"prompts": later_prompt(nodes)})
    )
    apart = abs(grey(frames_of(plain)) - grey(frames_of(changed))).mean((1, 2))
    assert apart[:33].max() == 0 and apart[33:].mean() > 0


def test_says_how_long_it_will_take(pack):
    line = pack("nodes.job").job_line
    assert line(3, 40, 12.2) == "chunk 3 of 40, 12 s each, 7 min 31 s left"
    assert line(40, 40, 12.2) == "chunk 40 of 40"
