"""C and NumPy give the same bits, for any bits in."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import (
    ADAM_FLAGS,
    FLOATS,
    INTEGERS,
    SGD_FLAGS,
    accumulate,
    adam_update,
    assert_both_the_same,
    assert_same_bits,
    awkward,
    counts,
    dtypes,
    needs_compiled,
    offsets,
    seeds,
    sgd_update,
    shifted,
)

from npdp import kernels


@needs_compiled
@pytest.mark.parametrize("op", kernels.OPS)
@settings(deadline=None)
@given(dtype=dtypes, count=counts, offset=offsets, seed=seeds)
def test_accumulate_gives_the_same_bits_in_c_and_numpy(op, dtype, count, offset, seed):
    rng = np.random.default_rng(seed)
    arrays = [awkward(rng, dtype, count), awkward(rng, dtype, count)]
    assert_both_the_same(accumulate, arrays, offset, op=op)


@needs_compiled
@pytest.mark.parametrize("op", kernels.OPS)
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_accumulate_gives_the_same_bits_for_every_length_and_offset(dtype, op):
    rng = np.random.default_rng(0)
    for count, offset in product(range(101), range(17)):
        arrays = [awkward(rng, dtype, count), awkward(rng, dtype, count)]
        assert_both_the_same(accumulate, arrays, offset, op=op)


@needs_compiled
@settings(deadline=None)
@given(dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds)
def test_the_gradient_of_relu_has_the_same_bits_in_c_and_numpy(dtype, count, offset, seed):
    rng = np.random.default_rng(seed)
    g, y = awkward(rng, dtype, count), awkward(rng, dtype, count)
    wanted = kernels.reference.relu_gradient(g, y)
    assert_same_bits(kernels.compiled.relu_gradient(shifted(g, offset), shifted(y, (3 * offset) % 17)), wanted)


@needs_compiled
@settings(deadline=None)
@given(
    dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds, flags=st.sampled_from(SGD_FLAGS),
    lr=st.floats(1e-6, 10),
)  # fmt: skip
def test_sgd_gives_the_same_bits_in_c_and_numpy(dtype, count, offset, seed, flags, lr):
    rng = np.random.default_rng(seed)
    arrays = [awkward(rng, dtype, count) for _ in range(3)]
    assert_both_the_same(sgd_update, arrays, offset, lr=lr, **flags)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_sgd_gives_the_same_bits_for_all_flags_and_short_lengths(dtype):
    rng = np.random.default_rng(1)
    for flags, count in product(SGD_FLAGS, range(0, 70)):
        arrays = [awkward(rng, dtype, count) for _ in range(3)]
        assert_both_the_same(sgd_update, arrays, count % 17, lr=0.1, **flags)


@needs_compiled
@settings(deadline=None)
@given(
    dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds, flags=st.sampled_from(ADAM_FLAGS),
    lr=st.floats(1e-6, 10),
)  # fmt: skip
def test_adam_gives_the_same_bits_in_c_and_numpy(dtype, count, offset, seed, flags, lr):
    rng = np.random.default_rng(seed)
    param, grad, m = (awkward(rng, dtype, count) for _ in range(3))
    v = np.abs(awkward(rng, dtype, count))
    assert_both_the_same(adam_update, [param, grad, m, v], offset, lr=lr, **flags)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_adam_gives_the_same_bits_for_all_flags_and_short_lengths(dtype):
    rng = np.random.default_rng(2)
    for flags, count in product(ADAM_FLAGS, range(0, 70)):
        arrays = [awkward(rng, dtype, count) for _ in range(4)]  # v below zero too: NaN in both
        assert_both_the_same(adam_update, arrays, count % 17, lr=0.1, **flags)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_scalars_too_small_or_large_for_the_dtype_are_rounded_alike(dtype):
    rng = np.random.default_rng(3)
    for lr, momentum, weight_decay in product((1e-60, 1e60, 0.1), (1e-60, 0.9), (1e-60, 1e60, 0.0)):
        arrays = [awkward(rng, dtype, 50) for _ in range(3)]
        flags = dict(momentum=momentum, dampening=0.1, nesterov=True, weight_decay=weight_decay, first=False)
        assert_both_the_same(sgd_update, arrays, lr=lr, **flags)
