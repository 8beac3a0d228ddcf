"""Targets: tells classes from numbers in `y`, and turns them into what training uses.

| file             | classes where                                                              | else       |
|------------------|----------------------------------------------------------------------------|------------|
| IDX              | always                                                                     |            |
| .npz, .npy       | `y` has an integer dtype                                                   | regression |
| .csv, .svm       | all targets are written as whole numbers from 0 (svmlight also: -1 and +1) | regression |
|                  | and have at most max(20, sqrt(N)) distinct values, below 65536             |            |

A task that is asked for goes before all of these.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import DTypeLike

from npdp.base.errors import InputError
from npdp.data.formats.raw import Array, Part, RawData

FEW_VALUES = 20  # so many distinct whole numbers are taken for classes however few the samples
SIGNS = (-1, 1)  # as labels, what stands in a file for the classes 0 and 1
CLASSES_MAX = 2**16  # or as many as there are samples: a model has a row per class, and memory is not endless


def is_classification(raw: RawData, task: str) -> bool:
    """Decide between classes and numbers by the table above.

    Args:
        raw: what a reader found.
        task: "auto", "classification" or "regression".
    """
    if task not in TASKS:
        raise InputError(f"task: expected {', '.join(TASKS)}, got {task}")
    return TASKS[task](raw)


def class_labels(raw: RawData) -> tuple[Array, Array | None, int]:
    """Check all labels and count the classes, the highest label of both parts plus one.

    Returns:
        (N,) int64 labels of the training part, the same of the test part or None, number of classes.

    Raises:
        InputError: a label is negative, no integer, or absurdly large.
    """
    parts = [_from_signs(part) if raw.signs else part for part in (raw.train, raw.test) if part]
    labels = [_checked_labels(part) for part in parts]
    return labels[0], labels[1] if raw.test else None, 1 + max(int(part.max(initial=0)) for part in labels)


def doubt(raw: RawData, task: str, classes: int | None) -> tuple[str, ...]:
    """Return the line that says that many whole numbers were taken for classes, which they need not be; or none."""
    if task != "auto" or classes is None or classes <= FEW_VALUES:
        return ()
    values = len(np.unique(raw.train.y))
    if values <= FEW_VALUES:
        return ()
    return (f"the target's {values} different whole numbers are taken for classes: --task regression takes them for "
            "numbers, --task classification leaves this line out",)


def regression_targets(part: Part, dtype: DTypeLike) -> Array:
    """Turn targets into a column.

    Returns:
        (N, 1) of the dtype, fresh.

    Raises:
        InputError: a target is not finite in this dtype.
    """
    refuse_infinite(part.y, part.place, dtype, "target")
    return part.y.astype(dtype).reshape(-1, 1)


def refuse_infinite(array: Array, place: Callable[[int], str], dtype: DTypeLike, what: str) -> None:
    """Refuse NaN, infinity and numbers too large for the dtype, naming the first sample that has one.

    Args:
        array: (N, ...).
        place: says where the first index stands, as `Part.place` does.
        dtype: float32 or float64.
        what: "feature" or "target".
    """
    if array.dtype.kind != "f" or not array.size:
        return
    limit = np.finfo(np.dtype(dtype)).max
    if -limit <= array.min() and array.max() <= limit:  # false for NaN, which min and max pass on
        return
    index = np.argwhere(~(np.abs(array) <= limit))[0]
    raise InputError(f"{place(int(index[0]))}: expected finite {what}s within {np.dtype(dtype).name}, "
                     f"got {array[tuple(index)]}")


def _looks_like_classes(raw: RawData) -> bool:
    if raw.classes is not None:
        return raw.classes
    values = np.unique(raw.train.y)
    few = len(values) <= max(FEW_VALUES, sqrt(len(raw.train.y)))
    return raw.signs or bool(few and values[0] >= 0 and values[-1] < CLASSES_MAX)


def _from_signs(part: Part) -> Part:
    return Part(part.x, (part.y > 0).astype(np.int64), part.place)


def _checked_labels(part: Part) -> Array:
    labels = part.y
    if labels.dtype.kind == "f":
        _refuse_first(part, ~(labels == np.floor(labels)), "labels must be integers from 0 up")
    _refuse_first(part, labels < 0, "labels must be integers from 0 up")
    limit = max(CLASSES_MAX, len(labels))
    _refuse_first(part, labels >= limit, f"labels must be below {limit} (classes count from 0)")
    return labels.astype(np.int64)


def _refuse_first(part: Part, wrong: Array, law: str) -> None:
    for row in np.flatnonzero(wrong)[:1]:
        raise InputError(f"{part.place(int(row))}: {law}, got {part.y[row]}")


TASKS: dict[str, Callable[[RawData], bool]] = {
    "auto": _looks_like_classes, "classification": lambda raw: True, "regression": lambda raw: False}
