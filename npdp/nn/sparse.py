"""Sparse layers, which read a few rows of a large weight: SparseLinear and Embedding.

    SparseLinear   x (n, features), sparse     y = x @ weight + bias        weight (features, outputs): a row a feature
    Embedding      numbers (...)               y = weight[numbers]          weight (numbers, width)

With `sparse=True`, the default of SparseLinear, what a batch does not touch costs nothing: forward reads the rows that
it needs, the gradient is a `RowGradient`, and optimisers and exchanges pass it on as rows. With `sparse=False`, the
default of Embedding as in PyTorch, the gradient is an array of the weight's size, which every optimiser takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from npdp.autograd import Node, Tensor, is_grad_enabled
from npdp.autograd.rows import Distinct, RowGradient, Rows
from npdp.autograd.sparse_rows import SparseRows
from npdp.autograd.tensor import Array, result
from npdp.base import random
from npdp.base.arguments import at_least_one, whole
from npdp.nn.initializers import normal
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter
from npdp.nn.products import sums_of_rows, times, transposed_times
from npdp.nn.sparse_parameter import SparseParameter


class SparseLinear(Module):
    """Linear layer on sparse data: y = x @ weight + bias.

    The weight has the shape (in_features, out_features), the other way round than `Linear`: a feature is a row of it.
    Weight and bias begin at zero: a linear model's loss is convex, so training comes to the same end from anywhere,
    and random numbers for a million features would only take time.

    Args:
        in_features: columns of the input.
        out_features: columns of the output.
        bias: whether to add one.
        sparse: whether the weight's gradient is a `RowGradient`; else it is an array.
        dtype: of the parameters, float32 or float64.
        generator: not used, as the first values are zeros; there so that layers are made alike.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        sparse: bool = True,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.in_features = at_least_one(in_features, "SparseLinear: in_features")
        self.out_features = at_least_one(out_features, "SparseLinear: out_features")
        self.weight = (SparseParameter if sparse else Parameter)(np.zeros((in_features, out_features), dtype))
        self.bias = Parameter(np.zeros(out_features, dtype)) if bias else None
        self._touched = _Touched(in_features)

    def forward(self, x: Any) -> Tensor:
        """Return x @ weight + bias, (n, out_features).

        Args:
            x: (n, in_features) `SparseRows`, as a loader of a `SparseDataset` gives, or a CSR matrix of scipy's.
        """
        x = SparseRows.of(x)
        if x.shape[1] != self.in_features:
            raise ValueError(f"SparseLinear: wanted an input of shape (n, {self.in_features}), got {x.shape}")
        weight, bias = self.weight, self.bias
        x = x.astype(weight.dtype)
        rows, indices = self._touched(weight, x.indices)
        y = times(x, indices, weight.array.take(rows, axis=0))  # each row is fetched from memory once, in order
        if bias is not None:
            y += bias.array

        def to_weight(g: Array) -> Any:
            return _rows(weight, rows, transposed_times(x, indices, len(rows), g))

        return _recorded("sparse_linear", y, (weight, to_weight), (bias, lambda g: g.sum(axis=0)))

    def describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class Embedding(Module):
    """Embedding layer: y = weight[numbers].

    Args:
        num_embeddings: how many rows there are.
        embedding_dim: their width.
        padding_idx: a row that is zeros at first and has no gradient, for places that are to count for nothing;
            from the end where negative.
        sparse: whether the weight's gradient is a `RowGradient`; else it is an array.
        dtype: of the weight, float32 or float64.
        generator: for the first values, N(0, 1) as in PyTorch; else this rank's own.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        sparse: bool = False,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.num_embeddings = at_least_one(num_embeddings, "Embedding: num_embeddings")
        self.embedding_dim = at_least_one(embedding_dim, "Embedding: embedding_dim")
        generator = generator or random.default_generator()
        values = normal((num_embeddings, embedding_dim), dtype, generator)
        self.padding_idx = padding_idx
        if padding_idx is not None:
            wanted = f"Embedding: padding_idx must be a whole number in [{-num_embeddings}, {num_embeddings})"
            self.padding_idx = whole(padding_idx, wanted, -num_embeddings, num_embeddings) % num_embeddings
            values[self.padding_idx] = 0
        self.weight = (SparseParameter if sparse else Parameter)(values)
        self._touched = _Touched(num_embeddings)

    def forward(self, numbers: Any) -> Tensor:
        """Return the rows of these numbers, (..., embedding_dim).

        Args:
            numbers: (...) integers in [0, num_embeddings), a Tensor or an array.
        """
        numbers = self._checked(as_tensor(numbers).data)
        weight, flat = self.weight, numbers.reshape(-1)
        rows, indices = self._touched(weight, flat)
        y = weight.array.take(flat, axis=0).reshape(*numbers.shape, self.embedding_dim)

        def to_weight(g: Array, out: Array | None = None) -> Any:
            values = sums_of_rows(g.reshape(len(flat), self.embedding_dim), indices, len(rows))
            if self.padding_idx is not None:
                values[rows == self.padding_idx] = 0
            return _rows(weight, rows, values, out)

        return _recorded("embedding", y, (weight, to_weight), writes=True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, Parameter) and value.flat is None:
            # of a `Linear` that shares it, perhaps: here rows are read, one by one
            value.array = np.ascontiguousarray(value.array)
        super().__setattr__(name, value)

    def _checked(self, numbers: Array) -> Array:
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"Embedding: numbers must be integers, got {numbers.dtype}")
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.num_embeddings):
            wrong = numbers[(numbers < 0) | (numbers >= self.num_embeddings)][0]
            raise ValueError(f"Embedding: numbers must be in [0, {self.num_embeddings}), got {wrong}")
        return numbers

    def describe(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class _Touched(threading.local):
    """Finder of the rows that a forward reads; each thread has slots of its own, as ranks may use a layer at once."""

    def __init__(self, count: int) -> None:
        self._count, self._distinct = count, Distinct(count)

    def __call__(self, parameter: Parameter, numbers: Array) -> tuple[Rows, Array]:
        """Return the rows, sorted and each once, and the index of each number among them; sparse ones are fetched."""
        rows, indices = self._distinct(numbers)
        if isinstance(parameter, SparseParameter) and parameter.fetch is not None:
            parameter.fetch(rows)
        return rows, indices

    def __reduce__(self) -> tuple[Any, ...]:  # a copied or saved layer begins without slots
        return type(self), (self._count,)


def _rows(parameter: Parameter, rows: Rows, values: Array, out: Array | None = None) -> RowGradient | Array:
    """Return a gradient as rows where the parameter is sparse, or where a head that shares it has left an array."""
    gradient = RowGradient(rows, values, parameter.shape)
    if isinstance(parameter, SparseParameter) or (parameter.raw_grad is not None and parameter.hooks is None):
        return gradient
    if out is None:
        return gradient.dense()
    out.fill(0)
    out[rows] = values
    return out


def _recorded(
    name: str, output: Array, *inputs: tuple[Parameter | None, Callable[..., Any]], writes: bool = False
) -> Tensor:
    """Return the result of an operation on parameters, each with its gradient rule; no rule reads a parameter again."""
    made = result(output)
    wanted = [(p, vjp) for p, vjp in inputs if p is not None and p.requires_grad]
    if wanted and is_grad_enabled():
        made.requires_grad = True
        made.node = Node(name, [p for p, _ in wanted], tuple(vjp for _, vjp in wanted), writes, [])
    return made
