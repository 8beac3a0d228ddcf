"""NumPy functions on tensors: they work on the tensors' arrays, and refuse to lose a gradient.

    np.argmax(model(x), 1)        an array of integers, through which no gradient would pass
    np.concatenate([h, z])        TypeError where h or z has a gradient: what is made of the array would not train them
    np.array([h, z])              their values, without a word: `Tensor.__array__` says why
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from npdp.autograd.given import changed, leaves
from npdp.autograd.recording import is_grad_enabled
from npdp.autograd.tensor import Tensor


def _of_arrays(
    self: Tensor, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return what the function makes of the arrays; NumPy asks for it (`__array_function__`)."""
    answer = function(*changed(args, _array), **changed(kwargs, _array))
    given = leaves((args, kwargs))
    wanted = is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in given)
    if wanted and any(hasattr(part, "dtype") and part.dtype.kind == "f" for part in leaves(answer)):
        raise TypeError(
            f"np.{function.__name__} makes an array, at which the gradient of a Tensor would end: use a Tensor's own "
            "operations (npdp.autograd.operators), or give x.detach() where no gradient is wanted"
        )
    return answer


def _array(given: Any) -> Any:
    return given.data if isinstance(given, Tensor) else given


Tensor.__array_function__ = _of_arrays  # type: ignore[attr-defined]
