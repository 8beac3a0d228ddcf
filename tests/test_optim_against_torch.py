"""Parameter groups, optimisers' state and learning-rate schedulers against PyTorch's, in float64."""

import numpy as np
import pytest

from npdp import nn, optim
from npdp.nn.parameter import Parameter

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")

SHAPES = [(4, 3), (5,), (2, 3), (1,)]
SETTINGS = {
    "AdamW": ({"lr": 0.05}, {"weight_decay": 0.1}, {"weight_decay": 0, "lr": 0.02, "betas": (0.8, 0.99)}),
    "Adam": ({"lr": 0.05}, {"weight_decay": 0.1}, {"eps": 1e-3}),
    "SGD": ({"lr": 0.05, "momentum": 0.9}, {"weight_decay": 0.1}, {"nesterov": True, "lr": 0.2}),
}
each_kind = pytest.mark.parametrize("kind", SETTINGS)


def groups_of(kind, params):
    """Return two groups and the defaults."""
    defaults, first, second = SETTINGS[kind]
    return [{"params": params[:2], **first}, {"params": params[2:], **second}], defaults


def pair(kind):
    """Return parameters and an optimiser of npdp, and of PyTorch, with the same values."""
    values = [np.random.default_rng([i, *shape]).standard_normal(shape) for i, shape in enumerate(SHAPES)]
    ours = [Parameter(value.copy()) for value in values]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    made = []
    for library, params in ((optim, ours), (torch.optim, theirs)):
        groups, defaults = groups_of(kind, params)
        made.append(getattr(library, kind)(groups, **defaults))
    return ours, made[0], theirs, made[1]


def train(params, optimizer, first, last, tensor=lambda array: array):
    """Do iterations; one parameter has no gradient now and then, and group settings change."""
    for step in range(first, last):
        for i, parameter in enumerate(params):
            gradient = np.random.default_rng([step, i]).standard_normal(tuple(parameter.shape))
            parameter.grad = None if (step + i) % 6 == 5 or (i == 3 and step < 3) else tensor(gradient)
        optimizer.param_groups[1]["lr"] *= 0.99
        optimizer.step()


def assert_same(ours, theirs, rtol=1e-12):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=rtol, atol=1e-14)


@each_kind
def test_groups_are_pytorchs(kind):
    ours, optimizer, theirs, other = pair(kind)
    assert [list(group["params"]) == group["params"] for group in optimizer.param_groups] == [True, True]
    for mine, group in zip(optimizer.param_groups, other.param_groups):
        assert {name: group[name] for name in mine if name != "params"} == {
            name: value for name, value in mine.items() if name != "params"
        }
        assert optimizer.defaults == {name: other.defaults[name] for name in optimizer.defaults}
    train(ours, optimizer, 0, 20)
    train(theirs, other, 0, 20, torch.tensor)
    assert_same(ours, theirs)


def tensors(state):
    """Return a state with tensors in place of arrays."""
    entries = {number: {name: torch.tensor(value) for name, value in entry.items()}
               for number, entry in state["state"].items()}  # fmt: skip
    return {**state, "state": entries}


@each_kind
@pytest.mark.parametrize("steps", [2, 10])
def test_training_goes_on_in_pytorch_and_back(kind, steps):
    """Ten iterations here, ten there, ten here: as thirty here, and thirty there."""
    ours, optimizer, theirs, other = pair(kind)
    through, through_optimizer, all_theirs, all_other = pair(kind)
    train(through, through_optimizer, 0, 3 * steps)
    train(all_theirs, all_other, 0, 3 * steps, torch.tensor)

    train(ours, optimizer, 0, steps)
    other.load_state_dict(tensors(optimizer.state_dict()))
    for mine, parameter in zip(ours, theirs):
        parameter.data.copy_(torch.tensor(mine.data))
    train(theirs, other, steps, 2 * steps, torch.tensor)

    back, back_optimizer, *_ = pair(kind)
    back_optimizer.load_state_dict(other.state_dict())
    updates = [int(entry["step"]) for entry in other.state_dict()["state"].values() if "step" in entry]
    assert back_optimizer.iteration == max(updates, default=0)  # PyTorch's SGD does not say
    for mine, parameter in zip(back, theirs):
        mine.data[...] = parameter.detach().numpy()
    train(back, back_optimizer, 2 * steps, 3 * steps)

    for mine, parameter in zip(back, through):
        np.testing.assert_allclose(mine.data, parameter.data, rtol=1e-9)
    assert_same(back, all_theirs, 1e-9)


@each_kind
def test_states_have_the_same_entries(kind):
    ours, optimizer, theirs, other = pair(kind)
    train(ours, optimizer, 0, 2)
    train(theirs, other, 0, 2, torch.tensor)
    mine, wanted = optimizer.state_dict(), other.state_dict()
    assert {n: entry.keys() for n, entry in mine["state"].items()} == {
        n: entry.keys() for n, entry in wanted["state"].items()
    }
    for number, entry in wanted["state"].items():
        for name, value in entry.items():
            np.testing.assert_allclose(mine["state"][number][name], value.numpy(), rtol=1e-12)
    for group, other_group in zip(mine["param_groups"], wanted["param_groups"]):
        assert group == {name: other_group[name] for name in group}


def test_what_is_not_here_is_refused():
    params = [torch.nn.Parameter(torch.zeros(2))]
    for kind, options, said in (("Adam", {"amsgrad": True}, "amsgrad"), ("SGD", {"maximize": True}, "maximize")):
        state = getattr(torch.optim, kind)(params, lr=0.1, **options).state_dict()
        with pytest.raises(ValueError, match=f"{kind}: parameter group 0 has {said}, which is not there"):
            getattr(optim, kind)(nn.Linear(2, 1, bias=False).parameters(), lr=0.1).load_state_dict(state)
