"""An optimiser's state goes out and in: training goes on as if never broken off; what does not fit is named."""

import copy
import pickle

import numpy as np
import pytest
from arithmetic import each_optimizer, give_gradients, model_of, parameters
from worlds import run

import npdp
from npdp import nn, optim

LAYOUT = {
    "adam": lambda p: optim.Adam([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.1}], lr=0.5),
    "sgd": lambda p: optim.SGD([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.1}], lr=0.5, momentum=0.9),
}


def iterate(params, optimizer, first, last):
    for step in range(first, last):
        give_gradients(params, *(None if (step + i) % 4 == 3 else step + i + 1 for i in range(len(params))))
        optimizer.step()
        optimizer.zero_grad()


@each_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_goes_on_to_the_same_bits(make, dtype):
    """Also of parameters that have had fewer updates than others, and from an optimiser that was used before."""
    through, broken_off = parameters(3, 2, 4, dtype=dtype), parameters(3, 2, 4, dtype=dtype)
    optimizer = make(through)
    iterate(through, optimizer, 0, 10)
    first = make(broken_off)
    iterate(broken_off, first, 0, 5)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    fresh = [nn.Parameter(parameter.data.copy()) for parameter in broken_off]
    again = make(fresh)
    give_gradients(fresh, 1, 1, 1)
    again.step()
    again.zero_grad()
    for mine, other in zip(fresh, broken_off):
        mine.data[...] = other.data
    again.load_state_dict(state)
    iterate(fresh, again, 5, 10)
    for mine, other in zip(fresh, through):
        np.testing.assert_array_equal(mine.data, other.data)
    assert again.iteration == optimizer.iteration == 10


@pytest.mark.parametrize("kind", LAYOUT)
def test_state_has_pytorchs_layout(kind):
    params = parameters(3, 2, 4)
    optimizer = LAYOUT[kind](params)
    give_gradients(params, 1, None, 2)
    optimizer.step()
    state = optimizer.state_dict()
    names = {"adam": ["step", "exp_avg", "exp_avg_sq"], "sgd": ["momentum_buffer"]}[kind]
    assert {number: list(entry) for number, entry in state["state"].items()} == {0: names, 2: names}
    assert [group["params"] for group in state["param_groups"]] == [[0], [1, 2]]
    assert [group["weight_decay"] for group in state["param_groups"]] == [0, 0.1]
    assert all(group.keys() == own.keys() for group, own in zip(state["param_groups"], optimizer.param_groups))
    if kind == "adam":
        assert state["state"][0]["step"] == 1 and state["state"][0]["step"].shape == ()
    else:
        np.testing.assert_array_equal(state["state"][2]["momentum_buffer"], 2 + 0.1 * np.arange(1, 5))


def test_arrays_of_a_state_are_copies_in_the_shape_and_order_of_the_parameter():
    model = model_of(5, 40, 2)
    optimizer = optim.Adam(model.parameters())
    model(np.ones((2, 5), np.float32)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    for number, parameter in enumerate(model.parameters()):
        mean = state["state"][number]["exp_avg"]
        assert mean.shape == parameter.shape and mean.flags.c_contiguous
        np.testing.assert_allclose(mean, 0.1 * parameter.grad, rtol=1e-5)
    optimizer.step()
    np.testing.assert_equal(state, before)
    optimizer.load_state_dict(state)
    state["state"][0]["exp_avg"][...] = 7
    assert (optimizer.state_dict()["state"][0]["exp_avg"] != 7).all()


def test_settings_come_with_the_state_but_a_learning_rate_that_is_a_function_stays():
    params = parameters(2, 3)
    optimizer = optim.SGD([{"params": params[0]}, {"params": params[1], "lr": lambda iteration: 1 + iteration}], lr=0.5)
    give_gradients(params, 1, 1)
    optimizer.step()
    state = optimizer.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [0.5, 2] and state["iteration"] == 1
    others = parameters(2, 3)
    other = optim.SGD([{"params": p, "weight_decay": 0.3} for p in others], lr=lambda iteration: 10 + iteration)
    kept = other.param_groups[0]
    other.param_groups[1]["lr"] = 0.1
    other.load_state_dict(state)
    assert kept is other.param_groups[0]
    assert [other.lr_of(group) for group in other.param_groups] == [11, 2] and other.weight_decay == 0


@each_optimizer
def test_a_parameter_without_state_is_as_new(make):
    params, others = parameters(2, 2), parameters(2, 2)
    optimizer, other = make(params), make(others)
    give_gradients(params, 1, None)
    optimizer.step()
    give_gradients(others, 5, 5)
    other.step()
    other.load_state_dict(optimizer.state_dict())
    np.testing.assert_equal(other.state_dict(), optimizer.state_dict())
    others[1].data[...] = params[1].data
    for each, both in ((optimizer, params), (other, others)):
        each.zero_grad()
        give_gradients(both, None, 3)
        each.step()
    np.testing.assert_array_equal(others[1].data, params[1].data)


def changed(what, *path):
    """Return a function that puts something into a state, at the end of a path; None takes it away."""

    def change(state):
        *above, last = path
        for step in above:
            state = state[step]
        if what is None:
            del state[last]
        else:
            state[last] = what

    return change


@pytest.mark.parametrize(("kind", "change", "said"), [
    ("adam", changed([{"params": [0, 1, 2]}], "param_groups"), "wanted parameter groups of 1 and 2 parameters, got 3"),
    ("adam", changed([0], "param_groups", 1, "params"), "groups of 1 and 2 parameters, got 1 and 1"),
    ("adam", changed(None, "param_groups", 0, "betas"), "parameter group 0 has no betas"),
    ("adam", changed(-1, "param_groups", 1, "lr"), "parameter group 1: lr must be a finite number"),
    ("adam", changed(True, "param_groups", 0, "amsgrad"), "parameter group 0 has amsgrad, which is not there"),
    ("adam", changed(True, "param_groups", 1, "decoupled_weight_decay"), "decoupled_weight_decay True"),
    ("adam", changed(None, "state", 2, "step"), "state of parameter 2 has no step"),
    ("adam", changed(np.zeros(3), "state", 0, "max_exp_avg_sq"), "parameter 0 has max_exp_avg_sq, which is not there"),
    ("adam", changed(np.zeros((1, 3)), "state", 0, "exp_avg"),
     r"parameter 0: wanted exp_avg as float64 of shape \(3,\), got float64 of shape \(1, 3\)"),
    ("adam", changed(np.zeros(3, complex), "state", 0, "exp_avg"), r"exp_avg as float64 .*, got complex128"),
    ("sgd", changed(0, "param_groups", 1, "momentum"),
     "group 1: wanted settings with state momentum_buffer, got some with none: make the optimiser with the same"),
    ("sgd", changed(np.zeros(3), "state", 0, "exp_avg"), "state of parameter 0 has exp_avg, which is not there"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(kind, change, said):
    params = parameters(3, 2, 4)
    optimizer = LAYOUT[kind](params)
    iterate(params, optimizer, 0, 3)
    before, state = optimizer.state_dict(), optimizer.state_dict()
    change(state)
    with pytest.raises(ValueError, match=f"load_state_dict of {type(optimizer).__name__}: .*{said}"):
        optimizer.load_state_dict(state)
    np.testing.assert_equal(optimizer.state_dict(), before)


@pytest.mark.parametrize(("state", "got"), [({"state": {}}, "one with state"), ({}, "one with nothing"), ([], "list")])
def test_what_is_no_state_is_refused(state, got):
    with pytest.raises(TypeError, match=f'SGD: wanted a dict with "state" and "param_groups", got {got}'):
        optim.SGD(parameters(2)).load_state_dict(state)


def trains(strategy, make):
    """Return a state that was taken after wrapping, or raise."""
    npdp.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    wrapped = nn.DataParallel(model, **strategy)
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(np.full((2, 3), npdp.rank(), np.float32)).mean().backward()
        optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("strategy", [{}, {"update": "fused"}], ids=["replicated", "fused"])
def test_every_rank_of_a_host_has_the_whole_state(strategy):
    alone = trains({}, optim.Adam)
    states = run(3, trains, strategy, optim.Adam)
    for state in states:
        np.testing.assert_equal(state, states[0])
    assert state["state"].keys() == alone["state"].keys() and all(e["exp_avg"].any() for e in state["state"].values())


@pytest.mark.parametrize(("strategy", "said"), [
    ({"update": "fused"}, "a rank has a part of the state: load it before the model is wrapped"),
    ({"strategy": npdp.ParameterServer(0)}, "the servers have it: load it before the model is wrapped"),
], ids=["fused", "servers"])  # fmt: skip
def test_a_state_that_other_ranks_have_is_refused_in_words(strategy, said):
    with pytest.raises(RuntimeError, match=rf"Adam.state_dict: .*{said}"):
        run(2, trains, strategy, optim.Adam, hosts=(0, 1))
    run(2, trains, strategy, lambda p: optim.SGD(p, lr=0.1), hosts=(0, 1))  # has none


@pytest.mark.parametrize("strategy", [{}, {"update": "fused"}, {"strategy": npdp.ParameterServer(0)}], ids=str)
@pytest.mark.parametrize("hosts", [(0, 0), (0, 1)], ids=str)
def test_a_state_that_was_loaded_before_wrapping_counts_under_every_strategy(strategy, hosts):
    def program(strategy, state):
        npdp.manual_seed(0)
        model = nn.Linear(3, 2, dtype=np.float64)
        optimizer = optim.Adam(model.parameters(), lr=0.1)
        if state:
            optimizer.load_state_dict(state)
        wrapped = nn.DataParallel(model, **strategy)
        for _ in range(2):
            wrapped.zero_grad()
            wrapped(np.ones((2, 3))).mean().backward()
            optimizer.step()
        return optimizer.state_dict() if not state else wrapped.state_dict()

    state = program({}, None)
    for parameter in state["state"].values():
        parameter["exp_avg"][...] = np.arange(parameter["exp_avg"].size).reshape(parameter["exp_avg"].shape)
    wanted = program({}, state)
    for got in run(2, program, strategy, state, hosts=hosts):
        for name, values in got.items():
            np.testing.assert_allclose(values, wanted[name], rtol=1e-12)
