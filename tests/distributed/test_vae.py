"""The VAE split over rows gives what the whole one gives: any size, any number of ranks."""

import pytest
import rank_checks as checks
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livetalk_core.parallel.rows import share_rows

COUNTS = (1, 2, 3, 4, 5, 8)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5))


@given(st.integers(1, 200), st.integers(1, 20))
def test_rows_are_shared_evenly_and_none_is_lost(rows, ranks):
    shares = share_rows(rows, ranks)
    assert sum(shares) == rows and len(shares) == ranks
    assert max(shares) - min(shares) <= 1 and shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("count", COUNTS)
def test_decoding_is_the_whole_ones(ranks, count):
    @settings(max_examples=3)
    @example((2, count, 3))
    @example((2, 2, 3))
    @given(SHAPES)
    def check(shape):
        assert max(ranks(count).run(checks.decode_error, shape)) <= 1e-5

    check()


@pytest.mark.parametrize("count", COUNTS)
def test_encoding_is_the_whole_ones(ranks, count):
    @settings(max_examples=3)
    @example((2, count, 3), 3)
    @example((2, 2, 3), 5)
    @given(SHAPES, st.integers(0, 7))
    def check(shape, extra_rows):
        assert max(ranks(count).run(checks.encode_error, shape, extra_rows)) <= 1e-5

    check()


@pytest.mark.parametrize("count", COUNTS)
def test_streamed_is_whole(ranks, count):
    assert all(ranks(count).run(checks.streamed_is_whole, (3, 4, 2)))


@settings(max_examples=20)
@given(st.sampled_from(COUNTS), st.integers(1, 20))
def test_unsplit_of_split_is_the_same(ranks, count, rows):
    assert all(ranks(count).run(checks.joined_rows_are_whole, rows))


def test_borders_are_received_where_they_are_read(ranks):
    """No convolution's input is copied to add them, but those that double: a fifth of all values."""
    assert max(ranks(2).run(checks.copied_to_join_borders, (2, 4, 2))) < 10


def test_border_rows_are_sent_once(ranks):
    """And not again with each group that looks back at their frames."""
    assert ranks(2).run(checks.border_frames, (4, 4, 2)) == [{1.0}, {1.0}]


@pytest.mark.parametrize(("count", "frames", "done"), [(2, 5, [[3], [2]]), (3, 4, [[2], [1], [1]]), (2, 1, [[1], [1]])])
def test_frames_are_shared_for_what_is_done_to_each(ranks, count, frames, done):
    """To the bit: a frame of whole vectors of numbers, as pictures of multiples of 16 pixels are."""
    assert ranks(count).run(checks.colors_together, frames) == [(True, each) for each in done]


def test_the_vae_within_still_works_alone(ranks):
    assert max(ranks(2).run(checks.unsplit_is_whole, (2, 4, 2))) <= 1e-5


def test_borders_that_are_not_exchanged_are_noticed(ranks):
    assert min(ranks(2).run(checks.borderless_error, (2, 4, 2))) > 1e-3
