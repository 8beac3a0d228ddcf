"""`kernels.matmul` always answers, whoever multiplies: for any sizes, dtypes and orders in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npdp import kernels
from npdp.kernels import products

ORDERS = {
    "rows side by side": np.ascontiguousarray,
    "columns side by side": np.asfortranarray,
    "every other column": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
}
# a small one; one in blocks, where b is given transposed; one for npdp's own kernels, where there are any
SIZES = [(3, 5, 4), (301, 300, 7), (260, 300, 100)]


def whole(shape, seed, dtype):
    """Return small whole numbers, whose products add up exactly."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def factors(sizes, dtypes=("float32", "float32")):
    m, k, n = sizes
    return whole((m, k), 1, dtypes[0]), whole((k, n), 2, dtypes[1])


@given(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)) | st.sampled_from(SIZES),
    st.tuples(st.sampled_from(["float32", "float64"]), st.sampled_from(["float32", "float64"])),
    st.sampled_from(list(ORDERS)),
    st.sampled_from(list(ORDERS)),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_product_of_any_matrices_is_numpys(sizes, dtypes, order_a, order_b, trans_b):
    a, b = factors(sizes, dtypes)
    wanted = a @ b
    right = ORDERS[order_b](np.ascontiguousarray(b.T) if trans_b else b)
    got = kernels.matmul(ORDERS[order_a](a), right, trans_b=trans_b)
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == wanted.dtype and got.flags.c_contiguous


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_is_written_where_it_is_wanted(sizes, trans_b, dtype):
    a, b = factors(sizes, (dtype, dtype))
    out = np.full((len(a), b.shape[1]), np.nan, dtype)
    assert kernels.matmul(a, np.ascontiguousarray(b.T) if trans_b else b, out, trans_b=trans_b) is out
    np.testing.assert_array_equal(out, a @ b)


@pytest.mark.parametrize(
    ("sizes", "trans_b", "in_blocks"),
    [((301, 300, 7), True, True), ((301, 300, 7), False, False), ((3, 5, 4), True, False),
     ((128, 4096, 1), True, False), ((129, 4096, 1), True, True),
     ((301, 300, products.NARROW), True, True), ((301, 300, products.NARROW + 1), True, False)],
    ids=str,
)  # fmt: skip
def test_blas_makes_a_large_product_with_a_narrow_transposed_factor_in_blocks(monkeypatch, sizes, trans_b, in_blocks):
    lengths = []

    class Counting:
        def __getattr__(self, name):
            return getattr(np, name)

        def dot(self, a, b, out=None):
            lengths.append(len(a))
            return np.dot(a, b, out)

    monkeypatch.setattr(products, "np", Counting())
    monkeypatch.setattr(products, "_own_dot", lambda: (None, float("inf")))
    a, b = factors(sizes)
    np.testing.assert_array_equal(kernels.matmul(a, b.T.copy() if trans_b else b, trans_b=trans_b), a @ b)
    assert sum(lengths) == len(a)
    assert (len(lengths) > 1) == in_blocks
    assert max(lengths) * b.size <= products.SMALL_PRODUCT + b.size or not in_blocks


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_factors_that_do_not_fit_are_refused(sizes):
    a, b = factors(sizes)
    with pytest.raises(ValueError, match="not aligned"):
        kernels.matmul(a, b[1:])
    with pytest.raises(ValueError, match="output array"):
        kernels.matmul(a, b, np.empty((len(a), b.shape[1] + 1), np.float32))
