"""Which parameters a step moves, whose gradient it takes, and what it refuses before anything is changed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from arithmetic import each_optimizer, give_gradients, model_of, parameters

import npdp
from npdp import nn, optim
from npdp.autograd import Tensor
from npdp.nn.parameter import Parameter, lay_flat


def iterate(params, optimizers, *numbers):
    """Do an iteration in which each parameter gets its number as gradient; one with None gets none."""
    for each in optimizers:
        each.zero_grad()
    give_gradients(params, *numbers)
    for each in optimizers:
        each.step()


def assert_same_values(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@each_optimizer
def test_parameters_without_a_gradient_stay(make):
    params = parameters(3, 2, 4, 5)
    optimizer = make(params)
    for numbers in ((1, None, 1, None), (None, 2, 1, None), (1, 1, 1, None)):
        before = [parameter.data.copy() for parameter in params]
        iterate(params, [optimizer], *numbers)
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
        iterate(together, [optimizer], *numbers)
        iterate(alone, single, *numbers)
    assert_same_values(together, alone)


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
    optimizer, other = make(ours), make(theirs)
    for number in (1.0, 2.0):
        iterate(ours, [optimizer], number, 3)
        other.zero_grad()
        give_gradients(theirs, 7, 3)
        theirs[0].grad = np.full(3, number)
        other.step()
    assert_same_values(theirs, ours)


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
    one, two = [make(together)], [make(apart[::2]), make(apart[1::2])]
    for k in range(3):
        iterate(together, one, k, 2, 3, 4)
        iterate(apart, two, k, 2, 3, 4)
    assert_same_values(apart, together)


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
    assert len(optimizer.groups) == 2
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
    params[0].flat.stepper = SimpleNamespace(step=lambda *arguments: seen.append(arguments))
    params[0].sum().backward()
    optimizer.step()
    assert seen == [(optimizer, optimizer.groups[0])] and optimizer.groups[0].steps == [0]
    np.testing.assert_array_equal(params[0].data, [1, 2, 3])


def test_a_step_refuses_gradients_that_were_not_exchanged_before_anything_is_changed():
    exchanged, local = nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(3))
    optimizer = optim.SGD([exchanged, local], lr=1.0)
    (exchanged.sum() + local.sum()).backward()


    def holds_back(of):
        assert of == [exchanged, local]
        if local.grad is not None:
            raise RuntimeError("not exchanged")
        return False

    local.flat.reducers.append(SimpleNamespace(holds_back=holds_back))
    with pytest.raises(RuntimeError, match="not exchanged"):
        optimizer.step()
    assert (exchanged.data == 1).all() and optimizer.groups[0].steps == [0]
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
        (TypeError, "takes Parameters, got dict", lambda p: optim.SGD([*p, {"params": p}])),
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
    assert parameter.data.tolist() == [1, 1, 1] and optimizer.groups[0].steps == [0]
