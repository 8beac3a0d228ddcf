"""Ranks whose loaders draw other batches are told so; what need not be the same may differ."""

import numpy as np
import pytest
from diverging import ODD_RANK
from worlds import run, train_on

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader


def trains_on_a_loader(differs, update: str = "replicated", strategy=None, shuffle: bool = True) -> None:
    """The odd rank's loader draws other batches than the others'."""
    world = npdp.init()
    odd = world.rank == ODD_RANK
    npdp.manual_seed(int(odd) if differs == "manual_seed" else 0)
    x = np.ones((12 - (odd and differs == "samples"), 3), np.float32)
    y = x[:, :2].copy()
    y[5] += odd and differs == "labels"
    loader = DataLoader(
        ArrayDataset(x, y),
        batch_size=3 if odd and differs == "batch_size" else 4,
        shuffle=shuffle,
        seed=7 if odd and differs == "seed" else None,
    )
    if odd and differs == "epoch":
        next(iter(loader))  # to look at the shapes, say
    model = nn.DataParallel(nn.Linear(3, 2), update=update, strategy=strategy)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for inputs, labels in loader:
        train_on(model, optimizer, inputs, labels, nn.MSELoss())


DIFFERS = {
    "seed": "seed 7, rank 0 has seed 0",
    "manual_seed": "seed 1, rank 0 has seed 0",
    "samples": "11 samples, rank 0 has 12 samples",
    "labels": r"labels with checksum \d+, rank 0 has labels with checksum \d+",
    "batch_size": "batch_size 3, rank 0 has batch_size 4",
    "epoch": "epoch 1, rank 0 has epoch 0",
}
IN_STEP, LOCALLY = (("replicated",), ("fused",)), ("replicated", npdp.LocalSGD(2))


@pytest.mark.parametrize(("differs", "kind"), [
    *((differs, kind) for differs in DIFFERS for kind in IN_STEP),
    *((differs, LOCALLY) for differs in DIFFERS if differs != "epoch"),
], ids=str)  # fmt: skip
def test_ranks_whose_loaders_draw_other_batches_are_told_so(differs, kind):
    told = f"loaders of the whole data, .* differ between ranks: rank {ODD_RANK} has {DIFFERS[differs]}"
    with pytest.raises(RuntimeError, match=told):
        run(3, trains_on_a_loader, differs, *kind)


def test_ranks_are_told_so_where_only_the_optimiser_is_wrapped():
    def program():
        model = nn.Linear(3, 2)
        optimizer = npdp.DistributedOptimizer(optim.SGD(model.parameters()))
        x = np.ones((12, 3), np.float32)
        for inputs, labels in DataLoader(ArrayDataset(x, x[:, :2]), 4, shuffle=True, seed=npdp.rank()):
            train_on(model, optimizer, inputs, labels, nn.MSELoss())

    with pytest.raises(RuntimeError, match="loaders of the whole data, .* differ between ranks: rank 1 has seed 1"):
        run(2, program)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_have_a_shard_of_the_data_each_are_told_so(world_size):
    """As a sampler of PyTorch's gives it: they are as long, and each rank would train on a part of its part."""

    def program():
        labels = np.arange(60) % 7
        mine = slice(npdp.rank(), None, npdp.world_size())
        model = nn.DataParallel(nn.Linear(1, 7))
        for x, y in DataLoader(ArrayDataset(np.ones((60, 1), np.float32)[mine], labels[mine]), batch_size=6):
            nn.CrossEntropyLoss()(model(x), y).backward()

    with pytest.raises(RuntimeError, match="loaders of the whole data, .* rank 1 has labels with checksum"):
        run(world_size, program)


@pytest.mark.parametrize("differs", ["seed", "manual_seed", "epoch"])
def test_nothing_of_an_order_matters_where_samples_are_not_shuffled(differs):
    run(2, trains_on_a_loader, differs, "replicated", None, False)


@pytest.mark.parametrize("count", [5, 9, 21])
@pytest.mark.parametrize("kind", [*IN_STEP, ("replicated", npdp.ParameterServer(servers=0))], ids=str)
def test_ranks_that_leave_out_their_empty_parts_are_told_so_before_long(kind, count):
    """They are a batch ahead then, and sums are over parts of several batches, though each has as many steps."""

    def program(update, strategy=None):
        x = np.ones((count, 3), np.float32)
        model = nn.Linear(3, 3)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        wrapped, loader = nn.DataParallel(model, update=update, strategy=strategy), DataLoader(ArrayDataset(x, x), 4)
        batches = (batch for _ in range(9) for batch in loader if len(batch[0]))
        for _, (inputs, labels) in zip(range(2 * len(loader) + 1), batches):
            train_on(wrapped, optimizer, inputs, labels, nn.MSELoss())

    with pytest.raises(RuntimeError, match="on its part, be it empty, differ between ranks: rank 1 has batch"):
        run(2, program, *kind)


def test_a_rank_that_does_not_shuffle_is_told_so():
    def program():
        trains_on_a_loader("", shuffle=npdp.rank() != ODD_RANK)

    with pytest.raises(RuntimeError, match=f"rank {ODD_RANK} has shuffle=False, rank 0 has seed 0"):
        run(3, program)


def of_a_shard(world) -> None:
    """Horovod's way: a loader for each rank's own shard, in an order of its own; ranks count alike."""
    x = np.ones((8 + world.rank, 3), np.float32)
    loader = DataLoader(ArrayDataset(x, x), 4, shuffle=True, seed=world.rank, rank=0, world_size=1)
    model = nn.Linear(3, 3)
    optimizer = npdp.DistributedOptimizer(optim.SGD(model.parameters(), lr=0.1))
    for _, (inputs, labels) in zip(range(2), loader):
        train_on(model, optimizer, inputs, labels, nn.MSELoss())


def without_a_batch(world) -> None:
    """Local SGD's ranks meet after as many steps; one of them leaves a batch out, and begins the next epoch later."""
    x = np.ones((12, 3), np.float32)
    loader = DataLoader(ArrayDataset(x, x), 4, shuffle=True)
    model = nn.DataParallel(nn.Linear(3, 3), strategy=npdp.LocalSGD(2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        for number, (inputs, labels) in enumerate(loader):
            if world.rank == ODD_RANK and (epoch, number) == (0, 1):
                continue
            train_on(model, optimizer, inputs, labels, nn.MSELoss())
    model.synchronize()


def with_zeros_of_its_own(world) -> None:
    """A rank whose part is empty makes its loss of the parameters."""
    x = np.ones((world.world_size - 1, 3), np.float32)
    model = nn.DataParallel(nn.Linear(3, 3))
    for inputs, labels in DataLoader(ArrayDataset(x, x), world.world_size - 1):
        outputs = model(inputs)
        loss = nn.MSELoss()(outputs, labels) if len(inputs) else sum((p * 0).sum() for p in model.parameters())
        loss.backward()


@pytest.mark.parametrize("trains", [of_a_shard, without_a_batch, with_zeros_of_its_own])
def test_ranks_that_may_differ_are_not_told_so(trains):
    run(3, lambda: trains(npdp.init()))
