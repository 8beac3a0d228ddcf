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


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 0, -3])
def test_an_embedding_trains_as_pytorchs(padding_idx, sparse):
    ours = nn.Embedding(7, 3, padding_idx, sparse=sparse, dtype=np.float64)
    theirs = torch.nn.Embedding(7, 3, padding_idx, sparse=sparse, dtype=torch.float64)
    assert theirs.sparse == isinstance(ours.weight, nn.SparseParameter) and theirs.padding_idx == ours.padding_idx
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    options = {"lr": 0.1} if sparse else {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    mine, other = optim.SGD(ours.parameters(), **options), torch.optim.SGD(theirs.parameters(), **options)
    for step in range(5):
        numbers = np.random.default_rng(step).integers(0, 7, (4, 2))
        mine.zero_grad(), other.zero_grad()
        (ours(numbers) ** 2).sum().backward(), (theirs(torch.tensor(numbers)) ** 2).sum().backward()
        mine.step(), other.step()
    assert_same([ours.weight], [theirs.weight])


# Schedulers: of both libraries, by the module and the optimiser
SCHEDULERS = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda k: 1 / (1 + k)),
    "LambdaLR, one a group": lambda s, o: s.LambdaLR(o, [lambda k: 0.9**k, lambda k: 1 + k]),
    "StepLR": lambda s, o: s.StepLR(o, step_size=3, gamma=0.3),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, milestones=[7, 2, 7], gamma=0.5),
    "MultiStepLR from 0": lambda s, o: s.MultiStepLR(o, [0, 4]),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.8),
    "ConstantLR": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=4),
    "ConstantLR by default": lambda s, o: s.ConstantLR(o),
    "LinearLR": lambda s, o: s.LinearLR(o, start_factor=0.1, end_factor=0.7, total_iters=6),
    "LinearLR down to 0": lambda s, o: s.LinearLR(o, 1.0, 0.0, 5),
    "LinearLR by default": lambda s, o: s.LinearLR(o),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, T_max=5, eta_min=0.01),
    "CosineAnnealingLR, once": lambda s, o: s.CosineAnnealingLR(o, 20),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=4), s.StepLR(o, 2, 0.5), s.CosineAnnealingLR(o, 4)], [4, 9]),
    "SequentialLR of functions": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 20), s.LambdaLR(o, lambda k: 0.9**k), s.ExponentialLR(o, 0.5)], milestones=[2, 5]),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, max_lr=0.4, total_steps=21),
    "OneCycleLR in three phases": lambda s, o: s.OneCycleLR(
        o, [0.4, 0.3], epochs=5, steps_per_epoch=5, three_phase=True, anneal_strategy="linear", pct_start=0.25),
    "OneCycleLR without momentum": lambda s, o: s.OneCycleLR(
        o, 0.1, 30, pct_start=0.5, div_factor=10, final_div_factor=100, cycle_momentum=False),
}  # fmt: skip


def courses(make, kind, steps=20, by_hand=None):
    """Return, for both libraries, learning rates and momentum in each step."""
    _, ours, _, theirs = pair(kind)
    found = []
    for library, optimizer in ((optim, ours), (torch.optim, theirs)):
        course = []
        scheduler = make(library.lr_scheduler, optimizer)
        for step in range(steps):
            lrs = [group["lr"] for group in optimizer.param_groups]
            assert lrs == scheduler.get_last_lr()
            course.append([*lrs, *(group.get("momentum", group.get("betas")) for group in optimizer.param_groups)])
            optimizer.step()
            if by_hand and step == 2:
                optimizer.param_groups[0]["lr"] *= 0.5
            scheduler.step()
        found.append(course)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch's own sequences
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_schedulers_are_pytorchs(make, kind, by_hand):
    for step, (got, wanted) in enumerate(zip(*courses(make, kind, by_hand=by_hand))):
        for mine, other in zip(got, wanted, strict=True):
            assert mine == pytest.approx(other, rel=1e-11, abs=1e-14), step


def test_schedulers_in_turn_are_pytorchs():
    def both(library, optimizer):
        first, second = library.ExponentialLR(optimizer, 0.9), library.MultiStepLR(optimizer, [3, 8], 0.5)
        third = library.LinearLR(optimizer, 0.5, total_iters=6)

        class Both:
            get_last_lr = third.get_last_lr

            def step(self):
                first.step(), second.step(), third.step()

        return Both()

    got, wanted = courses(both, "SGD")
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("options", [
    {}, {"mode": "max"}, {"threshold": 0.05, "threshold_mode": "abs"}, {"patience": 0, "factor": 0.5, "eps": 1e-3},
    {"mode": "max", "threshold": 0.3, "threshold_mode": "abs", "patience": 1}, {"cooldown": 3, "patience": 1},
    {"patience": 1, "min_lr": [0.01, 0.001]}, {"patience": 1, "min_lr": 0.004},
], ids=str)  # fmt: skip
def test_a_scheduler_by_a_metric_is_pytorchs(options):
    metrics = [1 + 0.5 * np.cos(k) / (1 + k) for k in range(60)]
    _, ours, _, theirs = pair("SGD")
    found = []
    for library, optimizer in ((optim, ours), (torch.optim, theirs)):
        scheduler = library.lr_scheduler.ReduceLROnPlateau(optimizer, **{"patience": 3, **options})
        course = []
        for metric in metrics:
            scheduler.step(metric)
            course.append([*scheduler.get_last_lr(), scheduler.num_bad_epochs])
        found.append(course)
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("of_theirs", [False, True], ids=["npdp's", "PyTorch's"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_schedule_goes_on_from_a_state(make, of_theirs):
    """Of the optimiser and of the scheduler, in a new one of each; PyTorch's too."""
    (_, wanted), (_, first, _, theirs), (_, second, *_) = courses(make, "SGD"), pair("SGD"), pair("SGD")
    library, optimizer = (torch.optim, theirs) if of_theirs else (optim, first)
    scheduler = make(library.lr_scheduler, optimizer)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    again = make(optim.lr_scheduler, second)
    second.load_state_dict(optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    for step in range(7, 20):
        assert again.get_last_lr() == pytest.approx(wanted[step][:2], rel=1e-11, abs=1e-14)
        second.step()
        again.step()
