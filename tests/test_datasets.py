"""Datasets, scaling, the split, and the three sources."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npdp.base.errors import InputError
from npdp.data.datasets import HASHED_WHOLE_BYTES, ArrayDataset
from npdp.data.scaling import ScaledDataset, moments
from npdp.data.sources import load

FASHION = "/usr/share/datasets/fashion-mnist"


def numbered(count: int, columns: int = 3) -> ArrayDataset:
    return ArrayDataset(np.arange(count * columns, dtype=np.float32).reshape(count, columns), np.arange(count))


@given(st.lists(st.integers(0, 6)))
def test_take_gives_the_rows_asked_for_in_that_order(rows: list[int]) -> None:
    dataset = numbered(7)
    x, y = dataset.take(np.array(rows, dtype=np.intp))
    np.testing.assert_array_equal(x, dataset.x[rows] if rows else np.empty((0, 3)))
    np.testing.assert_array_equal(y, rows)


@pytest.mark.parametrize("rows", [np.array([2, 0]), slice(0, 2), slice(None), slice(6, 0, -2)])
def test_take_gives_fresh_contiguous_arrays(rows: np.ndarray | slice) -> None:
    dataset = numbered(7)
    for ours, whole in zip(dataset.take(rows), (dataset.x, dataset.y), strict=True):
        assert ours.flags.c_contiguous and ours.flags.writeable
        assert not np.shares_memory(ours, whole)
        np.testing.assert_array_equal(ours, whole[rows])


def test_a_slice_of_a_dataset_is_what_take_gives() -> None:
    x, y = numbered(7)[2:5]
    np.testing.assert_array_equal(x, numbered(7).x[2:5])
    np.testing.assert_array_equal(y, [2, 3, 4])


def test_take_reads_any_layout_and_byte_order() -> None:
    x = np.asfortranarray(np.arange(12.0).reshape(4, 3))[::-1]
    np.testing.assert_array_equal(ArrayDataset(x, np.arange(4)).take(np.array([3, 1]))[0], x[[3, 1]])


@pytest.mark.parametrize("rows", [[-1], [0, 7], [2**40], [[0]], [0.0]])
def test_take_refuses_rows_outside_the_dataset(rows: list[object]) -> None:
    with pytest.raises(IndexError, match="expected"):
        numbered(7).take(np.array(rows))


@pytest.mark.parametrize("x, y", [(np.zeros((3, 2)), np.zeros(4)), (np.zeros(()), np.zeros(1))])
def test_arrays_that_do_not_fit_are_refused(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(InputError, match="dataset: expected .* got"):
        ArrayDataset(x, y)


def test_fingerprint_sees_content_shape_and_dtype() -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4)
    changed = x.copy()
    changed[2, 1] += 1
    prints = {dataset.fingerprint() for dataset in (
        ArrayDataset(x, y), ArrayDataset(changed, y), ArrayDataset(x.reshape(4, 3, 1), y),
        ArrayDataset(x.view(np.int32), y), ArrayDataset(x, y + 1), ArrayDataset(x[:3], y[:3]))}
    assert len(prints) == 6
    assert ArrayDataset(x.copy(order="F"), y.copy()).fingerprint() == ArrayDataset(x, y).fingerprint()


def test_fingerprint_of_a_large_array_reads_some_rows_first_and_last_among_them(monkeypatch) -> None:
    rows = 5000
    columns = HASHED_WHOLE_BYTES // rows // 8 + 1
    dataset = ArrayDataset(np.zeros((rows, columns)), np.zeros(rows))
    before = dataset.fingerprint()
    for row in (0, rows - 1):
        dataset.x[row, -1] = 1
        assert dataset.fingerprint() != before
        dataset.x[row, -1] = 0
    dataset.x[1] = 1  # between two rows that are read
    assert dataset.fingerprint() == before


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (9,), (1024,), (5000,), (9, 1), (600, 3), (3, 2000)], ids=str)
def test_a_checksum_tells_labels_apart_whatever_their_dtype(shape, dtype) -> None:
    labels = (np.arange(np.prod(shape)) % 7).reshape(shape)
    x = np.zeros((len(labels), 1))
    checksum = ArrayDataset(x, labels.astype(dtype)).labels_checksum()
    assert checksum == ArrayDataset(x, labels).labels_checksum() != 0
    for place in (0, -1):
        other = labels.copy()
        other[place] += 1
        assert ArrayDataset(x, other.astype(dtype)).labels_checksum() != checksum


@pytest.mark.parametrize("label", [0.5, np.nan, np.inf, 1 + 2**-40])
def test_labels_that_are_no_whole_numbers_have_no_checksum(label) -> None:
    assert ArrayDataset(np.zeros((3, 1)), np.array([1.0, label, 2.0])).labels_checksum() == 0
    assert ArrayDataset(np.zeros((2, 1)), np.array(["a", "b"])).labels_checksum() == 0


def test_an_empty_dataset_has_a_fingerprint_and_gives_no_rows() -> None:
    dataset = ArrayDataset(np.empty((0, 4)), np.empty(0))
    assert len(dataset.fingerprint()) == 32
    assert dataset.take(np.array([], dtype=np.intp))[0].shape == (0, 4)
    assert dataset.take(slice(None))[0].shape == (0, 4)


def test_moments_are_those_of_numpy_and_1_for_a_constant_feature() -> None:
    x = np.random.default_rng(0).normal(1e6, 3.0, (5000, 70))
    x[:, 5] = 0.1
    mean, deviation = moments(ScaledDataset(x, np.zeros(5000), dtype="float64"))
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.delete(deviation, 5), np.delete(x.std(axis=0), 5), rtol=1e-9)
    assert mean[5] == 0.1 and deviation[5] == 1.0


@pytest.mark.parametrize("unit, standardized", [(1.0, False), (255.0, False), (255.0, True)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaling_when_taken_and_scaling_once_give_the_same_bits(unit: float, standardized: bool, dtype: str) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
    rows = np.array([8, 1, 3, 4])
    mean_deviation = moments(ScaledDataset(raw, np.zeros(9), dtype="float64", unit=unit)) if standardized else None
    lazy = ScaledDataset(raw, np.arange(4), rows=rows, dtype=dtype, unit=unit, moments=mean_deviation)
    once = lazy.in_memory()
    assert lazy.dtype == once.dtype == np.dtype(dtype) and lazy.sample_shape == once.sample_shape == (20,)
    assert lazy.fingerprint() == once.fingerprint()
    for chosen in (np.array([3, 0]), slice(1, 3)):
        np.testing.assert_array_equal(lazy.take(chosen)[0], once.take(chosen)[0])
    flat = raw[rows].reshape(4, 20) / unit
    wanted = (flat - mean_deviation[0]) / mean_deviation[1] if mean_deviation else flat
    np.testing.assert_allclose(lazy.x, wanted, rtol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 255.0, 0.3])
@given(st.data(), st.integers(1, 12), st.sampled_from([(), (0,), (1,), (5, 7), (784,)]), st.integers(0, 20))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_pixels_in_one_pass_are_what_they_are_in_three(unit, data, count, shape, taken) -> None:
    rng = np.random.default_rng(count)
    raw = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    rows = data.draw(st.none() | st.lists(st.integers(0, count - 1), min_size=1).map(np.array))
    numbers = np.arange(count) if rows is None else rows
    places = data.draw(st.slices(len(numbers)) | st.just(rng.integers(0, len(numbers), taken)))
    got, labels = ScaledDataset(raw, numbers, rows=rows, unit=unit).take(places)
    wanted = raw[numbers[places]].reshape(len(labels), math.prod(shape)).astype(np.float32)
    wanted /= unit
    assert got.dtype == np.float32 and got.flags.c_contiguous and got.flags.owndata
    np.testing.assert_array_equal(got, wanted)


def test_rows_outside_of_the_raw_array_are_refused() -> None:
    for rows in ([0, 3], [-1]):
        with pytest.raises(IndexError, match="expected 0 to 2, the rows of this dataset"):
            ScaledDataset(np.zeros((3, 2), np.uint8), np.zeros(len(rows)), rows=np.array(rows))


def test_digits_are_those_of_scikit_learn() -> None:
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    split = load("digits", test_fraction=0)
    assert split.classes == 10 and split.test is None
    assert split.train.x.dtype == np.float32 and split.train.y.dtype == np.int64
    np.testing.assert_array_equal(split.train.x, (x / 16).astype(np.float32))
    np.testing.assert_array_equal(split.train.y, y)


def test_digits_hold_out_a_fifth_rounded_up() -> None:
    split = load("digits")
    assert (len(split.train), len(split.test)) == (1437, 360)
    assert "\n" not in split.source and "10 classes" in split.source


@given(st.integers(2, 60), st.floats(0, 0.99), st.integers(0, 5))
def test_the_split_uses_every_sample_once_and_is_a_function_of_the_seed(count, fraction, seed) -> None:
    from npdp.data.sources import _split

    if np.ceil(fraction * count) >= count:
        return
    rows, test_rows = _split(count, fraction, seed, "data")
    if rows is None:
        assert fraction * count < 1e-6
        return
    assert len(test_rows) == int(np.ceil(round(fraction * count, 6)))
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, test_rows])), np.arange(count))
    np.testing.assert_array_equal(test_rows, _split(count, fraction, seed, "data")[1])


def test_another_seed_holds_out_other_samples() -> None:
    assert load("digits", seed=1).test.fingerprint() != load("digits", seed=0).test.fingerprint()
    assert load("digits", seed=1).test.fingerprint() == load("digits", seed=1).test.fingerprint()


@pytest.mark.parametrize("standardize", [False, True])
def test_synthetic_gives_back_its_true_weights_within_the_noise(standardize: bool) -> None:
    split = load("synthetic", test_fraction=0, dtype="float64", standardize=standardize)
    weight, bias = split.true_weights
    x, y = split.train.x, split.train.y
    assert split.classes is None and x.shape == (1000, 10) and y.shape == (1000, 1)
    found = np.linalg.lstsq(np.hstack([x, np.ones((1000, 1))]), y, rcond=None)[0][:, 0]
    true = np.append(weight[0], bias)
    assert np.abs(found - true).max() < 6 * 0.1 / np.sqrt(1000)
    assert abs((y - x @ weight.T - bias).std() - 0.1) < 0.01


def test_synthetic_is_a_function_of_the_seed() -> None:
    assert load("synthetic").train.fingerprint() == load("synthetic").train.fingerprint()
    assert load("synthetic").train.fingerprint() != load("synthetic", seed=1).train.fingerprint()


@pytest.mark.parametrize("spec", ["digits", "synthetic"])
def test_standardizing_uses_the_training_part_alone(spec: str) -> None:
    split, plain = load(spec, standardize=True, dtype="float64"), load(spec, dtype="float64")
    mean, deviation = split.scaling
    deviations = split.train.x.std(axis=0)
    np.testing.assert_allclose(split.train.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(deviations[plain.train.x.std(axis=0) > 0], 1)
    np.testing.assert_allclose(split.test.x, (plain.test.x - mean) / deviation, rtol=1e-9, atol=1e-12)


def test_an_npy_pair_stays_a_map_and_gives_what_an_npz_gives(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((50, 4)), generator.integers(0, 3, 50)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for standardize in (False, True):
        mapped, held = (load(str(tmp_path / name), standardize=standardize) for name in ("x.npy", "data.npz"))
        assert isinstance(mapped.train, ScaledDataset) and not isinstance(held.train, ScaledDataset)
        assert mapped.train.fingerprint() == held.train.fingerprint()
        assert mapped.test.fingerprint() == held.test.fingerprint()


@pytest.mark.skipif(not os.path.isdir(FASHION), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_loads_as_flat_pixels_from_0_to_1() -> None:
    split = load(FASHION)
    assert (len(split.train), len(split.test), split.classes) == (60000, 10000, 10)
    x, y = split.train.take(slice(0, 1000))
    assert x.shape == (1000, 784) and x.dtype == np.float32 and x.min() == 0 and x.max() == 1
    assert np.bincount(split.train.y).tolist() == [6000] * 10 and y[0] == 9


@pytest.mark.parametrize("wrong, words", [
    ({"test_fraction": 1.0}, "test fraction: expected a number from 0 to below 1, got 1.0"),
    ({"test_fraction": float("nan")}, "got nan"),
    ({"test_fraction": -0.1}, "got -0.1"),
    ({"seed": -1}, "seed: expected 0 or above, got -1"),
    ({"dtype": "int8"}, "dtype: expected float32 or float64, got int8"),
    ({"task": "ranking"}, "task: expected auto, classification, regression, got ranking"),
    ({"target": "age"}, "a target column (age) can be chosen in .csv files only"),
])
def test_wrong_settings_are_refused_in_one_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        load("digits", **wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)
