"""What a loader takes for a dataset, and where it has the rows from."""

import numpy as np
import pytest

from npdp.autograd import Tensor
from npdp.data import ArrayDataset, DataLoader
from npdp.data.sparse import SparseDataset

X, Y = np.arange(14, dtype=np.float32).reshape(7, 2), np.arange(7)


class Rows:
    """A dataset as PyTorch's: a length and rows, no `take`."""

    def __len__(self):
        return 7

    def __getitem__(self, row):
        if not 0 <= row < 7:
            raise IndexError(row)
        return np.full((2, 3), row, np.float64), row


def test_a_dataset_needs_only_a_length_and_rows():
    loader = DataLoader(Rows(), 4, shuffle=True, rank=0, world_size=1)
    batches = list(loader)
    assert [x.shape for x, _ in batches] == [(4, 2, 3), (3, 2, 3)]
    assert sorted(label for _, y in batches for label in y.data.tolist()) == list(range(7))
    assert all((x.data == y.data[:, None, None]).all() for x, y in batches)
    (x, y), *_ = DataLoader(Rows(), 1, rank=1, world_size=2)
    assert (x.shape, x.dtype, y.shape, y.dtype.kind) == ((0, 2, 3), np.float64, (0,), "i")


def test_a_list_of_pairs_is_a_dataset():
    samples = [(np.full(3, row, np.float32), row) for row in range(5)]
    (x, y), _ = DataLoader(samples, 4, rank=0, world_size=1)
    assert x.shape == (4, 3) and y.data.tolist() == [0, 1, 2, 3]
    assert list(DataLoader([], 4)) == []


class Doubled(ArrayDataset):
    """Rows of its own, and the `take` of the class above."""

    def __getitem__(self, row):
        x, y = super().__getitem__(row)
        return 2 * x, y


class DoubledAtOnce(Doubled):
    def take(self, rows):
        x, y = super().take(rows)
        return 4 * x, y


class First(Rows):
    """As Hugging Face's datasets: `take(n)` gives the first n rows."""

    def take(self, n):
        return self if n > 7 else None


class Around:
    """Hands on what it has not."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("samples", "factor"),
    [(ArrayDataset(X, Y), 1), (Doubled(X, Y), 2), (DoubledAtOnce(X, Y), 4), (Around(ArrayDataset(X, Y)), 1),
     (First(), None)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_rows_are_those_of_the_class_that_has_the_last_word(samples, factor):
    (x, y), _ = DataLoader(samples, 4, rank=0, world_size=1)
    wanted = np.stack([samples[row][0] for row in range(4)]) if factor is None else factor * X[:4]
    np.testing.assert_array_equal(x.data, wanted)
    assert y.data.tolist() == [0, 1, 2, 3]


def test_sparse_rows_one_by_one_are_refused():
    class Own(SparseDataset):
        def __getitem__(self, row):
            return super().__getitem__(row)

    samples = Own((np.arange(4), np.array([0, 1, 0]), np.ones(3, np.float32), 2), np.arange(3))
    with pytest.raises(TypeError, match="sparse rows come a batch at once: override SparseDataset.take"):
        next(iter(DataLoader(samples, 2)))


class Table:
    """As a DataFrame of pandas's: an array of columns that have names."""

    def __array__(self, dtype=None, copy=None):
        return np.zeros((4, 3), dtype)

    def __len__(self):
        return 4

    def __getitem__(self, column):
        raise KeyError(column)

    def take(self, indices, axis=0):
        return np.zeros((len(indices), 3))


@pytest.mark.parametrize(
    ("samples", "got"),
    [
        ((np.zeros((4, 3)), np.zeros(4)), "tuple of ndarray"),
        ([Tensor([1.0, 2.0]), Tensor([1.0, 2.0])], "list of Tensor"),
        (np.zeros((4, 2)), "ndarray"),
        (Tensor([[1.0, 2.0]]), "Tensor"),
        (Table(), "Table"),
        (iter([(1, 2)]), "list_iterator"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_dataset_is_refused_before_the_first_batch(samples, got):
    text = rf"^DataLoader: wanted a dataset, whose rows are \(features, label\), got {got}; ArrayDataset\(x, y\) makes"
    with pytest.raises(TypeError, match=text):
        DataLoader(samples, 1)
