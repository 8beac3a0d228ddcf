"""Optimisers: flat memory, which parameters a step moves, learning rates, and errors."""

import math
import weakref
from itertools import pairwise

import numpy as np
import pytest

import npdp
from npdp import kernels, nn, optim
from npdp.autograd import Tensor
from npdp.nn.parameter import FlatParameters, Parameter, allocate, lay_flat
from npdp.optim import learning_rates
from npdp.optim.optimizer import MOST_SETTLED, Run

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd with everything": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def parameters(*counts, dtype=np.float64):
    return [Parameter(np.arange(1, count + 1, dtype=dtype)) for count in counts]


def values(params):
    return [parameter.data.copy() for parameter in params]


def give_gradients(params, *numbers):
    """Run a backward that leaves each parameter its number as gradient; None leaves none."""
    terms = [(p * n).sum() for p, n in zip(params, numbers, strict=True) if n is not None]
    sum(terms).backward()


def model_of(*sizes):
    layers = [nn.Linear(a, b, generator=np.random.default_rng(a)) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers)


# Flat memory
def test_parameters_keep_values_shapes_and_order_when_laid_flat():
    model = model_of(5, 40, 1)  # a wide layer and a narrow one may lie differently in memory
    frozen = nn.Parameter(np.arange(3, dtype=np.float32), requires_grad=False)
    before, layouts = model.state_dict(), [parameter.data.strides for parameter in model.parameters()]
    optimizer = optim.SGD([*model.parameters(), frozen], lr=0.1)
    (slab,) = optimizer.slabs
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name])
        assert np.shares_memory(parameter.data, slab.flat.data)
        assert parameter.data.ctypes.data % 64 == 0
    assert layouts == [parameter.data.strides for parameter in model.parameters()]
    np.testing.assert_array_equal(frozen.data, [0, 1, 2])


def test_backward_writes_gradients_straight_into_the_flat_array():
    model = model_of(5, 40, 2)
    optimizer = optim.SGD(model.parameters())
    (slab,) = optimizer.slabs
    for accumulated in (1, 2):
        model(np.ones((4, 5), np.float32)).sum().backward()
        for parameter in model.parameters():
            assert parameter.grad is parameter.grad_buffer and np.shares_memory(parameter.grad, slab.flat.grad)
        np.testing.assert_array_equal(model[1].bias.grad, [4 * accumulated] * 2)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    model(np.ones((4, 5), np.float32)).sum().backward()
    np.testing.assert_array_equal(model[1].bias.grad, [4, 4])


def test_all_parameters_with_a_gradient_are_one_run():
    model = model_of(5, 40, 2)
    optimizer, runs = optim.SGD(model.parameters(), momentum=0.9), []
    update = optimizer.update
    optimizer.update = lambda slab, run: runs.append(run) or update(slab, run)
    for _ in range(2):
        model(np.ones((4, 5), np.float32)).sum().backward()
        optimizer.step()
    assert runs == [(0, optimizer.slabs[0].flat.data.size, step) for step in (1, 2)]


@each_optimizer
def test_arrays_are_checked_once_and_again_where_they_moved(make, monkeypatch):
    checks = []
    monkeypatch.setattr(kernels, "check", lambda *arguments: checks.append(arguments))
    flats = []
    for moves in (False, True):
        params = parameters(3, 2)
        optimizer = make(params)
        (slab,) = optimizer.slabs
        for step in range(6):
            if moves and step == 2:
                slab.flat.move_data(slab.flat.data.copy())
            if moves and step == 3:
                slab.flat.move_grad(slab.flat.grad.copy())
            if moves and step == 4:
                slab.move_state({name: array.copy() for name, array in slab.state.items()})
            give_gradients(params, 2, 3)
            optimizer.step()
            slab.flat.data[slab.flat.flags] = 0
        flats.append(slab.flat.data)
        assert len(checks) == (4 if moves else 1)
        checks.clear()
    np.testing.assert_array_equal(*flats)


@each_optimizer
def test_state_is_told_apart_by_its_name(make):
    data = []
    for turned in (False, True):
        params = parameters(3)
        optimizer = make(params)
        (slab,) = optimizer.slabs
        for _ in range(3):
            give_gradients(params, 2)
            optimizer.step()
            if turned:
                slab.move_state({name: slab.state[name].copy() for name in reversed(slab.state)})
        data.append(slab.flat.data.copy())
    np.testing.assert_array_equal(*data)


@each_optimizer
def test_arrays_that_overlap_are_refused_and_left_alone(make):
    params = parameters(3, 2)
    optimizer = make(params)
    (slab,) = optimizer.slabs
    before = slab.flat.data.copy()
    with pytest.raises(ValueError, match="parameters, gradient and the optimiser's state overlap, wanted separate"):
        optimizer.update(slab, Run(0, before.size, 1), slab.flat.data)
    np.testing.assert_array_equal(slab.flat.data, before)


def test_arrays_that_moved_away_are_let_go():
    params = parameters(300)
    optimizer = optim.SGD(params, momentum=0.9)
    (slab,) = optimizer.slabs
    give_gradients(params, 2)
    optimizer.step()
    size, before = slab.flat.data.size, weakref.ref(slab.flat.data)
    slab.flat.move_data(slab.flat.data.copy())
    optimizer.update(slab, Run(0, size // 2, 2))
    assert before() is None
    for start in range(200):  # of runs that do not come again, few are kept
        optimizer.update(slab, Run(start % size, size, 3))
        optimizer.update(slab, Run(0, size - start % size, 3))
    assert len(slab._settled) <= MOST_SETTLED


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
def test_behind_each_parameter_is_room_for_three_flags(dtype):
    (flat,) = lay_flat(parameters(5, 6, 7, 8, 13, 14, 15, 16, 1, dtype=dtype))  # with 8 and 16 a cache line is full
    for parameter, flag, end in zip(flat.parameters, flat.flags, flat.starts[1:], strict=True):
        assert not np.shares_memory(parameter.grad_buffer, flat.grad[flag : flag + 3]) and flag + 2 < end


def test_memory_comes_from_the_allocator():
    asked = []

    def counting(count, dtype):
        asked.append((count, dtype))
        return allocate(count, dtype)

    optim.Adam(parameters(3, 9), allocate=counting)
    assert asked == [(8 + 16, np.float64)] * 4  # data, grad, m, v


# Which parameters a step moves
@each_optimizer
def test_parameters_without_a_gradient_stay(make):
    params = parameters(3, 2, 4, 5)
    optimizer = make(params)
    for numbers in ((1, None, 1, None), (None, 2, 1, None), (1, 1, 1, None)):
        optimizer.zero_grad()
        before = values(params)
        give_gradients(params, *numbers)
        optimizer.step()
        for parameter, old, number in zip(params, before, numbers, strict=True):
            assert (parameter.data != old).all() if number is not None else (parameter.data == old).all()
    assert optimizer.iteration == 3
    assert params[3].grad is None


@each_optimizer
def test_each_parameter_has_an_age_of_its_own(make):
    """Skipping steps of others changes nothing: each ends as if it were alone."""
    together, alone = parameters(3, 2, 4), parameters(3, 2, 4)
    optimizer, single = make(together), [make([p]) for p in alone]
    for numbers in ((1, None, 2), (1, 1, None), (3, 2, 1), (None, None, 1), (1, 1, 1)):
        for params, optimizers in ((together, [optimizer]), (alone, single)):
            for each in optimizers:
                each.zero_grad()
            give_gradients(params, *numbers)
            for each in optimizers:
                each.step()
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@each_optimizer
def test_frozen_parameters_stay(make):
    model = model_of(5, 3, 2)
    model[0].weight.requires_grad = False
    before, optimizer = model.state_dict(), make(model.parameters())
    model(np.ones((4, 5), np.float32)).sum().backward()
    optimizer.step()
    after = model.state_dict()
    assert [name for name in after if (after[name] == before[name]).all()] == ["0.weight"]


@each_optimizer
def test_an_array_that_the_user_assigned_is_the_gradient(make):
    ours, theirs = parameters(3, 2), parameters(3, 2)
    optimizers = make(ours), make(theirs)
    for number in (1.0, 2.0):
        for each in optimizers:
            each.zero_grad()
        give_gradients(ours, number, 3)
        give_gradients(theirs, 7, 3)
        theirs[0].grad = np.full(3, number)
        for each in optimizers:
            each.step()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_values_that_the_user_assigned_are_the_parameter():
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    model.weight.data = np.full((1, 2), 5, np.float32)
    model(np.ones((1, 2), np.float32)).sum().backward()
    optimizer.step()
    assert np.array_equal(model.weight.data, [[4, 4]])


ASSIGNED = {
    "C order": lambda values: np.ascontiguousarray(values),
    "Fortran order": lambda values: np.asfortranarray(values),
    "strided": lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    "float64": lambda values: values.astype(np.float64),
}


@pytest.mark.parametrize("assigned", ASSIGNED.values(), ids=ASSIGNED)
@pytest.mark.parametrize("shape", [(20, 4), (4, 20), (1, 4)], ids=str)
@pytest.mark.parametrize("wrap", [False, True])
def test_values_may_be_assigned_that_lie_in_another_order(shape, assigned, wrap):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def program(assign):
        npdp.manual_seed(0)
        model = nn.Linear(*shape[::-1])
        if not assign:
            model.weight.data[:] = values
        optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        if assign:
            model.weight.data = assigned(values)
        wrapped = nn.DataParallel(model) if wrap else model
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(np.ones((2, shape[1]), np.float32)).mean().backward()
            optimizer.step()
        return wrapped.state_dict()["weight"]

    for world_size in (1, 2) if wrap else (1,):
        wanted = npdp.run_ranks(world_size, program, False)[0]
        for got in npdp.run_ranks(world_size, program, True):
            np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_backward_adds_to_an_array_that_the_user_assigned():
    params = parameters(3)
    optimizer = optim.SGD(params, lr=1.0)
    params[0].grad = np.full(3, 10.0)
    give_gradients(params, 1)
    optimizer.step()
    np.testing.assert_array_equal(params[0].data, [-10, -9, -8])


@each_optimizer
def test_two_optimisers_share_one_model(make):
    together, apart = parameters(3, 2, 4, 1), parameters(3, 2, 4, 1)
    optimizers = [make(together)], [make(apart[::2]), make(apart[1::2])]
    for k in range(3):
        for params, each in zip((together, apart), optimizers, strict=True):
            for optimizer in each:
                optimizer.zero_grad()
            give_gradients(params, k, 2, 3, 4)
            for optimizer in each:
                optimizer.step()
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_an_optimiser_moves_only_its_own_part_of_memory_that_others_laid_flat():
    params = parameters(3, 2, 4)
    lay_flat(params)
    first, second = optim.SGD([params[2], params[0]], lr=1.0), optim.SGD(params[1:2], lr=10.0)
    give_gradients(params, 1, 1, 1)
    first.step()
    np.testing.assert_array_equal(params[1].data, [1, 2])
    np.testing.assert_array_equal(np.concatenate([params[0].data, params[2].data]), [0, 1, 2, 0, 1, 2, 3])
    second.step()
    np.testing.assert_array_equal(params[1].data, [-9, -8])


def test_parameters_of_two_dtypes_keep_theirs():
    params = parameters(3) + parameters(2, dtype=np.float32)
    optimizer = optim.Adam(params, lr=0.5)
    assert len(optimizer.slabs) == 2
    (params[0].sum() + params[1].sum()).backward()
    optimizer.step()
    assert [p.dtype for p in params] == [p.grad.dtype for p in params] == [np.float64, np.float32]
    np.testing.assert_allclose(np.concatenate([p.data for p in params]), [0.5, 1.5, 2.5, 0.5, 1.5], rtol=1e-6)


def test_a_parameter_given_twice_moves_once():
    (parameter,) = parameters(2)
    optimizer = optim.SGD([parameter, parameter], lr=1.0)
    parameter.sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(parameter.data, [0, 1])


def test_a_step_is_the_steppers_where_flat_arrays_have_one():
    params, seen = parameters(3), []
    optimizer = optim.SGD(params, lr=1.0)
    params[0].flat.stepper = lambda *arguments: seen.append(arguments)
    params[0].sum().backward()
    optimizer.step()
    assert seen == [(optimizer, optimizer.slabs[0])] and optimizer.slabs[0].steps == [0]
    np.testing.assert_array_equal(params[0].data, [1, 2, 3])


def test_a_step_refuses_gradients_that_were_not_exchanged_before_anything_is_changed():
    exchanged, local = nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(3))
    optimizer = optim.SGD([exchanged, local], lr=1.0)
    (exchanged.sum() + local.sum()).backward()
    local.flat.unsynced = lambda: None if local.grad is None else "not exchanged"
    with pytest.raises(RuntimeError, match=r"SGD\.step: not exchanged"):
        optimizer.step()
    assert (exchanged.data == 1).all() and optimizer.slabs[0].steps == [0]
    optimizer.zero_grad()
    optimizer.step()


@pytest.mark.parametrize("what", ["data", "grad"])
def test_an_array_of_the_users_of_another_shape_is_refused(what):
    (parameter,) = parameters(3)
    optimizer = optim.SGD([parameter])
    parameter.sum().backward()
    setattr(parameter, what, np.ones(1, np.float32))
    with pytest.raises(ValueError, match=rf"{what} of a parameter of shape \(3,\) was set to an array of \(1,\)"):
        optimizer.step()


def test_parameters_without_an_order_are_refused():
    with pytest.raises(TypeError, match="in an order, the same on every rank and in every run, got a set"):
        optim.SGD(set(parameters(3, 2)))


# The rules, written out
def run_steps(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = np.full(1, gradient)
        optimizer.step()
    return parameter.data[0]


@pytest.mark.parametrize(("dampening", "nesterov"), [(0.0, False), (0.3, False), (0.0, True)])
def test_sgd_follows_its_formula(dampening, nesterov):
    (parameter,) = parameters(1)
    value, velocity = 1.0, None
    for gradient in (2.0, -1.0, 3.0):
        g = gradient + 0.1 * value
        velocity = g if velocity is None else 0.9 * velocity + (1 - dampening) * g
        value -= 0.5 * (g + 0.9 * velocity if nesterov else velocity)
    optimizer = optim.SGD([parameter], 0.5, momentum=0.9, dampening=dampening, weight_decay=0.1, nesterov=nesterov)
    assert run_steps(optimizer, parameter, (2.0, -1.0, 3.0)) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_its_formula(decoupled):
    (parameter,) = parameters(1)
    value, m, v = 1.0, 0.0, 0.0
    for t, gradient in enumerate((2.0, -1.0, 3.0), start=1):
        g = gradient if decoupled else gradient + 0.1 * value
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        shrunk = value - 0.5 * 0.1 * value if decoupled else value
        value = shrunk - 0.5 * m / (1 - 0.8**t) / (math.sqrt(v / (1 - 0.9**t)) + 1e-3)
    make = optim.AdamW if decoupled else optim.Adam
    optimizer = make([parameter], lr=0.5, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    assert run_steps(optimizer, parameter, (2.0, -1.0, 3.0)) == pytest.approx(value, rel=1e-14)


def test_adamw_decays_by_default_and_adam_does_not():
    assert (optim.AdamW(parameters(1)).weight_decay, optim.Adam(parameters(1)).weight_decay) == (0.01, 0.0)


# Learning rates
def test_the_learning_rate_may_be_a_function_or_be_set():
    params = parameters(1)
    optimizer = optim.SGD(params, lr=lambda iteration: 1.0 + iteration)
    for wanted in (1.0, 2.0):
        assert optimizer.current_lr == wanted
        before = params[0].data[0]
        optimizer.zero_grad()
        params[0].sum().backward()
        optimizer.step()
        assert before - params[0].data[0] == wanted
    optimizer.lr = 0.5
    assert optimizer.current_lr == 0.5


def test_learning_rates_follow_their_formulas():
    constant, step = learning_rates.constant(0.3), learning_rates.step(1.0, every=10, factor=0.5)
    assert [constant(i) for i in (0, 5, 99)] == [0.3] * 3
    assert [step(i) for i in (0, 9, 10, 19, 20, 35)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    cosine = learning_rates.cosine(1.0, iterations=100, lowest=0.2)
    assert [cosine(i) for i in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert cosine(25) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    warm = learning_rates.warm_up(0.4, iterations=4)
    assert [warm(i) for i in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    both = learning_rates.warm_up(step, iterations=20)
    assert [both(i) for i in (0, 12, 25)] == pytest.approx([1 / 20, 0.5 * 13 / 20, 0.25])
    assert learning_rates.warm_up(cosine, 0)(0) == 1.0 and learning_rates.cosine(1.0, 0)(0) == 1.0
    assert learning_rates.scaled_linearly(0.1, 256, 64) == pytest.approx(0.4)


# Errors
@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "at least one parameter, got none", lambda p: optim.SGD([])),
        (TypeError, "takes Parameters, got Tensor", lambda p: optim.SGD([Tensor([1.0], requires_grad=True)])),
        (TypeError, r"as model.parameters\(\) gives them, got a single Parameter", lambda p: optim.SGD(p[0])),
        (TypeError, "got a single Linear", lambda p: optim.SGD(nn.Linear(2, 1))),
        (TypeError, r"wanted an optimiser of npdp.optim, got npdp.nn.layers.Linear",
         lambda p: npdp.DistributedOptimizer(nn.Linear(2, 1))),
        (TypeError, "takes Parameters, got dict", lambda p: optim.SGD([{"params": p}])),
        (ValueError, "lr must be a finite number, at least 0, got -1", lambda p: optim.SGD(p, lr=-1)),
        (ValueError, "lr must be .*, got nan", lambda p: optim.Adam(p, lr=math.nan)),
        (ValueError, "lr must be .*, got inf", lambda p: optim.Adam(p, lr=math.inf)),
        (ValueError, "momentum must be .*, got -0.1", lambda p: optim.SGD(p, momentum=-0.1)),
        (ValueError, "weight_decay must be .*, got -1", lambda p: optim.AdamW(p, weight_decay=-1)),
        (ValueError, "nesterov needs momentum and no dampening", lambda p: optim.SGD(p, nesterov=True)),
        (ValueError, "nesterov needs momentum and no dampening, got 0.9 and 0.1",
         lambda p: optim.SGD(p, momentum=0.9, dampening=0.1, nesterov=True)),
        (ValueError, r"betas must be in \[0, 1\), got \(0.9, 1.0\)", lambda p: optim.Adam(p, betas=(0.9, 1.0))),
        (ValueError, "eps must be .*, got -1", lambda p: optim.Adam(p, eps=-1)),
    ],
)  # fmt: skip
def test_mistakes_are_named(error, message, make):
    params = parameters(2)
    with pytest.raises(error, match=message):
        make(params)
    assert params[0].flat is None


def test_any_sequence_of_parameters_will_do():
    """A class with `__getitem__` alone is one."""

    class Parameters:
        def __getitem__(self, index):
            return given[index]

    given = parameters(2)
    found = optim.SGD(Parameters()).parameters
    assert list(map(id, found)) == list(map(id, given))


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_a_learning_rate_that_is_none_is_refused_before_anything_is_changed(make, lr, scheduled):
    parameter = Parameter(np.ones(3, np.float32))
    optimizer = make([parameter], lr=0.5)
    optimizer.lr = (lambda iteration: lr) if scheduled else lr
    parameter.grad = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="lr of iteration 0 must be a finite number, at least 0, got"):
        optimizer.step()
    assert parameter.data.tolist() == [1, 1, 1] and optimizer.slabs[0].steps == [0]
