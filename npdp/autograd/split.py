"""Splitting a tensor along an axis: `split`, `chunk` and `unbind`, whose gradients are put together once.

    x ── views ──┬── view ── x[:, :2]        each view's gradient waits at the node between, and x's is made of all
                 └── view ── x[:, 2:]        of them by one pass

Each as an index of its own would make zeros of the size of x, and the engine would add these up: for query, key and
value of a language model, five arrays of three times their size.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from npdp.autograd.recording import is_grad_enabled
from npdp.autograd.tensor import Array, Node, Tensor, result

Index = tuple[Any, ...]


class _Views:
    """The gradients of some views, and where these were taken."""

    def __init__(self, views: list[tuple[Index, Array]]) -> None:
        self.views = views

    def __add__(self, other: _Views) -> _Views:
        return _Views(self.views + other.views)


def _taken(x: Tensor, indices: list[Index]) -> tuple[Tensor, ...]:
    """Return views of a tensor that do not overlap, one for each index."""
    views = tuple(result(x.data[at], x.version) for at in indices)
    if x.requires_grad and is_grad_enabled():
        shape = x.shape

        def put_together(given: _Views) -> Array:
            whole = len(given.views) == len(indices)
            gradient = (np.empty if whole else np.zeros)(shape, given.views[0][1].dtype)
            for at, g in given.views:
                gradient[at] = g
            return gradient

        between = Node("views", [x.node or x], (put_together,), False, [])
        for at, view in zip(indices, views):
            view.requires_grad = True
            view.node = Node("view", [between], (lambda g, at=at: _Views([(at, g)]),), False, [])
    return views


def _at(x: Tensor, dim: int, part: Any) -> Index:
    return (slice(None),) * range(x.ndim)[dim] + (part, ...)  # of a number too a view


def split(x: Tensor, split_size: int | list[int] | tuple[int, ...], dim: int = 0) -> tuple[Tensor, ...]:
    """Return views along an axis, of so many elements each, the last perhaps of fewer; or of these extents, in turn.

    Raises:
        ValueError: the extents do not add up to that of the axis, or a size is below 1.
    """
    extent = x.shape[dim]
    if isinstance(split_size, (list, tuple)):
        sizes = list(split_size)
        if sum(sizes) != extent or min(sizes, default=0) < 0:
            raise ValueError(f"split: wanted sizes that add up to {extent}, the extent of axis {dim}, got {sizes}")
    elif split_size < 1:
        raise ValueError(f"split: split_size must be at least 1, got {split_size}")
    else:
        sizes = [min(split_size, extent - start) for start in range(0, extent, split_size)] or [0]
    ends = accumulate(sizes, initial=0)
    return _taken(x, [_at(x, dim, slice(start, stop)) for start, stop in pairwise(ends)])


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return at most so many views along an axis, all but the last of one extent, as PyTorch does.

    Raises:
        ValueError: `chunks` is below 1.
    """
    if chunks < 1:
        raise ValueError(f"chunk: chunks must be at least 1, got {chunks}")
    extent = x.shape[dim]
    return split(x, -(-extent // chunks), dim) if extent else split(x, [0] * chunks, dim)


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the elements along an axis, without it."""
    return _taken(x, [_at(x, dim, number) for number in range(x.shape[dim])])


for _method in (split, chunk, unbind):
    setattr(Tensor, _method.__name__, _method)
