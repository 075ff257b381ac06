"""Patches of the portrait, found again where they moved, missed where they are gone."""

import pytest
import torch

from livetalk_core.training.chance import generator_of
from livetalk_core.training.evaluation.details import PATCHES, Patches, drawn_places
from livetalk_core.training.evaluation.examples import blurred
from livetalk_core.training.evaluation.photographs import PORTRAITS, picture_of, places_of
from livetalk_core.training.evaluation.subjects import still_of

SIZE = (96, 96)


@pytest.fixture(scope="module")
def portrait(subjects):
    return subjects[0].portrait[0]


@pytest.fixture(scope="module")
def patches(subjects, portrait) -> Patches:
    return Patches.of(portrait, subjects[0].places)


def test_the_portrait_has_its_own_patches(patches, portrait):
    correlation, detail = patches.find(portrait)
    assert correlation.shape == (len(PATCHES), 1)
    assert torch.allclose(correlation, torch.ones_like(correlation), atol=1e-4)
    assert torch.allclose(detail, torch.ones_like(detail), atol=1e-4)


def test_moved_darker_and_flatter_is_found_and_too_far_is_not(patches, portrait):
    near, _ = patches.find(0.7 * portrait.roll((4, -6), dims=(2, 3)) - 0.1)
    assert float(near.min()) > 0.99
    far, _ = patches.find(portrait.roll((30, 30), dims=(2, 3)))
    assert float(far[:2].mean()) < 0.8


def test_blur_costs_detail_and_another_face_correlation(patches, portrait, subjects):
    soft = blurred(portrait.transpose(0, 1), torch.tensor([1.5])).transpose(0, 1)
    correlation, detail = patches.find(soft)
    assert float(detail[[0, 1, 4]].max()) < 0.6
    other, _ = patches.find(subjects[1].portrait[0])
    assert float(other[:2].mean()) < float(correlation[:2].mean())
    noise = 2 * torch.rand(3, 2, *SIZE, generator=generator_of("noise")) - 1
    assert float(patches.find(noise)[0].max()) < 0.6


def test_the_places_of_a_drawn_face_hold_its_eyes(subjects):
    take = subjects[1].take
    still, frame = still_of(take, "portrait", 0, 1)
    places = drawn_places(still, frame, SIZE)
    assert torch.equal(places, subjects[1].places)
    left, right, left_brow, _, mouth, hairline = places
    assert left[0] < mouth[0] < right[0]
    assert hairline[1] < left_brow[1] < left[1] < mouth[1]


def test_photographs_have_places_inside():
    pytest.importorskip("skimage")
    for photograph in PORTRAITS:
        picture, places = picture_of(photograph, SIZE), places_of(photograph, SIZE)
        assert picture.shape == (1, 3, 1, *SIZE) and picture.std() > 0.2
        assert places.shape == (len(PATCHES), 2)
        assert places.min() > 5 and places.max() < 91
