"""Retrospective correction: it measures drift, undoes it without a seam, and does nothing where nothing drifts."""

from dataclasses import replace

import pytest
import torch

from livetalk_core.config import CorrectionConfig, StreamConfig
from livetalk_core.errors import InputError
from livetalk_core.sampling.chunk import sample
from livetalk_core.streaming.correction import SEAM_FRAMES, Corrector, Seam, distance, measure, restore, split

ANCHOR = torch.randn(16, 2, 12, 12, generator=torch.Generator().manual_seed(0))


def drifted(latent: torch.Tensor) -> torch.Tensor:
    """Paler, shifted in one channel, blurred."""
    smooth, fine = split(latent)
    moved = 0.7 * smooth + 0.4 * fine
    moved[3] += 0.8
    return moved


def test_parts_add_up():
    smooth, fine = split(ANCHOR)
    assert torch.allclose(smooth + fine, ANCHOR, atol=1e-6)


def test_distance_grows_with_drift():
    anchor = measure(ANCHOR)
    assert distance(anchor, anchor) == 0
    assert distance(measure(drifted(ANCHOR)), anchor) > 0.2
    assert distance(measure(ANCHOR.flip(3)), anchor) < 0.02, "a mirrored picture has not drifted"


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_drift_is_undone_by_the_strength(strength):
    found, anchor = measure(drifted(ANCHOR)), measure(ANCHOR)
    restored = distance(measure(restore(drifted(ANCHOR), found, anchor, strength)), anchor)
    before = distance(found, anchor)
    assert restored == pytest.approx((1 - strength) * before, abs=0.25 * before)
    if strength == 0:
        assert torch.allclose(restore(drifted(ANCHOR), found, anchor, 0.0), drifted(ANCHOR), atol=1e-5)


def corrector(**changes) -> Corrector:
    return Corrector.of(CorrectionConfig(**{"interval": 2, "lookback": 2, "threshold": 0.1, **changes}), ANCHOR, 4)


def test_the_first_step_sees_what_was_and_the_last_the_corrected():
    motion, review = drifted(ANCHOR), None
    for _ in range(3):
        review = corrector().review(review, motion)
    assert review.shape == (2, 16, 2, 3)
    found = corrector(strength=1.0).motion(2, motion, review)
    assert found.shape == (4, 16, 2, 12, 12)
    assert torch.equal(found[0], motion)
    distances = [distance(measure(step), measure(ANCHOR)) for step in found]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.2 * distances[0]


@pytest.mark.parametrize(
    ("chunk", "motion", "reviews"), [(3, drifted(ANCHOR), 2), (2, ANCHOR, 2), (2, drifted(ANCHOR), 1)]
)
def test_it_leaves_alone_other_chunks_small_drift_and_short_memories(chunk, motion, reviews):
    review = None
    for _ in range(reviews):
        review = corrector().review(review, motion)
    assert corrector().motion(chunk, motion, review) is motion


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


def joined(frames: torch.Tensor, shown: torch.Tensor | None, groups: list[int], place: int = 4) -> torch.Tensor:
    """Frames as they come out of `Seam`, given to it group by group."""
    seam, firsts = Seam(shown, place), [sum(groups[:number]) for number in range(len(groups))]
    parts = zip(frames.split(groups, dim=1), firsts, strict=True)
    return torch.cat([seam.close(group, first) for group, first in parts], dim=1)


@pytest.mark.parametrize("groups", [[25], [1, 4, 4, 4, 4, 4, 4], [5, 20], [3, 1, 21]])
def test_a_chunk_goes_on_from_the_last_frame_shown(groups):
    frames = torch.rand(3, 25, 2, 2, generator=torch.Generator().manual_seed(1)) / 2 - 0.5
    shown = torch.full((3, 1, 2, 2), 0.4)
    found = joined(frames, shown, groups)
    gap = shown + (frames[:, 8:9] - frames[:, 5:6]) / 3 - frames[:, 5:6]
    assert torch.equal(found[:, :4], frames[:, :4])
    assert torch.equal(found[:, 4:5], shown)
    for since, share in ((1, 0.75), (2, 0.5), (3, 0.25)):
        assert torch.allclose(found[:, 4 + since] - frames[:, 4 + since], share * gap[:, 0], atol=1e-6)
    assert torch.equal(found[:, 8:], frames[:, 8:])


def test_movement_goes_on_across_a_chunk_that_begins_elsewhere():
    """A picture that grows brighter by 0.01 a frame; the second chunk is off by 0.2."""
    frames = (0.01 * torch.arange(25.0)).expand(3, 2, 2, 25).permute(0, 3, 1, 2)
    shown = frames[:, 4:5] + 0.2
    change = joined(frames, shown, [1, *[4] * 6])[:, 4:].diff(dim=1)
    assert torch.allclose(change[:, :4], torch.full(change[:, :4].shape, 0.01 - 0.2 / SEAM_FRAMES), atol=1e-6)


def test_no_seam_where_nothing_was_shown_and_none_beyond_black_and_white():
    frames = torch.full((3, 9, 2, 2), 0.9)
    assert torch.equal(joined(frames, None, [5, 4]), frames)
    frames[:, 4] = -1
    assert joined(frames, torch.ones(3, 1, 2, 2), [9]).max() <= 1


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="at least 1 chunk"):
        CorrectionConfig(interval=0)
    with pytest.raises(InputError, match="strength 2"):
        CorrectionConfig(strength=2)


def test_off_is_the_default():
    assert StreamConfig().correction is None
    assert replace(StreamConfig(), correction=CorrectionConfig()).correction.interval == 2
