"""What is written on the command line becomes a model and a way to sample it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from livetalk_core.checkpoints import nano
from livetalk_core.config import CorrectionConfig, Guidance
from livetalk_core.errors import CheckpointError, InputError
from livetalk_core.sampling.chunk import seeded_noise
from livetalk_core.shapes import WAN
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ignore_step
from livetalk_core.training.evaluation.entrants import Entrant
from livetalk_core.training.evaluation.performers import ModelPerformer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def chunk(subjects):
    """The inputs of a first chunk, for `Engine.denoise`."""
    session = Entrant.parse("nano,steps=2").open(CPU, torch.float32).session(subjects[0])
    audio = session.features.for_chunk(session.plan.chunk(0))
    noise = seeded_noise(0)(0, (2, 16, 9, 12, 12))
    return session.avatar, audio, session.avatar.first_motion(WAN), noise, ignore_step


def test_settings_are_read_and_written():
    entrant = Entrant.parse("nano,steps=50,guidance=2.5,transformer=a/b.safetensors")
    assert entrant == Entrant("nano", transformer=Path("a/b.safetensors"), steps=50, guidance=2.5)
    assert Entrant.parse(str(entrant)) == entrant
    assert str(Entrant.parse("nano")) == "nano"


@pytest.mark.parametrize("text", ["nano,steps=many", "nano,speed=2", "nano,steps"])
def test_what_is_no_setting_is_named(text):
    with pytest.raises(InputError, match="no setting; write MODEL"):
        Entrant.parse(text)


@pytest.mark.parametrize(
    "text",
    ["steps=0", "steps=-1", "steps=1001", "guidance=nan", "guidance=-1", "color=2", "color=nan", "correction=9",
     "correction=nan", "disturbance=nan", "disturbance=-1", "disturbance=inf", "fp8=2", "fp8=-1", "revisions=-1",
     "repeats_portrait=7", "strength=nan", "strength=inf"],
)  # fmt: skip
def test_values_that_no_stream_has_are_named_before_anything_is_loaded(text):
    name = text.partition("=")[0]
    with pytest.raises(InputError, match="strength" if name == "correction" else name):
        Entrant.parse(f"nano,{text}")


def test_settings_reach_the_stream():
    performer = Entrant.parse("nano,steps=7,color=0.5,correction=0.25").open(CPU, torch.float32)
    assert isinstance(performer, ModelPerformer)
    assert (performer.stream.steps, performer.stream.color_correction) == (7, 0.5)
    assert performer.stream.correction == CorrectionConfig(strength=0.25)
    assert Entrant.parse("nano,correction=0").open(CPU, torch.float32).stream.correction is None
    with pytest.raises(InputError, match="strength 2"):
        Entrant.parse("nano,correction=2").open(CPU, torch.float32)


def test_a_repeated_portrait_reaches_the_transformer(chunk):
    performer = Entrant.parse("nano").open(CPU, torch.float32)
    plain = Entrant.parse("nano,repeats_portrait=0").open(CPU, torch.float32)
    assert isinstance(performer, ModelPerformer) and isinstance(plain, ModelPerformer)
    assert not torch.equal(performer.engine.denoise(*chunk), plain.engine.denoise(*chunk))


def test_weights_of_a_checkpoint_take_the_place_of_the_models(tmp_path):
    vae = nano.vae("cpu", torch.float32)
    weights = {name: values.clone() for name, values in vae.state_dict().items()}
    weights["conv2.bias"] += 1
    save_file(weights, tmp_path / "other.safetensors")
    performer = Entrant.parse(f"nano,vae={tmp_path / 'other.safetensors'}").open(CPU, torch.float32)
    assert torch.equal(performer.model.vae.state_dict()["conv2.bias"], weights["conv2.bias"])
    with pytest.raises(InputError, match="do not exist"):
        Entrant.parse(f"nano,vae={tmp_path / 'none.safetensors'}").open(CPU, torch.float32)
    with pytest.raises(CheckpointError):
        Entrant.parse(f"nano,transformer={tmp_path / 'other.safetensors'}").open(CPU, torch.float32)


def test_disturbance_is_of_the_size_stated_and_decided_by_the_seed(chunk):
    clean, once, again = (
        Entrant.parse(text).open(CPU, torch.float32).engine.denoise(*chunk)
        for text in ("nano,steps=2", "nano,steps=2,disturbance=0.5", "nano,steps=2,disturbance=0.5")
    )
    assert torch.equal(once, again)
    assert (once - clean).std() == pytest.approx(0.5, rel=0.05)


def test_guidance_goes_away_from_the_unheard(chunk):
    transformer, vae = nano.transformer("cpu", torch.float32), nano.vae("cpu", torch.float32)
    none, plain, twice = (
        LocalEngine(transformer, vae, guidance=Guidance(audio=g)).denoise(*chunk) for g in (0.0, 1.0, 2.0)
    )
    assert torch.allclose(plain[:, :1], chunk[2])
    assert not torch.allclose(none, plain, atol=1e-3)
    first_step = (*chunk[:3], chunk[3][:1], ignore_step)
    outs = [LocalEngine(transformer, vae, guidance=Guidance(audio=g)).denoise(*first_step) for g in (0.0, 1.0, 2.0)]
    assert torch.allclose(outs[2], 2 * outs[1] - outs[0], atol=1e-3)
    assert not torch.allclose(twice, plain, atol=1e-3)


@pytest.mark.parametrize("text", ["nano,steps=2", "nano,steps=2,guidance=1"])
def test_clean_latents_may_differ_from_step_to_step(chunk, text):
    engine = Entrant.parse(text).open(CPU, torch.float32).engine
    avatar, audio, motion, noise, on_step = chunk
    plain, same, corrected = (
        engine.denoise(avatar, audio, clean, noise, on_step)
        for clean in (motion, torch.stack([motion, motion]), torch.stack([motion, motion + 1]))
    )
    clean = motion.shape[1]
    assert torch.equal(plain, same)
    assert torch.allclose(corrected[:, :clean], motion + 1)
    assert not torch.allclose(corrected[:, clean:], plain[:, clean:], atol=1e-3)


def test_one_unguided_step_is_the_students(chunk):
    transformer, vae = nano.transformer("cpu", torch.float32), nano.vae("cpu", torch.float32)
    one = (*chunk[:3], chunk[3][:1], ignore_step)
    teacher, student = LocalEngine(transformer, vae, guidance=Guidance()), LocalEngine(transformer, vae)
    assert torch.allclose(teacher.denoise(*one), student.denoise(*one), atol=1e-4)
