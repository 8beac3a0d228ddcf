"""npdp's own products: whole numbers come out exactly, for any sizes, so a term that is missing or twice is seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npdp import kernels, nn
from npdp.nn import functional

matmul = pytest.importorskip("npdp.kernels.matmul", reason="the C kernels are not compiled")
pytestmark = pytest.mark.skipif(
    not matmul.possible() or kernels.backend() != "c", reason="this processor has no AVX-512, or NumPy is asked for"
)

FORMS = ("times", "times transposed", "transposed times")
BORDERS = [(8, 1, 32), (41, 2, 94), (128, 256, 64), (129, 257, 95), (135, 513, 95), (519, 511, 32)]
BORDERS += [(513, 300, 60), (64, 77, 1057)]
# More than what stays in the cache
LARGE = [(2100, 130, 64), (60, 9000, 60), (64, 40, 9000), (1030, 300, 1000), (61, 1100, 63)]


def whole(shape, seed):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def factors(form, m, k, n, make=whole):
    """Return a (m, k) and b (k, n) in the order in memory that this form is for."""
    a, b = make((m, k), 1), make((k, n), 2)
    return (
        np.asfortranarray(a) if form == "transposed times" else a,
        np.asfortranarray(b) if form == "times transposed" else b,
    )


def fits(form, m, n):
    rows, columns = (n, m) if form == "times transposed" else (m, n)
    tiles = -(-rows // 8) * -(-columns // 32)
    return rows >= 8 and columns >= 32 and tiles * 256 <= 1.4 * rows * columns


def assert_exact(form, m, k, n):
    a, b = factors(form, m, k, n)
    got = matmul.dot(a, b, least_work=0)
    left = (form == "times transposed" and k > matmul.DEEPEST) or (form == "times" and m * k > matmul.LARGEST)
    if min(m, k, n) > 1:
        assert (got is None) == (left or not fits(form, m, n))
    if got is not None:
        np.testing.assert_array_equal(got, a.astype(np.int64) @ b.astype(np.int64))


@given(st.sampled_from(FORMS), st.integers(1, 150), st.integers(1, 600), st.integers(1, 150))
@settings(max_examples=150, deadline=None)
def test_whole_numbers_come_out_exactly_for_any_sizes(form, m, k, n):
    assert_exact(form, m, k, n)


@pytest.mark.parametrize("sizes", BORDERS + LARGE, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_come_out_exactly_at_the_borders_of_blocks(form, sizes):
    m, k, n = sizes
    assert_exact(form, m, k, n)
    assert_exact(form, n, k, m)


@pytest.mark.parametrize("form", FORMS)
def test_other_numbers_agree_up_to_rounding(form):
    a, b = factors(form, 100, 700, 90, normal)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(matmul.dot(a, b, least_work=0) - wanted).max() < 700 * np.finfo(np.float32).eps * 3


@pytest.mark.parametrize("form", FORMS)
def test_a_result_is_written_where_it_is_wanted_and_nowhere_else(form):
    a, b = factors(form, 60, 77, 61)
    memory = np.full(61 * 61 + 3, 7, np.float32)
    out = memory[3:-61].reshape(60, 61)  # on no cache line
    assert matmul.dot(a, b, out, least_work=0) is out
    np.testing.assert_array_equal(out, a @ b)
    assert (memory[:3] == 7).all() and (memory[-61:] == 7).all()


@pytest.mark.parametrize("form", FORMS)
def test_factors_may_lie_anywhere(form):
    a, b = factors(form, 60, 77, 61)

    def shifted(array):
        order = "F" if not array.flags.c_contiguous else "C"
        memory = np.empty(array.size + 5, np.float32)[5:]
        moved = memory.reshape(array.shape, order=order)
        moved[...] = array
        moved.flags.writeable = False
        return moved

    np.testing.assert_array_equal(matmul.dot(shifted(a), shifted(b), least_work=0), a @ b)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_go_where_the_sums_take_them_and_no_further(form, value):
    a, b = factors(form, 60, 520, 62, lambda shape, seed: np.abs(whole(shape, seed)) + 1)
    a[3, 519], b[0, 61] = value, 2
    got = matmul.dot(a, b, least_work=0)
    np.testing.assert_array_equal(got, a @ b)
    assert np.isfinite(np.delete(got, 3, axis=0)).all()


@pytest.mark.parametrize("form", FORMS[:2])
def test_a_rows_result_does_not_depend_on_which_rows_stand_beside_it(form):
    a, b = factors(form, 150, 1100, 64, normal)
    together = matmul.dot(a, b, least_work=0)
    for first, last in [(0, 32), (1, 60), (7, 150), (90, 150)]:
        alone = matmul.dot(np.ascontiguousarray(a[first:last]), b, least_work=0)
        np.testing.assert_array_equal(alone, together[first:last])


def test_what_it_cannot_do_is_left_to_others_untouched():
    a, b = whole((64, 64), 1), whole((64, 64), 2)
    out = np.full((64, 64), 5, np.float32)
    assert matmul.dot(a, b, out) is None  # small
    for left, right in [(a.astype(np.float64), b), (a, b.astype(np.float64)), (a[:, ::2], b[:32]), (a, b[:, ::2])]:
        assert matmul.dot(left, right, least_work=0) is None
    assert matmul.dot(a, b[:32], out, least_work=0) is None  # np.dot says what is wrong
    assert matmul.dot(a.T, b.T, out, least_work=0) is None
    for wrong in (out[:32], out.astype(np.float64), out.T, out[:, ::2]):
        assert matmul.dot(a, b, wrong, least_work=0) is None
    assert (out == 5).all()


@pytest.mark.parametrize(
    ("settings", "quick", "taken"),
    [({"OPENBLAS_NUM_THREADS": "1"}, True, True), ({"OPENBLAS_NUM_THREADS": "2"}, True, False),
     ({"OPENBLAS_NUM_THREADS": "1"}, False, False)],
    ids=["one thread", "two threads", "another processor"],
)  # fmt: skip
def test_it_is_taken_on_one_thread_where_it_is_quicker(monkeypatch, settings, quick, taken):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(matmul, "quick", lambda: quick)
    assert functional._own_dot.__wrapped__() is (matmul.dot if taken else None)


def test_a_linear_layer_takes_it(monkeypatch):
    made = []

    def counting(a, b, out=None):
        product = matmul.dot(a, b, out, least_work=0)
        made.append(product is not None)
        return product

    layer = nn.Linear(70, 50)
    x = nn.Parameter(whole((60, 70), 3))
    (layer(x) * whole((60, 50), 4)).sum().backward()
    wanted = [layer.weight.grad.copy(), x.grad.copy()]
    layer.zero_grad()
    x.grad = None
    monkeypatch.setattr(functional, "_own_dot", lambda: counting)
    (layer(x) * whole((60, 50), 4)).sum().backward()
    assert made == [True] * 3
    for got, expected in zip([layer.weight.grad, x.grad], wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
