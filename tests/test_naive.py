"""The naive strategy is what the others must give; and a new strategy is a class and a line of a table."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import fit
from worlds import CLASSES, FEATURES, Parallel, Plain, assert_close, criterion, loader, mlp, parameters, run

import npdp
from npdp import nn, optim
from npdp.app.strategy_choices import STRATEGIES, Choice
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.naive import Naive
from npdp.parallel.strategy import Strategy


class ToRankZero(Strategy):
    """Each rank sends its gradients to rank 0, which adds them up and sends the sum to all."""

    def exchange(self):
        for parameter in self.parameters:
            mine = np.zeros(parameter.shape, parameter.dtype)
            if parameter.raw_grad is not None:
                mine[...] = parameter.raw_grad
            if self.communicator.rank == 0:
                self._add_others(mine.reshape(-1))
            else:
                self._wait(self.communicator.transport.send(mine.reshape(-1), 0))
            self.communicator.broadcast(mine)
            parameter.raw_grad = mine

    def _add_others(self, total):
        theirs = np.empty_like(total)
        for peer in range(1, self.communicator.world_size):
            self._wait(self.communicator.transport.receive(theirs, peer))
            total += theirs

    def _wait(self, handle):
        self.communicator.transport.wait(handle)


class Experts(nn.Module):
    """A layer that is always used, one that some samples use, and one that nobody does; weights of two layouts."""

    def __init__(self):
        npdp.manual_seed(2)
        self.first, self.wide = nn.Linear(FEATURES, 24, dtype=np.float64), nn.Linear(24, 20, dtype=np.float64)
        self.sometimes, self.never = (nn.Linear(20, CLASSES, dtype=np.float64) for _ in range(2))
        self.last = nn.Linear(20, CLASSES, dtype=np.float64)

    def forward(self, x):
        hidden = self.wide(self.first(x).tanh()).tanh()
        some = x.numpy()[:, :1] > 0
        return self.last(hidden) + self.sometimes(hidden) * some if some.any() else self.last(hidden)


def trained(strategy, batch_size, count, backwards):
    model = Experts()
    optimizer = optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    wrapped = nn.DataParallel(model, strategy=strategy)
    for x, labels in loader(batch_size, count):
        optimizer.zero_grad()
        for _ in range(backwards):
            criterion(wrapped(x), labels).backward()
        optimizer.step()
    return parameters(model)


@settings(max_examples=40, deadline=None)
@given(
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 13),
    count=st.integers(1, 13),
    backwards=st.integers(1, 2),
    bucket_cap_mb=st.sampled_from([1e-6, 0.001, 25]),
)
def test_buckets_end_with_what_one_all_reduce_a_parameter_ends_with(
    world_size, batch_size, count, backwards, bucket_cap_mb
):
    drawn = batch_size, count, backwards
    wanted = run(world_size, trained, Naive(), *drawn)
    (alone,) = run(1, trained, None, *drawn)
    for got, naive in zip(run(world_size, trained, AllReduce(bucket_cap_mb), *drawn), wanted, strict=True):
        assert_close(got, naive, tolerance=0 if backwards == 1 else 1e-12)
        assert_close(naive, alone, tolerance=1e-12)


@pytest.mark.parametrize("strategy", [Naive, AllReduce, ToRankZero])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_gradients_add_up_with_and_without_no_sync_and_begin_anew_where_they_are_zeroed(strategy, world_size):
    def program(way, plan):
        """s: a synced backward, l: a local one, z: zeroing, h: zeroing of the first layer's alone."""
        layers = mlp()
        model = way.wrap(layers)
        batches = iter(loader(4, 60))
        for step in plan:
            if step in "zh":
                (model if step == "z" else layers[0]).zero_grad()
                continue
            x, labels = next(batches)
            with way.no_sync(model) if step == "l" else nullcontext():
                (criterion(model(x), labels) / 2).backward()
        return {name: np.array(p.grad) for name, p in model.named_parameters()}

    for plan in ("ss", "lls", "sls", "szs", "lzls", "shs", "slhs", "lhs", "hs"):
        wanted = run(1, program, Plain(), plan)[0]
        for got in run(world_size, program, Parallel(strategy=strategy()), plan):
            assert_close(got, wanted, plan)


def test_rows_are_refused_by_name():
    with pytest.raises(ValueError, match="this strategy passes over whole parameters, and the model has sparse ones"):
        run(2, lambda: nn.DataParallel(nn.SparseLinear(9, 2), strategy=Naive()))


# A new one
def test_a_new_strategy_is_a_class_and_trains_as_the_naive_one():
    drawn = 5, 13, 2
    for got in run(4, trained, ToRankZero(), *drawn):
        assert_close(got, run(4, trained, Naive(), *drawn)[0], tolerance=1e-12)


def test_with_a_line_of_the_table_it_runs_from_the_command_line(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "to-rank-0", Choice(f"{__name__}:ToRankZero", "rank 0 adds up all gradients"))
    flags = ["--quiet", "--epochs", "1", "--algorithm", "ring"]
    mine, naive = (fit(*flags, "--strategy", name, ranks=3) for name in ("to-rank-0", "naive"))
    assert mine.code == naive.code == 0 and mine.events[0]["strategy"] == "to-rank-0"
    np.testing.assert_allclose(mine.parameters, naive.parameters, atol=1e-5)
    assert naive.end["exchanged_bytes"] > 0
