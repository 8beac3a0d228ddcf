"""Sparse parameters under a parameter server: counted as on one rank, and changed by nobody else."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from servers import served
from sparse_models import dataset, linear, word_data, words
from worlds import Plain, assert_close, criterion, parameters, run

import npdp
from npdp import nn, optim
from npdp.autograd.rows import RowGradient
from npdp.data import DataLoader
from npdp.parallel.parameter_server.messages import Kind, Message, Reply
from npdp.parallel.parameter_server.rows import RemoteRows
from npdp.parallel.parameter_server.shard import Roles


def test_a_copy_of_a_model_that_servers_train_is_sparse_and_trains_by_itself():
    def program(way):
        model = linear()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        way.wrap(model)
        again = copy.deepcopy(model)
        x, y = dataset().take(slice(None))
        criterion(again(x), y).backward()
        return type(again.weight) is nn.SparseParameter, type(again.weight.grad) is RowGradient, optimizer.iteration

    assert served(program, servers=1, workers=2) == [(True, True, 0)] * 2


@pytest.mark.parametrize("servers", [0, 1])
def test_servers_count_a_step_without_a_gradient_as_one_rank_does(servers):
    def program(way):
        model = words()
        optimizer = optim.SGD(model.parameters(), lr=optim.learning_rates.step(0.5, 2, 0.5))
        wrapped = way.wrap(model)
        for number, (x, labels) in enumerate(DataLoader(word_data(), 2)):
            optimizer.zero_grad()
            criterion(wrapped(x), labels).backward()
            if number % 3 == 1:
                optimizer.zero_grad()
            optimizer.step()
        if wrapped is not model:
            wrapped.synchronize()
        return parameters(model)

    wanted = run(1, program, Plain())[0]
    for got in served(program, servers, workers=3):
        assert_close(got, wanted)


def another_optimiser(model):
    return optim.SGD(model.parameters(), lr=0.5)


def replace(model):
    model.weight.data = np.zeros(model.weight.shape)


def copy_in_place(model):
    with npdp.no_grad():
        model.weight.copy_(np.zeros(model.weight.shape))


def write(model):
    model.weight.data[0] = 0


def load(model):
    model.load_state_dict({name: np.zeros(p.shape) for name, p in model.named_parameters()})


NOT_TO_BE_DONE = {
    "an optimiser made later": (None, another_optimiser, RuntimeError, "made after the model was wrapped"),
    "two optimisers": (another_optimiser, None, RuntimeError, "another has its sparse parameter"),
    "data replaced": (None, replace, RuntimeError, "was replaced after the model was wrapped"),
    "copy_": (None, copy_in_place, ValueError, "read-only with .* a parameter server"),
    "written": (None, write, ValueError, "read-only"),
    "load_state_dict": (None, load, ValueError, "weight: read-only"),
}


@pytest.mark.parametrize("servers", [0, 1])
@pytest.mark.parametrize("what", NOT_TO_BE_DONE)
def test_what_servers_would_not_see_of_a_sparse_parameter_is_refused(what, servers):
    before, after, error, said = NOT_TO_BE_DONE[what]

    def program(way):
        model = linear()
        optimizers = [optim.SGD(model.parameters(), lr=0.5)] + ([before(model)] if before else [])
        wrapped = way.wrap(model)
        x, y = next(iter(DataLoader(dataset(), 5)))
        with pytest.raises(error, match=said):
            if after and (later := after(model)):
                optimizers.insert(0, later)
            criterion(wrapped(x), y).backward()
            optimizers[0].step()
        return optimizers

    served(program, servers, workers=2)


def test_the_version_of_rows_is_that_of_the_oldest_fetch_since_the_last_push():
    parameter = linear().weight
    width = parameter.data[0].size
    place = lambda worker, server, count: (np.empty(count, np.int64), np.zeros((count, width)), True)  # noqa: E731
    roles, rows = Roles(0, 1, range(1, 2)), np.array([2])
    lanes = SimpleNamespace(
        parameter=parameter, roles=roles, width=width, rows_of=lambda server: slice(0, len(parameter.data)), place=place
    )
    remote = RemoteRows(0, 0, lanes)
    for version in (1, 3):
        message, _ = remote.outgoing(Message(Kind.PULL, 0, training=True), rows)
        remote.take(message, Reply(0, version, 0), None)
    gradient = SimpleNamespace(rows=rows, values=np.zeros((1, width)))
    push, _ = remote.outgoing(Message(Kind.PUSH, 0), gradient)
    assert (push.version, push.rows) == (1, 1)
