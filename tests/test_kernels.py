"""What each implementation of the kernels must do: sums and updates, NaN and zeros, and PyTorch's rules."""

import warnings
from itertools import pairwise, product

import numpy as np
import pytest
from kernel_calls import (
    FLOATS,
    INTEGERS,
    PYTORCH_SGD_FLAGS,
    adam_update,
    assert_same_bits,
    each_implementation,
    sgd_update,
)

from npdp import kernels


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
def test_state_that_fades_away_becomes_0(kernel, dtype):
    """Not a denormal number, with which arithmetic takes more than ten times as long."""
    tiny = np.finfo(dtype).tiny
    zeros = np.zeros(5, dtype)
    state = np.array([1.05 * tiny, -1.05 * tiny, 2 * tiny, tiny / 4, np.nan], dtype)
    velocity, m, v = state.copy(), state.copy(), np.abs(state)
    sgd_update(kernel, zeros.copy(), zeros, velocity, momentum=0.9)
    adam_update(kernel, zeros.copy(), zeros, m, v, beta2=0.9, step=9)
    for left in (velocity, m, v):
        assert (left[[0, 1, 3]] == 0).all() and left[2] == np.dtype(dtype).type(0.9) * state[2] and np.isnan(left[4])
    velocity = state.copy()
    sgd_update(kernel, zeros.copy(), np.full(5, tiny / 4, dtype), velocity, momentum=0.9, first=True)
    assert (velocity == 0).all()


def test_the_gradient_of_relu_takes_arrays_of_any_order_and_dtype():
    rng = np.random.default_rng(0)
    g, y = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    wanted = np.where(y > 0, g, 0)
    for first, second in [(g, y), (np.asfortranarray(g), y), (g, np.asfortranarray(y)), (g, y.astype(np.float32))]:
        np.testing.assert_array_equal(kernels.relu_gradient(first, second), wanted)
    np.testing.assert_array_equal(kernels.relu_gradient(g[::2, 1:], y[::2, 1:]), wanted[::2, 1:])
    np.testing.assert_array_equal(kernels.relu_gradient(np.broadcast_to(g[:1], (4, 6)), y), np.where(y > 0, g[:1], 0))


@each_implementation
def test_accumulate_combines_each_element_with_its_own(kernel):
    for dtype, (op, ufunc) in product(
        FLOATS + INTEGERS, {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}.items()
    ):
        dst, src = np.arange(1, 40_001).astype(dtype), (np.arange(40_000) % 7 * 9000).astype(dtype)
        wanted = ufunc(dst, src)
        kernel.accumulate(dst, src, op)
        np.testing.assert_array_equal(dst, wanted)
        np.testing.assert_array_equal(src, (np.arange(40_000) % 7 * 9000).astype(dtype))


@each_implementation
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap(kernel, dtype):
    info = np.iinfo(dtype)
    dst = np.array([info.max, info.min, info.max], dtype)
    kernel.accumulate(dst, np.array([1, -1, info.max], dtype), "sum")
    assert dst.tolist() == [info.min, info.max, -2]
    dst = np.array([info.min, info.max, 2**30], dtype)
    kernel.accumulate(dst, np.array([-1, 2, 8], dtype), "prod")
    assert dst.tolist() == [info.min, -2, 2**33 if dtype == "int64" else 0]


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["min", "max"])
def test_min_and_max_give_nan_for_nan_in_either_and_src_for_equal_zeros(kernel, op, dtype):
    for count in (4, 36, 99):  # scalar code and vectors
        dst = np.resize(np.array([np.nan, 1, 0.0, -0.0], dtype), count)
        src = np.resize(np.array([1, np.nan, -0.0, 0.0], dtype), count)
        kernel.accumulate(dst, src, op)
        np.testing.assert_array_equal(np.isnan(dst), np.arange(count) % 4 < 2)
        zeros = ~np.isnan(dst)
        np.testing.assert_array_equal(np.signbit(dst[zeros]), np.signbit(src[zeros]))


@each_implementation
@pytest.mark.parametrize("op", kernels.OPS)
def test_an_array_can_be_accumulated_into_itself(kernel, op):
    array = np.arange(1.0, 50_001.0)
    wanted = {"sum": array * 2, "prod": array * array}.get(op, array.copy())
    assert kernel.accumulate(array, array, op) == 0
    np.testing.assert_array_equal(array, wanted)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_range_updated_in_pieces_gives_the_bits_of_the_whole(kernel, dtype):
    rng = np.random.default_rng(4)
    param, grad, m, v = (rng.random(40_000).astype(dtype) for _ in range(4))
    sgd = dict(momentum=0.9, dampening=0.1, nesterov=True, weight_decay=0.01)
    adam = dict(weight_decay=0.01, decoupled=True, step=3)
    whole, pieces = [[a.copy() for a in (param, grad, m, v)] for _ in range(2)]
    cuts = [0, 1, 17, 20_000, 40_000]
    for arrays, bounds in ((whole, [0, 40_000]), (pieces, cuts)):
        for start, stop in pairwise(bounds):
            part = [array[start:stop] for array in arrays]
            sgd_update(kernel, *part[:3], **sgd)
            adam_update(kernel, *part, **adam)
    for got, wanted in zip(pieces, whole, strict=True):
        assert_same_bits(got, wanted)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("flags", PYTORCH_SGD_FLAGS, ids=str)
def test_sgd_is_pytorchs(kernel, flags, dtype):
    torch = pytest.importorskip("torch")
    options = {name: value for name, value in flags.items() if name != "first"}
    rng = np.random.default_rng(5)
    param, velocity = rng.standard_normal(50).astype(dtype), np.empty(50, dtype)
    theirs = torch.nn.Parameter(torch.tensor(param))
    optimizer = torch.optim.SGD([theirs], lr=0.1, **options)
    for iteration in range(4):
        grad = rng.standard_normal(50).astype(dtype)
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        sgd_update(kernel, param, grad, velocity, lr=0.1, **options, first=iteration == 0)
    off = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(param, theirs.detach().numpy(), rtol=off, atol=off)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_is_pytorchs(kernel, weight_decay, decoupled, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    param, m, v = rng.standard_normal(50).astype(dtype), np.zeros(50, dtype), np.zeros(50, dtype)
    theirs = torch.nn.Parameter(torch.tensor(param))
    optimizer_class = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = optimizer_class([theirs], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
    for step in range(1, 6):
        grad = rng.standard_normal(50).astype(dtype)
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        adam_update(kernel, param, grad, m, v, lr=0.01, weight_decay=weight_decay, decoupled=decoupled, step=step)
    off = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(param, theirs.detach().numpy(), rtol=off, atol=off)


@each_implementation
def test_plain_sgd_needs_no_velocity_and_leaves_grad_alone(kernel):
    param, grad = np.arange(5.0), np.arange(5.0)
    sgd_update(kernel, param, grad, None, lr=0.5, first=True)
    assert (param.tolist(), grad.tolist()) == ([0, 0.5, 1, 1.5, 2], [0, 1, 2, 3, 4])


@each_implementation
def test_overflow_and_nan_pass_without_a_warning(kernel):
    largest = np.full(5, np.finfo(np.float32).max)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel.accumulate(largest, largest, "sum")
        kernel.accumulate(largest, np.full(5, -np.inf, np.float32), "sum")
    assert np.isnan(largest).all()
