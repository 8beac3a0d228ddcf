"""Parameter groups: parameters of one optimiser with settings of their own, on one rank and under every strategy."""

import math

import numpy as np
import pytest
from arithmetic import give_gradients, model_of, parameters
from worlds import run

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError


def split(model):
    """Return weights and biases of a model."""
    named = list(model.named_parameters())
    return [[p for name, p in named if name.endswith(kind)] for kind in ("weight", "bias")]


KINDS = {
    "sgd": lambda groups: optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: optim.SGD(groups, lr=0.1, momentum=0.9),
    "adam": lambda groups: optim.Adam(groups, lr=0.1),
    "adamw": lambda groups: optim.AdamW(groups, lr=0.1),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def three_steps(params, optimizers):
    for step in range(3):
        give_gradients(params, *range(1 + step, 1 + step + len(params)))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return [parameter.data.copy() for parameter in params]


@each_kind
def test_each_group_trains_as_with_an_optimiser_of_its_own(make):
    together, apart = parameters(3, 2, 4), parameters(3, 2, 4)
    settings = [{"weight_decay": 0.5}, {"lr": 0.01}]
    groups = [{"params": params, **own} for params, own in zip((together[:2], together[2:]), settings)]
    others = [make([{"params": params, **own}]) for params, own in zip((apart[:2], apart[2:]), settings)]
    for ours, theirs in zip(three_steps(together, [make(groups)]), three_steps(apart, others)):
        np.testing.assert_array_equal(ours, theirs)


def test_groups_are_dicts_with_their_parameters_and_all_settings():
    first, second, third = parameters(3, 2, 4)
    given = [{"params": iter([first, second]), "weight_decay": 0.1, "name": "decayed"}, {"params": third, "lr": 0.5}]
    optimizer = optim.SGD(given, lr=0.1, momentum=0.9)
    defaults = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    assert optimizer.defaults == defaults
    assert optimizer.param_groups == [
        {**defaults, "params": [first, second], "weight_decay": 0.1, "name": "decayed"},
        {**defaults, "params": [third], "lr": 0.5},
    ]
    assert optimizer.parameters == [first, second, third]
    assert len({parameter.flat for parameter in optimizer.parameters}) == 1
    assert given[1] == {"params": third, "lr": 0.5}


def test_a_group_in_order_is_updated_in_one_pass_and_groups_share_the_arrays_of_their_state():
    model = model_of(5, 4, 3)
    weights, biases = split(model)
    optimizer = optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0}])
    updated, update = [], optimizer.update
    optimizer.update = lambda group, span: updated.append(span) or update(group, span)
    model(np.ones((2, 5), np.float32)).sum().backward()
    optimizer.step()
    assert len(updated) == 2 and updated[0].stop == updated[1].start
    (one, other) = optimizer.groups
    assert one.flat is other.flat and all(one.state[name] is other.state[name] for name in one.state)


def test_settings_of_a_group_may_be_set_between_steps():
    params = parameters(1, 1)
    optimizer = optim.SGD([{"params": [parameter]} for parameter in params], lr=1.0)
    optimizer.param_groups[1]["lr"] = 3.0
    optimizer.param_groups[0]["weight_decay"] = 0.5
    give_gradients(params, 1, 1)
    optimizer.step()
    assert [parameter.data.tolist() for parameter in params] == [[-0.5], [-2.0]]


def test_a_setting_of_all_groups_is_an_attribute():
    optimizer = optim.SGD([{"params": p} for p in parameters(1, 1)], lr=0.1, momentum=0.9)
    assert (optimizer.lr, optimizer.current_lr, optimizer.momentum, optimizer.nesterov) == (0.1, 0.1, 0.9, False)
    optimizer.lr = lambda iteration: 0.5 + iteration
    assert optimizer.current_lr == 0.5 and optimizer.param_groups[1]["lr"](1) == 1.5
    optimizer.param_groups[1].update(lr=0.2, momentum=0.5)
    for name, said in (("current_lr", "0.5, 0.2"), ("momentum", "0.9, 0.5")):
        with pytest.raises(ValueError, match=rf"SGD.{name}: parameter groups have different ones, {said}: see param_g"):
            getattr(optimizer, name)


@pytest.mark.parametrize("lr", [-1, math.nan, "0.1"])
def test_a_learning_rate_of_any_group_that_cannot_be_used_is_refused_before_anything_is_changed(lr):
    params = parameters(1, 1)
    optimizer = optim.SGD([{"params": parameter} for parameter in params])
    optimizer.param_groups[1]["lr"] = lr
    give_gradients(params, 1, 1)
    with pytest.raises((ValueError, TypeError), match="SGD.step: lr of iteration 0 must be a finite number"):
        optimizer.step()
    assert params[0].data == [1] and optimizer.groups[0].steps == [0]


@each_kind
def test_a_group_may_be_added_later(make):
    late, whole = parameters(3, 2), parameters(3, 2)
    optimizer, other = make(late[:1]), make(whole)
    optimizer.add_param_group({"params": late[1]})
    for ours, theirs in zip(three_steps(late, [optimizer]), three_steps(whole, [other])):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("error", "said", "groups"), [
    (ValueError, 'parameter group 1 has no "params", only lr', lambda p: [{"params": p}, {"lr": 1}]),
    (ValueError, "a parameter is in more than one parameter group", lambda p: [{"params": p}, {"params": p[:1]}]),
    (TypeError, r"takes parameter groups as dicts, .* got Parameter", lambda p: [{"params": p[:1]}, p[1]]),
    (TypeError, "in an order, .* got a set", lambda p: [{"params": set(p)}]),
    (TypeError, "takes Parameters, got str", lambda p: [{"params": "weights"}]),
    (TypeError, "as model.parameters.* gives them, got a single dict", lambda p: {"params": p}),
    (ValueError, "at least one parameter, got none", lambda p: [{"params": []}, {"params": iter(())}]),
    (ValueError, "lr must be a finite number", lambda p: [{"params": p, "lr": -1}]),
    (ValueError, "weight_decay must be", lambda p: [{"params": p[:1]}, {"params": p[1:], "weight_decay": -1}]),
    (ValueError, "nesterov needs momentum", lambda p: [{"params": p, "nesterov": True}]),
    (ValueError, "SGD with momentum changes every row",
     lambda p: [{"params": nn.SparseLinear(4, 2).parameters(), "momentum": 0.9}]),
])  # fmt: skip
def test_groups_that_cannot_be_used_are_refused_and_nothing_is_laid_flat(error, said, groups):
    params = parameters(2, 3)
    with pytest.raises(error, match=said):
        optim.SGD(groups(params))
    assert params[0].flat is params[1].flat is None


def test_a_sparse_parameter_has_the_settings_of_its_group():
    layer, other = nn.SparseLinear(4, 2, bias=False), nn.Linear(2, 1)
    optimizer = optim.SGD([{"params": other.parameters(), "momentum": 0.9}, {"params": layer.weight, "lr": 2.0}], lr=1)
    layer.weight.grad = npdp.autograd.rows.RowGradient(np.array([1]), np.ones((1, 2), np.float32), (4, 2))
    optimizer.step()
    assert layer.weight.data.tolist() == [[0, 0], [-2, -2], [0, 0], [0, 0]]


# Strategies
def small():
    return nn.Sequential(nn.Linear(6, 5, dtype=np.float64), nn.Tanh(), nn.Linear(5, 3, dtype=np.float64))


def trains(groups, make, wrap):
    """Train for six iterations on parts of the same batches; return all values."""
    npdp.manual_seed(0)
    model = small()
    weights, biases = split(model)
    if groups == "apart":
        optimizers = [make([{"params": weights, "lr": 0.05}]), make([{"params": biases, "weight_decay": 0.3}])]
    else:
        optimizers = [make([{"params": weights, "lr": 0.05}, {"params": biases, "weight_decay": 0.3}])]
    wrapped = wrap(model)
    x = np.random.default_rng(1).standard_normal((6, 12, 6))
    rank, size = npdp.rank(), npdp.world_size()
    for step in range(6):
        model.zero_grad()
        mine = x[step, rank * 12 // size : (rank + 1) * 12 // size]
        nn.MSELoss()(wrapped(mine), mine[:, :3]).backward()
        optimizers[0].param_groups[0]["lr"] *= 0.9
        for optimizer in optimizers:
            optimizer.step()
    return np.concatenate([values.ravel() for values in wrapped.state_dict().values()])


WAYS = {
    "replicated": lambda model: nn.DataParallel(model),
    "fused": lambda model: nn.DataParallel(model, update="fused"),
    "local": lambda model: nn.DataParallel(model, strategy=npdp.LocalSGD(1)),
    "servers": lambda model: nn.DataParallel(model, strategy=npdp.ParameterServer(0)),
    "a server": lambda model: nn.DataParallel(model, strategy=npdp.ParameterServer(1)),
}


@pytest.mark.parametrize("hosts", [(0, 0), (0, 1), (0, 0, 1, 1)], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_groups_train_alike_under_every_strategy(kind, way, hosts):
    make, wrap = KINDS[kind], WAYS[way]
    hosts = (*hosts, hosts[-1]) if way == "a server" else hosts
    got = run(len(hosts), trains, "together", make, wrap, hosts=hosts)
    apart = run(len(hosts), trains, "apart", make, wrap, hosts=hosts)
    workers = len(hosts) - (way == "a server")
    for values, wanted in zip(got[:workers], apart[:workers]):
        np.testing.assert_allclose(values, wanted, rtol=1e-11)
    if way != "local" or kind == "momentum":  # of which means are means of updates
        np.testing.assert_allclose(got[0], trains("together", make, lambda model: model), rtol=1e-9)


def test_groups_of_an_optimiser_have_their_state_once_in_memory():
    def program():
        weights, biases = split(model := small())
        optimizer = optim.AdamW([{"params": weights}, {"params": biases}])
        wrapped = nn.DataParallel(model, update="fused")
        wrapped(np.ones((2, 6))).mean().backward()
        optimizer.step()
        one, other = optimizer.groups
        return all(one.state[name] is other.state[name] for name in one.state)

    assert run(2, program) == [True, True]


def differs_in_its_second_group(update, strategy=None):
    npdp.manual_seed(0)
    weights, biases = split(model := small())
    decay = 0.1 + 0.1 * npdp.rank()
    optimizer = optim.SGD([{"params": weights}, {"params": biases, "weight_decay": decay}], lr=0.5)
    wrapped = nn.DataParallel(model, update=update, strategy=strategy)
    wrapped(np.ones((2, 6))).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("way", [("fused",), ("replicated", npdp.ParameterServer(0))], ids=str)
def test_ranks_whose_groups_differ_are_told_which(way):
    said = "rank 1 has SGD with weight_decay 0.2 in parameter group 1, of 2, rank 0 has SGD with weight_decay 0.1 in"
    with pytest.raises((InputError, RuntimeError), match=said):
        run(2, differs_in_its_second_group, *way)


def changes_its_second_group(update, strategy, name, value):
    npdp.manual_seed(0)
    weights, biases = split(model := small())
    optimizer = optim.SGD([{"params": weights}, {"params": biases}], lr=0.5, momentum=0.5)
    wrapped = nn.DataParallel(model, update=update, strategy=strategy)
    for step in range(3):
        wrapped(np.ones((2, 6))).mean().backward()
        if step == 1 and npdp.rank() == 1:
            optimizer.param_groups[1][name] = value
        optimizer.step()


@pytest.mark.parametrize(("way", "name", "said"), [
    (("fused", None), "lr", r"rank \d has lr 0.(5|25), .* another rank has other values"),
    (("fused", None), "momentum", r"rank \d has lr 0.5, momentum 0.(5|25), .* another rank has other values"),
    (("replicated", npdp.ParameterServer(0)), "lr", "workers have other learning rates in the same step"),
    (("replicated", npdp.ParameterServer(0)), "momentum", "momentum of the optimiser was 0.5 .* and is 0.25 now"),
], ids=str)  # fmt: skip
def test_ranks_of_which_one_changes_a_group_are_told_so(way, name, said):
    with pytest.raises(RuntimeError, match=said):
        run(2, changes_its_second_group, *way, name, 0.25)
