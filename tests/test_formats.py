"""What is read is what was written, in each format, and its targets are classes or numbers as it says."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from data_files import (
    IDX_TYPES,
    IMAGES,
    LABELS,
    NAMES,
    idx_bytes,
    idx_folder,
    in_file,
    npy_bytes,
    npy_pair,
    npz_bytes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from npdp.data.formats import csv, idx, npz, read, svmlight
from npdp.data.sources import load

finite = st.floats(allow_nan=False, allow_infinity=False)


# ---- round trips ----------------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(st.sampled_from(sorted(IDX_TYPES)).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(max_dims=4, min_side=0))), st.booleans())
def test_idx_gives_back_any_array_plain_or_compressed(array: np.ndarray, compressed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "array.gz" if compressed else "array")
        content = idx_bytes(array)
        Path(path).write_bytes(gzip.compress(content) if compressed else content)
        found = idx.read_array(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_idx_reads_a_gzip_file_of_several_members(tmp_path: Path) -> None:
    content = idx_bytes(IMAGES)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(content[:20]) + gzip.compress(content[20:]))
    np.testing.assert_array_equal(idx.read_array(str(path)), IMAGES)


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=finite),
       st.booleans(), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_csv_gives_back_any_table(table: np.ndarray, header: bool, delimiter: str, end: str, bom: bool) -> None:
    names = [f"column_{i}" for i in range(table.shape[1])]
    lines = [delimiter.join(names)] * header + [delimiter.join(map(repr, row)) for row in table.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.csv")
        Path(path).write_bytes((b"\xef\xbb\xbf" if bom else b"") + (end.join(lines) + end).encode())
        part = csv.read(path).train
        first = csv.read(path, names[0] if header else "1").train
    np.testing.assert_array_equal(np.column_stack([part.x, part.y]), table)
    np.testing.assert_array_equal(np.column_stack([first.y, first.x]), table)


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.floats(-1e300, 1e300)),
       st.sampled_from([None, "a comment\nof two lines"]))
def test_svmlight_reads_what_scikit_learn_writes(table: np.ndarray, comment: str | None) -> None:
    dump = pytest.importorskip("sklearn.datasets").dump_svmlight_file
    table[0] = 1  # the last column must show in the file
    labels = np.arange(len(table)) - 0.5
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.svm")
        dump(table, labels, path, zero_based=False, comment=comment)
        part = svmlight.read(path).train
    np.testing.assert_array_equal(part.y, labels)
    np.testing.assert_allclose(part.x, table, rtol=1e-15)


def test_a_number_may_have_any_space_around_it_and_names_any_letters(tmp_path: Path) -> None:
    part = csv.read(in_file("d.csv", "größe,\u0663\n 1,\u00a02\u2003\n")(tmp_path)).train
    assert part.x.tolist() == [[1]] and part.y.tolist() == [2]


def test_names_of_months_are_a_header(tmp_path: Path) -> None:
    path = in_file("sales.csv", "2023_01,2023_02,2023_03\n1,2,3\n")(tmp_path)
    part = csv.read(path, "2023_02").train
    assert part.x.tolist() == [[1, 3]] and part.y.tolist() == [2]


def test_svmlight_counts_features_from_1(tmp_path: Path) -> None:
    part = svmlight.read(in_file("data.svm", "+1 3:0.5 4:-2 # a comment\n-1 1:4\n")(tmp_path)).train
    assert part.x.tolist() == [[0, 0, 0.5, -2], [4, 0, 0, 0]] and part.y.tolist() == [1, -1]


def test_npz_and_npy_give_back_their_arrays_in_any_order_of_memory(tmp_path: Path) -> None:
    x, y = np.asfortranarray(np.arange(24.0).reshape(6, 4)), np.arange(6)[:, None]
    for write in (in_file("data.npz", npz_bytes(x=x, y=y, x_test=x[:2], y_test=y[:2])),
                  npy_pair(x=npy_bytes(x), y=npy_bytes(y), x_test=npy_bytes(x[:2]), y_test=npy_bytes(y[:2]))):
        raw = read(write(tmp_path))
        np.testing.assert_array_equal(raw.train.x, x)
        np.testing.assert_array_equal(raw.train.y, y[:, 0])
        np.testing.assert_array_equal(raw.test.x, x[:2])


def test_a_folder_of_npy_files_is_mapped_and_so_is_its_x(tmp_path: Path) -> None:
    folder = npy_pair(x=npy_bytes(np.zeros((3, 2))), y=npy_bytes(np.zeros(3)))(tmp_path)
    assert isinstance(read(folder).train.x, np.memmap)
    assert isinstance(read(os.path.join(folder, "x.npy")).train.x, np.memmap)
    assert isinstance(npz.read_pair(folder).train.x, np.memmap)


def test_an_idx_folder_may_mix_plain_and_compressed_and_have_a_test_part(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path, labels=None, labels_gz=gzip.compress(idx_bytes(LABELS)))
    assert read(folder).test is None
    (tmp_path / (NAMES[2] + ".gz")).write_bytes(gzip.compress(idx_bytes(IMAGES[:2])))
    (tmp_path / NAMES[3]).write_bytes(idx_bytes(LABELS[:2]))
    split = load(folder)
    assert (len(split.train), len(split.test), split.classes) == (5, 2, 3)
    np.testing.assert_allclose(split.train.x, IMAGES.reshape(5, 6) / 255, rtol=1e-6)
    assert split.train.y.tolist() == LABELS.tolist()


# ---- classes or numbers ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("lines, classes", [
    (["1,0", "2,1", "3,1"], 2),
    (["1,0", "2,4"], 5),
    (["1,0.0", "2,1.0"], None),
    (["1,-1", "2,1"], None),
    ([f"1,{i}" for i in range(20)], 20),
    ([f"1,{i}" for i in range(21)], None),
    ([f"1,{i % 21}" for i in range(441)], 21),
    (["1,0", "2,70000"], None),
])
def test_csv_has_classes_where_few_whole_numbers_from_0_are_written(tmp_path, lines, classes) -> None:
    split = load(in_file("data.csv", "\n".join(lines))(tmp_path), test_fraction=0)
    assert split.classes == classes
    assert split.train.y.shape == ((len(lines),) if classes else (len(lines), 1))
    assert split.train.y.dtype == (np.int64 if classes else np.float32)


@pytest.mark.parametrize("labels, classes, y", [
    ("+1 -1 -1", 2, [1, 0, 0]), ("1 2 2", 3, [1, 2, 2]), ("-1 0 1", None, [[-1], [0], [1]]), ("1.5 2 2", None, None)])
def test_svmlight_has_classes_for_signs_and_for_whole_numbers(tmp_path, labels, classes, y) -> None:
    path = in_file("data.svm", "".join(f"{label} 2:1\n" for label in labels.split()))(tmp_path)
    split = load(path, test_fraction=0)
    assert split.classes == classes
    assert y is None or split.train.y.tolist() == y
    assert load(path, test_fraction=0, task="regression").train.y.ravel().tolist() == list(map(float, labels.split()))


@pytest.mark.parametrize("y, classes", [
    (np.array([0, 3]), 4), (np.array([True, False]), 2), (np.array([0.0, 3]), None)])
def test_npz_has_classes_where_y_is_of_integers(tmp_path: Path, y: np.ndarray, classes: int | None) -> None:
    path = in_file("data.npz", npz_bytes(x=np.zeros((2, 2)), y=y))(tmp_path)
    assert load(path, test_fraction=0).classes == classes
    assert load(path, test_fraction=0, task="classification").classes == int(y.max()) + 1
    assert load(path, test_fraction=0, task="regression").train.y.ravel().tolist() == y.tolist()


@pytest.mark.parametrize("target", ["age", "2", "-2"])
def test_the_target_column_is_named_or_numbered(tmp_path: Path, target: str) -> None:
    path = in_file("data.csv", '"first", age ,third\n1,2.5,3\n\n4,5.5,6\n')(tmp_path)
    part = csv.read(path, target).train
    assert part.y.tolist() == [2.5, 5.5] and part.x.tolist() == [[1, 3], [4, 6]]
    assert part.place(1) == f"{path}, line 4"
