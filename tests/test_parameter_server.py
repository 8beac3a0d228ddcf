"""With staleness 0 a user's program under a parameter server gets the bits of all-reduce in rank order."""

import numpy as np
import pytest
from servers import assert_bits, steps
from worlds import TwoDtypes, criterion, each_batch, loader, mlp, parameters, train_on

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader


def test_a_model_of_two_dtypes_trains_to_the_same_bits():
    def program(way):
        model = TwoDtypes()
        return steps(way, [optim.SGD(model.parameters(), lr=0.2, momentum=0.9)], model)

    assert_bits(program)


first_layer = lambda model, x, y: (model(x, 1) ** 2).mean()  # noqa: E731
whole = lambda model, x, y: criterion(model(x), y)  # noqa: E731


LOSSES = {"two": [whole, first_layer], "one": [first_layer], "same": [whole, whole, whole]}


@pytest.mark.parametrize("losses", LOSSES)
def test_several_losses_of_one_batch_train_to_the_same_parameters_be_they_used_or_not(losses):
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        return steps(way, [optimizer], model, None, LOSSES[losses])

    assert_bits(program, bits=losses == "one")  # several are added up here first, there over the ranks first


def test_batches_of_two_loaders_before_one_step_train_to_the_same_parameters():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for (x, y), (x2, y2) in zip(loader(4), loader(3, 12)):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            criterion(model(x2), y2).backward()
            optimizer.step()
        return parameters(model)

    assert_bits(program, bits=False)


def test_a_gradient_that_is_thrown_away_changes_nothing():
    def iteration(model, optimizer, number, x, y):
        (model(x) ** 2).mean().backward()
        train_on(model, optimizer, x, y)

    assert_bits(each_batch(iteration, 4))


def test_parameters_that_only_some_workers_use_get_the_same_bits():
    def iteration(model, optimizer, number, x, y):
        optimizer.zero_grad()
        use_all = (npdp.rank() + number) % 2 == 0
        (criterion(model(x), y) if use_all else (model(x, 1) ** 2).mean()).backward()
        optimizer.step()

    assert_bits(each_batch(iteration, 5, momentum=0.9, weight_decay=0.1))


@pytest.mark.parametrize("zeroes", ["before", "never"])
def test_gradients_add_up_where_nobody_zeroes_them_and_what_is_unused_stays(zeroes):
    def iteration(model, optimizer, number, x, y):
        if zeroes == "before":
            optimizer.zero_grad()
        (model(x, 1) ** 2).mean().backward()
        optimizer.step()

    assert_bits(each_batch(iteration, 5, lr=0.1, weight_decay=0.1), bits=zeroes == "before")


def test_no_sync_and_accumulation_by_hand_train_to_the_same_parameters():
    def iteration(model, optimizer, number, x, y):
        last = number % 2 == 1 or number == 4  # of two batches that make one step; the fifth is alone
        with model.syncing(True) if last else model.no_sync():
            (criterion(model(x), y) / 2).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()

    assert_bits(each_batch(iteration, 3, lr=0.3, momentum=0.9), bits=False)  # sums are made in another order


@pytest.mark.parametrize("servers", [3, 5])
def test_a_model_smaller_than_the_number_of_servers_trains_to_the_same_bits(servers):
    def program(way):
        npdp.manual_seed(1)
        model = nn.Linear(1, 1, dtype=np.float64)
        x = np.random.default_rng(1).standard_normal((20, 1))
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        model = way.wrap(model)
        for inputs, labels in DataLoader(ArrayDataset(x, 3 * x), 4):
            train_on(model, optimizer, inputs, labels, nn.MSELoss())
        return parameters(model)

    assert_bits(program, [(servers, 2)])
