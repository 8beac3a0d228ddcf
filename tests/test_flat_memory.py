"""Parameters, gradients and state lie in flat arrays: written in place, checked once, and again where they moved."""

import weakref

import numpy as np
import pytest
from arithmetic import each_optimizer, give_gradients, model_of, parameters

from npdp import kernels, nn, optim
from npdp.nn.parameter import FlatParameters, allocate, lay_flat
from npdp.optim.groups import MOST_CACHED, Span


def test_parameters_keep_values_shapes_and_order_when_laid_flat():
    model = model_of(5, 40, 1)  # a wide layer and a narrow one may lie differently in memory
    frozen = nn.Parameter(np.arange(3, dtype=np.float32), requires_grad=False)
    before, layouts = model.state_dict(), [parameter.data.strides for parameter in model.parameters()]
    optimizer = optim.SGD([*model.parameters(), frozen], lr=0.1)
    (group,) = optimizer.groups
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name])
        assert np.shares_memory(parameter.data, group.flat.data)
        assert parameter.data.ctypes.data % 64 == 0
    assert layouts == [parameter.data.strides for parameter in model.parameters()]
    np.testing.assert_array_equal(frozen.data, [0, 1, 2])


def test_backward_writes_gradients_straight_into_the_flat_array():
    model = model_of(5, 40, 2)
    optimizer = optim.SGD(model.parameters())
    (group,) = optimizer.groups
    for accumulated in (1, 2):
        model(np.ones((4, 5), np.float32)).sum().backward()
        for parameter in model.parameters():
            assert parameter.raw_grad is parameter.grad_buffer and np.shares_memory(parameter.grad, group.flat.grad)
        np.testing.assert_array_equal(model[1].bias.grad, [4 * accumulated] * 2)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    model(np.ones((4, 5), np.float32)).sum().backward()
    np.testing.assert_array_equal(model[1].bias.grad, [4, 4])


def test_all_parameters_with_a_gradient_are_one_span():
    model = model_of(5, 40, 2)
    optimizer, spans = optim.SGD(model.parameters(), momentum=0.9), []
    update = optimizer.update
    optimizer.update = lambda group, span: spans.append(span) or update(group, span)
    for _ in range(2):
        model(np.ones((4, 5), np.float32)).sum().backward()
        optimizer.step()
    assert spans == [(0, optimizer.groups[0].flat.data.size, step) for step in (1, 2)]


@each_optimizer
def test_arrays_are_checked_once_and_again_where_they_moved(make, monkeypatch):
    checks = []
    monkeypatch.setattr(kernels, "check", lambda *arguments: checks.append(arguments))
    flats = []
    for moves in (False, True):
        params = parameters(3, 2)
        optimizer = make(params)
        (group,) = optimizer.groups
        for step in range(6):
            if moves and step == 2:
                group.flat.move_data(group.flat.data.copy())
            if moves and step == 3:
                group.flat.move_grad(group.flat.grad.copy())
            if moves and step == 4:
                group.move_state({name: array.copy() for name, array in group.state.items()})
            give_gradients(params, 2, 3)
            optimizer.step()
            group.flat.data[group.flat.spare] = 0
        flats.append(group.flat.data)
        assert len(checks) == (4 if moves else 1)
        checks.clear()
    np.testing.assert_array_equal(*flats)


@each_optimizer
def test_state_is_told_apart_by_its_name(make):
    data = []
    for turned in (False, True):
        params = parameters(3)
        optimizer = make(params)
        (group,) = optimizer.groups
        for _ in range(3):
            give_gradients(params, 2)
            optimizer.step()
            if turned:
                group.move_state({name: group.state[name].copy() for name in reversed(group.state)})
        data.append(group.flat.data.copy())
    np.testing.assert_array_equal(*data)


@each_optimizer
def test_arrays_that_overlap_are_refused_and_left_alone(make):
    params = parameters(3, 2)
    optimizer = make(params)
    (group,) = optimizer.groups
    before = group.flat.data.copy()
    with pytest.raises(ValueError, match="parameters, gradient and the optimiser's state overlap, wanted separate"):
        optimizer.update(group, Span(0, before.size, 1), group.flat.data)
    np.testing.assert_array_equal(group.flat.data, before)


def test_arrays_that_moved_away_are_let_go():
    params = parameters(300)
    optimizer = optim.SGD(params, momentum=0.9)
    (group,) = optimizer.groups
    give_gradients(params, 2)
    optimizer.step()
    size, before = group.flat.data.size, weakref.ref(group.flat.data)
    group.flat.move_data(group.flat.data.copy())
    optimizer.update(group, Span(0, size // 2, 2))
    assert before() is None
    for start in range(200):  # of spans that do not come again, few are kept
        optimizer.update(group, Span(start % size, size, 3))
        optimizer.update(group, Span(0, size - start % size, 3))
    assert len(group._cached) <= MOST_CACHED


def test_momentum_cannot_come_later():
    params = parameters(3)
    optimizer = optim.SGD(params)
    optimizer.momentum = 0.9
    give_gradients(params, 2)
    with pytest.raises(ValueError, match="SGD was made without momentum, so it has no velocity: make a new one"):
        optimizer.step()


def test_gradients_from_before_the_optimiser_are_kept():
    params = parameters(3, 2)
    give_gradients(params, 2, 3)
    optimizer = optim.SGD(params, lr=1.0)
    np.testing.assert_array_equal(params[1].grad, [3, 3])
    optimizer.step()
    np.testing.assert_array_equal(params[0].data, [-1, 0, 1])


def test_a_parameter_is_laid_flat_once():
    params = parameters(3, 2, 4)
    (first,) = lay_flat(params[:2])
    both = lay_flat(params)
    assert both[0] is first and len(both) == 2 and both[1].parameters == params[2:]
    assert lay_flat(params) == both and isinstance(first, FlatParameters)
    assert allocate(5, np.dtype(np.float32)).ctypes.data % 64 == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_behind_each_parameter_is_room_for_a_checksum_and_a_flag(dtype):
    (flat,) = lay_flat(parameters(5, 6, 7, 8, 13, 14, 15, 16, 1, dtype=dtype))  # with 8 and 16 a cache line is full
    for parameter, spare, end in zip(flat.parameters, flat.spare, flat.starts[1:], strict=True):
        assert not np.shares_memory(parameter.grad_buffer, flat.grad[spare : spare + 2]) and spare + 1 < end


def test_memory_comes_from_the_allocator():
    asked = []

    def counting(count, dtype):
        asked.append((count, dtype))
        return allocate(count, dtype)

    optim.Adam(parameters(3, 9), allocate=counting)
    assert asked == [(8 + 16, np.float64)] * 4  # data, grad, m, v
