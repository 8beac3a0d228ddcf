"""Layers' kernels: what they compute, agreement of gradients with PyTorch, and the same bits in C and NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import FLOATS, assert_same_bits, awkward, needs_compiled, offsets, seeds, shifted

from npdp import kernels
from npdp.kernels import layers_reference

SIZES = [(0, 5), (1, 1), (7, 1), (300, 1), (5, 3), (9, 16), (8, 17), (30, 64), (33, 65), (4, 700), (3, 5000), (600, 2)]
rows_and_width = st.one_of(st.tuples(st.integers(0, 40), st.integers(1, 70)), st.sampled_from(SIZES))


def left_by_both(name, read, written, offset, *scalars):
    """What C and NumPy leave in arrays of these shapes; C's arrays lie at offsets."""
    from npdp.kernels import layers_compiled

    left = []
    for kernel, place in ((layers_compiled, offset), (layers_reference, 0)):
        arrays = [shifted(array.reshape(-1), place).reshape(array.shape) for array in read]
        arrays += [shifted(np.full(int(np.prod(shape)), 7, read[0].dtype), place).reshape(shape) for shape in written]
        assert not getattr(kernel, name)(*arrays, *scalars)
        left.append(arrays[len(read) :])
    for got, wanted in zip(*left, strict=True):
        assert_same_bits(got, wanted)
    return left[1]


@needs_compiled
@settings(deadline=None)
@given(dtype=st.sampled_from(FLOATS), sizes=rows_and_width, offset=offsets, seed=seeds)
def test_kernels_of_rows_have_the_same_bits_in_c_and_numpy(dtype, sizes, offset, seed):
    """Ordinary numbers, and any bits: then most sums are NaN or infinite."""
    rng = np.random.default_rng(seed)
    (rows, width), each = sizes, sizes[0]

    def made(*shape):
        count = int(np.prod(shape))
        numbers = awkward(rng, dtype, count) if seed % 2 else rng.standard_normal(count).astype(dtype)
        return numbers.reshape(shape)

    x, g, weight, bias = made(rows, width), made(rows, width), made(width), made(width)
    _, mean, rstd = left_by_both("layer_norm", [x, weight, bias], [sizes, (each,), (each,)], offset, 1e-5)
    left_by_both("layer_norm_gradient", [g, x, weight, mean, rstd], [sizes, (width,), (width,)], offset)
    y, *_ = left_by_both("softmax", [x], [sizes, (each,), (each,)], offset)
    left_by_both("softmax_gradient", [g, y], [sizes], offset)
    labels = rng.integers(0, width, rows)
    largest, totals, *_ = left_by_both("cross_entropy_rows", [x, labels], [(each,)] * 4, offset)
    read = [x, labels, largest, totals, made(rows)]
    left_by_both("cross_entropy_rows_gradient", read, [sizes], offset, 0.1, 0.4)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_of_gelu_and_sums_of_rows_have_the_same_bits_in_c_and_numpy(dtype):
    from npdp.kernels import layers_compiled

    rng = np.random.default_rng(0)
    for count in (0, 1, 17, 4099, 40_003):
        g, x = awkward(rng, dtype, count), (4 * rng.standard_normal(count)).astype(dtype)
        x[::3] = awkward(rng, dtype, len(x[::3]))
        for name in layers_reference.OF_TWO:
            left, wanted = shifted(g, 3), np.empty_like(g)
            layers_compiled.of_two(name, left, shifted(x, 1), left)  # in place
            layers_reference.of_two(name, g, x, wanted)
            assert_same_bits(left, wanted)
    for rows, width in SIZES:
        g, numbers = awkward(rng, dtype, rows * width).reshape(rows, width), rng.integers(0, 9, rows)
        table, wanted = np.zeros((9, width), dtype), np.zeros((9, width), dtype)
        layers_compiled.add_rows(table, numbers, g)
        layers_reference.add_rows(wanted, numbers, g)
        assert_same_bits(table, wanted)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_and_its_gradient_are_pytorchs(approximate):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, g = 3 * rng.standard_normal((20, 30)), rng.standard_normal((20, 30))
    theirs = torch.tensor(x, requires_grad=True)
    y = torch.nn.functional.gelu(theirs, approximate=approximate)
    y.backward(torch.tensor(g))
    np.testing.assert_allclose(kernels.gelu(x, approximate), y.detach().numpy(), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(kernels.gelu_gradient(g, x, approximate), theirs.grad.numpy(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_far_out_gelu_is_its_input_or_0_and_its_slope_1_or_0(approximate, dtype):
    x = np.array([1e3, 1e18, np.finfo(dtype).max, -1e3, -1e18, np.finfo(dtype).min], dtype)
    np.testing.assert_array_equal(kernels.gelu(x, approximate), [*x[:3], 0, 0, 0])
    np.testing.assert_array_equal(kernels.gelu_gradient(np.ones_like(x), x, approximate), [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("shape", [(6, 5, 48), (4, 1), (0, 7), (3,)])
def test_layer_norm_and_its_gradients_are_pytorchs(shape):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x, g = 3 * rng.standard_normal(shape) + 1, rng.standard_normal(shape)
    weight, bias = rng.standard_normal(shape[-1]), rng.standard_normal(shape[-1])
    theirs = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
    wanted = torch.nn.functional.layer_norm(theirs[0], shape[-1:], *theirs[1:])
    wanted.backward(torch.tensor(g))
    y, mean, rstd = kernels.layer_norm(x, weight, bias)
    assert mean.shape == rstd.shape == (np.prod(shape[:-1], dtype=int),)
    got = (y, *kernels.layer_norm_gradient(g, x, weight, mean, rstd))
    for ours, other in zip(got, (wanted.detach(), *(tensor.grad for tensor in theirs)), strict=True):
        np.testing.assert_allclose(ours, other.numpy(), rtol=1e-10, atol=1e-10)


def test_softmax_is_of_each_row_in_place_too_and_its_gradient_is_that_of_the_formula():
    rng = np.random.default_rng(3)
    x, g = 5 * rng.standard_normal((2, 3, 40)), rng.standard_normal((2, 3, 40))
    x[0, 0, 7:] = -np.inf  # as behind a causal mask
    powers = np.exp(x - x.max(-1, keepdims=True))
    wanted = powers / powers.sum(-1, keepdims=True)
    y, log_sums = kernels.softmax_rows(x)
    np.testing.assert_allclose(y, wanted, rtol=1e-13)
    np.testing.assert_allclose(log_sums, np.log(np.exp(x).sum(-1)).reshape(-1), rtol=1e-13)
    assert (y[0, 0, 7:] == 0).all()
    slope = y * (g - (y * g).sum(-1, keepdims=True))
    np.testing.assert_allclose(kernels.softmax_rows_gradient(g, y, out=g), slope, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(g, slope, rtol=1e-12, atol=1e-15)
    assert kernels.softmax_rows(x, out=x)[0] is x
    np.testing.assert_array_equal(x, y)
    nothing, log_sums = kernels.softmax_rows(np.ones((3, 0)))
    assert nothing.shape == (3, 0) and (log_sums == -np.inf).all()  # the logarithms of 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_rows_and_its_gradient_are_pytorchs(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    logits, labels, shares = 4 * rng.standard_normal((9, 700)), rng.integers(0, 700, 9), rng.random(9)
    theirs = torch.tensor(logits, requires_grad=True)
    each = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels), reduction="none", label_smoothing=smoothing)
    (each * torch.tensor(shares)).sum().backward()
    losses, largest, totals = kernels.cross_entropy_rows(logits, labels, smoothing)
    np.testing.assert_allclose(losses, each.detach().numpy(), rtol=1e-12)
    for out in (None, logits):
        gradient = kernels.cross_entropy_rows_gradient(logits, labels, largest, totals, shares, smoothing, out)
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("wrong", [-1, 4, 2**63 - 1, -(2**63)])
def test_a_label_that_is_no_class_makes_no_loss(wrong):
    assert kernels.cross_entropy_rows(np.ones((3, 4)), np.array([0, wrong, 3])) is None


def test_rows_are_added_to_those_of_their_numbers():
    table, numbers = np.ones((5, 3)), np.array([4, 0, 4, 4], np.int32)
    kernels.add_rows(table, numbers, np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(table[[0, 4]], [[4, 5, 6], [16, 19, 22]])
    np.testing.assert_array_equal(table[1:4], 1)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=rf"add_rows: wanted numbers in \[0, 5\), got {wrong}"):
            kernels.add_rows(table, np.array([1, wrong]), np.ones((2, 3)))


def test_arrays_whose_shapes_do_not_fit_are_refused():
    x, narrow = np.ones((4, 3)), np.ones(2)
    for call in (
        lambda: kernels.layer_norm(x, narrow, np.ones(3)),
        lambda: kernels.layer_norm_gradient(x, x, np.ones(3), narrow, np.ones(4)),
        lambda: kernels.gelu_gradient(narrow, x),
        lambda: kernels.softmax_rows_gradient(narrow, x),
        lambda: kernels.cross_entropy_rows(x, np.zeros(3, int)),
        lambda: kernels.add_rows(x, np.array([0]), np.ones((1, 4))),
    ):
        with pytest.raises(ValueError, match="got an array of shape"):
            call()
