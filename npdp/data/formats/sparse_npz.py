"""Sparse data in an .npz file: the arrays of compressed rows as they are in memory, so reading is copying.

    indptr   (N + 1,)  integers   where each sample's entries begin, and where the last one's end
    indices  (entries,) integers  feature of each entry, from 0
    values   (entries,) numbers   its value
    shape    (2,)      integers   N and the number of features
    y        (N,)                 labels or targets
    and, if there is a test part, the same names with _test behind them

Arrays are checked against the file's size before they are read (npz.py). The number of features in `shape` cannot be: a
model has a row for each, and is refused where there is no room for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npdp.autograd.sparse_rows import SparseRows
from npdp.base.errors import InputError
from npdp.data.formats.raw import Array, Part, RawData
from npdp.data.sparse import SparseDataset

ARRAYS = ("indptr", "indices", "values", "shape", "y")


def write(path: str, train: SparseDataset, test: SparseDataset | None = None) -> None:
    """Write sparse data to an .npz file, uncompressed: as quick to read as the disk is."""
    arrays: dict[str, Any] = {}
    for dataset, suffix in ((train, ""), (test, "_test")):
        if dataset is not None:
            x = dataset.x
            found = (x.indptr, x.indices, x.values, np.array(x.shape), dataset.y)
            arrays.update({name + suffix: array for name, array in zip(ARRAYS, found)})
    np.savez(path, **arrays)


def is_sparse(names: list[str]) -> bool:
    """Tell by the arrays' names whether a file holds sparse data."""
    return "indptr" in names or "indices" in names


def parts(place: Callable[[str], str], names: list[str], source: str, read: Callable[[str], Array]) -> RawData:
    """Put the parts together.

    Args:
        place: says where an array stands, for messages.
        names: of the arrays that are there.
        source: the file, for messages.
        read: gives an array by name.

    Raises:
        InputError: an array is missing, or the arrays do not fit together.
    """
    train = _part(place, names, source, read, "")
    has_test = any(f"{name}_test" in names for name in ARRAYS)
    test = _part(place, names, source, read, "_test") if has_test else None
    return RawData(train, test, classes=train.y.dtype.kind in "bui")


def _part(
    place: Callable[[str], str], names: list[str], source: str, read: Callable[[str], Array], suffix: str
) -> Part:
    wanted = [name + suffix for name in ARRAYS]
    for name in wanted:
        if name not in names:
            raise InputError(f"{source}: expected the array '{name}', found {', '.join(sorted(names))}")
    arrays = [read(name) for name in wanted]
    for name, array in zip(wanted[:2] + wanted[3:4], arrays[:2] + arrays[3:4]):
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise InputError(f"{place(name)}: expected one dimension of integers, got {array.dtype} "
                             f"of shape {array.shape}")  # fmt: skip
    indptr, indices, values, shape, y = arrays
    if len(shape) != 2:
        raise InputError(f"{place(wanted[3])}: expected the numbers of samples and features, got {len(shape)} numbers")
    if y.shape not in ((shape[0],), (shape[0], 1)):
        raise InputError(f"{place(wanted[4])}: expected {shape[0]} labels, one a sample, got shape {y.shape}")
    try:
        x = SparseRows(indptr, indices, values, (int(shape[0]), int(shape[1])))
    except ValueError as error:
        raise InputError(f"{source}, arrays {', '.join(wanted[:3])}: {error}") from None
    return Part(x, y.reshape(len(y)), lambda row: f"{source}, sample {row}")
