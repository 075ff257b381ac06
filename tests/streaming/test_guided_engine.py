"""An engine with guidance: what it compares with, how often it asks the model, how much noise a chunk draws."""

import itertools
from dataclasses import replace

import pytest
import torch

from livetalk_core.config import Guidance
from livetalk_core.errors import InputError
from livetalk_core.sampling.chunk import seeded_noise
from livetalk_core.sampling.schedule import sigmas
from livetalk_core.shapes import WAN
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ignore_step

NEGATIVE = torch.full((2, 12), -1.0)


def inputs(session, steps=3):
    """What `Engine.denoise` takes for the first chunk."""
    chunk = session.plan.chunk(0)
    noise = seeded_noise(3)(0, (1, 16, 3, 4, 4)).expand(steps, -1, -1, -1, -1)
    return session.avatar, session.features.for_chunk(chunk), session.avatar.first_motion(WAN), noise


def engine_of(session, guidance, negative=NEGATIVE):
    return LocalEngine(session.engine.transformer, session.engine.vae, guidance=guidance, negative=negative)


def test_is_what_the_formula_gives_by_hand(session):
    """Euler's steps on three forwards: everything, negative prompt, negative prompt and silence."""
    avatar, audio, motion, noise = inputs(session)
    model, cond = session.engine.transformer, avatar.cond[None]

    def velocity(latent, sigma, text, sound):
        context = model.embed_context(text[None], avatar.clip)
        return model(latent[None], torch.tensor([1000 * sigma]), cond, context, model.embed_audio(sound))[0]

    latent, levels = noise[0].clone(), sigmas(3, 5.0)
    for sigma, following in itertools.pairwise(levels):
        latent[:, :1] = motion
        full, drop_text, nothing = (
            velocity(latent, sigma, text, sound)
            for text, sound in ((avatar.text, audio), (NEGATIVE, audio), (NEGATIVE, 0 * audio))
        )
        latent = latent + (following - sigma) * (nothing + 5 * (full - drop_text) + 4 * (drop_text - nothing))
    latent[:, :1] = motion
    found = engine_of(session, Guidance(5, 4)).denoise(avatar, audio, motion, noise, ignore_step)
    assert torch.allclose(found, latent, atol=1e-3 * float(latent.abs().max()))


@pytest.mark.parametrize(
    ("guidance", "evaluations"), [(None, 3), (Guidance(), 3), (Guidance(audio=2), 6), (Guidance(5, 4), 9)]
)
def test_asks_the_model_no_oftener_than_needed(session, monkeypatch, guidance, evaluations):
    calls = []
    engine = engine_of(session, guidance)
    evaluate = engine.transformer.evaluate
    monkeypatch.setattr(engine.transformer, "evaluate", lambda *a, **ways: calls.append(1) or evaluate(*a, **ways))
    avatar, audio, motion, noise = inputs(session)
    engine.denoise(avatar, audio, motion, noise, ignore_step)
    assert len(calls) == evaluations


def test_refuses_guidance_by_text_without_a_negative_prompt(session):
    with pytest.raises(InputError, match="set text guidance to 1"):
        engine_of(session, Guidance(5, 4), None).denoise(*inputs(session), ignore_step)


def test_a_session_draws_one_noise_for_all_steps(session):
    drawn = []

    def noise(seed):
        source = seeded_noise(seed)
        return lambda index, shape: drawn.append(shape[0]) or source(index, shape)

    stream = replace(session.stream, steps=5, guidance=Guidance(audio=2))
    guided = replace(session, stream=stream, engine=engine_of(session, stream.guidance), noise=noise)
    assert guided.sample(guided.start(0)).shape == (16, 3, 4, 4)
    assert drawn == [1]
