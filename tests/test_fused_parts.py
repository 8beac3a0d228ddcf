"""The fused update of several optimisers, dtypes and models, with hooks, gives the bits of the replicated one."""

from itertools import cycle, product

import numpy as np
import pytest
from fused import IN_RANK_ORDER, OPTIMIZERS, assert_same, follow
from worlds import FEATURES, assert_close, criterion, loader, mlp, parameters, run

import npdp
from npdp import nn, optim
from npdp.parallel.replicas import parameters_sha256


def in_parts(update, algorithm, order, split, plan="zsu12fu2zou1zsu"):
    """Two optimisers over parts of one model, made before it is wrapped or after."""
    npdp.init(algorithm)
    model = mlp()
    layers = list(model.parameters())
    parts = {"halves": (layers[:2], layers[2:]), "in turn": (layers[::2], layers[1::2])}[split]
    make = lambda: [OPTIMIZERS["nesterov"](parts[0]), OPTIMIZERS["adam"](parts[1])]  # noqa: E731
    optimizers = make() if order == "before" else []
    wrapped = nn.DataParallel(model, update=update)
    follow(plan, wrapped, optimizers or make(), cycle(loader(4)))
    return parameters(model), parameters_sha256(model.named_parameters())


@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("split", ["halves", "in turn"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_two_optimisers_may_have_parts_of_one_model(order, split, algorithm):
    for world_size in (2, 3):
        options = dict(order=order, split=split, algorithm=algorithm)
        assert_same(world_size, 1e-12, program=in_parts, **options)  # "12fu": two backwards before a zero_grad
        assert_same(world_size, program=in_parts, plan="zsuzs1z2zf2u", **options)


class Odd(nn.Module):
    """Of two dtypes; one layer frozen, one used twice, one by nobody, one by rows with a large first feature."""

    def __init__(self):
        npdp.manual_seed(3)
        linear = lambda: nn.Linear(FEATURES, FEATURES, dtype=np.float64)  # noqa: E731
        self.first, self.sometimes, self.never, self.frozen, self.tied = (linear() for _ in range(5))
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False
        self.tied_too = nn.Linear(FEATURES, FEATURES, bias=False, dtype=np.float64)
        self.tied_too.weight = self.tied.weight
        self.narrow = nn.Linear(FEATURES, 2, dtype=np.float32)

    def forward(self, x):
        hidden = self.tied_too(self.tied(self.frozen(self.first(x)).tanh()).tanh())
        if len(x) and x.data[:, 0].max() > 0.5:
            hidden = hidden + self.sometimes(hidden) * ((x.data[:, :1] > 0.5) * 1.0)
        return hidden @ self.narrow.weight.transpose(1, 0) + self.narrow.bias


def odd(update, algorithm, before, batch_size):
    npdp.init(algorithm)
    model = Odd()
    optimizers = [OPTIMIZERS["momentum"](model.parameters())] if before else []
    wrapped = nn.DataParallel(model, update=update)
    optimizers = optimizers or [OPTIMIZERS["momentum"](model.parameters())]
    for inputs, labels in loader(batch_size):
        optimizers[0].zero_grad()
        ((wrapped(inputs) - labels.data[:, None]) ** 2).mean().backward()
        optimizers[0].step()
    return parameters(model), parameters_sha256(model.named_parameters())


@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_unused_frozen_and_tied_parameters_of_several_dtypes_get_the_same_bits(before, algorithm):
    for world_size, batch_size in product((2, 3), (1, 3, 13)):
        assert_same(world_size, program=odd, before=before, batch_size=batch_size, algorithm=algorithm)


def test_hooks_see_the_local_gradient_and_may_replace_it():
    def program(update, algorithm):
        npdp.init(algorithm)
        model = mlp()
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        wrapped, seen = nn.DataParallel(model, update=update), []
        model[0].weight.register_hook(lambda gradient: seen.append(float(np.abs(gradient).sum())) or gradient * 2)
        follow("zsuzsu", wrapped, [optimizer], cycle(loader(5)))
        return parameters(model) | {"seen": np.array(seen)}, parameters_sha256(model.named_parameters())

    assert_same(3, program=program, algorithm=IN_RANK_ORDER[0])


def test_a_gradient_of_the_users_own_is_this_ranks_share():
    def program():
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=1.0)
        before = parameters(model)
        nn.DataParallel(model, update="fused")
        for parameter in model.parameters():
            parameter.grad = np.full_like(parameter.data, 1.0 + npdp.rank())
        optimizer.step()
        return {name: before[name] - after for name, after in parameters(model).items()}

    for moved in run(3, program):
        assert_close(moved, {name: np.full_like(array, 6.0) for name, array in moved.items()})


def test_two_models_each_with_its_own_update_behind_one_loss_get_the_same_bits():
    def program(update, algorithm):
        npdp.init(algorithm)
        first, second = mlp(1), mlp(2)
        optimizers = [OPTIMIZERS["adam"](first.parameters()), OPTIMIZERS["momentum"](second.parameters())]
        one, two = nn.DataParallel(first, update=update), nn.DataParallel(second, update="replicated")
        for inputs, labels in loader(5):
            for optimizer in optimizers:
                optimizer.zero_grad()
            criterion(one(inputs) + two(inputs), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
        whole = nn.Sequential(first, second)
        return parameters(whole), parameters_sha256(whole.named_parameters())

    for world_size in (2, 3):
        assert_same(world_size, program=program, algorithm=IN_RANK_ORDER[0])
