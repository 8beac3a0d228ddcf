"""The tape: graphs of all forms, modes, mistakes that are noticed, and memory that is given back."""

import gc
import weakref

import numpy as np
import pytest
from arithmetic import leaf

from npdp import nn, optim
from npdp.autograd import Node, Tensor, operators
from npdp.nn import functional


@pytest.fixture
def without_collector():
    """Switch the garbage collector off: what is freed now is freed because nothing refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def garbage():
    """Return what only the collector would have freed."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = gc.garbage[:]
    gc.garbage.clear()
    return found


def nodes_alive():
    return sum(type(x) is Node for x in gc.get_objects())


# Graphs
def test_a_long_chain_runs_and_is_freed_without_recursion(without_collector):
    length, x = 100_000, leaf(1.0)
    y = x
    for _ in range(length):
        y = y + 1
    y.backward()
    assert (y.item(), x.grad[0]) == (length + 1, 1)
    before = nodes_alive()
    del y
    assert nodes_alive() == before - length


def test_a_diamond_of_many_paths_visits_each_node_once():
    x = leaf(1.0)
    y = x
    for _ in range(60):  # 2 ** 60 paths
        y = y + y
    y.backward()
    assert x.grad[0] == 2.0**60


def test_a_result_used_many_times_collects_all_gradients_before_it_goes_on():
    x = leaf(2.0)
    calls = []
    x.register_hook(lambda g: calls.append(g.copy()))
    y = x * x
    total = y * 0
    for k in range(10):
        total = total + y * k
    (total * y).backward()  # 45 x^4
    np.testing.assert_allclose(x.grad, [45 * 4 * 8.0])
    assert len(calls) == 1


def test_a_leaf_used_twice_by_one_operation_gets_both_gradients():
    x, m = leaf(3.0), Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    (x * x).backward()
    assert x.grad[0] == 6
    functional.linear(m, m, np.zeros(2)).sum().backward()  # m @ m.T
    np.testing.assert_array_equal(m.grad, 2 * np.array([[4.0, 6.0], [4.0, 6.0]]))


def test_branches_of_unequal_length_meet_in_any_order():
    a, b = leaf(2.0), leaf(5.0)
    short, long = a * b, (a * b).exp().log() * a
    (short + long).backward(retain_graph=True)
    wanted = a.grad.copy(), b.grad.copy()
    np.testing.assert_allclose(wanted, ([5 + 2 * 2 * 5], [2 + 4]))
    a.grad = b.grad = None
    (long + short).backward()
    np.testing.assert_allclose((a.grad, b.grad), wanted)


def test_several_backwards_add_up():
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5])
    assert x.raw_grad is first.base  # in place
    x.backward(np.array([1.0, 0.0]))  # a leaf itself
    np.testing.assert_array_equal(x.grad, [6, 5])


def test_unused_leaves_keep_no_gradient():
    x, unused = leaf(1.0), leaf(1.0)
    _ = unused * 2
    (x * 2).backward()
    assert unused.grad is None


def test_gradients_are_arrays_of_their_own():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    start = np.ones(2)
    (a + b).backward(start)
    a.grad += 7
    np.testing.assert_array_equal(b.grad, [1, 1])
    np.testing.assert_array_equal(start, [1, 1])


def test_a_leaf_that_is_its_own_loss_gets_a_gradient_of_its_own():
    x, start = Tensor([1.0, 2.0], requires_grad=True), np.ones(2, np.float32)
    x.backward(start)
    x.grad += 1
    np.testing.assert_array_equal(start, [1, 1])
    number = Tensor(2.0, requires_grad=True)
    number.backward()
    number.backward()
    assert isinstance(number.grad, np.ndarray) and number.grad == 2


def test_a_leaf_of_another_dtype_gets_a_gradient_of_its_own_dtype():
    model = nn.Linear(3, 2)
    for _ in range(2):  # with memory of its own, and with an optimiser's
        model.zero_grad()
        nn.MSELoss()(model(Tensor(np.ones((4, 3)))), np.zeros((4, 2))).backward()
        assert model.weight.grad.dtype == model.bias.grad.dtype == np.float32
        optim.SGD(model.parameters())
    x, y = leaf(1.0, dtype=np.float32), leaf(1.0)
    (x * y).backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


def test_backward_needs_a_number_or_a_gradient_of_the_right_shape():
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"needs a gradient for a tensor of shape \(2,\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"the gradient has shape \(3,\), the tensor \(2,\)"):
        (x * 2).backward(np.ones(3))
    with pytest.raises(RuntimeError, match="nothing that this tensor was computed from"):
        Tensor([1.0]).backward()
    (x * 2).backward(Tensor([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad, [2, 20])


def test_a_second_backward_needs_retain_graph():
    x = leaf(3.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad[0] == 12
    with pytest.raises(RuntimeError, match="mul: backward ran through here before; pass retain_graph=True"):
        y.backward()


# Modes
def test_detach_stops_the_gradient_and_shares_the_array():
    x = leaf(2.0)
    y = (x * 3).detach()
    assert not y.requires_grad and x.detach().data is x.data
    (x * y).backward()
    assert x.grad[0] == 6


def test_what_gives_no_gradient_back_is_not_waited_for():
    x = Tensor([1.0, -2.0, 3.0], requires_grad=True)
    twice = x * 2
    operators.where(twice, twice * 5, 0.0).sum().backward()  # as a condition it has none
    np.testing.assert_array_equal(x.grad, [10, 10, 10])
    x.grad = None
    (operators.where(x * 2, 1.0, 0.0) * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1, 1])


# Memory
def build():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))
    x = Tensor(np.ones((5, 3), np.float32))
    hidden = operators.concatenate(model(x), model(x) * 2, axis=1)[:, 1:].max(axis=1)
    return model, (hidden.logsumexp() + hidden.mean() + operators.stack(hidden, hidden).T.sum()) ** 2


@pytest.mark.parametrize("after_backward", [False, True])
def test_a_graph_is_freed_without_the_garbage_collector(after_backward, without_collector):
    before = nodes_alive()
    model, loss = build()
    if after_backward:
        loss.backward()
    assert nodes_alive() > before
    tensors = weakref.ref(loss), weakref.ref(model[0].weight)
    del loss
    assert nodes_alive() == before and tensors[0]() is None
    del model
    assert tensors[1]() is None  # not laid flat: only then do parameters and their memory know each other
    assert not any(isinstance(x, (Node, Tensor)) for x in garbage())


def test_what_backward_has_read_is_freed_while_the_loss_is_kept(without_collector):
    y = leaf(*range(100)).exp()
    kept = weakref.ref(y.data)
    loss = y.sum()
    del y
    assert kept() is not None
    loss.backward()
    assert kept() is None
