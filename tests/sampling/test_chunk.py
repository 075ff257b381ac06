"""One chunk's sampling, with a model that knows the answer."""

import pytest
import torch

from livetalk_core.sampling.chunk import cross_bridge, sample, seeded_noise
from livetalk_core.sampling.schedule import sigmas

TARGET = torch.arange(16 * 3 * 2 * 2, dtype=torch.float32).reshape(16, 3, 2, 2) / 100
MOTION = torch.full((16, 1, 2, 2), 7.0)


def test_motion_stays_clean_at_every_step_and_at_the_end() -> None:
    seen = []

    def predict(latent: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(latent[:, :1].clone())
        return TARGET

    noise = seeded_noise(0)(0, (4, *TARGET.shape))
    latent = sample(predict, MOTION, noise, sigmas(4, 5.0), lambda _: None)
    assert all(torch.equal(motion, MOTION) for motion in seen) and len(seen) == 4
    assert torch.equal(latent[:, :1], MOTION)
    assert torch.equal(latent[:, 1:], TARGET[:, 1:])


def test_estimate_is_noised_to_the_next_level() -> None:
    inputs = []

    def predict(latent: torch.Tensor, sigma: float) -> torch.Tensor:
        inputs.append((latent.clone(), sigma))
        return TARGET

    noise = seeded_noise(0)(0, (2, *TARGET.shape))
    sample(predict, MOTION, noise, (1.0, 0.625, 0.0), lambda _: None)
    torch.testing.assert_close(inputs[1][0][:, 1:], (0.375 * TARGET + 0.625 * noise[1])[:, 1:])
    assert [sigma for _, sigma in inputs] == [1.0, 0.625]


def test_the_callback_counts_steps_and_may_stop() -> None:
    done = []

    def stop_at_two(step: int) -> None:
        done.append(step)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lambda x, s: x, MOTION, seeded_noise(0)(0, (4, *TARGET.shape)), sigmas(4, 5.0), stop_at_two)
    assert done == [1, 2]


def test_noise_depends_on_seed_and_chunk_alone() -> None:
    shape = (4, 16, 2, 2, 2)
    torch.manual_seed(1)
    first = seeded_noise(5)(3, shape)
    torch.manual_seed(2)
    assert torch.equal(first, seeded_noise(5)(3, shape))
    assert not torch.equal(first, seeded_noise(5)(4, shape))
    assert not torch.equal(first, seeded_noise(6)(3, shape))


def test_a_step_across_the_bridge_is_the_published_one():
    """From t to t': dt = (t' - t) / 1000, u = (t + 1) / 1000, x + dt * out + sqrt(-dt * (u + dt) / u) * noise."""
    latent, out, noise = torch.randn(3, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    for t, following in ((1000.0, 937.5), (625.0, -1.0)):
        dt, u = (following - t) / 1000, (t + 1) / 1000
        expected = latent + dt * out + max(0.0, -dt * (u + dt) / u) ** 0.5 * noise
        found = cross_bridge(latent, latent - u * out, u, u + dt, noise)
        torch.testing.assert_close(found, expected)


def test_noise_for_another_use_is_other_noise():
    assert not torch.equal(seeded_noise(0)(0, (4,)), seeded_noise(0, "posterior of ")(0, (4,)))
