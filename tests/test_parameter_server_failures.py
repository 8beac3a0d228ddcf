"""Whatever fails under a parameter server, all ranks end; what cannot be meant is refused."""

import gc
import math
import sys
import time
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from servers import handed_out, served
from worlds import loader, mlp, run, train_on

import npdp
from npdp import nn, optim
from npdp.parallel.parameter_server.shard import DenseShard

SOON_S = 3


# Failure
class OnPurposeError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.raised_at = time.monotonic()


def fails_soon(program, servers, workers, match, error=OnPurposeError, **options):
    """Run a program that raises; assert that all ranks end soon after, with that as the only message."""
    before, beside = time.monotonic(), []
    with mock.patch.object(sys, "unraisablehook", lambda what: beside.append(repr(what.exc_value))):
        with pytest.raises(error, match=match) as caught:
            served(program, servers, workers, **options)
        took_s = time.monotonic() - getattr(caught.value, "raised_at", before)
        gc.collect()
    assert took_s < SOON_S
    assert not beside, f"beside the one message, Python prints tracebacks of {beside}"


STRATEGIES = [(1, 2, 0), (0, 2, 0), (0, 1, 0), (2, 3, 1), (0, 3, math.inf), (1, 2, math.inf)]


@pytest.mark.parametrize(("servers", "workers", "staleness"), STRATEGIES)
def test_an_exception_on_a_server_ends_all_ranks_and_is_what_is_raised(servers, workers, staleness, monkeypatch):
    applied, whole_apply = Counter(), DenseShard.apply

    def apply(self, pushes, version):
        applied[id(self)] += 1
        if applied[id(self)] == 5:
            raise OnPurposeError("no update")
        whole_apply(self, pushes, version)

    monkeypatch.setattr(DenseShard, "apply", apply)
    fails_soon(lambda way: handed_out(way, 600, 6, 3), servers, workers, "no update", staleness=staleness)


@pytest.mark.parametrize(("servers", "workers", "staleness"), STRATEGIES)
def test_an_exception_on_a_worker_ends_all_ranks_and_is_what_is_raised(servers, workers, staleness):
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        for step, (x, y) in enumerate(loader(5, 5000)):
            if npdp.rank() == workers - 1 and step == 3:
                raise OnPurposeError("no step")
            train_on(model, optimizer, x, y)

    fails_soon(program, servers, workers, "no step", staleness=staleness)


def leaves_early(way, steps_of_rank_1=2):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model = way.wrap(model)
    taken = 0
    for x, y in loader(5, 200):
        if npdp.rank() == 1 and taken == steps_of_rank_1:
            break
        train_on(model, optimizer, x, y)
        taken += 1
    return taken


@pytest.mark.parametrize("servers", [1, 2, 0])
def test_with_staleness_0_a_worker_that_leaves_early_is_an_error_and_no_hang(servers):
    fails_soon(leaves_early, servers, 3, "worker 1 has left while worker . goes on", RuntimeError)


@pytest.mark.parametrize("servers", [1, 2, 0])
@pytest.mark.parametrize("staleness", [1, math.inf])
def test_with_a_staleness_the_others_go_on_without_a_worker_that_has_left(servers, staleness):
    taken = served(leaves_early, servers, 3, staleness=staleness)
    assert taken[1] == 2
    assert sum(taken) in (3 * 40 - 1, 3 * 40)  # without what it had in hand, where others had finished the pass


COLLECTIVES = {
    "synchronize": lambda model: model.synchronize(),
    "global_mean": lambda model: npdp.global_mean(1.0, 1),
    "broadcast": lambda model: npdp.broadcast(np.ones(3), root=0),
}


def breaks_off(way, collective, passes=10):
    """Train, and call a collective after each pass; worker 1 breaks one off."""
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    wrapped = way.wrap(model)
    for number in range(passes):
        for step, (x, y) in enumerate(loader(5)):
            if (npdp.rank(), number, step) == (1, 8, 2):
                break
            train_on(wrapped, optimizer, x, y)
        COLLECTIVES[collective](wrapped)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("servers", [1, 2, 0])
def test_with_staleness_0_a_worker_in_a_collective_for_which_others_wait_is_an_error(servers, memory, collective):
    said = "worker 1 is in a collective.* while worker . takes a step"
    fails_soon(lambda way: breaks_off(way, collective), servers, 3, said, RuntimeError, memory=memory)


def test_with_staleness_0_a_worker_in_one_more_of_many_collectives_is_an_error_and_no_hang():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        wrapped = way.wrap(model)
        for x, y in loader(2):
            for _ in range(30 + npdp.rank()):
                npdp.barrier()
            train_on(wrapped, optimizer, x, y)

    fails_soon(program, 1, 2, "worker 1 is in a collective.* while worker 0 takes a step", RuntimeError)


# Refused
@pytest.mark.parametrize("options", [{"servers": -1}, {"staleness": -1}, {"staleness": 1.5}, {"staleness": math.nan},
                                     {"servers": 1.5}, {"servers": "1"}, {"staleness": None}],
                         ids=str)  # fmt: skip
def test_what_cannot_be_meant_is_refused(options):
    with pytest.raises((ValueError, TypeError), match="ParameterServer"):
        npdp.ParameterServer(**options)


@pytest.mark.parametrize(
    ("ranks", "options", "said"),
    [(1, {}, "leaves 0 workers"), (2, {"servers": 3}, "leaves 0 workers")],
)
def test_a_world_that_is_too_small_is_refused(ranks, options, said):
    def program():
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        return nn.DataParallel(model, strategy=npdp.ParameterServer(**options)), optimizer

    with pytest.raises(ValueError, match=said):
        run(ranks, program)
