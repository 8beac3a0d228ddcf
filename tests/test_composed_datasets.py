"""Datasets made of tensors and of datasets: their rows, lengths and batches; and a loader's further arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npdp
import npdp.nn.functional as F  # noqa: N812
from npdp import data, nn, optim
from npdp.base.errors import InputError
from npdp.data import ArrayDataset, ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split


def dataset(count, first=0):
    numbers = np.arange(first, first + count)
    return TensorDataset(npdp.tensor(numbers[:, None] * 1.0), npdp.tensor(numbers))


class Squares(Dataset):
    """Rows one by one, with inputs that are tensors and labels that are numbers, as programs write it."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return npdp.tensor([row**2.0]), row


def labels(loader):
    return [label for _, batch in loader for label in batch.tolist()]


def test_a_tensor_dataset_gives_tensors_by_row_and_slice_and_batches_at_once():
    x, y = dataset(5)[3]
    assert isinstance(x, npdp.Tensor) and x.tolist() == [3.0] and y.item() == 3
    xs, ys = dataset(5)[1:3]
    assert xs.shape == (2, 1) and ys.tolist() == [1, 2] and len(dataset(5)) == 5 and len(dataset(5).tensors) == 2
    assert DataLoader(dataset(5))._whole_batches
    for count in (1, 3):
        with pytest.raises(InputError, match=f"TensorDataset: expected two tensors, inputs and labels, got {count}"):
            TensorDataset(*[npdp.ones(2)] * count)
    with pytest.raises(InputError, match="as many labels as samples"):
        TensorDataset(npdp.ones(2), npdp.ones(3))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(1, 7), st.randoms(use_true_random=False))
def test_a_loader_gives_the_rows_of_what_datasets_are_made_of(counts, batch_size, rng):
    parts, first = [], 0
    for count in counts:
        whole = rng.random() < 0.5
        parts.append(dataset(count, first) if whole else Subset(Squares(first + count), range(first, first + count)))
        first += count
    joined = ConcatDataset(parts)
    assert len(joined) == first
    rows = [rng.randrange(first) for _ in range(rng.randrange(8))] if first else []
    subset = Subset(joined, rows)
    assert [int(label) for _, label in map(subset.__getitem__, range(len(rows)))] == rows
    if rows:
        assert labels(DataLoader(subset, batch_size, rank=0, world_size=1)) == rows
        parts_of = [labels(DataLoader(subset, batch_size, rank=rank, world_size=3)) for rank in range(3)]
        assert sorted(label for part in parts_of for label in part) == sorted(rows)  # empty parts included


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_a_random_split_has_every_row_once(count, weights, seed):
    fractions = [weight / sum(weights) for weight in weights]
    split = random_split(dataset(count), fractions, generator=npdp.Generator().manual_seed(seed))
    assert sorted(row for part in split for row in part.indices) == list(range(count))
    assert all(abs(len(part) - count * fraction) <= len(weights) for part, fraction in zip(split, fractions))
    again = random_split(dataset(count), [len(part) for part in split], npdp.Generator().manual_seed(seed))
    assert [part.indices for part in again] == [part.indices for part in split]


def test_a_random_split_has_pytorch_s_lengths():
    torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
    for count, fractions in ((10, [0.55, 0.45]), (11, [0.3, 0.3, 0.4]), (7, [1 / 3, 1 / 3, 1 / 3])):
        theirs = torch.utils.data.random_split(range(count), fractions)
        assert list(map(len, random_split(dataset(count), fractions))) == list(map(len, theirs))
    with pytest.raises(ValueError, match=r"random_split: wanted lengths that add up to 5, got \[2, 2\]"):
        random_split(dataset(5), [2, 2])


def test_arguments_that_change_no_result_are_taken():
    idle = dict(num_workers=2, pin_memory=True, drop_last=False, sampler=None, batch_sampler=None, collate_fn=None,
                timeout=0, worker_init_fn=None, persistent_workers=True, prefetch_factor=2)  # fmt: skip
    assert labels(DataLoader(dataset(7), 3, **idle)) == list(range(7))
    seeded = [labels(DataLoader(dataset(30), 4, True, generator=npdp.Generator().manual_seed(seed))) for seed in (1, 1,
2)]
    assert seeded[0] == seeded[1] != seeded[2] and seeded[0] == labels(DataLoader(dataset(30), 4, True, seed=1))


@pytest.mark.parametrize(("argument", "value"), [
    ("drop_last", True), ("sampler", range(3)), ("batch_sampler", [[0]]), ("collate_fn", list),
])  # fmt: skip
def test_arguments_that_would_change_the_result_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"DataLoader: {argument} is not to be had; .+"):
        DataLoader(dataset(3), **{argument: value})
    with pytest.raises(TypeError, match="DataLoader: unexpected argument 'batchsize'"):
        DataLoader(dataset(3), batchsize=3)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_program_with_a_random_split_trains_the_same_on_any_number_of_ranks(ranks):
    values = np.random.default_rng(0).standard_normal((50, 6))

    def program():
        npdp.manual_seed(0)
        whole = TensorDataset(npdp.tensor(values), npdp.arange(50) % 3)
        train, _ = random_split(whole, [0.8, 0.2])
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        wrapped = nn.DataParallel(model)
        for _ in range(2):
            for inputs, labels in DataLoader(train, batch_size=7, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(wrapped(inputs), labels).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        return model.state_dict()

    (wanted,) = npdp.run_ranks(1, program)
    for found in npdp.run_ranks(ranks, program):
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10)


def test_torch_utils_data_is_npdp_data_and_can_be_imported_from():
    from npdp.utils.data import DataLoader as Imported

    assert npdp.utils.data is data and Imported is data.DataLoader and isinstance(dataset(3), ArrayDataset)
