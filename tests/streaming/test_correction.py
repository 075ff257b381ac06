"""Retrospection: it tells drift from pose, undoes it once, and settles whatever its settings."""

import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from livetalk_core.config import CorrectionConfig, StreamConfig
from livetalk_core.errors import InputError
from livetalk_core.sampling.chunk import sample
from livetalk_core.streaming.correction import (
    STATISTICS,
    Corrector,
    bent,
    deviations,
    extent,
    parted,
    read,
    split,
    undone,
)

LIKE = torch.randn(16, 2, 12, 12, generator=torch.Generator().manual_seed(0))
LIKE = LIKE + 2 * F.avg_pool2d(LIKE.transpose(0, 1), 5, 1, 2, count_include_pad=False).transpose(0, 1)
CONTRAST = deviations(LIKE)


def changed(**by: float) -> torch.Tensor:
    """The latents in which statistics of a name have changed by so much."""
    smooth, fine = split(LIKE)
    middle = smooth.mean((2, 3), keepdim=True)
    latent = middle + (smooth - middle) * (1 + by.get("contrast", 0)) + fine * (1 + by.get("sharpness", 0))
    latent[3] += by.get("channel", 0) * CONTRAST[3]
    latent[:, :, 3:6, 3:9] += by.get("features", 0) * CONTRAST[:, None, None, None]
    return latent


def drift_of(latent: torch.Tensor) -> torch.Tensor:
    return parted(read(latent, LIKE, CONTRAST))


def test_parts_add_up():
    smooth, fine = split(LIKE)
    assert torch.allclose(smooth + fine, LIKE, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"channel": 0.5}, "mean"), ({"contrast": -0.2}, "contrast"), ({"sharpness": -0.1}, "sharpness"),
        ({"sharpness": 0.1}, "sharpness"), ({"features": 1.5}, "likeness"),
    ],
)  # fmt: skip
def test_each_kind_of_drift_is_read_as_what_it_is(change, kind):
    assert max(extent(parted(read(LIKE, LIKE, CONTRAST)))) == 0
    kinds = extent(drift_of(changed(**change)))
    assert getattr(kinds, kind) > 0.1
    if kind in ("mean", "sharpness"):
        assert max(kinds._replace(**{kind: 0.0})) < 0.1, "nothing else has changed"


def test_a_single_channel_is_not_lost_in_an_average():
    """Two deviations of one channel in sixteen; the average over all statistics called it 0.06."""
    assert extent(drift_of(changed(channel=2))).mean == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("change", [{"channel": 0.5}, {"contrast": -0.2}, {"sharpness": -0.2}, {"features": 1.0}])
def test_drift_is_undone_by_the_strength(change):
    drift = drift_of(changed(**change))
    assert torch.allclose(undone(changed(**change), 0 * drift, CONTRAST), changed(**change), atol=1e-5)
    half, full = (
        max(extent(drift_of(undone(changed(**change), strength * drift, CONTRAST)))) / max(extent(drift))
        for strength in (0.5, 1.0)
    )
    assert full < 0.5
    assert half < 0.7


def test_a_head_held_otherwise_has_not_drifted_and_one_upside_down_has():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    face = torch.stack([torch.sin(7 * x + tone) * torch.cos(5 * y + 2 * tone * x) for tone in (0.3, 1.0, 2.0)])
    portrait = (face * torch.exp(-2 * (x**2 + y**2)) - 0.2 * y)[:, None]
    lower = F.pad(portrait.transpose(0, 1), (0, 0, 8, 0), mode="replicate")[:, :, :96].transpose(0, 1)
    for frame, drifts in ((lower, False), (portrait.flip(2), True)):
        off = (bent(portrait, frame) - frame).square().mean() / (portrait - frame).square().mean()
        assert (off > 0.2) == drifts, off


def corrector(**changes) -> Corrector:
    return Corrector.of(CorrectionConfig(**{"interval": 2, "lookback": 2, "threshold": 0.1, **changes}), LIKE, 4)


def reviewed(with_: Corrector, motions: list[torch.Tensor], prompts: tuple[int, ...] = ()) -> torch.Tensor:
    past = None
    for chunk, motion in enumerate(motions):
        past = with_.review(chunk, past, motion, LIKE, chunk in prompts)
    assert past is not None
    return past


def test_the_first_step_sees_what_was_and_the_last_the_corrected():
    full, drifted = corrector(strength=1.0), changed(channel=1, sharpness=-0.2)
    past = reviewed(full, [LIKE, LIKE, drifted, drifted])
    steps = full.motion(4, drifted, past)
    assert steps.shape == (4, 16, 2, 12, 12)
    assert torch.equal(steps[0], drifted)
    sizes = [float(drift_of(step).norm()) for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.4 * sizes[0]


@pytest.mark.parametrize("chunk", [3, 5])
def test_chunks_between_are_left_alone(chunk):
    past = reviewed(corrector(), [LIKE, LIKE, changed(channel=1), changed(channel=1)])
    assert corrector().motion(chunk, LIKE, past) is LIKE


def test_small_drift_and_a_short_memory_are_left_alone():
    assert corrector().motion(2, LIKE, reviewed(corrector(), [LIKE, LIKE, changed(channel=0.05), LIKE])) is LIKE
    assert corrector().motion(2, LIKE, reviewed(corrector(), [changed(channel=1)])) is LIKE


def test_only_what_has_drifted_is_corrected():
    past = reviewed(corrector(), [LIKE, LIKE, changed(channel=1), changed(channel=1)])
    corrected = corrector(strength=1.0).motion(4, LIKE, past)[-1]
    others = [channel for channel in range(16) if channel != 3]
    assert torch.allclose(corrected[others], LIKE[others], atol=1e-5)
    assert not torch.allclose(corrected[3], LIKE[3], atol=0.1)


def test_what_the_model_does_from_the_beginning_is_no_drift():
    always = changed(channel=1, sharpness=-0.3)
    assert corrector().motion(6, always, reviewed(corrector(), [always] * 6)) is always


def test_a_new_prompt_moves_the_anchor_and_forgives_no_drift():
    other = changed(channel=1)
    moved = reviewed(corrector(), [LIKE, LIKE, other, other, other, other], prompts=(2,))
    assert extent(corrector().drift(moved)).mean < 1e-5
    unmoved = reviewed(corrector(), [LIKE, LIKE, other, other, other, other])
    assert extent(corrector().drift(unmoved)).mean > 0.9
    idle = corrector(interval=1000)
    drifted_before = reviewed(idle, [LIKE, LIKE, other, other, *[changed(channel=3)] * 2], prompts=(4,))
    assert extent(idle.drift(drifted_before)).mean == pytest.approx(1, rel=0.01), "what had drifted before remains"


def course(config: CorrectionConfig, drift: list[float], effect: float) -> list[float]:
    """How far a stream is off, chunk after chunk, where of a correction the share `effect` lasts."""
    one = Corrector(config, torch.ones(1), 1)
    past, corrected, path = None, 0.0, []
    for chunk, uncorrected in enumerate(drift):
        corrected += float(one.due(chunk, past)[0, 0]) if past is not None else 0.0
        path.append(uncorrected - effect * corrected)
        past = _reviewed(one, chunk, past, path[-1])
    return path


def _reviewed(one: Corrector, chunk: int, past: torch.Tensor | None, value: float) -> torch.Tensor:
    like, motion = torch.zeros(1, 1, 1, 4), torch.full((1, 1, 1, 4), value)
    return one.review(chunk, past, motion, like, new_prompt=False)


@pytest.mark.parametrize("seed", range(12))
def test_it_never_goes_further_than_uncorrected_drift_and_does_not_swing(seed):
    """1,000 chunks of steady drift at settings drawn from all that nodes and options allow."""
    chance = random.Random(seed)
    config = CorrectionConfig(
        interval=chance.choice([1, 1, 2, chance.randint(1, 1000)]),
        lookback=chance.choice([1, 2, 20, 100, chance.randint(1, 100)]),
        threshold=chance.choice([0.0, 0.1, chance.uniform(0, 2)]),
        strength=chance.choice([1.0, 0.5, chance.uniform(0.01, 1)]),
    )
    drift = [0.1 * chunk for chunk in range(1000)]
    path = course(config, drift, effect=chance.uniform(0.3, 1.0))
    assert all(-1e-3 <= off <= most + 1e-3 for off, most in zip(path, drift, strict=True)), config


@pytest.mark.parametrize(("interval", "lookback", "strength"), [(1, 100, 1.0), (1, 20, 0.5), (2, 4, 0.5)])
def test_what_used_to_swing_settles(interval, lookback, strength):
    """Drift that ends after 300 chunks: what remains is below the threshold, and nothing moves any more."""
    config = CorrectionConfig(interval, lookback, 0.1, strength)
    path = course(config, [0.1 * min(max(0, chunk - lookback), 300) for chunk in range(1000)], effect=0.7)
    assert max(abs(off) for off in path[-100:]) < 0.3
    assert max(path[-100:]) - min(path[-100:]) < 0.01


def test_a_review_is_small():
    past = reviewed(corrector(lookback=3), [LIKE] * 9)
    assert past.shape == (5, 16, STATISTICS)


def test_a_step_of_its_own_for_each_denoising_step():
    noise, motions = torch.randn(3, 16, 4, 2, 2), torch.randn(3, 16, 2, 2, 2)
    seen = []

    def predict(latent, sigma):
        seen.append(latent[:, :2].clone())
        return latent

    result = sample(predict, motions, noise, (1.0, 0.8, 0.5, 0.0), lambda _: None)
    assert torch.equal(torch.stack(seen), motions)
    assert torch.equal(result[:, :2], motions[-1])
    same = sample(predict, motions[0], noise, (1.0, 0.8, 0.5, 0.0), lambda _: None)
    assert torch.equal(same[:, :2], motions[0])


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="at least 1 chunk"):
        CorrectionConfig(interval=0)
    with pytest.raises(InputError, match="strength 2"):
        CorrectionConfig(strength=2)


def test_off_is_the_default():
    assert StreamConfig().correction is None and not StreamConfig().joined
    assert replace(StreamConfig(), correction=CorrectionConfig()).joined
    assert not replace(StreamConfig(), correction=CorrectionConfig(), joins=False).joined
    assert replace(StreamConfig(), joins=True).joined
