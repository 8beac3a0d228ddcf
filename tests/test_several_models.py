"""Several wrapped models in one program: their gradients meet no other's, behind one loss or under one optimiser."""

import numpy as np
import pytest
from worlds import CLASSES, FEATURES, assert_as_on_one_rank, assert_close, criterion, gradients, loader, mlp, run

import npdp
from npdp import nn, optim
from npdp.comm.errors import CommunicationError


def test_two_models_behind_one_loss_get_what_one_rank_gets():
    def program(way):
        first, second = way.wrap(mlp(1)), way.wrap(mlp(2))
        for x, y in loader(5):
            criterion(first(x) + second(x), y).backward()
        return gradients(first) | {f"second {name}": g for name, g in gradients(second).items()}

    assert_as_on_one_rank(program)


def test_two_models_behind_one_loss_that_each_rank_adds_up_in_another_order():
    """They meet in the order in which they were wrapped, not in that in which backward finds them."""

    def program(way):
        first, second = way.wrap(mlp(1)), way.wrap(mlp(2))
        x, y = next(iter(loader(7)))
        losses = [criterion(model(x), y) for model in (first, second)]
        sum(losses[:: -1 if npdp.rank() % 2 else 1]).backward()
        return gradients(first) | {f"second {name}": g for name, g in gradients(second).items()}

    assert_as_on_one_rank(program)


class Chooser(nn.Module):
    """Odd ranks do without the last layer, whose bucket is the first to leave."""

    def __init__(self):
        self.base, self.last = (nn.Linear(FEATURES, FEATURES, dtype=np.float64) for _ in range(2))

    def forward(self, x):
        return self.base(x) if npdp.rank() % 2 else self.last(self.base(x).tanh())


def test_two_models_behind_one_loss_of_which_each_rank_uses_other_parts():
    """Their buckets must not meet each other's, though they are complete in another order on each rank."""

    def program(wrapped_apart):
        npdp.manual_seed(5)
        first, second = nn.Linear(FEATURES, FEATURES, dtype=np.float64), Chooser()
        whole = nn.Sequential(first, second)
        if wrapped_apart:
            first, second = (nn.DataParallel(part, bucket_cap_mb=1e-6) for part in (first, second))
        model = nn.Sequential(first, second) if wrapped_apart else nn.DataParallel(whole)
        inputs, _ = next(iter(loader(8)))
        (model(inputs) ** 2).mean().backward()
        return gradients(whole)

    for world_size in (2, 3, 4):
        for got, wanted in zip(run(world_size, program, True), run(world_size, program, False), strict=True):
            assert_close(got, wanted)


def test_two_models_under_one_optimiser_do_not_mistake_each_others_gradients():
    """Their gradients lie in the same flat array; one is accumulated under no_sync, the other is synced."""

    def program(way):
        first, second = mlp(1), mlp(2)
        optim.SGD([*first.parameters(), *second.parameters()])
        first, second = way.wrap(first), way.wrap(second)
        (x, y), (x2, y2), *_ = loader(4)
        criterion(first(x), y).backward()
        with way.no_sync(second):
            criterion(second(x), y).backward()
        criterion(first(x2), y2).backward()  # on top of a global gradient
        criterion(second(x2), y2).backward()  # on top of a local one
        return gradients(first) | {f"second {name}": g for name, g in gradients(second).items()}

    assert_as_on_one_rank(program)

    def refuses():
        first, second = mlp(1), mlp(2)
        optimizer = optim.SGD([*first.parameters(), *second.parameters()])
        first, second = nn.DataParallel(first), nn.DataParallel(second)
        x, y = next(iter(loader(4)))
        for model in (first, second):
            with model.no_sync():
                criterion(model(x), y).backward()
        criterion(first(x), y).backward()
        with pytest.raises(RuntimeError, match="no_sync"):
            optimizer.step()

    run(2, refuses)


WHERE = [{}, {"algorithm": "ring"}, {"hosts": (0, 1, 0, 1)}, {"hosts": (0, 0, 1, 1)}]


@pytest.mark.parametrize("options", WHERE, ids=str)
@pytest.mark.parametrize("features", [FEATURES, 20000])
def test_ranks_that_use_different_models_are_told_so(options, features):
    """The two are as large as each other: what one rank has of one would be added to what another has of the other."""

    def program():
        first, second = (nn.DataParallel(nn.Linear(features, CLASSES)) for _ in range(2))
        (second if npdp.rank() % 2 else first)(np.ones((2, features))).mean().backward()

    with pytest.raises(CommunicationError, match="bucket [12].*, rank . .* of .*, bucket [12]"):
        run(4, program, **options)
