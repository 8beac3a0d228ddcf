"""The pass that sums sees each NaN and infinity, whose it was, and changes no bit; C and NumPy alike."""

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import (
    ADAM_FLAGS,
    FLOATS,
    LARGE,
    SGD_FLAGS,
    adam_update,
    assert_same_bits,
    awkward,
    each_implementation,
    needs_compiled,
    seeds,
    sgd_update,
)

from npdp import kernels
from npdp.base.partition import rounded_up

VALUES = [np.nan, np.inf, -np.inf]
BLOCK = 1024  # elements of float32 that are looked at together


# ---- one array
@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3 * BLOCK), st.sampled_from(VALUES), seeds)
def test_the_first_of_an_array_is_found_wherever_it_is(kernel, dtype, count, value, seed):
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(count).astype(dtype) * (np.finfo(dtype).max / 8)
    find = kernel.finder_of_not_finite(array)
    assert find() == count
    places = rng.integers(0, count, 2)
    array[places] = value
    first = places.min()
    assert find() == first
    rest = [place - first - 1 for place in places if place > first]
    assert kernel.finder_of_not_finite(array[first + 1 :])() == min(rest, default=count - first - 1)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@given(st.sampled_from([0, 1, 31, 33, BLOCK, LARGE]), seeds)
@settings(deadline=None, max_examples=30)
def test_of_any_bits_it_is_the_first_that_numpy_finds(kernel, dtype, count, seed):
    array = awkward(np.random.default_rng(seed), dtype, count)
    wrong = np.flatnonzero(~np.isfinite(array))
    assert kernel.finder_of_not_finite(array)() == (wrong[0] if wrong.size else count)


def test_only_arrays_of_floats_are_looked_at():
    with pytest.raises(TypeError, match="first_not_finite: array is int32, wanted one of float32, float64"):
        kernels.first_not_finite(np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="strided"):
        kernels.first_not_finite(np.zeros(6)[::2])


# ---- an update by the sum of several
@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("update", ["sgd", "adam"])
@given(st.sampled_from([1, 40, BLOCK + 1, 16 * BLOCK + 3]), st.integers(1, 4), st.booleans(), seeds)
@settings(deadline=None, max_examples=25)
def test_an_update_says_whether_the_sum_that_it_was_made_by_was_finite(kernel, dtype, update, count, number, bad, seed):
    rng = np.random.default_rng(seed)
    param, *sources = (rng.standard_normal(count).astype(dtype) for _ in range(number + 1))
    if bad:
        sources[rng.integers(number)][rng.integers(count)] = rng.choice(VALUES)
    state = np.zeros((2, count), dtype)
    if update == "sgd":
        status = sgd_update(kernel, param, kernels.Sum(sources), state[0], **SGD_FLAGS[-1])
    else:
        status = adam_update(kernel, param, kernels.Sum(sources), *state, **ADAM_FLAGS[0])
    assert status == (kernels.SUM_NOT_FINITE if bad else 0)
    assert np.isfinite(param).all() == (not bad)


# ---- the sum of all ranks' arrays in shared memory
@pytest.fixture(scope="module", autouse=True)
def _short_sleeps():
    if kernels.compiled is None:
        yield
        return
    from kernel_play import short_sleeps

    with short_sleeps():
        yield


COUNTS = st.one_of(st.integers(1, 9), st.integers(250, 300), st.integers(2040, 2100), st.integers(2100, 9000))
SLOT_BYTES = {1: 1024, 2: 1024, 3: 768, 4: 1024}


class World:
    """Ranks of the C kernel that one thread moves."""

    def __init__(self, ranks, longest_bytes):
        from npdp.kernels.shared_memory import HostRank, header_bytes

        slot = SLOT_BYTES[ranks]
        start = rounded_up(header_bytes(ranks, slot), 64)
        each = rounded_up(longest_bytes, 64)
        self.memory = mmap.mmap(-1, start + each * ranks)
        self.ranks = [HostRank(self.memory, rank, ranks, slot, spins=0, yields=0) for rank in range(ranks)]
        self.places = [np.frombuffer(self.memory, np.uint8, each, start + each * rank) for rank in range(ranks)]

    def allreduce(self, inputs, inside, looking, pick):
        """Sum copies of the inputs; return the statuses, the sums, and what each rank knows of the firsts."""
        from npdp.kernels.shared_memory import WAITING, words_of

        arrays = []
        for place, values, lies_inside in zip(self.places, inputs, inside):
            arrays.append(place[: values.nbytes].view(values.dtype) if lies_inside else np.empty_like(values))
            arrays[-1][:] = values
        words = words_of("allreduce", inputs[0].dtype, "sum", False, 0)
        statuses, begun, stuck = [WAITING] * len(inputs), set(), set()
        while WAITING in statuses:
            rank = pick([rank for rank, status in enumerate(statuses) if status == WAITING and rank not in stuck])
            kernel = self.ranks[rank]
            before = kernel._host.posted
            statuses[rank] = kernel.test() if rank in begun else kernel.persistent(words, arrays[rank], looking)()
            begun.add(rank)
            stuck = {rank} if kernel._host.posted != before else stuck | {rank}  # until another has posted
        return statuses, [array.copy() for array in arrays], [kernel.firsts for kernel in self.ranks]


@needs_compiled
@settings(deadline=None, max_examples=80)
@given(st.integers(1, 4), st.sampled_from(FLOATS), st.lists(COUNTS, min_size=1, max_size=3), seeds)
def test_all_ranks_see_alike_whose_arrays_were_not_finite_and_the_bits_are_those_without_a_look(
    ranks, dtype, counts, seed
):
    from npdp.kernels.shared_memory import DONE, NOT_FINITE

    rng = np.random.default_rng(seed)
    world, plain = World(ranks, 9000 * 8), World(ranks, 9000 * 8)
    for count in counts:
        inputs = [rng.standard_normal(count).astype(dtype) for _ in range(ranks)]
        bad = {int(rank): rng.integers(0, count, 2) for rank in np.flatnonzero(rng.random(ranks) < 0.3)}
        for rank, places in bad.items():
            inputs[rank][places] = rng.choice(VALUES)
        inside = rng.random(ranks) < rng.choice([0, 0.5, 1])
        statuses, sums, seen = world.allreduce(inputs, inside, True, rng.choice)
        _, wanted, _ = plain.allreduce(inputs, inside, False, rng.choice)
        assert statuses == [NOT_FINITE if bad else DONE] * ranks
        for got, right in zip(sums, wanted):
            assert_same_bits(got, right)
        if bad:
            firsts = [bad[rank].min() if rank in bad else count for rank in range(ranks)]
            assert np.min(seen, axis=0).tolist() == firsts


@needs_compiled
@pytest.mark.parametrize("count", [7, 300, 5000])
@pytest.mark.parametrize("inside", [True, False])
def test_a_sum_that_overflows_is_seen_and_is_nobodys(count, inside):
    from npdp.kernels.shared_memory import NOT_FINITE

    inputs = [np.zeros(count, np.float32) for _ in range(2)]
    for values in inputs:
        values[-1] = np.finfo(np.float32).max
    statuses, _, seen = World(2, 9000 * 8).allreduce(inputs, [inside] * 2, True, min)
    assert statuses == [NOT_FINITE] * 2 and seen == [[count] * 2] * 2


@needs_compiled
def test_other_collectives_do_not_look():
    from npdp.kernels.shared_memory import DONE, words_of

    (kernel,) = World(1, 64).ranks
    for kind, op in (("allreduce", "sum"), ("allreduce", "max"), ("reduce_scatter", "sum"), ("broadcast", "sum")):
        array = np.array([np.nan, 1.0])
        assert kernel.start(words_of(kind, array.dtype, op, False, 0), array) == DONE
