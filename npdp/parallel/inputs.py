"""What a wrapped model is called with: where its samples are, among whatever else its forward takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from npdp.autograd import Batch, Tensor
from npdp.autograd.sparse_rows import SparseRows
from npdp.nn.module import as_tensor


def rows_in(value: Any) -> Iterator[Any]:
    """Yield what has rows, arrays of at least one dimension, in its order: also in tuples, lists and dicts."""
    if type(value) in (tuple, list, dict):
        for each in value.values() if type(value) is dict else value:
            yield from rows_in(each)
    elif isinstance(value, SparseRows) or getattr(value, "ndim", 0) >= 1:
        yield value


def batch_of(value: Any) -> Batch | None:
    """Return the batch that a Tensor or SparseRows says it is a part of."""
    return value.batch if isinstance(value, (Tensor, SparseRows)) else None


def with_rows(value: Any, rows: Any, instead: Any) -> Any:
    """Return the same with `instead` wherever it has `rows`; tuples, lists and dicts are new then."""
    if value is rows:
        return instead
    if type(value) is dict:
        return {name: with_rows(each, rows, instead) for name, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(with_rows(each, rows, instead) for each in value)
    return value


def as_rows(value: Any) -> Tensor | SparseRows:
    """Return what has rows as what can carry a batch: a CSR matrix of scipy's as SparseRows, all else as a Tensor."""
    if isinstance(value, SparseRows) or getattr(value, "format", None) == "csr":
        return SparseRows.of(value)
    return as_tensor(value)


def tag(outputs: Any, batch: Batch) -> None:
    """Let the results of a forward carry its batch where they do not: it has made them of arrays."""
    if type(outputs) in (tuple, list, dict):
        for each in outputs.values() if type(outputs) is dict else outputs:
            tag(each, batch)
    elif isinstance(outputs, Tensor) and outputs.batch is None and outputs.node is not None:
        if outputs.ndim and len(outputs) != batch.count:  # no rows of it, and no loss
            return
        outputs.batch = batch
