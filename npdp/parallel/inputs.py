"""What a wrapped model is called with: where its samples are, among whatever else its forward takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from npdp.autograd import Batch, Tensor
from npdp.autograd.given import changed, leaves
from npdp.autograd.sparse_rows import SparseRows
from npdp.nn.module import as_tensor
from npdp.nn.parameter import Parameter


def rows_in(value: Any) -> Iterator[Any]:
    """Yield what has rows, arrays of at least one dimension, in its order: also in tuples, lists and dicts."""
    for each in leaves(value):
        if isinstance(each, SparseRows) or getattr(each, "ndim", 0) >= 1:
            yield each


def batch_of(value: Any) -> Batch | None:
    """Return the batch that a Tensor or SparseRows says it is a part of."""
    return value.batch if isinstance(value, (Tensor, SparseRows)) else None


def with_rows(value: Any, rows: Any, instead: Any) -> Any:
    """Return the same with `instead` wherever it has `rows`."""
    return changed(value, lambda each: instead if each is rows else each)


def with_batch(value: Any, batch: Batch) -> Any:
    """Return the same with its tensors that have as many rows as a batch, and say nothing, taken for rows of that."""

    def tagged(each: Any) -> Any:
        is_silent = isinstance(each, (Tensor, SparseRows)) and not isinstance(each, Parameter) and each.batch is None
        return as_rows_of(each, batch) if is_silent and each.shape[:1] == (batch.count,) else each

    return changed(value, tagged)


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
    for each in leaves(outputs):
        is_result = isinstance(each, Tensor) and each.batch is None and each.node is not None
        if is_result and (not each.ndim or len(each) == batch.count):  # a loss, or rows of it
            each.batch = batch


def hiding_place(value: Any) -> Any:
    """Return the first object in there that may have samples where nobody looks for them; None where there is none."""
    return next((each for each in leaves(value) if _may_hide(each)), None)


def _may_hide(value: Any) -> bool:
    if isinstance(value, (Tensor, SparseRows)) or callable(value):
        return False
    return type(value).__module__.partition(".")[0] not in ("builtins", "numpy")


def is_counted(outputs: Any) -> bool:
    """Return whether a batch is known that any of these results comes from, or none of them is trained by."""
    tensors = [tensor for tensor in leaves(outputs) if isinstance(tensor, Tensor) and tensor.node is not None]
    return not tensors or any(tensor.batch is not None for tensor in tensors)
