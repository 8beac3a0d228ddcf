"""Dropout: a row of the global batch has the same mask wherever it is computed, and another one each time."""

import copy
from itertools import pairwise

import numpy as np
import pytest
from worlds import run

import npdp
from npdp import nn
from npdp.autograd import Tensor, operators
from npdp.data import ArrayDataset, DataLoader
from npdp.nn.forward import Forward, Samples


class Holder(nn.Module):
    """A tree of dropouts."""

    def __init__(self):
        self.a = nn.Dropout(seed=1)
        self.rest = nn.Sequential(nn.Linear(2, 2), nn.Dropout(seed=1), nn.Sequential(nn.Dropout(seed=1)))


def ones(*shape):
    return np.ones(shape, np.float32)


def dropped(layer, x, rows, iteration=0):
    """Return what a layer leaves of an input in a forward about samples [start, stop) of a global batch."""
    start, stop = rows
    layer.forwards.begin(Samples(iteration, start, stop - start, shared=True))
    return layer.forward(x).data


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (9,), (3, 5)])
@pytest.mark.parametrize("cuts", [[10], [1, 2, 3], [0, 7, 7, 19, 20]])
def test_dropout_masks_a_row_alike_however_the_batch_is_split(shape, cuts):
    layer = nn.Dropout(0.4, seed=3)
    whole = dropped(layer, ones(20, *shape), (0, 20), 5)
    ends = [0, *cuts, 20]
    parts = [dropped(layer, ones(stop - start, *shape), (start, stop), 5) for start, stop in pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("turned", [lambda x: x.T, lambda x: x[:3], lambda x: np.stack([x] * 3)],
                         ids=["turned", "some rows", "an axis before"])  # fmt: skip
def test_dropout_refuses_rows_that_it_cannot_place_in_a_batch_that_ranks_share(turned):
    layer = nn.Dropout(0.5, seed=3)
    rows = turned(ones(4, 7))
    assert dropped(layer, ones(0, 7), (4, 8)).shape == (0, 7)
    with pytest.raises(ValueError, match="must begin with the axis of the batch; this rank has 4 samples"):
        dropped(layer, rows, (4, 8))
    layer.forwards.begin(Samples(0, 0, 4))
    assert layer.forward(rows).shape == rows.shape  # on one rank all is here


def test_dropout_masks_alike_where_samples_have_several_rows():
    layer = nn.Dropout(0.5, seed=3)
    whole = dropped(layer, ones(80, 6), (0, 20), 1)
    parts = [dropped(layer, ones(4 * (stop - start), 6), (start, stop), 1) for start, stop in ((0, 7), (7, 20))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_a_part_p_and_scales_the_rest(p):
    x = np.ones((1000, 50), np.float32)
    y = nn.Dropout(p, seed=1)(x).data
    assert abs((y == 0).mean() - p) < 0.01
    assert y.dtype == np.float32 and set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - p))}
    rows, columns = (y == 0).mean(axis=1), (y == 0).mean(axis=0)
    assert abs(rows - p).max() < 0.35 and abs(columns - p).max() < 0.1


def test_dropout_passes_the_gradient_of_what_it_keeps():
    x = Tensor(np.ones((10, 4)), requires_grad=True)
    y = nn.Dropout(0.5, seed=1)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)


def test_dropout_differs_by_seed_iteration_row_and_layer():
    model, x = Holder(), ones(20, 7)
    forwards = Forward()
    model.join_forwards(forwards)
    layers = [model.a, model.rest[1], model.rest[2][0]]
    assert [layer.layer_number for layer in layers] == [0, 1, 2]
    masks = [dropped(layer, x, (0, 20)) for layer in layers]
    masks += [dropped(model.a, x, (0, 20), 1), dropped(model.a, x, (20, 40)), dropped(nn.Dropout(seed=2), x, (0, 20))]
    for i, mask in enumerate(masks):
        assert not any((mask == other).all() for other in masks[:i])
    assert len(np.unique(masks[0], axis=0)) > 10
    np.testing.assert_array_equal(masks[0], dropped(Holder().a, x, (0, 20)))


def test_dropout_takes_the_seed_of_the_rank_where_it_has_none():
    layer, x = nn.Dropout(), ones(20, 7)
    npdp.manual_seed(8)
    y = dropped(layer, x, (0, 20))
    np.testing.assert_array_equal(y, dropped(nn.Dropout(seed=8), x, (0, 20)))
    npdp.manual_seed(9)
    assert (dropped(layer, x, (0, 20)) != y).any()


def test_dropout_in_a_model_that_is_not_wrapped_has_another_mask_in_each_forward_as_a_wrapped_one_has():
    def masks(wrap):
        model = nn.Sequential(nn.Dropout(seed=1), nn.Identity())
        model = nn.DataParallel(model) if wrap else model
        return [model(ones(20, 7)).data for _ in range(3)]

    first, second, third = masks(False)
    assert (first != second).any() and (second != third).any()
    np.testing.assert_array_equal(masks(True), [first, second, third])


def test_a_dropout_that_is_used_twice_in_a_forward_has_two_masks_and_the_same_two_in_a_copy():
    class Twice(nn.Module):
        def __init__(self):
            self.drop = nn.Dropout(0.5, seed=1)

        def forward(self, x):
            return operators.stack(self.drop(x), self.drop(x))

    model = Twice()
    before = copy.deepcopy(model)
    first, second = model(ones(4, 8)).data
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(before(ones(4, 8)).data, [first, second])
    assert not np.array_equal(model(ones(4, 8)).data, [first, second])
    np.testing.assert_array_equal(copy.deepcopy(model)(ones(4, 8)).data, [first, second])  # its forwards are its own


def test_what_a_dropout_masks_does_not_change_with_other_models_before_it():
    def mask():
        return nn.Sequential(nn.Dropout(seed=1), nn.Dropout(seed=1))(ones(5, 7)).data

    np.testing.assert_array_equal(mask(), mask())


class Positions(nn.Module):
    """Tokens and their positions, dropped as a sum, or the positions alone, numbered as (1, T)."""

    def __init__(self, alone):
        self.tokens, self.positions = nn.Embedding(9, 6, sparse=False), nn.Embedding(4, 6, sparse=False)
        self.drop, self.alone = nn.Dropout(0.5, seed=1), alone

    def forward(self, x):
        tokens, positions = self.tokens(x), self.positions(np.arange(4)[None])
        y = tokens + self.drop(positions) if self.alone else self.drop(tokens + positions)
        return y.mean(1)


@pytest.mark.parametrize(("alone", "batch_size"), [(False, 2), (False, 4), (False, 8), (True, 4), (True, 8)])
def test_positions_are_dropped_as_one_rank_would_where_the_docs_say_so(alone, batch_size):
    numbers = np.arange(16 * 4).reshape(16, 4) * 7 % 9

    def program():
        npdp.manual_seed(0)
        model = nn.DataParallel(Positions(alone))
        for x, y in DataLoader(ArrayDataset(numbers, np.ones((16, 6), np.float32)), batch_size):
            nn.MSELoss()(model(x), y).backward()
        return np.concatenate([parameter.grad.ravel() for parameter in model.parameters()])

    (one,) = run(1, program)
    for gradients in run(2, program):
        np.testing.assert_allclose(gradients, one, rtol=1e-5, atol=1e-7)


def test_dropout_does_nothing_in_evaluation():
    x = Tensor(np.ones((3, 2)))
    assert nn.Dropout(0.5).eval()(x) is x
    assert nn.Dropout(0.5)(ones(0, 7)).shape == (0, 7)
