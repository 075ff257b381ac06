"""Where chunks meet: movement and light go on, and nothing is seen twice."""

import pytest
import torch

from livetalk_core.streaming.joining import FRAMES, Seam, without_edges

SIDE = 64


def joined(frames: torch.Tensor, shown: torch.Tensor | None, groups: list[int], place: int = 4) -> torch.Tensor:
    """Frames as they come out of `Seam`, given to it group by group."""
    seam, firsts = Seam(shown, place), [sum(groups[:number]) for number in range(len(groups))]
    parts = zip(frames.split(groups, dim=1), firsts, strict=True)
    return torch.cat([seam.close(group, first) for group, first in parts], dim=1)


def picture(left: float) -> torch.Tensor:
    """Two dark eyes on a soft ground, so many pixels to the left of where they belong: [3,1,H,W]."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    ground = 0.3 * torch.cos(x / 19) * torch.cos(y / 23)
    for middle in (22, 42):
        away = ((x - middle + left) ** 2 + (y - 28) ** 2).sqrt()
        ground = torch.lerp(ground, torch.tensor(-0.9), ((4 - away) / 1.5).clamp(0, 1))
    return ground.expand(3, 1, -1, -1).clone()


def darkness(frame: torch.Tensor) -> float:
    """How much of a frame is as dark as an eye."""
    return float((frame < -0.4).float().sum())


@pytest.mark.parametrize("groups", [[25], [1, 4, 4, 4, 4, 4, 4], [5, 20]])
def test_a_chunk_goes_on_from_the_last_frame_shown(groups):
    frames = picture(0).expand(-1, 25, -1, -1) + 0.002 * torch.randn(1, 25, SIDE, SIDE)
    shown = picture(0) + 0.2
    result = joined(frames, shown, groups)
    assert torch.equal(result[:, :4], frames[:, :4])
    assert torch.equal(result[:, 4:5], shown)
    for since, share in ((1, 0.75), (2, 0.5), (3, 0.25)):
        change = (result[:, 4 + since] - frames[:, 4 + since]).median()
        assert change == pytest.approx(0.2 * share, abs=0.02)
    assert torch.equal(result[:, 8:], frames[:, 8:])


def test_a_head_that_was_elsewhere_is_moved_and_not_seen_twice():
    """Shown 3 of 64 px to the left of where the chunk has it: a fade leaves two pale pairs of eyes."""
    frames, shown = picture(0).expand(-1, 25, -1, -1), picture(3.0)
    result = joined(frames, shown, [1, *[4] * 6])
    for since, left in ((1, 2.25), (2, 1.5), (3, 0.75)):
        expected, faded = picture(left), torch.lerp(frames[:, :1], shown, 1 - since / FRAMES)
        frame = result[:, 4 + since : 5 + since]
        ghost, faded_ghost = ((one - expected).abs().amax() for one in (frame, faded))
        assert ghost < 0.6 * faded_ghost, (since, float(ghost), float(faded_ghost))
        assert darkness(frame) > 0.85 * darkness(expected)


def test_movement_goes_on_across_a_chunk_that_begins_elsewhere():
    """A picture that grows brighter by 0.01 a frame; the second chunk is off by 0.2."""
    frames = (0.01 * torch.arange(25.0)).expand(3, SIDE, SIDE, 25).permute(0, 3, 1, 2)
    shown = frames[:, 4:5] + 0.2
    change = joined(frames, shown, [1, *[4] * 6])[:, 4:].diff(dim=1)
    assert torch.allclose(change[:, :4], torch.full(change[:, :4].shape, 0.01 - 0.2 / FRAMES), atol=1e-5)


def test_no_seam_where_nothing_was_shown_and_none_beyond_black_and_white():
    frames = torch.full((3, 9, SIDE, SIDE), 0.9)
    assert torch.equal(joined(frames, None, [5, 4]), frames)
    frames[:, 4] = -1
    assert joined(frames, torch.ones(3, 1, SIDE, SIDE), [9]).max() <= 1


def test_of_a_difference_light_and_texture_remain_and_edges_do_not():
    light = torch.full((3, 1, SIDE, SIDE), 0.4)
    texture = 0.05 * torch.sin(torch.arange(SIDE) * 2.0).expand(3, 1, SIDE, SIDE)
    assert torch.allclose(without_edges(light), light, atol=1e-5)
    assert torch.allclose(without_edges(light + texture), light + texture, atol=1e-5)
    edge = torch.zeros(3, 1, SIDE, SIDE)
    edge[..., 30:32] = 1.5
    assert without_edges(edge).abs().max() < 0.8
