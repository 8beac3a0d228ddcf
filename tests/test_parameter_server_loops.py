"""Loops as users write them: several models, evaluation in the middle, own batches, saving, the world object."""

import math
import time

import numpy as np
import pytest
from servers import numbers, served
from worlds import loader, mlp, parameters, run, train_on

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.parameter_server.messages import Kind, Message, Request, WorkItem
from npdp.parallel.parameter_server.work import AppliedSet

PS = npdp.ParameterServer


def wrapped(strategy, lr=0.1):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    return nn.DataParallel(model, strategy=strategy), optimizer


def test_the_users_loop_runs_under_each_strategy_with_one_argument_changed():
    def program(strategy):
        npdp.init()
        model = nn.Linear(10, 1, dtype=np.float64, generator=np.random.default_rng(0))
        criterion = nn.MSELoss()
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        x = np.random.default_rng(1).standard_normal((100, 10))
        dataloader = DataLoader(ArrayDataset(x, x.sum(axis=1, keepdims=True)), batch_size=32, shuffle=True)
        model = npdp.DistributedDataParallel(model, strategy=strategy)
        for _epoch in range(10):
            for inputs, labels in dataloader:
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return float(np.abs(parameters(model)["weight"] - 1).max())

    strategies = [None, npdp.LocalSGD(8), npdp.LocalSGD(1), npdp.LocalSGD(4, outer_momentum=0.5)]
    strategies += [npdp.ParameterServer(servers, s) for servers in (0, 1, 2) for s in (0, 2, math.inf)]
    for strategy in strategies:
        errors = [error for error in run(4, program, strategy) if error is not None]
        assert len(errors) == 4 - getattr(strategy, "servers", 0)
        assert max(errors) < 1, strategy


@pytest.mark.parametrize(("first", "second"), [(None, PS(1)), (PS(1), PS(1))], ids=["after all-reduce", "twice"])
def test_a_second_model_with_servers_is_refused_since_workers_would_become_servers(first, second):
    def program():
        return wrapped(first), wrapped(second)

    with pytest.raises(ValueError, match="was wrapped before, and its ranks would become servers"):
        run(4, program, limit_s=5)


@pytest.mark.parametrize("staleness", [0, 1, math.inf])
def test_two_models_may_be_served_by_all_ranks_and_meet_after_each_epoch(staleness):
    def program():
        models = [wrapped(PS(0, staleness)) for _ in range(2)]
        for _ in range(2):
            for x, y in loader(3):
                for model, optimizer in models:
                    train_on(model, optimizer, x, y)
                time.sleep(0.01 * (npdp.rank() == 1))
            npdp.global_mean(1.0, 1)
        return True

    assert run(3, program, limit_s=10) == [True] * 3


@pytest.mark.parametrize("servers", [0, 1])
def test_who_waits_in_a_collective_holds_nobody_up(servers):
    """Own batches, another number on each rank: the slowest so far is the one that waits for all."""

    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        x, y = next(iter(loader(4)))
        for _ in range(5 * (1 + npdp.rank())):
            train_on(model, optimizer, x.data, y.data)
        npdp.barrier()
        for _ in range(3):
            train_on(model, optimizer, x.data, y.data)
        npdp.barrier()
        return True

    assert served(program, servers, 2, staleness=1) == [True, True]


@pytest.mark.parametrize("strategy", [PS(1), PS(0, math.inf), npdp.LocalSGD(2)], ids=["ps", "inf", "local"])
def test_data_that_was_replaced_is_refused_or_trained(strategy):
    def program():
        model, optimizer = wrapped(strategy)
        for parameter in model.parameters():
            parameter.data = np.full_like(parameter.data, 7.0)
        x, y = next(iter(loader(4)))
        train_on(model, optimizer, x, y)
        return not all((values == 7.0).all() for values in parameters(model).values())

    if isinstance(strategy, PS):
        with pytest.raises(RuntimeError, match="was replaced after the model was wrapped; set values before"):
            run(3, program)
    else:
        assert run(3, program) == [True] * 3


@pytest.mark.parametrize("strategy", [PS(1, math.inf), PS(0, 1), npdp.LocalSGD(3)], ids=["inf", "bounded", "local"])
@pytest.mark.parametrize("late_s", [0, 0.3])
def test_what_is_saved_is_the_newest_and_the_same_everywhere(strategy, late_s):
    """Asynchronously who comes late gets no batch: the other has taken all, and has the newest parameters."""

    def program():
        model, optimizer = wrapped(strategy)
        time.sleep(late_s * (npdp.rank() == 0))
        for x, y in loader(4):
            train_on(model, optimizer, x, y)
        with pytest.raises(RuntimeError, match="call model.synchronize"):
            model.state_dict()
        model.synchronize()
        return {name: values.tolist() for name, values in model.state_dict().items()}

    results = [result for result in run(3, program) if result is not None]
    assert len(results) >= 2 and all(result == results[0] for result in results)


def test_the_world_that_init_gave_goes_on_as_that_of_the_workers():
    def program():
        world = npdp.init()
        before = world.rank, world.world_size
        kept = wrapped(PS(1))
        assert kept and world is npdp.init()
        world.barrier()
        return before, (world.rank, world.world_size), world.mean(world.rank, 1)

    assert run(3, program)[:2] == [((0, 3), (0, 2), 0.5), ((1, 3), (1, 2), 0.5)]


def test_a_loader_with_the_parts_of_all_ranks_is_refused():
    def program():
        own = DataLoader(numbers(64), 16, rank=npdp.rank(), world_size=npdp.world_size())
        model = nn.Linear(2, 65, dtype=np.float64)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = nn.DataParallel(model, strategy=PS(1))
        for x, y in own:
            train_on(model, optimizer, x, y)

    with pytest.raises(ValueError, match="cut for 2 ranks, got one of 3"):
        run(3, program)


def test_the_applied_set_forgets_the_numbers_of_what_is_complete():
    applied = AppliedSet()
    request = Request(0, 0, 1000, 2)
    for number in range(1000):
        push = Message(Kind.PUSH, 0, item=WorkItem(0, 0, number), request=request)
        own = Message(Kind.PUSH, 1, item=WorkItem(-1, 0, number))
        assert push.item not in applied
        applied.add(push)
        applied.add(own)
        assert push.item in applied and own.item not in applied
    assert applied.passes == {(0, 0): (request, set())}
