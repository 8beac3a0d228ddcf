"""Values, dtypes and shapes of operations are NumPy's, and names PyTorch's too."""

import numpy as np
import pytest

from npdp.autograd import Tensor, operators
from npdp.nn import functional


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("number", [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2)], ids=repr)
def test_a_number_takes_the_dtype_of_the_tensor_beside_it(dtype, number):
    x = Tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
    results = [x + number, number - x, x * number, number / x, x / number, x**number, number**x,
               operators.where(x > 1, x, number), operators.where(x > 1, number, x), x.clip(number),
               x.clip(None, number), operators.where(x > 1, 1.0, 0.5) * x]  # fmt: skip
    assert [y.dtype for y in results] == [dtype] * len(results)
    sum(y.sum() for y in results).backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("number", [2.5, np.float64(2.5), np.float32(2.5)], ids=repr)
def test_a_float_beside_integers_and_booleans_is_not_cut_off(number):
    for dtype, wanted in {"bool": "float32", "uint8": "float32", "int16": "float32", "int64": "float64"}.items():
        x = Tensor(np.array([1, 0], dtype))
        for y in (x * number, number * x, operators.where(x > 0, number, 0.0 * x)):
            np.testing.assert_array_equal(y.data, [2.5, 0])
        assert (x * number).dtype == wanted
        assert operators.where(x > 0, number, 0.0).dtype == np.float32


def test_numbers_of_numpy_without_a_tensor_beside_them_keep_their_dtype():
    loss = functional.mse_loss(np.float64(1) / 3, np.float64(2) / 3)
    assert loss.dtype == np.float64 and abs(loss.item() - 1 / 9) < 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, bool])
def test_a_list_takes_the_dtype_of_the_tensor_beside_it(dtype):
    """Python's floats in it are as exact as the array that NumPy would make of it."""
    array, listed = np.ones(2, dtype), [0.1, 0.3]
    wide = np.result_type(dtype, np.float32)
    for got, wanted in [
        (Tensor(array) * listed, array * np.array(listed, wide)), (listed - Tensor(array), np.array(listed, wide) - 1),
        (operators.where(Tensor(array) > 0, listed, Tensor(array)), np.array(listed, wide)),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got.data, wanted, strict=True)
    with pytest.raises(TypeError, match="would lose their gradients"):
        Tensor(array) * [[Tensor(1.0)], [Tensor(2.0)]]


def test_an_array_on_the_left_asks_the_tensor():
    array, x = np.array([1.0, 2.0]), Tensor(np.array([3.0, 4.0]), requires_grad=True)
    for y in (array + x, array - x, array * x, array / x, array**x, array @ x):
        assert isinstance(y, Tensor) and y.requires_grad
    np.testing.assert_array_equal((array - x).data, [-2, -2])
    np.testing.assert_array_equal((array > x).data, [False, False])
    (array * x).sum().backward()
    np.testing.assert_array_equal(x.grad, array)


def test_values_are_numpys():
    a, b = np.arange(6.0).reshape(2, 3) - 2, np.arange(3.0) + 1
    x, y = Tensor(a), Tensor(b)
    for got, wanted in [
        (x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (y**x, b**a), (-x, -a), (x @ y, a @ b),
        (abs(x), abs(a)), (2 - x, 2 - a), (2 / y, 2 / b), (2**x, 2**a), (x.exp(), np.exp(a)), (y.log(), np.log(b)),
        (y.sqrt(), np.sqrt(b)), (x.tanh(), np.tanh(a)), (x.sigmoid(), 1 / (1 + np.exp(-a))),
        (x.relu(), np.maximum(a, 0)), (x.clip(-1, 1), np.clip(a, -1, 1)), (x.sum(0), a.sum(0)), (x.mean(), a.mean()),
        (x.mean(axis=1, keepdims=True), a.mean(axis=1, keepdims=True)), (x.max(axis=1), a.max(1)), (x.min(), a.min()),
        (x.softmax(), np.exp(a) / np.exp(a).sum(1, keepdims=True)), (x.logsumexp(), np.log(np.exp(a).sum(1))),
        (x.log_softmax(0), a - np.log(np.exp(a).sum(0))), (x.reshape(3, 2), a.reshape(3, 2)),
        (x.reshape((-1,)), a.ravel()), (x.T, a.T), (x.transpose(1, 0), a.T), (x[1, ::2], a[1, ::2]),
        (x[Tensor([1, 0])], a[[1, 0]]), (x[x > 0], a[a > 0]), (x.argmax(1), a.argmax(1)),
        (operators.stack(y, y, axis=1), np.stack([b, b], 1)), (operators.concatenate(x, x, axis=1), np.hstack([a, a])),
        (operators.where(x > 0, x, 0), np.where(a > 0, a, 0)), ((x > 0).mean(), (a > 0).mean()),
        (x < y, a < b), (x <= y, a <= b), (x > y, a > b), (x >= 1, a >= 1), (x == 1, a == 1), (x != y, a != b),
    ]:  # fmt: skip
        np.testing.assert_allclose(got.data, wanted, rtol=1e-15, atol=1e-15)


def test_what_has_no_gradient_has_pytorchs_names_too():
    a = np.array([[1.7, -2.0, 3.0]])
    x = Tensor(a, requires_grad=True)
    assert x.dim() == 2 and x.tolist() == [[1.7, -2, 3]] and Tensor(3).tolist() == 3
    for got, wanted in [
        (x.int(), a.astype(np.int32)), (x.long(), a.astype(np.int64)), ((x > 0).float(), (a > 0).astype(np.float32)),
        (x.eq(3), a == 3), (x.ne(x), a != a), (x.lt(2), a < 2), (x.le(3), a <= 3), (x.gt(2), a > 2), (x.ge(3), a >= 3),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got.data, wanted, strict=True)
        assert not got.requires_grad
    assert x.double() is x and x.float().dtype == np.float32
    even, small = Tensor(np.arange(4) % 2 == 0), Tensor(np.arange(4) < 3)
    for got, wanted in [
        (even & small, [1, 0, 1, 0]), (even | small, [1, 1, 1, 0]), (even ^ small.data, [0, 1, 0, 0]),
        (even.data & small, [1, 0, 1, 0]), (~even, [0, 1, 0, 1]), (even.any(), 1), (small.all(), 0),
        ((Tensor([[1, 0], [1, 1]]) > 0).all(dim=1, keepdim=True), [[0], [1]]),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got.data, np.array(wanted, bool), strict=True)


@pytest.mark.parametrize("convert", [lambda x: x.float(), lambda x: x.double(), lambda x: x.clone()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_converted_or_copied_tensor_passes_the_gradient_on_in_the_dtype_of_the_first(convert, dtype):
    x = Tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
    y = convert(x)
    (y * np.array([3.0, 4.0], y.dtype)).sum().backward()
    assert x.grad.dtype == dtype and x.grad.tolist() == [3, 4]


def test_a_clone_has_memory_of_its_own():
    x = Tensor(np.ones((2, 3)).T)
    y = x.clone()
    y.zero_()
    assert x.data.all() and not y.data.any() and y.data.strides == x.data.strides


@pytest.mark.parametrize("call", [
    lambda x: x.unsqueeze(4), lambda x: x.unsqueeze(-5), lambda x: x.squeeze(3), lambda x: x.flatten(0, 3),
])  # fmt: skip
def test_an_axis_that_is_not_there_is_refused(call):
    with pytest.raises(IndexError):
        call(Tensor(np.ones((1, 2, 1))))


def test_a_shape_that_will_not_do_is_refused_by_name():
    with pytest.raises(ValueError, match=r"t: wanted at most two axes, got shape \(1, 2, 1\)"):
        Tensor(np.ones((1, 2, 1))).t()
    with pytest.raises(ValueError, match="start_dim must not come after end_dim, got 2 and 1"):
        Tensor(np.ones((1, 2, 1))).flatten(2, 1)
    assert Tensor(2.0).flatten().shape == (1,) and Tensor(np.ones((0, 2, 1))).flatten(1).shape == (0, 2)
    assert Tensor(2.0).squeeze().shape == () and Tensor([1.0, 2.0]).t().shape == (2,)
    assert Tensor(2.0).squeeze(0).shape == Tensor(2.0).transpose(-1, 0).shape == ()


@pytest.mark.parametrize(("before", "shape", "after"), [
    ((0, 3, 4), (0, -1), (0, 12)), ((0, 3, 4), (0, -1, 2), (0, 6, 2)), ((0, 3), (0, 3, -1), (0, 3, 1)),
    ((0, 3, 4), (-1, 12), (0, 12)), ((2, 0), (2, -1), (2, 0)),
])  # fmt: skip
def test_a_batch_without_rows_keeps_its_columns(before, shape, after):
    """What `x.view(len(x), -1)` is of a rank whose part of a batch is empty."""
    x = Tensor(np.ones(before), requires_grad=True)
    y = x.view(*shape)
    assert y.shape == after
    y.sum().backward()
    assert x.grad.shape == before


@pytest.mark.parametrize(("before", "shape"), [((0, 3), (0, -1, 2)), ((0, 3), (0, -1, 0)), ((0, 3), (0, -1, -1))])
def test_columns_that_do_not_come_out_even_are_refused(before, shape):
    with pytest.raises(ValueError):
        Tensor(np.ones(before)).view(*shape)


def test_reductions_take_pytorchs_names_too():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(x.sum(dim=1, keepdim=True).data, x.sum(axis=1, keepdims=True).data)
    assert np.array_equal(x.mean(dim=0).data, x.mean(0).data)
    assert np.array_equal(x.argmax(dim=1, keepdim=True).data, [[2], [2]]) and x.argmax().item() == 5
    assert np.array_equal(x.logsumexp(dim=0).data, x.logsumexp(0).data)
    assert np.array_equal(x.mean([0, 1]).data, 2.5) and np.array_equal(x.sum(dim=[1]).data, [3, 12])
    assert np.array_equal(x.clip(min=1, max=3).data, x.clamp(1, 3).data)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("rows", "wide", "narrow"), [(7, 5, 3), (7, 3, 5), (3001, 300, 2), (1000, 60, 40)])
def test_linear_takes_weights_of_either_layout_and_any_size(rows, wide, narrow, order):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((rows, wide)), rng.standard_normal((narrow, wide)), np.arange(float(narrow))
    inputs, w = Tensor(x, requires_grad=True), Tensor(np.asarray(weight, order=order), requires_grad=True)
    y = functional.linear(inputs, w, bias)
    np.testing.assert_allclose(y.data, x @ weight.T + bias, rtol=1e-12, atol=1e-12)
    cotangent = rng.standard_normal(y.shape)
    y.backward(cotangent)
    np.testing.assert_allclose(inputs.grad, cotangent @ weight, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(w.grad, cotangent.T @ x, rtol=1e-10, atol=1e-10)


def test_comparisons_give_booleans_that_no_gradient_passes():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for compared in (x < 1.5, x <= 1.5, x > 1.5, x >= 1.5, x == 1.5, x != 1.5):
        assert compared.dtype == bool and not compared.requires_grad and compared.node is None
    assert bool(x.sum() > 2) and not bool(x.sum() < 2)


def test_operations_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match="at least one axis on each side"):
        Tensor(2.0) @ Tensor([1.0])
    with pytest.raises(TypeError, match=r"use stack\(a, b\) or concatenate\(a, b\)"):
        operators.concatenate([Tensor([1.0]), Tensor([2.0])])
