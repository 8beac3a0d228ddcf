"""Functions of PyTorch's that are no methods of their first argument, or not with the same arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npdp.autograd import more_methods, operators
from npdp.autograd import pytorch_operations as more
from npdp.autograd.tensor import Tensor, result
from npdp.torch_names.creation import as_tensor
from npdp.torch_names.table import OTHER_NAMES, of_method


def cat(tensors: Sequence[Any], dim: int = 0, **axis: Any) -> Tensor:
    """Join tensors along an axis; those of shape (0,) are left out, as in PyTorch."""
    kept = [x for x in tensors if np.shape(x) != (0,)] or list(tensors)[:1]
    return operators.concatenate(*kept, axis=axis.get("axis", dim))


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    return operators.stack(*tensors, axis=dim)


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """Return the elements of input where the condition holds, else those of other; of one argument, the places."""
    if input is None:
        return tuple(result(axis) for axis in np.nonzero(as_tensor(condition).data))
    return operators.where(np.array(condition), input, other)


def einsum(subscripts: str, *operands: Any) -> Tensor:
    """Einstein's sum of one or two tensors: einsum("bij,bjk->bik", a, b). Each index comes once in an input.

    Raises:
        ValueError: there are three and more, dots, or an index that comes twice in an input: a diagonal.
    """
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    left, arrow, of_y = subscripts.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(given) or len(given) > 2 or "." in left or any(len(set(i)) < len(i) for i in inputs):
        raise ValueError(
            f"einsum: wanted indices of one or two inputs, each once in an input, no dots, got {subscripts!r} for "
            f"{len(given)}: write it as several"
        )
    if not arrow:
        of_y = "".join(sorted(i for i in set(left) - {","} if left.count(i) == 1))
    a, b = given if len(given) == 2 else (given[0], np.ones((), as_tensor(given[0]).dtype))
    of_a, of_b = inputs if len(given) == 2 else (inputs[0], "")
    return more.einsum(a, b, of_a=of_a, of_b=of_b, of_y=of_y)


def _extreme(name: str, of_two: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return `max` or `min`: of a tensor, along an axis, or element by element of two."""
    method = of_method(name)

    def function(input: Any, *given: Any, **named: Any) -> Any:
        if (given and isinstance(given[0], (Tensor, np.ndarray))) or "other" in named:
            return of_two(input, named["other"] if "other" in named else given[0])
        return method(input, *given, **named)

    return function


def _softmax(name: str) -> Callable[..., Tensor]:
    def function(input: Any, dim: int, dtype: Any = None) -> Tensor:
        x: Any = as_tensor(input, dtype)
        made: Tensor = getattr(x, name)(dim=dim)
        return made

    return function


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * (batch1 @ batch2)."""
    added: Tensor = operators.matmul(batch1, batch2) * alpha
    return added + as_tensor(input) * beta


def is_tensor(x: object) -> bool:
    """Return whether this is a Tensor."""
    return isinstance(x, Tensor)


def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Return where |input - other| <= atol + rtol |other|."""
    return result(np.asarray(np.isclose(as_tensor(input).data, as_tensor(other).data, rtol, atol, equal_nan)))


def vstack(tensors: Sequence[Any]) -> Tensor:
    """Join tensors along the first axis; those of one axis are rows."""
    return cat([x if np.ndim(x) > 1 else as_tensor(x).unsqueeze(0) for x in tensors])


def hstack(tensors: Sequence[Any]) -> Tensor:
    """Join tensors along the second axis; those of one axis along that."""
    return cat(tensors, 0 if np.ndim(tensors[0]) < 2 else 1)


NAMES: dict[str, Any] = {
    **{f.__name__: f for f in (cat, stack, where, einsum, is_tensor, isclose, vstack, hstack)},
    "concat": cat, "concatenate": cat,
    "max": _extreme("max", more_methods.maximum), "min": _extreme("min", more_methods.minimum),
    "softmax": _softmax("softmax"), "log_softmax": _softmax("log_softmax"),
    **dict.fromkeys(("baddbmm", "addmm"), baddbmm),
    "set_printoptions": lambda **options: np.set_printoptions(
        **{k: v for k, v in options.items() if k in ("precision", "threshold", "edgeitems", "linewidth")}),
    **{name: of_method(method) for name, method in OTHER_NAMES.items()},
}  # fmt: skip
