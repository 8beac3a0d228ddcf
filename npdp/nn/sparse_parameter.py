"""Sparse parameters, of which a batch reads a few rows; only those have a gradient, travel and are updated.

    forward    a parameter server brings the rows that it will read     `fetch`
    backward   a RowGradient each time, added up by row                 `accumulate_grad`; autograd/rows.py
    exchange   those of all ranks, added up by row                      parallel/sparse.py
    step       data[rows] -= lr * gradient[rows]                        `step`; or a server does that: `row_updater`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from npdp.autograd.rows import RowGradient, Rows, no_rows
from npdp.autograd.tensor import Hook
from npdp.nn.parameter import Parameter


class SparseParameter(Parameter):
    """Parameter whose gradient is a `RowGradient`; it lies by itself, in C order, and takes no hooks.

    Raises:
        ValueError: the data is a number, and has no rows.

    Attributes:
        fetch: called with the rows, (k,) sorted and each once, that a forward is about to read, where `data` does not
            hold all rows by itself; it puts them there.
        row_updater: carries out the update, `row_updater(optimizer, parameter, gradient)`, where that is not left to
            the optimiser, be it of no rows: servers wait for all workers, and count steps. Values are read-only then.
        optimizer: weak reference to its optimiser, once it has one.
    """

    lies_flat = False
    raw_grad: Any = None  # a `RowGradient`; an array where an operation has read all of it
    fetch: Callable[[Rows], None] | None = None
    row_updater: Callable[[Any, SparseParameter, RowGradient], None] | None = None
    optimizer: Callable[[], Any] | None = None

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)
        if self.array.ndim == 0:
            raise ValueError("a sparse parameter needs rows, got a number")
        self.array = np.ascontiguousarray(self.array)
        self.hooks = []  # not None: `accumulate_grad` gets whole gradients

    def register_hook(self, hook: Hook) -> NoReturn:
        raise ValueError(
            "a hook takes and gives arrays, and a sparse parameter's gradient is rows: make the layer with "
            "sparse=False, or look at .grad after backward"
        )

    def accumulate_grad(self, gradient: Any, weight: float) -> None:
        if not weight:  # zeros, as of every leaf: a loss over no samples may be 0 / 0
            is_rows = isinstance(gradient, RowGradient)
            gradient = no_rows(self.shape, self.dtype) if is_rows else np.zeros(self.shape)
        gradient = gradient.astype(self.dtype)
        self.raw_grad = gradient if self.raw_grad is None else self.raw_grad + gradient

    def row_gradient(self) -> RowGradient | None:
        """Return the gradient, None where there is none.

        Raises:
            TypeError: it is an array, as operations leave that read the whole parameter.
        """
        gradient = self.raw_grad
        if gradient is None or type(gradient) is RowGradient:
            return gradient
        raise TypeError(
            f"a sparse parameter of shape {self.shape} has a gradient of type {type(gradient).__name__}: an operation "
            "that is not sparse read all of it; make the layer with sparse=False"
        )

    def holds_back(self) -> bool:
        """Return whether a step is to be left out.

        Raises:
            RuntimeError: the gradient is this rank's alone; TypeError where it is an array.
        """
        self.row_gradient()
        return self.reducer is not None and self.reducer.holds_back([self])  # type: ignore[attr-defined]

    def step(self, optimizer: Any, settings: dict[str, Any]) -> None:
        """Update the rows that have a gradient, by an optimiser with these settings."""
        gradient = self.row_gradient()
        if self.row_updater is not None:
            self.row_updater(optimizer, self, gradient or no_rows(self.shape, self.dtype))
        elif gradient is not None:
            optimizer.update_rows(self.array, gradient.rows, gradient.values, settings)
        else:
            return
        self.version[0] += 1
