"""Loading of the data that `--data` names, ready to train on.

    spec ── read ── labels or numbers ── split ── scale ── DataSplit(train, test)
            digits, synthetic, formats/  targets.py        scaling.py

Texts go their own way, text/: tokens take the place of features, and the end of a text is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from npdp.autograd.sparse_rows import SparseRows
from npdp.base.errors import InputError
from npdp.base.text_files import TEXT_SUFFIXES
from npdp.data import digits, formats, text
from npdp.data.datasets import Array, ArrayDataset
from npdp.data.formats.raw import Columns, Part, RawData
from npdp.data.scaling import Moments, ScaledDataset, moments
from npdp.data.sparse import SparseDataset
from npdp.data.targets import SIGNS, class_labels, doubt, is_classification, refuse_infinite, regression_targets
from npdp.data.text import Tokenizer

BUILT_IN = ("digits", "synthetic")
TEST_FRACTION = 0.2  # of tables
DTYPES = ("float32", "float64")
SYNTHETIC_SAMPLES, SYNTHETIC_FEATURES, SYNTHETIC_NOISE = 1000, 10, 0.1
PIXELS_SCALED_ONCE_BYTES = 2**20  # larger uint8 data stays as it is, see scaling.py
SPLIT_STREAM, SYNTHETIC_STREAM = 1, 2  # behind the seed: the draws of one purpose do not repeat in another

TrueWeights = tuple[NDArray[np.float64], NDArray[np.float64]]  # weight (1, D), bias (1,), as nn.Linear has them


@dataclass(frozen=True)
class DataSplit:
    """Data ready to train on.

    Attributes:
        train: (N, D) features of the dtype asked for; (N,) int64 labels or (N, 1) targets; of text (N, context) int64
            tokens and what follows each of them.
        test: the same of the held-out part; None where there is none.
        classes: number of classes, of text of tokens; None for regression.
        source: one line that says what this is.
        labels: what stands for each class in the file, where that is not its number: -1 and 1; else None.
        scaling: mean and deviation, (D,) float64 each, by which `standardize` scaled the features; else None.
        true_weights: weight (1, D) and bias (1,) that made `synthetic`, for its features as given here; else None.
        columns: the names of features and target, where a .csv has them; else None.
        notes: lines to be said of how the data was understood.
        tokenizer: of text, what cut it into tokens.
    """

    train: ArrayDataset
    test: ArrayDataset | None
    classes: int | None
    source: str
    labels: tuple[int, ...] | None = None
    scaling: Moments | None = None
    true_weights: TrueWeights | None = None
    columns: Columns | None = None
    notes: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None


def load(spec: str, *, target: str | None = None, test_fraction: float | None = None, seed: int = 0,
         standardize: bool = False, dtype: str = "float32", task: str = "auto", sparse: bool = False,
         trained: Columns | None = None, tokenizer: str | Tokenizer | None = None,
         context: int | None = None) -> DataSplit:
    """Load data, choose its test part where it has none, and scale it.

    Args:
        spec: "digits", "synthetic", or the path of a file or folder (see `npdp.data.formats`); or a text (`text.load`).
        target: name or number (from 1; from the end -1, ...) of the target's column in a .csv; default the last.
        test_fraction: where the data has no test part, ceil(test_fraction * N) samples become one; 0 for none,
            0.2 by default; of text the end, 0.1 by default.
        seed: chooses those samples, and draws `synthetic`.
        standardize: scale features by mean and deviation of the training part.
        dtype: "float32" or "float64", of features and targets.
        task: "classification", "regression", or "auto", by the rule in `npdp.data.targets`.
        sparse: read .svm and .libsvm as `SparseDataset`s, without making the table; an .npz file says what it is.
        trained: columns that a model was trained on: those of a .csv with a header are put in their order, by name.
        tokenizer, context: of text alone, see `text.load`.

    Raises:
        InputError: anything that cannot be used, in one line: file, place, wanted, got.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: expected {' or '.join(DTYPES)}, got {dtype}")
    if seed < 0:
        raise InputError(f"seed: expected 0 or above, got {seed}")
    if test_fraction is not None and not 0 <= test_fraction < 1:
        raise InputError(f"test fraction: expected a number from 0 to below 1, got {test_fraction}")
    if spec not in BUILT_IN and not formats.is_folder(spec) and text.is_text(spec):
        tables = {"target": target, "standardize": standardize, "sparse": sparse, "regression": task == "regression"}
        return _text(spec, tables, tokenizer, context, test_fraction)
    if tokenizer is not None or context is not None:
        what = "context" if tokenizer is None else "tokenizer" if isinstance(tokenizer, str) else "a language model"
        raise InputError(f"{spec}: {what} is for text, this is none: "
                         f"python-docs, a folder of texts or a file ending in {', '.join(TEXT_SUFFIXES)}")
    raw, true_weights = _read(spec, target, seed, sparse, trained)
    _check(raw, spec, dtype)
    if sparse or isinstance(raw.train.x, SparseRows):
        _check_sparse(raw, spec, standardize)
    test_fraction = 0 if raw.test else TEST_FRACTION if test_fraction is None else test_fraction
    return _tables(raw, true_weights, spec, test_fraction, seed, standardize, dtype, task)


def _tables(raw: RawData, true_weights: TrueWeights | None, spec: str, test_fraction: float, seed: int,
            standardize: bool, dtype: str, task: str) -> DataSplit:
    y, y_test, classes = _targets(raw, task, dtype)
    rows, test_rows = _split(len(y), test_fraction, seed, spec)
    scaling = _moments(raw, y, rows) if standardize else None
    train = _dataset(raw.train, y, rows, raw.unit, scaling, dtype)
    if raw.test and y_test is not None:
        test: ArrayDataset | None = _dataset(raw.test, y_test, None, raw.unit, scaling, dtype)
    else:
        test = _dataset(raw.train, y, test_rows, raw.unit, scaling, dtype) if test_rows is not None else None
    labels = SIGNS if raw.signs and classes is not None else None
    return DataSplit(train, test, classes, _line(spec, train, test, classes, labels, bool(raw.test), seed), labels,
                     scaling, _scaled_weights(true_weights, scaling), raw.columns,
                     raw.notes + doubt(raw, task, classes))


def _text(spec: str, tables: Mapping[str, object], tokenizer: str | Tokenizer | None, context: int | None,
          test_fraction: float | None) -> DataSplit:
    for name in (name for name, given in tables.items() if given):
        raise InputError(f"{spec}: {name} is for tables, this is text")
    split = text.load(spec, tokenizer, context, test_fraction)
    classes = split.tokenizer.vocabulary_size
    return DataSplit(split.train, split.test, classes, split.source, tokenizer=split.tokenizer)


def _read(spec: str, target: str | None, seed: int, sparse: bool,
          trained: Columns | None) -> tuple[RawData, TrueWeights | None]:
    if spec not in BUILT_IN:
        return formats.read(spec, target, sparse, trained), None
    if target is not None:
        raise InputError(f"{spec}: a target column ({target}) can be chosen in .csv files only")
    if spec == "synthetic":
        return _synthetic(seed)
    return digits.read(), None


def _synthetic(seed: int) -> tuple[RawData, TrueWeights]:
    """Draw a linear regression whose answer is known: y = x @ weight.T + bias + noise of deviation 0.1."""
    generator = np.random.default_rng([seed, SYNTHETIC_STREAM])
    weight = generator.standard_normal((1, SYNTHETIC_FEATURES))
    bias = generator.standard_normal(1)
    x = generator.standard_normal((SYNTHETIC_SAMPLES, SYNTHETIC_FEATURES))  # (N, D)
    y = (x @ weight.T + bias)[:, 0] + SYNTHETIC_NOISE * generator.standard_normal(SYNTHETIC_SAMPLES)  # (N,)
    return RawData(Part(x, y, lambda row: f"synthetic, sample {row}"), classes=False), (weight, bias)


def _scaled_weights(true_weights: TrueWeights | None, scaling: Moments | None) -> TrueWeights | None:
    if true_weights is None or scaling is None:
        return true_weights
    (weight, bias), (mean, deviation) = true_weights, scaling
    return weight * deviation, bias + weight @ mean


def _check(raw: RawData, spec: str, dtype: str) -> None:
    if not len(raw.train.y) or not prod(raw.train.x.shape[1:]):
        raise InputError(f"{spec}: expected samples with features, got {len(raw.train.y)} samples "
                         f"of shape {raw.train.x.shape[1:]}")
    if raw.test and raw.test.x.shape[1:] != raw.train.x.shape[1:]:
        raise InputError(f"{raw.test.place(0)}: expected test samples of shape {raw.train.x.shape[1:]} "
                         f"as in the training part, got {raw.test.x.shape[1:]}")
    for part in (raw.train, raw.test):
        if part is None or isinstance(part.x, np.memmap):  # a map may be larger than memory: not read here
            continue
        if isinstance(part.x, SparseRows):
            refuse_infinite(part.x.values, _place_of_entry(part), dtype, "feature")
        else:
            refuse_infinite(part.x, part.place, dtype, "feature")


def _check_sparse(raw: RawData, spec: str, standardize: bool) -> None:
    if not isinstance(raw.train.x, SparseRows):
        raise InputError(f"{spec}: sparse data is read from .svm and .libsvm files, and from .npz files with the "
                         f"arrays indptr, indices, values, shape and y; got a table of {raw.train.x.shape}")
    if standardize:
        raise InputError(f"{spec}: standardize would make sparse data dense, as it moves every zero by the mean; "
                         "scale the values in the file instead")


def _place_of_entry(part: Part) -> Callable[[int], str]:
    """Return what says where an entry of sparse features stands: its sample does."""
    return lambda entry: part.place(int(np.searchsorted(part.x.indptr, entry, side="right")) - 1)


def _targets(raw: RawData, task: str, dtype: str) -> tuple[Array, Array | None, int | None]:
    if is_classification(raw, task):
        return class_labels(raw)
    y_test = regression_targets(raw.test, dtype) if raw.test else None
    return regression_targets(raw.train, dtype), y_test, None


def _split(count: int, test_fraction: float, seed: int,
           spec: str) -> tuple[NDArray[np.intp] | None, NDArray[np.intp] | None]:
    """Choose rows for training and test, each in the order of the file; None, None where all are for training."""
    test_count = ceil(round(test_fraction * count, 6))  # rounded: 0.07 * 100 is a little above 7
    if test_count == 0:
        return None, None
    if test_count == count:
        raise InputError(f"{spec}: test fraction {test_fraction} of {count} samples leaves none to train on")
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(count)
    return np.sort(order[test_count:]), np.sort(order[:test_count])


def _moments(raw: RawData, y: Array, rows: NDArray[np.intp] | None) -> Moments:
    y = y if rows is None else y[rows]
    return moments(ScaledDataset(raw.train.x, y, rows=rows, dtype="float64", unit=raw.unit))


def _dataset(part: Part, y: Array, rows: NDArray[np.intp] | None, unit: float, scaling: Moments | None,
             dtype: str) -> ArrayDataset:
    y = y if rows is None else y[rows]
    if isinstance(part.x, SparseRows):
        return SparseDataset((part.x if rows is None else part.x.take(rows)).astype(dtype), y)
    dataset = ScaledDataset(part.x, y, rows=rows, dtype=dtype, unit=unit, moments=scaling)
    many_bytes = part.x.dtype == np.uint8 and part.x.nbytes > PIXELS_SCALED_ONCE_BYTES and scaling is None
    return dataset if many_bytes or isinstance(part.x, np.memmap) else dataset.in_memory()


def _line(spec: str, train: ArrayDataset, test: ArrayDataset | None, classes: int | None,
          labels: tuple[int, ...] | None, own_test: bool, seed: int) -> str:
    kind = f"{classes} class{'es' * (classes != 1)}" if classes is not None else "regression"
    kind += f" ({' and '.join(map(str, labels))})" if labels is not None else ""
    held_out = "no test part" if test is None else f"{len(test)} to test" + ("" if own_test else f" (seed {seed})")
    return f"{spec}: {train.sample_shape[0]} features, {kind}, {len(train)} samples to train on, {held_out}"
