"""The kernels called alike, in C and in NumPy, for tests: arrays of any bits, and a comparison of what each leaves."""

from itertools import product

import numpy as np
import pytest
from hypothesis import strategies as st

from npdp import kernels

FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64")
LARGE = 100_003  # several of the reference's blocks, and a tail
SGD_FLAGS = [
    dict(momentum=m, dampening=d, nesterov=n, weight_decay=w, first=f)
    for m, d, n, w, f in product((0.0, 0.9), (0.0, 0.3), (False, True), (0.0, 0.01), (False, True))
]
PYTORCH_SGD_FLAGS = [  # it refuses Nesterov without momentum or with dampening
    flags for flags in SGD_FLAGS
    if not flags["first"] and not (flags["nesterov"] and (flags["momentum"] == 0 or flags["dampening"] != 0))
]  # fmt: skip
ADAM_FLAGS = [
    dict(weight_decay=w, decoupled=d, step=s) for w, d, s in product((0.0, 0.01), (False, True), (1, 2, 1000))
]

needs_compiled = pytest.mark.skipif(kernels.compiled is None, reason="the C kernels are not compiled here")
each_implementation = pytest.mark.parametrize(
    "kernel", [kernels.reference, pytest.param(kernels.compiled, marks=needs_compiled)], ids=["numpy", "c"]
)
dtypes = st.sampled_from(FLOATS + INTEGERS)
counts = st.one_of(st.integers(0, 100), st.just(LARGE))
offsets = st.integers(0, 16)
seeds = st.integers(0, 2**32 - 1)


def awkward(rng, dtype, count):
    """Make `count` values, in turn at random: any bit pattern, ordinary numbers and special ones."""
    dtype = np.dtype(dtype)
    bits = rng.integers(0, 256, size=count * dtype.itemsize, dtype=np.uint8).view(dtype)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        special = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]
        special += [info.max, info.tiny, info.smallest_subnormal, -info.tiny / 4]
        ordinary = rng.standard_normal(count)
    else:
        info = np.iinfo(dtype)
        special = [0, 1, -1, info.max, info.min]
        ordinary = rng.integers(-9, 10, size=count)
    kind = rng.integers(0, 3, size=count)
    return np.choose(kind, [bits, ordinary.astype(dtype), rng.choice(np.array(special, dtype), size=count)])


def shifted(array, offset):
    """Copy an array to `offset` elements into new memory."""
    memory = np.empty(offset + array.size, array.dtype)
    memory[offset:] = array
    return memory[offset:]


def assert_same_bits(got, wanted):
    """NaN in the same places, and the same bits elsewhere."""
    nan = wanted != wanted
    np.testing.assert_array_equal(got != got, nan)
    unsigned = f"u{wanted.itemsize}"
    np.testing.assert_array_equal(got.view(unsigned)[~nan], wanted.view(unsigned)[~nan])


def accumulate(kernel, *arrays, op):
    return kernel.accumulate(*arrays, op)


def sgd_update(kernel, *arrays, lr=0.1, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, first=False):
    return kernel.sgd_updater(*arrays)(lr, momentum, 1 - dampening, weight_decay, nesterov, first)


def adam_update(
    kernel, *arrays, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False, step=1
):
    return kernel.adam_updater(*arrays)(lr, beta1, beta2, eps, weight_decay, decoupled, step)


def both(function, arrays, offset=0, **options):
    """Run C on copies that lie elsewhere and NumPy on copies; return what each left in the arrays."""
    results = []
    for kernel, place in ((kernels.compiled, offset), (kernels.reference, 0)):
        copies = [
            None if array is None else shifted(array, (place * (3 * i + 1)) % 17) for i, array in enumerate(arrays)
        ]
        assert function(kernel, *copies, **options) == 0
        results.append([copy for copy in copies if copy is not None])
    return results


def assert_both_the_same(function, arrays, offset=0, **options):
    compiled, reference = both(function, arrays, offset, **options)
    for got, wanted in zip(compiled, reference, strict=True):
        assert_same_bits(got, wanted)
