"""Sparse data: the same samples, split and labels as the table's, from svmlight and .npz; and what is refused."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_tables import sparse

from npdp.base.errors import InputError
from npdp.data import ArrayDataset, DataLoader, SparseDataset, SparseRows
from npdp.data.formats import sparse_npz
from npdp.data.sources import load


def dense(count=23, columns=11, seed=3):
    generator = np.random.default_rng(seed)
    return np.round((generator.random((count, columns)) < 0.3) * generator.standard_normal((count, columns)), 3)


def datasets(count=23, seed=3):
    x, y = dense(count, seed=seed), np.arange(count) % 3
    return SparseDataset(sparse(x), y), ArrayDataset(x, y)


def svm_file(folder, x, y):
    pairs = [[f"{i + 1}:{float(row[i])!r}" for i in np.flatnonzero(row)] for row in x]
    lines = [" ".join([str(label), *of_row]) for of_row, label in zip(pairs, y)]
    path = os.path.join(folder, "data.svm")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def npz_file(folder, **changes):
    """Write a sparse .npz of 3 samples and 4 features, with some arrays changed, or left out where None."""
    arrays = {"indptr": np.array([0, 2, 2, 3]), "indices": np.array([0, 3, 1]), "values": np.array([1.0, 2.0, 3.0]),
              "shape": np.array([3, 4]), "y": np.array([0, 1, 0]), **changes}  # fmt: skip
    path = os.path.join(folder, "data.npz")
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def refused(call):
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


# SparseDataset
def test_it_takes_what_a_table_takes():
    mine, array = datasets()
    assert len(mine) == 23 and mine.sample_shape == (11,) and mine.dtype == np.float64
    for rows in (np.array([4, 0, 4, 22]), np.array([], int), slice(None), slice(20, 3, -4)):
        (x, y), (wanted, labels) = mine.take(rows), array.take(rows)
        assert np.array_equal(x.dense(), wanted) and np.array_equal(y, labels)
    x, y = mine[5]
    assert np.array_equal(x.dense()[0], array.x[5]) and y == array.y[5]


def test_it_is_made_of_arrays_of_rows_and_of_scipys_matrix():
    x, y = sparse(dense()), np.arange(23)
    kinds = [x, (x.indptr, x.indices, x.values, 11)]
    kinds.append(pytest.importorskip("scipy.sparse").csr_array(dense()))
    for kind in kinds:
        assert np.array_equal(SparseDataset(kind, y).x.dense(), dense())


@pytest.mark.parametrize(("call", "said"), [
    (lambda: SparseDataset(sparse(dense()), np.arange(22)), "expected as many labels as samples, got 23 rows in x"),
    (lambda: SparseDataset(dense(), np.arange(23)), "wanted SparseRows or a CSR matrix of scipy.sparse, got ndarray"),
    (lambda: SparseDataset((np.array([0, 1]), np.array([5]), np.array([1.0]), 5), [1]), "row 0 has the index 5"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(call, said):
    assert said in refused(call)


@pytest.mark.parametrize("rows", [[23], [-1], [[1]]])
def test_rows_outside_are_refused_as_a_table_refuses_them(rows):
    mine, array = datasets()
    words = []
    for dataset in (mine, array):
        with pytest.raises(IndexError) as caught:
            dataset.take(np.array(rows))
        words.append(str(caught.value))
    assert words[0] == words[1]


def test_a_fingerprint_tells_any_change():
    x, y = sparse(dense()), np.arange(23)
    prints = {SparseDataset(x, y).fingerprint(), SparseDataset(sparse(dense()), y.copy()).fingerprint()}
    assert len(prints) == 1
    moved = (x.indices + 1) % 11
    others = [
        SparseDataset(x, y + 1),
        SparseDataset(x.astype(np.float32), y),
        SparseDataset((x.indptr, moved, x.values, 11), y),
        SparseDataset((x.indptr, x.indices, x.values * 2, 11), y),
        SparseDataset((x.indptr, x.indices, x.values, 12), y),
    ]
    prints |= {dataset.fingerprint() for dataset in others}
    assert len(prints) == 1 + len(others)


def test_a_fingerprint_of_much_data_reads_some_rows(monkeypatch):
    from npdp.data import datasets as module

    mine, _ = datasets(2000)
    whole = mine.fingerprint()
    monkeypatch.setattr(module, "HASHED_WHOLE_BYTES", 100)
    assert mine.fingerprint() not in (whole, datasets(2000, seed=4)[0].fingerprint())


def test_a_loader_gives_rows_that_carry_their_batch():
    mine, array = datasets()
    for world_size in (1, 3):
        for rank in range(world_size):
            options = dict(batch_size=4, shuffle=True, seed=2, rank=rank, world_size=world_size)
            for (x, y), (wanted, labels) in zip(DataLoader(mine, **options), DataLoader(array, **options)):
                assert isinstance(x, SparseRows) and np.array_equal(x.dense(), wanted.data)
                assert np.array_equal(y.data, labels.data)
                assert x.batch is y.batch
                assert x.batch == wanted.batch


# svmlight
@settings(deadline=None, max_examples=25)
@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 1000), st.sampled_from(["float32", "float64"]))
def test_svmlight_gives_the_samples_labels_and_split_of_the_table(count, columns, seed, dtype):
    x = dense(count, columns, seed)
    x[-1, -1] = 1.5
    with tempfile.TemporaryDirectory() as folder:
        path = svm_file(folder, x, np.arange(count) % 2)
        mine, table = (load(path, seed=seed, dtype=dtype, sparse=flag) for flag in (True, False))
    assert mine.source == table.source and mine.classes == table.classes == 2
    for part, wanted in ((mine.train, table.train), (mine.test, table.test)):
        assert type(part) is SparseDataset and part.dtype == wanted.dtype == np.dtype(dtype)
        assert np.array_equal(part.x.dense(), wanted.x) and np.array_equal(part.y, wanted.y)


def test_svmlight_reads_indices_that_no_table_could_hold(tmp_path):
    path = tmp_path / "d.libsvm"
    path.write_text(f"-1 1:1 {2**31 - 1}:0.5\n+1 7:2\n+1\n")
    data = load(str(path), sparse=True, test_fraction=0)
    assert data.train.sample_shape == (2**31 - 1,) and data.train.y.tolist() == [0, 1, 1]
    assert data.train.x.indices.tolist() == [0, 2**31 - 2, 6] and data.train.x.indices.dtype == np.int32
    assert "makes a table of 3 x 2147483647 numbers" in refused(lambda: load(str(path)))
    path.write_text(f"1 1:1\n0 {2**31}:1\n")
    assert refused(lambda: load(str(path), sparse=True)) == (
        f"{path}, line 2: expected indices up to 2147483647, got 2147483648"
    )


@pytest.mark.parametrize(("content", "said"), [
    ("1 1:2\n1 x:3\n", "line 2: expected index:value with finite numbers, got 'x:3'"),
    ("1 0:2\n", "line 1: expected indices from 1 up, got index 0"),
    ("1 1:1\n1 3:2 2:1\n", "line 2: expected rising indices, got 2 after 3"),
    ("1\n2\n", "line 1: expected index:value behind the label, got none"),
    ("1 1:1\n\n0 2:1e300\n", "line 3: expected finite features within float32, got 1e+300"),
])  # fmt: skip
def test_svmlight_refuses_what_the_table_refuses(tmp_path, content, said):
    path = tmp_path / "d.svm"
    path.write_text(content)
    words = [refused(lambda flag=flag: load(str(path), sparse=flag, test_fraction=0)) for flag in (True, False)]
    assert words[0] == words[1] and said in words[0]


# .npz
def test_an_npz_file_gives_back_what_was_written(tmp_path):
    train, test = datasets()[0], datasets(7, seed=9)[0]
    path = str(tmp_path / "d.npz")
    for held_out in (None, test):
        sparse_npz.write(path, train, held_out)
        data = load(path, dtype="float64", test_fraction=0)
        assert data.classes == 3 and (data.test is None) == (held_out is None)
        for got, wanted in ((data.train, train), (data.test, held_out)):
            assert wanted is None or (
                np.array_equal(got.x.dense(), wanted.x.dense()) and np.array_equal(got.y, wanted.y)
            )


def test_an_npz_file_is_split_as_a_table_is(tmp_path):
    mine, array = datasets()
    sparse_npz.write(str(tmp_path / "s.npz"), mine)
    np.savez(tmp_path / "t.npz", x=array.x, y=array.y)
    got, wanted = (load(str(tmp_path / name), seed=5) for name in ("s.npz", "t.npz"))
    assert type(got.test) is SparseDataset
    assert np.array_equal(got.test.x.dense(), wanted.test.x) and np.array_equal(got.train.y, wanted.train.y)


def test_an_npz_file_of_numbers_is_a_regression(tmp_path):
    data = load(npz_file(tmp_path, y=np.array([[0.5], [1.0], [2.0]])), test_fraction=0)
    assert data.classes is None and data.train.y.tolist() == [[0.5], [1.0], [2.0]]


@pytest.mark.parametrize(("changes", "said"), [
    ({"values": None}, "expected the array 'values', found indices, indptr, shape, y"),
    ({"indptr": None}, "expected the array 'indptr', found indices, shape, values, y"),
    ({"y_test": np.array([1])}, "expected the array 'indptr_test', found"),
    ({"indptr": np.array([0.0, 2, 2, 3])}, "indptr: expected one dimension of integers, got float64 of shape (4,)"),
    ({"indices": np.array([[0, 3, 1]])}, "indices: expected one dimension of integers, got int64 of shape (1, 3)"),
    ({"shape": np.array([3])}, "array shape: expected the numbers of samples and features, got 1 numbers"),
    ({"shape": np.array([4, 4])}, "array y: expected 4 labels, one a sample, got shape (3,)"),
    ({"indices": np.array([0, 3, 4])}, "indptr, indices, values: SparseRows: row 2 has the index 4, wanted 0 to 3"),
    ({"indptr": np.array([0, 2, 1, 3])}, "SparseRows: indptr must rise from 0 in 4 steps"),
    ({"values": np.array([1.0, np.nan, 3])}, "sample 0: expected finite features within float32, got nan"),
    ({"values": np.array([1.0, 2, np.inf])}, "sample 2: expected finite features within float32, got inf"),
    ({"y": np.array([0, -1, 2])}, "sample 1: labels must be integers from 0 up, got -1"),
    ({"shape": np.array([3, -4])}, "SparseRows: wanted a shape without negative extents, got (3, -4)"),
    ({"shape": np.array([3, 0]), "indptr": np.zeros(4, int), "indices": np.zeros(0, int), "values": np.zeros(0)},
     "expected samples with features"),
])  # fmt: skip
def test_a_wrong_npz_file_is_refused_with_its_place(tmp_path, changes, said):
    path = npz_file(tmp_path, **changes)
    words = refused(lambda: load(path))
    assert words.startswith(path) and said in words


def test_parts_of_different_width_are_refused(tmp_path):
    test = {f"{name}_test": array for name, array in np.load(npz_file(tmp_path)).items()}
    path = npz_file(tmp_path, **{**test, "shape_test": np.array([3, 5])})
    assert "expected test samples of shape (4,) as in the training part, got (5,)" in refused(lambda: load(path))


# What is refused
def test_standardizing_sparse_data_is_refused(tmp_path):
    path = npz_file(tmp_path)
    assert "standardize would make sparse data dense" in refused(lambda: load(path, standardize=True))


@pytest.mark.parametrize("spec", ["digits", "synthetic", "d.csv"])
def test_a_table_is_not_read_as_sparse(tmp_path, spec):
    path = tmp_path / "d.csv"
    path.write_text("1,2\n3,4\n")
    spec = str(path) if spec == "d.csv" else spec
    assert "sparse data is read from .svm and .libsvm files" in refused(lambda: load(spec, sparse=True))


def test_npdp_reads_and_trains_on_sparse_data_without_scipy(tmp_path):
    (tmp_path / "scipy").mkdir()
    (tmp_path / "scipy" / "__init__.py").write_text("raise ImportError('there is no scipy here')\n")
    program = f"""
import numpy as np
from npdp import nn, optim
from npdp.data import DataLoader, sources
data = sources.load({svm_file(tmp_path, dense(), np.arange(23) % 3)!r}, sparse=True)
layer = nn.SparseLinear(data.train.sample_shape[0], 3)
optimizer = optim.SGD(layer.parameters(), lr=0.5)
for x, y in DataLoader(data.train, 4):
    loss = nn.CrossEntropyLoss()(layer(x), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
print(float(abs(layer.weight.data).sum()) > 0)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_importing_the_layers_loads_no_scipy():
    program = "import sys, npdp; npdp.data; npdp.optim; npdp.nn.SparseLinear(3, 2); print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_data_that_one_rank_loads_for_all_of_a_host_is_the_same_on_each(tmp_path):
    from worlds import run

    from npdp.parallel.shared_data import load_once
    from npdp.parallel.world import init

    path = npz_file(tmp_path)

    def program():
        data = load_once(init(), lambda: load(path, test_fraction=0))
        x, y = data.train.take(np.array([2, 0]))
        return data.train.fingerprint(), x.dense().tolist(), y.tolist()

    wanted = load(path, test_fraction=0).train
    found = (wanted.fingerprint(), wanted.take(np.array([2, 0]))[0].dense().tolist(), [0, 0])
    assert run(3, program) == [found] * 3


def test_a_sample_is_as_large_as_its_entries_are():
    mine, array = datasets()
    assert array.elements_per_sample == 11 and mine.elements_per_sample == 2 * len(mine.x.values) // 23 + 1
