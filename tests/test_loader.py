"""The loader: each sample exactly once per epoch on any number of ranks, in order, with tags, and of any dataset."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import run

import npdp
from npdp.autograd import Tensor
from npdp.data import ArrayDataset, DataLoader, epoch_order, local_rows

numbers = st.integers(0, 60)
few = st.integers(1, 6)
batch_sizes = st.integers(1, 70)


def dataset(count):
    return ArrayDataset(np.arange(count * 2, dtype=np.float32).reshape(count, 2), np.arange(count))


def loaders(count, batch_size, world_size, **options):
    data = dataset(count)
    return [DataLoader(data, batch_size, rank=r, world_size=world_size, **options) for r in range(world_size)]


def labels(loader):
    return [y.data.tolist() for _, y in loader]


def flat(batches):
    return [label for batch in batches for label in batch]


@settings(deadline=None)
@given(numbers, batch_sizes, few, few, st.booleans())
def test_each_sample_comes_exactly_once_per_epoch(count, batch_size, world_size, accumulate, shuffle):
    ranks = loaders(count, batch_size, world_size, accumulate=accumulate, shuffle=shuffle)
    for _ in range(2):
        assert sorted(label for loader in ranks for label in flat(labels(loader))) == list(range(count))


@settings(deadline=None)
@given(numbers, batch_sizes, few, few, few)
def test_global_batches_do_not_depend_on_ranks_or_pieces(count, batch_size, world_size, accumulate, seed):
    order = dict(shuffle=True, seed=seed)
    alone = labels(loaders(count, batch_size, 1, **order)[0])
    per_rank = [labels(loader) for loader in loaders(count, batch_size, world_size, accumulate=accumulate, **order)]
    for number, whole in enumerate(alone):
        pieces = [batches[number * accumulate : (number + 1) * accumulate] for batches in per_rank]
        assert flat(flat(pieces)) == whole


@settings(deadline=None)
@given(numbers, batch_sizes, few, few)
def test_every_rank_makes_the_same_number_of_steps(count, batch_size, world_size, accumulate):
    for loader in loaders(count, batch_size, world_size, accumulate=accumulate):
        assert len(labels(loader)) == len(loader) == loader.iterations_per_epoch * accumulate
        assert loader.iterations_per_epoch == -(-count // batch_size)


def test_the_epoch_moves_on_by_itself_and_can_be_set():
    loader = loaders(20, 20, 1, shuffle=True, seed=5)[0]
    passes = [labels(loader)[0] for _ in range(3)]
    assert passes == [epoch_order(20, 5, epoch).tolist() for epoch in range(3)]
    assert loader.epoch == 3
    loader.set_epoch(1)
    assert labels(loader)[0] == passes[1] and labels(loader)[0] == passes[2]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_on_threads_with_one_loader_between_them_get_each_sample_once_and_start_where_it_was(world_size):
    loader = DataLoader(dataset(24), 8, shuffle=True, seed=5)
    loader.set_epoch(2)

    def passes(count):
        return [flat(labels(loader)) for _ in range(count)], loader.epoch

    def parts(seen, number):
        return sorted(label for of_rank, _ in seen for label in of_rank[number])

    first, second = run(world_size, passes, 3), run(world_size, passes, 1)
    whole = list(range(24))
    assert [parts(first, number) for number in range(3)] == [whole] * 3 and parts(second, 0) == whole
    assert {epoch for _, epoch in first} == {5} and {epoch for _, epoch in second} == {6}
    if world_size > 1:
        assert loader.epoch == 2  # of who made it
        assert run(world_size + 1, passes, 0) == [([], 2)] * (world_size + 1)


def test_a_rank_that_sets_the_epoch_sets_its_own():
    loader = DataLoader(dataset(4))

    def program():
        npdp.barrier()
        loader.set_epoch(10 + npdp.rank())
        npdp.barrier()
        return loader.epoch

    assert run(3, program) == [10, 11, 12]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_a_copy_of_a_loader_counts_for_itself_from_where_it_was(copied):
    loader = DataLoader(dataset(20), 20, shuffle=True, seed=5)
    labels(loader)
    twin = copied(loader)
    orders = [epoch_order(20, 5, epoch).tolist() for epoch in range(3)]
    assert [flat(labels(twin)) for _ in range(2)] == orders[1:]
    assert (loader.epoch, twin.epoch) == (1, 3)


def test_a_pass_that_was_broken_off_counts():
    loader = loaders(20, 5, 1, shuffle=True)[0]
    next(iter(loader))
    assert flat(labels(loader)) == epoch_order(20, 0, 1).tolist()


def test_without_shuffling_rows_come_in_order():
    assert labels(loaders(7, 3, 1)[0]) == [[0, 1, 2], [3, 4, 5], [6]]
    assert [labels(x) for x in loaders(10, 4, 3)] == [
        [[0, 1], [4, 5], [8]],
        [[2], [6], [9]],
        [[3], [7], []],
    ]


def test_tensors_say_which_rows_of_which_batch():
    for loader in loaders(10, 4, 3, accumulate=2):
        for epoch in range(2):
            for step, (x, y) in enumerate(loader):
                number, piece = divmod(step, 2)
                whole = 4 if number < 2 else 2
                start, stop = local_rows(whole, 3, loader.rank, 2, piece)
                for tensor in (x, y):
                    batch = tensor.batch
                    assert (batch.count, batch.first_row, batch.global_count) == (stop - start, start, whole)
                    assert batch.iteration == epoch * 3 + number
                assert x.data.shape == (stop - start, 2) and isinstance(x, Tensor)
                assert np.array_equal(x.data[:, 0], y.data * 2)


def test_an_empty_part_has_the_shape_and_dtype_of_a_row():
    x, y = next(iter(loaders(1, 1, 4)[3]))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((0, 2), np.float32, (0,), np.int64)


def test_a_dataset_of_nothing_has_no_batches():
    assert list(loaders(0, 4, 2)[1]) == [] and len(loaders(0, 4, 2)[1]) == 0


def test_the_part_is_this_ranks_where_nobody_says_otherwise():
    def program():
        return flat(labels(DataLoader(dataset(10), 10)))

    assert run(3, program) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert run(3, lambda: flat(labels(DataLoader(dataset(4), 4, rank=1, world_size=2)))) == [[2, 3]] * 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"batch_size": -4}, "batch_size must be a whole number, at least 1, got -4"),
        ({"accumulate": 0}, "accumulate must be a whole number, at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number in"),
        ({"rank": 1}, "rank and world_size go together, got 1 and None"),
        ({"world_size": 2}, "rank and world_size go together, got None and 2"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0 \.\. 1, got 2"),
        ({"rank": -1, "world_size": 2}, r"rank must be in 0 \.\. 1, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, text):
    with pytest.raises(ValueError, match=f"DataLoader: {text}"):
        DataLoader(dataset(4), **options)


def test_orders_are_those_of_manual_seed_where_no_seed_is_given():
    dataset = ArrayDataset(np.arange(20.0), np.arange(20))

    def order(program_seed, **given):
        npdp.manual_seed(program_seed)
        return [float(x.data[0]) for x, _ in DataLoader(dataset, shuffle=True, **given)]

    assert order(1) == order(5, seed=1) != order(2)


class OneRow:
    """A dataset of one row, which may be anything."""

    def __init__(self, row) -> None:
        self.row = row

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number):
        return self.row


@pytest.mark.parametrize("what", ["features", "labels"])
def test_rows_of_several_shapes_are_named_with_two_of_them(what):
    ragged = [np.ones(3 + (row == 4)) for row in range(6)]
    rows = list(zip(ragged, range(6))) if what == "features" else list(zip(range(6), ragged))
    with pytest.raises(ValueError, match=rf"DataLoader: wanted {what} of one shape .* got \(3,\) and \(4,\): pad them"):
        list(DataLoader(rows, batch_size=6))


@pytest.mark.parametrize(
    ("row", "what"),
    [((1, 2, 3), "tuple of 3"), (np.zeros(2), "ndarray"), ({"x": 1, "y": 2}, "dict of 2"), ("xy", "str")],
    ids=str,
)
def test_a_row_that_is_no_pair_is_refused(row, what):
    wanted = rf"wanted rows of \(features, label\), got {what} as row 0"
    for world_size in (1, 2):  # an empty part too
        with pytest.raises(TypeError, match=wanted):
            list(DataLoader(OneRow(row), rank=world_size - 1, world_size=world_size))
