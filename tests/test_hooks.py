"""Hooks see each gradient once, whole, and may replace it; exchanges weigh a loss alike, or it is refused."""

import numpy as np
import pytest
from arithmetic import leaf

from npdp import nn
from npdp.autograd import Tensor


def test_a_hook_sees_the_whole_gradient_of_this_backward_once():
    x, seen = leaf(2.0), []
    x.register_hook(lambda g: seen.append(float(g[0])))
    for _ in range(2):
        (x * x + x).backward()
    assert seen == [5, 5]
    assert x.grad[0] == 10


def test_hooks_run_in_order_and_may_replace_the_gradient():
    x = leaf(1.0, dtype=np.float32)
    remove = x.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: (g + np.float64(1)).astype(np.float64))
    (x * 2).backward()
    assert x.grad[0] == 21 and x.grad.dtype == np.float32
    remove()
    (x * 2).backward()
    assert x.grad[0] == 24


def test_a_hook_that_changes_what_it_sees_changes_no_other_gradient():
    x, y, start = leaf(1.0, 2.0), leaf(3.0, 4.0), np.ones(2)
    x.register_hook(lambda g: np.multiply(g, 10, out=g))
    y.register_hook(lambda g: np.multiply(g, 100, out=g))
    (x + y).backward(start)
    np.testing.assert_array_equal([x.grad, y.grad, start], [[10, 10], [100, 100], [1, 1]])


def test_a_hook_of_a_number_gets_an_array():
    number = nn.Parameter(np.ones((), np.float32))
    seen = []
    number.register_hook(seen.append)
    number.reshape(()).backward()
    (number * 2.0).backward()
    assert [type(gradient) for gradient in seen] == [np.ndarray] * 2
    np.testing.assert_array_equal(number.grad, 3)


def test_a_hook_of_a_leaf_that_is_the_loss_runs_too():
    x = leaf(2.0)
    x.register_hook(lambda g: 3 * g)
    x.backward(np.array([2.0]))
    x.backward()
    np.testing.assert_array_equal(x.grad, [9])


def test_a_hook_runs_when_its_gradient_is_complete_before_the_rest_of_backward():
    first, last, order = leaf(2.0), leaf(3.0), []
    first.register_hook(lambda g: order.append(("first", last.grad is not None)))
    (first.exp() * last).backward()
    assert order == [("first", True)]


def test_a_hook_that_gives_another_shape_is_refused():
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: g[:1])
    with pytest.raises(ValueError, match=r"a hook of a leaf of shape \(2,\) gave a gradient of shape \(1,\)"):
        x.sum().backward()


def test_hooks_are_for_leaves_with_a_gradient():
    for tensor in (Tensor([1.0]), leaf(1.0) * 2):
        with pytest.raises(ValueError, match="a hook needs a leaf"):
            tensor.register_hook(print)


class Weighs:
    """A reducer that says what it is told, and notes that backward has failed."""

    overlaps_backward = False

    def __init__(self, weight):
        self.weight, self.number, self.cancelled = weight, 1, 0

    def begin(self, loss, counted, alone):
        if self.weight is None:
            raise ValueError("cannot be weighed")
        return self.weight

    def cancel(self):
        self.cancelled += 1


@pytest.mark.parametrize(("second", "error", "why", "cancelled"), [
    (0.25, RuntimeError, "saw different numbers of samples, .*; give each loss its own backward", 1),
    (None, ValueError, "cannot be weighed", 0),
])  # fmt: skip
def test_reducers_that_weigh_one_loss_differently_are_refused(second, error, why, cancelled):
    x, y = leaf(1.0), leaf(2.0)
    x.reducer, y.reducer = Weighs(0.5), Weighs(second)
    with pytest.raises(error, match=why):
        (x * y).backward()
    assert x.grad is None and y.grad is None
    assert (x.reducer.cancelled, y.reducer.cancelled) == (1, cancelled)  # who has put gradients aside takes them back


def test_of_two_reducers_the_one_that_is_done_stays_so_where_the_other_fails_at_the_end():
    x, y = leaf(1.0), leaf(2.0)
    x.reducer, y.reducer = Weighs(0.5), Weighs(0.5)
    x.reducer.finish = lambda: None
    y.reducer.number = 2
    with pytest.raises(AttributeError, match="finish"):
        (x * y).backward()
    assert (x.reducer.cancelled, y.reducer.cancelled) == (0, 1)
