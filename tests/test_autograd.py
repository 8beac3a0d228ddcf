"""The tape: graphs of all forms, hooks, modes, mistakes that are noticed, and memory that is given back."""

import gc
import threading
import weakref

import numpy as np
import pytest

from npdp import nn, optim
from npdp.autograd import Node, Tensor, is_grad_enabled, no_grad, operators
from npdp.nn import functional


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


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


# Tensors
def test_arrays_keep_their_dtype_and_python_floats_become_float32():
    assert Tensor(np.zeros(2)).dtype == np.float64
    assert Tensor(np.zeros(2, np.float32)).dtype == np.float32
    assert Tensor(np.float64(1)).dtype == np.float64
    assert Tensor(1.5).dtype == Tensor([1.5]).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor([np.zeros(2), np.zeros(2)]).dtype == Tensor([[0.5], [np.float64(0.1)]]).dtype == np.float64


def test_a_tensor_says_what_it_is():
    array = np.arange(6.0).reshape(2, 3)
    x = Tensor(array, requires_grad=True)
    assert (x.shape, x.ndim, len(x), x.numel(), x.size(), x.size(dim=1)) == ((2, 3), 2, 2, 6, (2, 3), 3)
    assert x.numpy() is array and np.asarray(x) is not None and x.is_leaf and not (x * 2).is_leaf
    assert (x.sum().item(), float(x[1, 2]), int(x[1, 2])) == (15.0, 5.0, 5)
    assert (f"{x.sum():.2f}", f"{x[0, :2]}") == ("15.00", str(x[0, :2]))
    with pytest.raises(TypeError, match=r"only one number takes a format, got '.2f' for a Tensor of shape \(2, 3\)"):
        f"{x:.2f}"
    assert "requires_grad=True" in repr(x) and "made by sum" in repr(x.sum())
    assert [float(row.sum()) for row in x] == [3.0, 12.0]
    assert float(Tensor([[1.5]])) == 1.5 and int(Tensor([2])) == 2
    assert ["a", "b", "c"][x[0].argmax()] == "c" and np.arange(5.0)[Tensor([3, 1])].tolist() == [3, 1]
    with pytest.raises(TypeError):
        range(Tensor(1.5))


@pytest.mark.parametrize("function", [
    lambda h: np.concatenate([h, h]), lambda h: np.where([True], 0, h), lambda h: np.dot(np.ones(2), h),
    lambda h: np.stack(arrays=(h, h)), lambda h: np.split(h, 2), lambda h: np.mean(h),
])  # fmt: skip
def test_numpys_functions_do_not_lose_a_gradient_in_silence(function):
    x = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(TypeError, match=r"np\.\w+ makes an array, at which the gradient of a Tensor would end"):
        function(2 * x)
    with no_grad():
        function(2 * x)
    function(x.detach())


def test_numpys_functions_take_tensors_where_no_gradient_could_pass():
    x = Tensor(np.array([[1.0, 3.0], [5.0, 2.0]]), requires_grad=True)
    assert np.argmax(2 * x, 1).tolist() == [1, 0] and np.allclose(x, x.data) and np.shape(x) == (2, 2)
    assert np.mean(x.detach()) == 2.75 and np.sum(x.detach(), axis=0).tolist() == [6, 5]


def test_iterating_gives_rows_and_a_number_has_none():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    np.testing.assert_array_equal(x.grad, [[3, 4], [1, 2]])
    with pytest.raises(TypeError, match="unsized"):
        list(Tensor(1.0))


@pytest.mark.parametrize("dtype", [np.int64, bool, np.complex128, np.float16])
def test_only_float32_and_float64_have_gradients(dtype):
    with pytest.raises(TypeError, match="a gradient needs float32 or float64, got"):
        Tensor(np.zeros(2, dtype), requires_grad=True)


# Graphs
@pytest.mark.parametrize("length", [10_000, 100_000])
def test_a_long_chain_runs_and_is_freed_without_recursion(length, without_collector):
    x = leaf(1.0)
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
    assert x.grad is first  # in place
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
    assert type(number.grad) is np.ndarray and number.grad == 2


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
def test_nothing_is_recorded_under_no_grad():
    x = leaf(1.0)
    with no_grad():
        with no_grad():
            assert not is_grad_enabled()
        assert not is_grad_enabled()
        y = x * 2
    assert is_grad_enabled() and y.node is None and not y.requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()


def test_no_grad_on_one_thread_does_not_touch_another():
    inside, done, seen = threading.Event(), threading.Event(), []

    def other():
        inside.wait(10)
        seen.append((is_grad_enabled(), (leaf(1.0) * 2).requires_grad))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with no_grad():
        inside.set()
        assert done.wait(10)
    thread.join()
    assert seen == [(True, True)]


def test_no_grad_decorates_a_function():
    x = Tensor([1.0], requires_grad=True)

    @no_grad()
    def double():
        return x * 2

    assert double().node is None and (x * 2).node is not None


def test_a_function_under_no_grad_may_call_itself():
    @no_grad()
    def depth(rest):
        return 1 + depth(rest - 1) if rest else 0

    assert depth(3) == 3
    assert is_grad_enabled()


def test_detach_stops_the_gradient_and_shares_the_array():
    x = leaf(2.0)
    y = (x * 3).detach()
    assert not y.requires_grad and x.detach().data is x.data
    (x * y).backward()
    assert x.grad[0] == 6


# Hooks
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
    """An exchange that says what it is told, and notes that backward has failed."""

    leaves_early = False

    def __init__(self, weight):
        self.weight, self.number, self.cancelled = weight, 1, 0

    def begin(self, batch, alone):
        if self.weight is None:
            raise ValueError("cannot be weighed")
        return self.weight

    def cancel(self):
        self.cancelled += 1


@pytest.mark.parametrize(("second", "error", "why", "cancelled"), [
    (0.25, RuntimeError, "saw different numbers of samples, .*; give each loss its own backward", 1),
    (None, ValueError, "cannot be weighed", 0),
])  # fmt: skip
def test_exchanges_that_weigh_one_loss_differently_are_refused(second, error, why, cancelled):
    x, y = leaf(1.0), leaf(2.0)
    x.exchange, y.exchange = Weighs(0.5), Weighs(second)
    with pytest.raises(error, match=why):
        (x * y).backward()
    assert x.grad is None and y.grad is None
    assert (x.exchange.cancelled, y.exchange.cancelled) == (1, cancelled)  # who has put gradients aside takes them back


def test_of_two_exchanges_the_one_that_is_done_stays_so_where_the_other_fails_at_the_end():
    x, y = leaf(1.0), leaf(2.0)
    x.exchange, y.exchange = Weighs(0.5), Weighs(0.5)
    x.exchange.finish = lambda: None
    y.exchange.number = 2
    with pytest.raises(AttributeError, match="finish"):
        (x * y).backward()
    assert (x.exchange.cancelled, y.exchange.cancelled) == (0, 1)


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
