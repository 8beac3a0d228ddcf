"""Sums of several arrays in one pass, alone and in an update: C and NumPy give the same bits, those of one by one."""

import subprocess
import sys
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import (
    ADAM_FLAGS,
    FLOATS,
    INTEGERS,
    LARGE,
    SGD_FLAGS,
    adam_update,
    assert_same_bits,
    awkward,
    each_implementation,
    needs_compiled,
    seeds,
    sgd_update,
    shifted,
)

from npdp import kernels

# around what C adds up at once, its blocks, and NumPy's
LENGTHS = [0, 1, 3, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 3000, 16 * 1024 + 1]
GUARD = 16  # elements around a target that nobody may touch

counts = st.one_of(st.integers(0, 40), st.sampled_from(LENGTHS), st.just(LARGE))


def one_by_one(sources, op):
    """Return source 0 op source 1 op ..., by accumulate, whose bits test_kernels_bits.py knows."""
    total = sources[0].copy()
    for source in sources[1:]:
        kernels.reference.accumulate(total, source, op)
    return total


def sources_of(rng, dtype, count, number, offset=0):
    return [shifted(awkward(rng, dtype, count), (offset * (k + 1)) % 17) for k in range(number)]


# ---- combine
@each_implementation
@pytest.mark.parametrize("op", kernels.OPS)
@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(FLOATS + INTEGERS), count=counts, number=st.integers(1, 6), offset=st.integers(0, 16),
    seed=seeds, into=st.sets(st.integers(0, 5)), apart=st.integers(0, 2),
)  # fmt: skip
def test_it_gives_the_bits_of_one_by_one(kernel, op, dtype, count, number, offset, seed, into, apart):
    """Targets may be sources, all of them (all-reduce) or some, or lie apart."""
    rng = np.random.default_rng(seed)
    sources = sources_of(rng, dtype, count, number, offset)
    before, wanted = [source.copy() for source in sources], one_by_one(sources, op)
    into = {which for which in into if which < number}
    memories = [awkward(rng, dtype, count + 2 * GUARD) for _ in range(apart or not into)]
    guards = [memory.copy() for memory in memories]
    targets = [sources[which] for which in into] + [memory[GUARD : GUARD + count] for memory in memories]
    kernel.combine(targets, sources, op)
    for target in targets:
        assert_same_bits(target, wanted)
    for which, (source, original) in enumerate(zip(sources, before)):
        if which not in into:
            assert source.tobytes() == original.tobytes()
    for memory, guard in zip(memories, guards):
        assert memory[:GUARD].tobytes() == guard[:GUARD].tobytes()
        assert memory[GUARD + count :].tobytes() == guard[GUARD + count :].tobytes()


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_every_length_number_of_sources_and_op(kernel, dtype):
    rng = np.random.default_rng(0)
    for count, number, op in product([*range(40), *LENGTHS], (1, 2, 3), kernels.OPS):
        sources = sources_of(rng, dtype, count, number, count)
        wanted = one_by_one(sources, op)
        kernel.combine(sources, sources, op)
        for source in sources:
            assert_same_bits(source, wanted)


@each_implementation
def test_sums_are_in_the_order_of_the_sources(kernel):
    sources = [np.full(1500, value, np.float32) for value in (1e8, 1, -1e8, 1)]
    targets = [np.empty(1500, np.float32)]
    kernel.combine(targets, sources, "sum")
    assert set(targets[0].tolist()) == {1.0}  # 1e8 swallows the first 1
    kernel.combine(targets, [sources[k] for k in (0, 2, 1, 3)], "sum")
    assert set(targets[0].tolist()) == {2.0}


def test_no_source_at_all_is_refused_where_c_would_read_what_is_not_there():
    """In a process of its own, which that would end."""
    program = "import numpy as np; from npdp import kernels; kernels.combine([np.zeros(3)], [])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1 and "ValueError" in ended.stderr, ended


REFUSED = [
    (lambda: kernels.combine([], [np.zeros(3)]), ValueError),
    (lambda: kernels.combine([], []), ValueError),
    (lambda: kernels.combine([np.zeros(3)], [np.zeros(4)]), ValueError),
    (lambda: kernels.combine([np.zeros(3)], [np.zeros(3), np.zeros(3, np.float32)]), ValueError),
    (lambda: kernels.combine([np.zeros(3), np.zeros(3, int)], [np.zeros(3)]), ValueError),
    (lambda: kernels.combine([np.zeros(3), np.zeros(6)[::2]], [np.zeros(3)]), ValueError),
    (lambda: kernels.combine([np.zeros(3)], [np.zeros(3)], "mean"), ValueError),
    (lambda: kernels.combine([np.zeros(3, bool)], [np.zeros(3, bool)]), TypeError),
    (lambda: kernels.combine([[1.0]], [np.zeros(1)]), TypeError),
    (lambda: kernels.combine([read_only(3)], [np.zeros(3)]), ValueError),
    (lambda: kernels.Sum([]), ValueError),
    (lambda: kernels.Sum([np.zeros(3), np.zeros(4)]), ValueError),
    (lambda: kernels.Sum([np.zeros(3), np.zeros(3, np.float32)]), ValueError),
    (lambda: kernels.Sum([np.zeros(3, int)]), TypeError),
]


def read_only(count):
    array = np.zeros(count)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(("call", "error"), REFUSED)
def test_what_does_not_fit_is_refused(call, error):
    with pytest.raises(error):
        call()


def test_what_is_only_read_may_be_read_only():
    target, source = np.ones(3), np.arange(3.0)
    source.flags.writeable = False
    kernels.combine([target], [source, source])
    assert target.tolist() == [0, 2, 4]
    assert sgd_update(kernels, target, kernels.Sum([source, source]), **SGD) == 0
    assert target.tolist() == [0, 1, 2]


# ---- updates from a sum
SGD = dict(lr=0.5, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0, first=True)


def updated(kernel, function, arrays, gradient, **options):
    """Return copies of param and state after an update."""
    copies = [array.copy() for array in arrays]
    is_sum = isinstance(gradient, kernels.Sum)
    with np.errstate(all="ignore"):
        finite = not is_sum or np.isfinite(one_by_one(gradient.arrays, "sum")).all()
    status = function(kernel, copies[0], gradient, *copies[1:], **options)
    assert status == (0 if finite else kernels.SUM_NOT_FINITE)
    return copies


CASES = [(sgd_update, flags, 2) for flags in SGD_FLAGS]
CASES += [(adam_update, flags, 3) for flags in ADAM_FLAGS]


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_update_from_a_sum_is_the_sum_and_then_the_update(kernel, dtype):
    rng = np.random.default_rng(1)
    for number, (function, flags, arrays) in enumerate(CASES):
        for count in (number, *LENGTHS):
            sources = sources_of(rng, dtype, count, 1 + number % 4, number)
            before = [source.copy() for source in sources]
            state = [np.abs(awkward(rng, dtype, count)) for _ in range(arrays)]
            got = updated(kernel, function, state, kernels.Sum(sources), lr=0.1, **flags)
            wanted = updated(kernel, function, state, one_by_one(sources, "sum"), lr=0.1, **flags)
            for ours, theirs in zip(got, wanted):
                assert_same_bits(ours, theirs)
            assert all(source.tobytes() == original.tobytes() for source, original in zip(sources, before))


@needs_compiled
@settings(deadline=None, max_examples=100)
@given(
    dtype=st.sampled_from(FLOATS), count=counts, number=st.integers(1, 6), offset=st.integers(0, 16), seed=seeds,
    case=st.sampled_from(CASES), lr=st.floats(1e-6, 10),
)  # fmt: skip
def test_it_gives_the_same_bits_in_c_and_numpy(dtype, count, number, offset, seed, case, lr):
    function, flags, arrays = case
    rng = np.random.default_rng(seed)
    sources = sources_of(rng, dtype, count, number, offset)
    state = [shifted(awkward(rng, dtype, count), offset) for _ in range(arrays)]
    got, wanted = (
        updated(kernel, function, state, kernels.Sum(sources), lr=lr, **flags)
        for kernel in (kernels.compiled, kernels.reference)
    )
    for ours, theirs in zip(got, wanted):
        assert_same_bits(ours, theirs)


@each_implementation
def test_a_range_updated_in_pieces_gives_the_bits_of_the_whole(kernel):
    rng = np.random.default_rng(2)
    sources = [rng.standard_normal(3000).astype(np.float32) for _ in range(3)]
    state = [rng.random(3000).astype(np.float32) for _ in range(3)]
    adam = dict(lr=0.1, weight_decay=0.01, step=3)
    whole = updated(kernel, adam_update, state, kernels.Sum(sources), **adam)
    cuts = (0, 16, 1040, 1041, 3000)
    for start, stop in pairwise(cuts):
        piece = updated(
            kernel, adam_update, [array[start:stop] for array in state],
            kernels.Sum([source[start:stop] for source in sources]), **adam,
        )  # fmt: skip
        for got, wanted in zip(piece, whole):
            assert_same_bits(got, wanted[start:stop])


@pytest.mark.parametrize("function", [sgd_update, adam_update])
def test_param_and_state_that_overlap_are_refused_from_a_sum_too(function):
    param, state, gradient = np.ones(40), np.ones(40), kernels.Sum([np.ones(40), np.ones(40)])
    if function is sgd_update:
        assert sgd_update(kernels, param, gradient, param, **SGD | {"momentum": 0.9}) == 1
    else:
        assert adam_update(kernels, param, gradient, state, state, **ADAM_FLAGS[0]) == 1
    assert set(param.tolist()) == set(state.tolist()) == {1.0}
