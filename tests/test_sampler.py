"""The order of an epoch, and which rows of a batch are whose: pure functions of count, seed, epoch and rank."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npdp.base.partition import part
from npdp.data import epoch_order, local_rows

numbers = st.integers(0, 60)
few = st.integers(1, 6)


@given(numbers, few, few, few)
def test_local_rows_cut_a_ranks_part_into_pieces_that_follow_each_other(count, parts, pieces, rank):
    rank %= parts
    cuts = [local_rows(count, parts, rank, pieces, piece) for piece in range(pieces)]
    assert (cuts[0][0], cuts[-1][1]) == part(count, parts, rank)
    assert all(left[1] == right[0] for left, right in pairwise(cuts))
    assert max(b - a for a, b in cuts) - min(b - a for a, b in cuts) <= 1


@given(numbers, st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_an_epochs_order_is_a_permutation_and_a_pure_function(count, seed, epoch):
    order = epoch_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    np.random.default_rng(0).random(3)
    assert np.array_equal(order, epoch_order(count, seed, epoch))
    assert np.array_equal(epoch_order(count, seed, epoch, shuffle=False), np.arange(count))


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(30, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_place_is_as_likely():
    """Sample 0 comes at each of 5 places in about a fifth of 2000 epochs."""
    places = [int(np.argmin(epoch_order(5, 7, epoch))) for epoch in range(2000)]
    assert all(abs(places.count(place) - 400) < 5 * np.sqrt(2000 * 0.2 * 0.8) for place in range(5))


def test_the_order_of_an_epoch_stays_as_it_is():
    """An epoch is named by (seed, epoch) alone: another order would lose and repeat samples where a run goes on."""
    assert epoch_order(10, seed=3, epoch=2).tolist() == [4, 3, 6, 5, 2, 9, 0, 1, 8, 7]
