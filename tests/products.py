"""npdp's own products, for tests: factors in each order of memory, and the kinds of tiles that make them."""

import sys

import numpy as np
import pytest

gemm = pytest.importorskip("npdp.kernels.gemm", reason="the C kernels are not compiled")
KINDS = {"AVX-512": gemm.AVX512, "AMX": gemm.AMX, "AVX2": gemm.AVX2}
NARROW = {"AVX-512 for few outputs": gemm.AVX512_NARROW, "AVX2 for few outputs": gemm.AVX2_NARROW}
KINDS |= NARROW
FORMS = ("times", "times transposed", "transposed times")


def whole(shape, seed):
    """Return small whole numbers, whose products add up exactly."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def factors(form, m, k, n, make=whole):
    """Return a (m, k) and b (k, n) in the order in memory that this form is for."""
    a, b = make((m, k), 1), make((k, n), 2)
    return (
        np.asfortranarray(a) if form == "transposed times" else a,
        np.asfortranarray(b) if form == "times transposed" else b,
    )


def possible(name):
    """Return a kind of tiles; skip the test where this processor does not have it."""
    if KINDS[name] not in gemm.possible():
        pytest.skip(f"this processor has no {name}")
    return KINDS[name]


def for_any_size(name):
    """Return a kind of tiles that makes products of any size, also where it is slow."""
    return possible(name)._replace(least_work=0, narrowest=sys.maxsize, largest_batch=sys.maxsize)


def counting(made, tiles):
    """Return a product with tiles that notes in `made` whether it was made."""

    def product(a, b, out=None):
        result = gemm.dot([tiles], a, b, out)
        made.append(result is not None)
        return result

    return product
