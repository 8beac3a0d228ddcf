"""Optimisers under a parameter server: each has its part, and no other undoes it; what is changed by hand counts."""

import functools
import math

import numpy as np
import pytest
from servers import assert_bits, served, steps
from worlds import Parallel, assert_close, criterion, loader, mlp, parameters, run

from npdp import optim


@pytest.mark.parametrize(
    "options", [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.3}, {}], ids=str
)
def test_sgd_in_all_its_forms_trains_to_the_same_bits(options):
    def program(way):
        model = mlp()
        return steps(way, [optim.SGD(model.parameters(), lr=0.2, weight_decay=0.01, **options)], model)

    assert_bits(program)


def test_two_optimisers_over_halves_of_a_model_train_to_the_same_bits():
    def program(way):
        model = mlp()
        halves = [optim.SGD(model[0].parameters(), lr=0.2, momentum=0.9), optim.Adam(model[2].parameters(), lr=0.01)]
        return steps(way, halves, model)

    assert_bits(program)


def side_by_side(way, second_lr=0.01, epochs=2):
    """Train by two optimisers whose parameters lie in one flat array, in turn."""
    model = mlp()
    optim.SGD(model.parameters())  # lays them there, and is thrown away
    found = list(model.parameters())
    halves = [optim.SGD(found[::2], lr=0.2, momentum=0.9), optim.Adam(found[1::2], lr=second_lr)]
    return steps(way, halves, model, epochs=epochs)


def test_two_optimisers_whose_parameters_lie_side_by_side_train_to_the_same_bits():
    assert_bits(side_by_side, layouts=((1, 2), (2, 3), (0, 1), (0, 2), (0, 3)))


@pytest.mark.parametrize("staleness", [1, math.inf])
@pytest.mark.parametrize("servers", [0, 1])
def test_an_optimiser_undoes_nothing_of_another_at_any_staleness(servers, staleness):
    wanted = run(1, side_by_side, Parallel())[0]
    for memory in (True, False):
        assert_close(served(side_by_side, servers, 1, memory, staleness)[0], wanted)

    def both(way):
        model = mlp()
        before = parameters(model)
        optimizers = [optim.SGD(model.parameters(), lr=lr) for lr in (0.1, 0.0)]
        wrapped = way.wrap(model)
        for inputs, labels in loader(3):
            model.zero_grad()
            criterion(wrapped(inputs), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
        wrapped.synchronize()
        return min(np.abs(after - before[name]).max() for name, after in parameters(model).items())

    assert all(change > 1e-4 for change in served(both, servers, 2, staleness=staleness))


def test_optimisers_of_which_one_steps_more_often_train_to_the_same_bits():
    def program(way):
        model = mlp()
        halves = [optim.SGD(model[0].parameters(), lr=0.2), optim.SGD(model[2].parameters(), lr=0.1)]
        model = way.wrap(model)
        for number, (inputs, labels) in enumerate(loader(5)):
            for optimizer in halves[number % 2 :]:
                model.zero_grad()
                criterion(model(inputs), labels).backward()
                optimizer.step()
        return parameters(model)

    assert_bits(program)


def test_a_learning_rate_set_by_hand_counts_from_the_next_step_on():
    def program(way, changed=lambda number: 0.2 / number):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        return steps(way, [optimizer], model, between=lambda number: setattr(optimizer, "lr", changed(number)))

    assert_bits(program)
    assert_bits(functools.partial(program, changed=lambda number: lambda iteration: 0.1 / (iteration + number)))


def test_what_else_an_optimiser_has_is_the_servers_and_a_change_by_hand_is_refused():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        return steps(way, [optimizer], model, between=lambda number: setattr(optimizer, "momentum", 0.5))

    with pytest.raises(RuntimeError, match="momentum of the optimiser was 0.9 when .* and is 0.5"):
        served(program, 1, 2)


def test_an_optimiser_made_after_the_model_was_wrapped_is_refused():
    def program(way):
        model = way.wrap(mlp())
        optim.SGD(model.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="have no optimiser: make it before the model is wrapped"):
        served(program, 1, 2)

    def a_second_one(way):
        model = mlp()
        optim_before = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        after = optim.SGD(model.parameters(), lr=0.1)
        x, y = next(iter(loader(4)))
        criterion(model(x), y).backward()
        after.step()
        return optim_before

    with pytest.raises(RuntimeError, match="made after the model was wrapped"):
        served(a_second_one, 1, 2)
