"""npdp's own products: whole numbers come out exactly, for any sizes, so a term that is missing or twice is seen."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from products import FORMS, KINDS, factors, for_any_size, gemm, whole

from npdp import kernels
from npdp.kernels import products

pytestmark = pytest.mark.skipif(kernels.backend() != "c", reason="NumPy is asked for")

BORDERS = [(8, 1, 32), (41, 2, 94), (128, 256, 64), (129, 257, 95), (135, 513, 95), (519, 511, 32)]
BORDERS += [(513, 300, 60), (64, 77, 1057)]
# More than what stays in the cache
LARGE = [(2100, 130, 64), (60, 9000, 60), (64, 40, 9000), (1030, 300, 1000), (61, 1100, 63)]


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def few(array):
    """Return it with three numbers in a column, the others 0: sums of large numbers stay exact."""
    keep = np.argsort(np.random.default_rng(5).random(array.shape), axis=0) < 3
    return np.where(keep, array, np.float32(0))


@pytest.fixture(params=KINDS, scope="module")
def tiles(request):
    return for_any_size(request.param)


@pytest.fixture(params=FORMS)
def form(request, tiles):
    """One that this kind makes."""
    if request.param == "times" and tiles.times is None:
        pytest.skip("BLAS makes it")
    return request.param


def fits(tiles, form, m, k, n):
    rows, columns = (n, m) if form == "times transposed" else (m, n)
    height, width = tiles.rows, tiles.columns
    most_work = {(5, 16): 1.2, (5, 32): 1.4, (6, 16): 1.4, (8, 32): 1.4}.get((height, width))
    if most_work:
        whole_tiles = -(-rows // height) * -(-columns // width)
        return rows >= height and columns >= width and whole_tiles * height * width <= most_work * rows * columns
    return -(-m // 32) * -(-k // 32) * -(-n // 32) * 32**3 <= 1.4 * m * k * n


def left_to_others(tiles, form, m, k, n):
    """Say whether sums would be so deep, or a factor so large, that it is not quick, or whether it never is."""
    if form == "times" and tiles.times is None:
        return True
    if tiles.rows == 5:
        return form != "times transposed" and k > 1024
    return (form == "times transposed" and k > tiles.deepest) or (form == "times" and m * k > tiles.largest)


def assert_exact(tiles, form, m, k, n):
    a, b = factors(form, m, k, n)
    got = gemm.dot([tiles], a, b)
    if min(m, k, n) > 1:
        assert (got is None) == (left_to_others(tiles, form, m, k, n) or not fits(tiles, form, m, k, n))
    if got is not None:
        np.testing.assert_array_equal(got, a.astype(np.int64) @ b.astype(np.int64))


@given(st.sampled_from(FORMS), st.integers(1, 150), st.integers(1, 600), st.integers(1, 150))
@settings(max_examples=150, deadline=None)
def test_whole_numbers_come_out_exactly_for_any_sizes(tiles, form, m, k, n):
    assert_exact(tiles, form, m, k, n)


@pytest.mark.parametrize("sizes", BORDERS + LARGE, ids=str)
def test_whole_numbers_come_out_exactly_at_the_borders_of_blocks(tiles, form, sizes):
    m, k, n = sizes
    assert_exact(tiles, form, m, k, n)
    assert_exact(tiles, form, n, k, m)


@pytest.mark.parametrize("bits", [(20, 1), (1, 20), (16, 5), (5, 16), (11, 11)], ids=str)
def test_numbers_of_many_bits_come_out_exactly(tiles, form, bits):
    m, k, n = 93, 350, 126
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-(2**many), 2**many, shape) for many, shape in zip(bits, [(m, k), (k, n)], strict=True))
    b = few(b)
    made = iter([a, b])
    got = gemm.dot([tiles], *factors(form, m, k, n, lambda shape, seed: next(made).astype(np.float32)))
    np.testing.assert_array_equal(got, a @ b.astype(np.int64))


def one_by_one(a, b):
    """Return the product, its terms added up in float32 one after the other."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(len(b)):
        total += a[:, k, None] * b[k]
    return total


MAKE_NUMBERS = {
    "near to each other": normal,
    "of all magnitudes": lambda shape, seed: np.ldexp(
        normal(shape, seed), np.random.default_rng(seed + 9).integers(-15, 16, shape, np.int32)
    ),
    "all positive": lambda shape, seed: np.random.default_rng(seed).random(shape, np.float32),
}


@pytest.mark.parametrize("make", MAKE_NUMBERS.values(), ids=MAKE_NUMBERS)
@pytest.mark.parametrize("depth", [64, 700, 4000])
def test_it_is_as_exact_as_adding_up_float32_products_one_by_one(tiles, form, depth, make):
    a, b = factors(form, 100, depth, 90, make)
    if left_to_others(tiles, form, 100, depth, 90):
        assert gemm.dot([tiles], a, b) is None
        return
    exact = a.astype(np.float64) @ b.astype(np.float64)
    room = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64) * np.finfo(np.float32).eps
    error, error_one_by_one = (
        np.abs(product - exact) / room for product in (gemm.dot([tiles], a, b), one_by_one(a, b))
    )
    assert error.max() < 1.5 * error_one_by_one.max()
    assert np.square(error).mean() < 1.3 * np.square(error_one_by_one).mean()


def test_a_result_is_written_where_it_is_wanted_and_nowhere_else(tiles, form):
    a, b = factors(form, 60, 77, 61)
    memory = np.full(61 * 61 + 3, 7, np.float32)
    out = memory[3:-61].reshape(60, 61)  # on no cache line
    assert gemm.dot([tiles], a, b, out) is out
    np.testing.assert_array_equal(out, a @ b)
    assert (memory[:3] == 7).all() and (memory[-61:] == 7).all()


def test_factors_may_lie_anywhere(tiles, form):
    a, b = factors(form, 60, 77, 61)

    def shifted(array):
        order = "F" if not array.flags.c_contiguous else "C"
        memory = np.empty(array.size + 5, np.float32)[5:]
        moved = memory.reshape(array.shape, order=order)
        moved[...] = array
        moved.flags.writeable = False
        return moved

    np.testing.assert_array_equal(gemm.dot([tiles], shifted(a), shifted(b)), a @ b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.finfo(np.float32).max], ids=str)
def test_what_is_no_number_goes_where_the_sums_take_it_and_no_further(tiles, monkeypatch, form, value):
    monkeypatch.setattr(products, "_own_dot", lambda: (partial(gemm.dot, [tiles]), 0))
    a, b = factors(form, 60, 520, 62, lambda shape, seed: np.abs(whole(shape, seed)) + 1)
    a[3, 519], b[519, :] = value, 1
    out = np.empty((60, 62), np.float32)
    with np.errstate(over="ignore"):
        assert kernels.matmul(a, b, out) is out
        np.testing.assert_array_equal(out, a @ b)
    assert np.isfinite(np.delete(out, 3, axis=0)).all()


def test_a_result_that_is_nearly_too_large_is_finite(tiles, monkeypatch, form):
    monkeypatch.setattr(products, "_own_dot", lambda: (partial(gemm.dot, [tiles]), 0))
    a, b = factors(form, 60, 64, 62, lambda shape, seed: np.zeros(shape, np.float32))
    a[:, 0], b[0, :] = 1.6906425e19, 2.01273982e19
    product = kernels.matmul(a, b)
    assert np.isfinite(product).all() and product.max() > 0.99 * np.finfo(np.float32).max


@pytest.mark.parametrize("form", FORMS[:2], indirect=True)
def test_a_rows_result_does_not_depend_on_which_rows_stand_beside_it(tiles, form):
    a, b = factors(form, 1150, 1000, 64, normal)
    tiles = tiles._replace(largest=a.size)
    together = gemm.dot([tiles], a, b)
    for first, last in [(0, 32), (1, 60), (7, 150), (90, 1150)]:
        alone = gemm.dot([tiles], np.ascontiguousarray(a[first:last]), b)
        np.testing.assert_array_equal(alone, together[first:last])
