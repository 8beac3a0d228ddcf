"""Which product npdp's own kernels make, and which are left to others: by size, processor, threads and layout."""

import math

import numpy as np
import pytest
from products import KINDS, NARROW, counting, factors, for_any_size, gemm, possible, whole

from npdp import kernels, nn
from npdp.kernels import products

pytestmark = pytest.mark.skipif(kernels.backend() != "c", reason="NumPy is asked for")


@pytest.fixture(params=KINDS, scope="module")
def tiles(request):
    return for_any_size(request.param)


def test_what_it_cannot_do_is_left_to_others_untouched(tiles):
    a, b = whole((64, 64), 1), whole((64, 64), 2)
    out = np.full((64, 64), 5, np.float32)
    assert gemm.dot([tiles._replace(least_work=64**3 + 1)], a, b, out) is None
    for left, right in [(a.astype(np.float64), b), (a, b.astype(np.float64)), (a[:, ::2], b[:32]), (a, b[:, ::2])]:
        assert gemm.dot([tiles], left, right) is None
    assert gemm.dot([tiles], a, b[:32], out) is None  # np.dot says what is wrong
    assert gemm.dot([tiles], a.T, b.T, out) is None
    for wrong in (out[:32], out.astype(np.float64), out.T, out[:, ::2]):
        assert gemm.dot([tiles], a, b, wrong) is None
    assert (out == 5).all()


@pytest.mark.parametrize(
    ("settings", "quick", "taken"),
    [({"OPENBLAS_NUM_THREADS": "1"}, True, True), ({"OPENBLAS_NUM_THREADS": "2"}, True, False),
     ({"OPENBLAS_NUM_THREADS": "1"}, False, False)],
    ids=["one thread", "two threads", "another processor"],
)  # fmt: skip
def test_it_is_taken_on_one_thread_where_it_is_quicker(tiles, monkeypatch, settings, quick, taken):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    kinds = [tiles._replace(least_work=7), tiles._replace(least_work=5)]
    monkeypatch.setattr(gemm, "quicker", lambda: kinds if quick else [])
    own, least_work = products._own_dot.__wrapped__()
    assert least_work == (5 if taken else math.inf)
    if taken:
        assert own.func is gemm.dot and own.args == (kinds,)


@pytest.mark.parametrize("more", [0, 1])
def test_it_is_asked_for_products_that_are_large_enough(monkeypatch, more):
    asked = []
    monkeypatch.setattr(products, "_own_dot", lambda: (lambda *factors: asked.append(factors), 4 * 3 * 2 + more))
    layer = nn.Linear(3, 2)
    layer(nn.Parameter(whole((4, 3), 3))).sum().backward()
    assert len(asked) == (0 if more else 3)


def test_what_is_quicker_is_what_was_measured_on_such_a_processor(monkeypatch):
    class Processor:
        NPDP_HAS_AVX512, NPDP_HAS_AMX, NPDP_WIDE_UNITS, NPDP_HAS_AVX2 = 1, 2, 4, 8

        def npdp_processor(self):
            return self.flags

    processor = Processor()
    monkeypatch.setattr(gemm, "lib", processor)
    avx512 = [gemm.AVX512, gemm.AVX512_NARROW]
    wide = [(15, [gemm.AMX, *avx512]), (13, avx512)]
    halves = [(11, [gemm.AMX, *avx512, gemm.AVX2]), (9, [*avx512, gemm.AVX2])]
    avx2 = [gemm.AVX2_NARROW, gemm.AVX2]
    for flags, kinds in [*wide, *halves, (12, avx2), (8, avx2), (4, []), (0, [])]:
        processor.flags = flags
        assert gemm.quicker() == kinds


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize(
    ("outputs", "taken"),
    [(4, False), (5, True), (6, False), (7, False), (8, "AVX-512"), (9, True), (10, True), (12, "AVX-512"), (15, True),
     (16, False), (30, False)],
)  # fmt: skip
def test_a_layer_with_few_outputs_takes_what_is_for_narrow_results(monkeypatch, outputs, taken, kind):
    product = counting(made := [], possible(kind)._replace(least_work=1 << 17))
    taken = kind.startswith(taken) if isinstance(taken, str) else taken
    monkeypatch.setattr(products, "_own_dot", lambda: (product, 0))
    layer = nn.Linear(784, outputs)
    x, g = whole((128, 784), 3), whole((128, outputs), 4)
    for gradient in (g, np.asfortranarray(g)):
        (layer(x) * gradient).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad, 2 * g.T @ x)
    assert made == [taken] * 4


@pytest.mark.parametrize("rows", [256, 257])
def test_a_small_batchs_backward_takes_what_is_for_it(rows):
    """Where it is quicker; forward is BLAS's."""
    avx2 = possible("AVX2")
    for form, sizes in [("times", (rows, 600, 64)), ("times transposed", (rows, 600, 64)),
                        ("transposed times", (600, rows, 64))]:  # fmt: skip
        a, b = factors(form, *sizes)
        assert (gemm.dot([avx2], a, b) is not None) == (form != "times" and rows == 256)


def test_what_one_kind_is_not_for_another_makes(tiles):
    a, b = factors("transposed times", 64, 64, 64)
    never = tiles._replace(least_work=64**3 + 1)
    gives_up = tiles._replace(transposed_times=lambda *arguments: 1)
    np.testing.assert_array_equal(gemm.dot([never, gives_up, tiles], a, b), a @ b)
    assert gemm.dot([never, gives_up], a, b) is None


def test_a_linear_layer_takes_it(tiles, monkeypatch):
    layer = nn.Linear(90, 60)
    x = nn.Parameter(whole((64, 90), 3))
    (layer(x) * whole((64, 60), 4)).sum().backward()
    wanted = [layer.weight.grad.copy(), x.grad.copy()]
    layer.zero_grad()
    x.grad = None
    product = counting(made := [], tiles)
    monkeypatch.setattr(products, "_own_dot", lambda: (product, 0))
    (layer(x) * whole((64, 60), 4)).sum().backward()
    assert made == [tiles.times is not None, True, True]
    for got, expected in zip([layer.weight.grad, x.grad], wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
