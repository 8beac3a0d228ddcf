"""Ranks that update their parameters by different rules are told so: when they begin, or in the step itself."""

import numpy as np
import pytest
from diverging import ODD_RANK, has_another_learning_rate, has_another_momentum, trains
from worlds import run

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_of_which_one_would_update_its_part_with_another_learning_rate_are_told_so(world_size):
    """Fused, in the step itself: parameters are there once, so that their hash would be the same on all ranks."""
    with pytest.raises(RuntimeError, match=r"SGD.step: rank \d has lr 0.1(25)?, .*, and another rank has other values"):
        run(world_size, trains, has_another_learning_rate, "fused")


def takes_steps_in_another_order() -> None:
    """Two optimisers of alike parameters: in the third iteration one rank steps the second first."""
    world = npdp.init()
    npdp.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizers = [optim.SGD(layer.parameters(), lr=0.1) for layer in model]
    wrapped = nn.DataParallel(model, update="fused")
    x = np.random.default_rng(world.rank).standard_normal((4, 3), dtype=np.float32)
    for iteration in range(4):
        wrapped.zero_grad()
        nn.MSELoss()(wrapped(x), x).backward()
        for optimizer in optimizers[:: -1 if iteration == 2 and world.rank == ODD_RANK else 1]:
            optimizer.step()


@pytest.mark.parametrize("hosts", [None, (0, 1, 2)])
def test_ranks_of_which_one_steps_another_optimiser_are_told_so(hosts):
    with pytest.raises(RuntimeError, match=r"SGD.step: rank \d has lr 0.1, .* or steps another optimiser"):
        run(3, takes_steps_in_another_order, hosts=hosts)


def test_ranks_of_which_one_has_other_settings_by_and_by_are_told_so():
    with pytest.raises(RuntimeError, match=r"rank \d has lr 0.1, momentum 0.(9|45), .* another rank has other values"):
        run(2, trains, has_another_momentum, "fused")


OPTIMISERS = {
    "momentum": lambda odd: {"momentum": 0.5 + 0.25 * odd},
    "weight_decay": lambda odd: {"weight_decay": 0.5 * odd},
    "nesterov": lambda odd: {"momentum": 0.5, "nesterov": odd},
    "lr": lambda odd: {"lr": 0.5 + 0.25 * odd},
    "a schedule": lambda odd: {"lr": optim.learning_rates.step(0.5 + 0.25 * odd, 3)},
    "the class": lambda odd: {},
}


def trains_by_another_optimiser(what: str, update: str = "replicated", strategy=None) -> None:
    odd = npdp.rank() == ODD_RANK
    npdp.manual_seed(0)
    model = nn.Linear(3, 2)
    kind = optim.Adam if what == "the class" and odd else optim.AdamW if what == "the class" else optim.SGD
    optimizer = kind(model.parameters(), **{"lr": 0.1, **OPTIMISERS[what](odd)})
    model = nn.DataParallel(model, update=update, strategy=strategy)
    nn.MSELoss()(model(np.ones((4, 3))), np.ones((4, 2))).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [("fused",), *(("replicated", npdp.ParameterServer(servers, staleness))
                                                for servers in (0, 1) for staleness in (0, 1))], ids=str)  # fmt: skip
@pytest.mark.parametrize(("what", "has"), [
    ("momentum", "SGD with momentum 0.75, rank 0 has SGD with momentum 0.5"),
    ("weight_decay", "SGD with weight_decay 0.5, rank 0 has SGD with weight_decay 0"),
    ("nesterov", "SGD with nesterov True, rank 0 has SGD with nesterov False"),
    ("lr", "SGD with lr 0.75, rank 0 has SGD with lr 0.5"),
    ("a schedule", "SGD with lr 0.75, rank 0 has SGD with lr 0.5"),
    ("the class", "Adam with .*, rank 0 has AdamW with"),
])  # fmt: skip
def test_ranks_that_update_their_parts_by_different_rules_are_told_so(what, has, kind):
    with pytest.raises((RuntimeError, InputError), match=f"optimisers differ between ranks: rank {ODD_RANK} has {has}"):
        run(3, trains_by_another_optimiser, what, *kind)


def sets_its_learning_rate_later(make, lr, servers: int) -> None:
    """Once the model is wrapped one worker sets another learning rate."""
    npdp.manual_seed(0)
    model = make()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model = nn.DataParallel(model, strategy=npdp.ParameterServer(servers))
    if npdp.rank() == ODD_RANK:
        optimizer.lr = lr
    model(np.arange(3)[:, None]).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("servers", [0, 1])
@pytest.mark.parametrize("lr", [0.25, lambda iteration: 0.25], ids=["number", "schedule"])
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(1, 2), lambda: nn.Embedding(3, 2, sparse=True)], ids=["dense", "sparse"]
)
def test_workers_with_different_learning_rates_in_the_same_step_are_told_so(make, lr, servers):
    with pytest.raises(RuntimeError, match="learning rates in the same step: worker 0 0.1, worker 1 0.25"):
        run(2 + servers, sets_its_learning_rate_later, make, lr, servers)


class Measuring(optim.SGD):
    """Keeps things of its own."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.rank, self.last_loss = npdp.rank(), 0.0


@pytest.mark.parametrize("kind", [("fused",), ("replicated", npdp.ParameterServer(servers=0))], ids=str)
def test_what_an_optimizer_keeps_of_its_own_may_differ(kind):
    def program(update, strategy=None):
        npdp.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = Measuring(model.parameters(), lr=0.1)
        wrapped = nn.DataParallel(model, update=update, strategy=strategy)
        for step in range(3):
            optimizer.zero_grad()
            nn.MSELoss()(wrapped(np.ones((2, 3), np.float32)), np.zeros((2, 2), np.float32)).backward()
            optimizer.last_loss = float(step)
            optimizer.step()

    run(2, program, *kind)
