"""Registration of operations: one function gives the result and, for each input, the gradient rule.

    @operation(keeps=INPUTS)
    def mul(a, b):
        return a * b, (lambda g: unbroadcast(g * b, a.shape), lambda g: unbroadcast(g * a, b.shape))

The function sees arrays only. What the decorator makes of it takes tensors, arrays and numbers, and records
the operation where a gradient is wanted. All rules stand in `OPERATIONS`: one test checks each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import CO_VARARGS
from math import prod
from typing import Any

import numpy as np

from npdp.autograd.recording import mode
from npdp.autograd.tensor import Array, Node, Tensor, TensorLike, Vjp, result

Rule = Callable[..., tuple[Any, tuple[Vjp | None, ...]]]

OPERATIONS: dict[str, Callable[..., Tensor]] = {}

# Which values the gradient rules read again: numbers of inputs, -1 for the output; they can be added up
NOTHING: tuple[int, ...] = ()
FIRST, SECOND, INPUTS, OUTPUT = (0,), (1,), (0, 1), (-1,)


def operation(
    *, keeps: tuple[int, ...], writes: bool = False, view: bool = False, promotes: bool = False
) -> Callable[[Rule], Callable[..., Tensor]]:
    """Register a rule.

    Args:
        keeps: the values that the vjps read again, which nobody may change meanwhile: INPUTS + OUTPUT, say. INPUTS are
            two; of an operation of one it is FIRST.
        writes: the vjps take (gradient, out), and may write into `out` if it is an array; then they return it.
        view: the result may be a view of the first input.
        promotes: the last two inputs go element by element, in the dtype that `promoted` gives them.

    Raises:
        ValueError: the rule has fewer inputs than `keeps` names.
    """

    def register(rule: Rule) -> Callable[..., Tensor]:
        name = rule.__name__ = rule.__name__.lstrip("_")  # one may stand behind a function that has its name
        code = rule.__code__
        if max(keeps, default=-1) >= code.co_argcount and not code.co_flags & CO_VARARGS:
            raise ValueError(f"operation {name}: keeps {keeps}, but has inputs 0 to {code.co_argcount - 1}")
        apply = _on_tensors(rule, keeps, writes, view, promotes)
        apply.__name__ = apply.__qualname__ = name
        apply.__doc__ = rule.__doc__
        OPERATIONS[name] = apply
        return apply

    return register


def _on_tensors(
    rule: Rule, keeps: tuple[int, ...], writes: bool, view: bool, promotes: bool
) -> Callable[..., Tensor]:
    """Return a rule as a function of tensors, arrays and numbers, which records it where a gradient is wanted."""
    name = rule.__name__

    def apply(*inputs: TensorLike, **options: Any) -> Tensor:
        tensors: list[Tensor] = []
        arrays: list[Array] = []
        parents: list[Node | Tensor | None] = []
        wanted = False
        for x in inputs:
            tensor = x if isinstance(x, Tensor) else constant(x, inputs)
            tensors.append(tensor)
            arrays.append(tensor.array)
            if tensor.requires_grad:
                wanted = True
                parents.append(tensor.node or tensor)
            else:
                parents.append(None)
        if promotes and arrays[-1].dtype is not arrays[-2].dtype and (alike := promoted(*tensors[-2:])):
            return apply(*tensors[:-2], *alike, **options)
        output, vjps = rule(*arrays, **options)
        if type(output) is not np.ndarray:
            output = np.asarray(output)
        shared = view and np.may_share_memory(output, arrays[0])  # indexing may copy
        made = result(output, tensors[0].version if shared else None)
        if wanted and mode.grad_enabled:
            made.requires_grad = True
            if None in vjps:  # no gradient comes from there, and nobody is to wait for one
                parents = [parent if vjp else None for parent, vjp in zip(parents, vjps)]
            for x in arrays:
                if x.dtype is not output.dtype:
                    vjps = _in_own_dtypes(vjps, parents, arrays, output.dtype)
                    break
            made.node = Node(name, parents, vjps, writes, _kept(keeps, tensors, made) if keeps else [])
        return made

    return apply


def _in_own_dtypes(
    vjps: tuple[Vjp | None, ...], parents: list[Node | Tensor | None], arrays: list[Array], dtype: np.dtype[Any]
) -> tuple[Vjp | None, ...]:
    """Return the rules, of inputs of another dtype than the result's with the gradient in the input's own.

    Kernels take arrays of one dtype: a float64 target must not make the gradients before it float64. Leaves see to it
    themselves.
    """

    def own(vjp: Vjp, dtype: np.dtype[Any]) -> Vjp:
        return lambda g: np.asarray(vjp(g)).astype(dtype, copy=False)

    return tuple(
        own(vjp, x.dtype) if vjp is not None and type(parent) is Node and x.dtype != dtype else vjp
        for vjp, parent, x in zip(vjps, parents, arrays)
    )


def promoted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return both in the dtype that PyTorch gives their result; None where NumPy gives it the same.

    Whole numbers do not widen floats, nor do floats without axes those that have some: float32 beside int64, or beside
    a float64 without axes, stays float32. Of NumPy's float64 a whole backward would become float64.
    """
    floats = [x.array for x in (a, b) if x.array.dtype.kind == "f"]
    if not floats or not {a.array.dtype.kind, b.array.dtype.kind} <= set("biuf"):
        return None
    dtype = np.result_type(*([x.dtype for x in floats if x.ndim] or [x.dtype for x in floats]))
    if dtype == np.result_type(a.array.dtype, b.array.dtype):
        return None
    first, second = (x if x.array.dtype == dtype else astype(x, dtype=dtype) for x in (a, b))
    return first, second


def constant(value: Any, inputs: tuple[TensorLike, ...]) -> Tensor:
    """Return a number, list or array as a tensor; a number takes the dtype of the tensor beside it, if there is one."""
    if isinstance(value, np.ndarray):
        return Tensor(value)
    dtypes = [x.array.dtype for x in inputs if isinstance(x, Tensor)]
    if isinstance(value, (bool, int, float, np.integer, np.floating)):
        if not dtypes and isinstance(value, np.generic):
            return Tensor(value)
        beside = next((dtype for dtype in dtypes if dtype.kind == "f"), dtypes[0] if dtypes else np.dtype(np.float32))
        if beside.kind != "f" and isinstance(value, (float, np.floating)):
            beside = np.result_type(*dtypes, np.float32)  # float64 beside integers of 32 bits and more, as in NumPy
        return result(np.asarray(value, dtype=beside if beside.kind in "fiu" else None))
    tensor = Tensor(value)
    if tensor.dtype != np.float32 or not isinstance(value, (list, tuple)):
        return tensor
    return result(np.asarray(value, np.result_type(*dtypes, np.float32)))  # not cut off to float32 beside float64


def _kept(keeps: tuple[int, ...], tensors: list[Tensor], made: Tensor) -> list[tuple[list[int], int]]:
    """Return the version of each array that the gradient rules read again."""
    kept = []
    for number in keeps:
        version = (made if number < 0 else tensors[number]).version
        kept.append((version, version[0]))
    return kept


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Return `gradient` summed back to `shape`, the shape before NumPy stretched it."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = tuple(axis + added for axis, extent in enumerate(shape) if extent == 1)
    return np.asarray(gradient.sum(axis=(*range(added), *stretched), keepdims=True).reshape(shape))


def without_rows(before: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `shape` with its -1 filled in where the rows are none, as in `x.reshape(len(x), -1)` of an empty batch.

    NumPy cannot tell, as 0 elements fit any number of columns; here each row keeps its elements.
    """
    columns, known = prod(before[1:]), -prod(shape[1:])
    if before[:1] == shape[:1] == (0,) and shape.count(-1) == 1 and known > 0 and columns % known == 0:
        return tuple(columns // known if extent == -1 else extent for extent in shape)
    return shape


def logistic(x: Array) -> Any:
    """Return 1 / (1 + exp(-x)), small results as precise as large ones: (1 + tanh(x / 2)) / 2 rounds them off to 0."""
    with np.errstate(over="ignore"):  # of exp, which is inf then, and the result 0
        return 1 / (1 + np.exp(-1.0 * x))


@operation(keeps=NOTHING)
def astype(x: Array, *, dtype: Any) -> tuple[Array, tuple[Vjp, ...]]:
    """x in another dtype."""
    return x.astype(dtype), (lambda g: g.astype(x.dtype),)
