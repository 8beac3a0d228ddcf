"""What a wrapped model is called with: where its samples are, among whatever else its forward takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from npdp.autograd import Batch, Tensor
from npdp.autograd.sparse_rows import SparseRows
from npdp.nn.module import as_tensor
from npdp.nn.parameter import Parameter


def rows_in(value: Any) -> Iterator[Any]:
    """Yield what has rows, arrays of at least one dimension, in its order: also in tuples, lists and dicts."""
    for each in _all_in(value):
        if isinstance(each, SparseRows) or getattr(each, "ndim", 0) >= 1:
            yield each


def batch_of(value: Any) -> Batch | None:
    """Return the batch that a Tensor or SparseRows says it is a part of."""
    return value.batch if isinstance(value, (Tensor, SparseRows)) else None


def with_rows(value: Any, rows: Any, instead: Any) -> Any:
    """Return the same with `instead` wherever it has `rows`."""
    return _changed(value, lambda each: instead if each is rows else each)


def with_batch(value: Any, batch: Batch) -> Any:
    """Return the same with its tensors that have as many rows as a batch, and say nothing, taken for rows of that."""

    def tagged(each: Any) -> Any:
        is_silent = isinstance(each, (Tensor, SparseRows)) and not isinstance(each, Parameter) and each.batch is None
        return as_rows_of(each, batch) if is_silent and each.shape[:1] == (batch.count,) else each

    return _changed(value, tagged)


def as_rows(value: Any) -> Tensor | SparseRows:
    """Return what has rows as what can carry a batch: a CSR matrix of scipy's as SparseRows, all else as a Tensor."""
    if isinstance(value, SparseRows) or getattr(value, "format", None) == "csr":
        return SparseRows.of(value)
    return as_tensor(value)


def as_rows_of(x: Tensor | SparseRows, batch: Batch) -> Tensor | SparseRows:
    """Return the same as rows of a batch."""
    if isinstance(x, SparseRows):
        return x.with_batch(batch)
    tagged = x.reshape(x.shape)  # another tensor, through which the gradient still reaches x
    tagged.batch = batch
    return tagged


def tag(outputs: Any, batch: Batch) -> None:
    """Let the results of a forward carry its batch where they do not: it has made them of arrays."""
    for each in _all_in(outputs):
        is_result = isinstance(each, Tensor) and each.batch is None and each.node is not None
        if is_result and (not each.ndim or len(each) == batch.count):  # a loss, or rows of it
            each.batch = batch


def hiding_place(value: Any) -> Any:
    """Return the first object in there that may have samples where nobody looks for them; None where there is none."""
    return next((each for each in _all_in(value) if _may_hide(each)), None)


def _may_hide(value: Any) -> bool:
    if isinstance(value, (Tensor, SparseRows)) or callable(value):
        return False
    return type(value).__module__.partition(".")[0] not in ("builtins", "numpy")


def is_counted(outputs: Any) -> bool:
    """Return whether a batch is known that any of these results comes from, or none of them is trained by."""
    tensors = [tensor for tensor in _all_in(outputs) if isinstance(tensor, Tensor) and tensor.node is not None]
    return not tensors or any(tensor.batch is not None for tensor in tensors)


def _all_in(value: Any) -> Iterator[Any]:
    if not isinstance(value, (tuple, list, dict)):
        yield value
        return
    for each in _members(value):
        yield from _all_in(each)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same with what `change` makes of all in it; tuples, lists and dicts that hold that are new then."""
    changed = change(value)
    if changed is not value or not isinstance(value, (tuple, list, dict)):
        return changed
    members = list(_members(value))
    made = [_changed(each, change) for each in members]
    if all(new is old for new, old in zip(made, members)):
        return value
    if isinstance(value, tuple):
        return value._make(made) if hasattr(value, "_make") else type(value)(made)  # a namedtuple, or another
    copied: Any = copy.copy(value)  # also of an OrderedDict, say
    for key, each in zip(value if isinstance(value, dict) else range(len(value)), made):
        copied[key] = each
    return copied


def _members(value: Any) -> Iterable[Any]:
    """Return what is in a tuple, list or dict."""
    return value.values() if isinstance(value, dict) else value
