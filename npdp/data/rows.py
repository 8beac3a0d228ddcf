"""Rows of any dataset as the arrays of a batch: at once where it has `take(rows)`, else one by one."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from npdp.autograd.sparse_rows import SparseRows
from npdp.autograd.tensor import Array


def take_rows(dataset: Any, rows: Any, whole_batches: bool) -> tuple[Array, Array]:
    """Return features and labels of some rows, stacked; `whole_batches` as `gives_batches` says."""
    if whole_batches:
        return dataset.take(rows)  # type: ignore[no-any-return]
    samples = [_pair(dataset[int(row)], row) for row in rows]
    if not samples:  # an empty part still needs the shape of a row
        x, y = _pair(dataset[0], 0)
        return np.empty((0, *np.shape(x)), np.asarray(x).dtype), np.empty((0, *np.shape(y)), np.asarray(y).dtype)
    return _stacked([x for x, _ in samples], "features"), _stacked([y for _, y in samples], "labels")


def _stacked(values: list[Any], what: str) -> Array:
    """Return the values of a batch as one array."""
    if isinstance(values[0], SparseRows):
        raise TypeError("DataLoader: sparse rows come a batch at once: override SparseDataset.take, not __getitem__")
    arrays = [np.asarray(value) for value in values]
    try:
        return np.stack(arrays)
    except ValueError:
        first, other, *_ = dict.fromkeys(array.shape for array in arrays)
        wanted = f"DataLoader: wanted {what} of one shape in all rows of a batch"
        raise ValueError(f"{wanted}, got {first} and {other}: pad them") from None


def _pair(sample: Any, row: Any) -> tuple[Any, Any]:
    """Return a row of a dataset; raise TypeError where it is not two things."""
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return sample[0], sample[1]
    count = f" of {len(sample)}" if isinstance(sample, (tuple, list, dict)) else ""
    raise TypeError(
        f"DataLoader: wanted rows of (features, label), got {type(sample).__name__}{count} as row {row} of the dataset"
    )


def gives_batches(dataset: Any) -> bool:
    """Return whether batches are to be had by the dataset's `take(rows)`, and not row by row."""
    has_rows = hasattr(dataset, "__getitem__")
    for kind in type(dataset).__mro__:  # the first that has either says what the rows are
        if "take" in vars(kind):
            return not has_rows or "rows" in inspect.signature(vars(kind)["take"]).parameters
        if "__getitem__" in vars(kind):
            return False
    return hasattr(dataset, "take")
