"""Changes in place: noticed where a gradient needs the value before, refused where they would not be recorded."""

import numpy as np
import pytest

from npdp import nn, optim
from npdp.autograd import Tensor, no_grad, operators
from npdp.nn import functional, rules

IN_PLACE = {
    "copy_": lambda x: x.copy_(np.array([5.0, 6.0])),
    "add_": lambda x: x.add_(Tensor([1.0, 1.0]), alpha=0.5),
    "mul_": lambda x: x.mul_(Tensor([3.0, 3.0])),
    "zero_": lambda x: x.zero_(),
    "setitem": lambda x: x.__setitem__(0, 9.0),
    "view": lambda x: x[1:].zero_(),
    "view of a view": lambda x: x.reshape(2, 1).T[0].detach().zero_(),
    "another tensor on it": lambda x: Tensor(x).zero_(),
}
each_change = pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
CHANGED = "changed in place between forward and backward"


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


# Noticed
@each_change
def test_a_changed_input_that_a_gradient_needs_is_noticed(change):
    x, constant = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    loss = (x * constant).sum()
    change(constant)
    with pytest.raises(RuntimeError, match=f"mul: .*{CHANGED}"):
        loss.backward()


@each_change
def test_a_changed_output_that_a_gradient_needs_is_noticed(change):
    y = leaf(1.0, 2.0).exp()
    loss = y.sum()
    change(y.detach())
    with pytest.raises(RuntimeError, match=f"exp: .*{CHANGED}"):
        loss.backward()


@each_change
def test_a_change_of_what_no_gradient_needs_is_harmless(change):
    x, constant = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    loss = (x + constant - constant).sum() + nn.MSELoss()(x, constant)
    change(constant)
    loss.backward()
    np.testing.assert_allclose(x.grad, [1 - 2, 1 - 2])


@pytest.mark.parametrize(
    ("operation", "read"),  # `read` is what is changed; the output where there is none
    [
        (operators.where, [True, False]), (functional.cross_entropy, [1]), (rules.bce_with_logits, [1.0, 0.0]),
        (rules.scale_by, [1.0, 2.0]), (operators.max, None), (operators.min, None), (operators.clip, None),
        (operators.sqrt, None), (operators.pow, [2.0, 2.0]), (operators.pow, None), (operators.div, [2.0, 2.0]),
        (operators.matmul, [2.0, 2.0]),
    ],
)  # fmt: skip
def test_all_that_a_rule_reads_is_watched(operation, read):
    x, constant = leaf(1.0, 2.0), Tensor(np.array([3.0, 3.0] if read is None else read))
    arguments = {
        operators.where: (constant, x, 0), functional.cross_entropy: (x.reshape(1, 2), constant),
        operators.max: (x,), operators.min: (x,), operators.clip: (x,), operators.sqrt: (x,),
    }.get(operation, (x, constant))  # fmt: skip
    output = operation(*arguments, **({"low": 0.0} if operation is operators.clip else {}))
    (output.detach() if read is None else constant).zero_()
    with pytest.raises(RuntimeError, match=CHANGED):
        output.sum().backward()


def test_an_optimiser_step_between_forward_and_backward_is_noticed():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model(Tensor([[1.0, 2.0]])).sum().backward()
    loss = model(Tensor([[1.0, 2.0]])).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match=f"linear: .*{CHANGED}"):
        loss.backward()


def test_load_state_dict_between_forward_and_backward_is_noticed():
    model = nn.Linear(2, 3)
    loss = model(Tensor([[1.0, 2.0]])).sum()
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=f"linear: .*{CHANGED}"):
        loss.backward()


@pytest.mark.parametrize("kind", [np.array, Tensor, list])
def test_an_index_that_changes_later_does_not_move_the_gradient(kind):
    x, at = leaf(1.0, 2.0, 3.0), kind([0, 1])
    picked = x[at]
    at[:] = [2, 2]
    picked.sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1, 0])


def test_a_copy_by_index_is_no_view():
    x, w = Tensor(np.array([1.0, 2.0])), leaf(1.0, 1.0)
    loss = (x * w).sum()
    x[[0, 1]].zero_()
    loss.backward()
    np.testing.assert_array_equal(w.grad, [1, 2])


@pytest.mark.parametrize(("shape", "at"), [((2,), 0), ((2,), (-1,)), ((2, 2), (1, 0)), ((), ()), ((2, 2), 1)])
def test_an_element_is_a_view_as_a_row_is(shape, at):
    x, w = Tensor(np.ones(shape)), Tensor(np.ones(shape), requires_grad=True)
    loss = (x * w).sum()
    x[at].zero_()
    assert not x.data[at].any()
    with pytest.raises(RuntimeError, match=f"mul: .*{CHANGED}"):
        loss.backward()


def test_an_index_of_one_element_is_no_number():
    """Where NumPy is given a Tensor it asks whether that is a number first."""
    x = Tensor(np.ones((1, 2)))
    x[Tensor([False])] = 7
    x[Tensor([0]), Tensor([True, False])] = 5
    np.testing.assert_array_equal(x.data, [[5, 1]])
    assert np.ones((2, 3))[Tensor([1])].shape == (1, 3) and np.ones((1, 3))[Tensor([False])].shape == (0, 3)
    x[Tensor(0)] = 3
    np.testing.assert_array_equal(x.data, [[3, 3]])


# Refused while recording
def test_results_and_parameters_are_not_changed_while_recording():
    x = leaf(1.0, 2.0)
    for tensor in (x, x * 2):
        with pytest.raises(RuntimeError, match="a change in place is not recorded"):
            tensor.zero_()
    with no_grad():
        assert x.add_(1) is x
    np.testing.assert_array_equal(x.data, [2, 3])


@pytest.mark.parametrize("change", ["copy_", "add_", "mul_", "__setitem__"])
def test_a_value_with_a_gradient_is_not_written_while_recording(change):
    x, value = Tensor(np.ones(2)), leaf(3.0, 4.0)
    write = getattr(x, change)
    arguments = [slice(None), value] if change == "__setitem__" else [value]
    with pytest.raises(RuntimeError, match="a change in place is not recorded"):
        write(*arguments)
    np.testing.assert_array_equal(x.data, [1, 1])
    with no_grad():
        write(*arguments)
    assert (x.data >= 3).all()


def test_changes_in_place_keep_the_dtype():
    x = Tensor(np.ones(2, np.float32))
    x.add_(np.full(2, 0.5), alpha=2).mul_(3.0).copy_(x.data.astype(np.float64))
    x[x > 7] = 1.0
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.data, [6, 6])
    with pytest.raises(TypeError):
        Tensor([1, 2]).copy_(np.array([1.5, 2.5]))
    with pytest.raises(TypeError):
        Tensor([1, 2]).mul_(0.5)
