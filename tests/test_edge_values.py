"""Values at which a rule is delicate: equal largest elements, powers of 0, numbers that would overflow or vanish."""

import numpy as np
import pytest

from npdp.autograd import Tensor
from npdp.autograd.operation import OPERATIONS
from npdp.nn import functional


def test_equal_largest_elements_share_the_gradient():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    x.max(axis=1).sum().backward()
    np.testing.assert_allclose(x.grad, [[0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_by_dim_the_gradient_goes_to_the_element_at_the_index(name, keepdim):
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]) * (1 if name == "max" else -1), requires_grad=True)
    values, indices = getattr(x, name)(1, keepdim)
    (values * 5).sum().backward()
    wanted = np.zeros((2, 3))
    np.put_along_axis(wanted, indices.data.reshape(2, 1), 5, 1)
    np.testing.assert_array_equal(x.grad, wanted)
    assert values.shape == indices.shape == ((2, 1) if keepdim else (2,))
    assert getattr(Tensor(2.0), name)(0)[0].shape == ()
    with pytest.raises(TypeError, match=f"{name}: wanted a number for dim, got a Tensor"):
        getattr(x, name)(Tensor(1))


def test_a_power_has_its_slope_also_at_zero():
    x = Tensor(np.array([0.0, 0.0, -2.0]), requires_grad=True)
    (x ** np.array([0.0, 2.0, 3.0])).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0, 12])
    base = Tensor(np.array([0.0, 2.0]))
    exponent = Tensor(np.array([2.0, 1.0]), requires_grad=True)
    (base**exponent).sum().backward()
    np.testing.assert_allclose(exponent.grad, [0, 2 * np.log(2)])


def test_a_power_says_where_it_has_no_slope():
    """As in PyTorch: of a negative number, and of 0 where the power is infinite."""
    exponent = Tensor(np.array([2.0, -1.0]), requires_grad=True)
    with np.errstate(all="ignore"):
        (np.array([-2.0, 0.0]) ** exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad, [np.nan, -np.inf])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_numbers_do_not_overflow(dtype):
    x = Tensor(np.array([[-1e4, 0, 1e4]], dtype), requires_grad=True)
    labels, targets = np.array([0]), np.array([[1, 0, 0]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        total = x.sigmoid().sum() + x.softmax().sum() + x.log_softmax().sum() + x.logsumexp().sum()
        total = total + functional.cross_entropy(x, labels) + functional.binary_cross_entropy_with_logits(x, targets)
        total.backward()
    assert np.isfinite(total.item()) and np.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_of_whole_numbers_it_is_what_it_is_of_the_same_floats(name):
    numbers = np.array([[3, 1, 2], [0, 0, -900]])
    for axis in (0, -1):
        got, wanted = (OPERATIONS[name](Tensor(array), axis=axis).data for array in (numbers, numbers.astype(float)))
        np.testing.assert_array_equal(got, wanted, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sigmoid_near_zero_is_as_precise_as_one_near_one(dtype):
    x = Tensor(np.array([[-80, -40, -20, 0, 20]], dtype), requires_grad=True)
    small = np.exp([-80.0, -40.0, -20.0])
    y = x.sigmoid()
    np.testing.assert_allclose(y.data[0], [*small / (1 + small), 0.5, 1 / (1 + small[2])], rtol=1e-6)
    y.log().sum().backward()
    np.testing.assert_allclose(x.grad[0, :4], [1, 1, 1, 0.5], rtol=1e-6)
    logits = Tensor(x.data, requires_grad=True)
    functional.binary_cross_entropy_with_logits(logits, np.zeros_like(x.data)).backward()
    np.testing.assert_allclose(logits.grad[0, :3] * 5, small / (1 + small), rtol=1e-6)
