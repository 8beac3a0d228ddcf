"""Splitting a tensor along an axis: `split`, `chunk` and `unbind`, whose gradients are put together once.

    x ── pieces ──┬── piece ── x[:, :2]        each piece's gradient waits at the node between, and x's is made of all
                  └── piece ── x[:, 2:]        of them by one pass

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


class _Pieces:
    """The gradients of some pieces, and where these were taken."""

    def __init__(self, pieces: list[tuple[Index, Array]]) -> None:
        self.pieces = pieces

    def __add__(self, other: _Pieces) -> _Pieces:
        return _Pieces(self.pieces + other.pieces)


def _taken(x: Tensor, indices: list[Index]) -> tuple[Tensor, ...]:
    """Return views of a tensor that do not overlap, one for each index."""
    pieces = tuple(result(x.data[at], x.version) for at in indices)
    if x.requires_grad and is_grad_enabled():
        shape = x.shape

        def put_together(given: _Pieces) -> Array:
            whole = len(given.pieces) == len(indices)
            gradient = (np.empty if whole else np.zeros)(shape, given.pieces[0][1].dtype)
            for at, g in given.pieces:
                gradient[at] = g
            return gradient

        between = Node("pieces", [x.node or x], (put_together,), False, [])
        for at, piece in zip(indices, pieces):
            piece.requires_grad = True
            piece.node = Node("piece", [between], (lambda g, at=at: _Pieces([(at, g)]),), False, [])
    return pieces


def _at(x: Tensor, dim: int, part: Any) -> Index:
    return (slice(None),) * range(x.ndim)[dim] + (part,)


def split(x: Tensor, split_size: int | list[int] | tuple[int, ...], dim: int = 0) -> tuple[Tensor, ...]:
    """Return pieces along an axis, of so many elements each, the last perhaps of fewer; or of these extents, in turn.

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
    """Return at most so many pieces along an axis, all but the last of one extent, as PyTorch does.

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
