"""Functions of PyTorch's that are methods of their first argument: torch.exp(x) is x.exp()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npdp.torch_names.creation import as_tensor

_TEXT = """
abs exp log log1p log2 log10 expm1 sqrt rsqrt square sin cos tanh sigmoid relu neg pow clamp clip reciprocal sign
floor ceil round trunc add sub mul div floor_divide lerp addcmul addcdiv maximum minimum masked_fill masked_select
isnan isinf isfinite logical_and logical_or logical_xor logical_not eq ne lt le gt ge equal allclose
sum mean var std norm any all argmax argmin amax amin topk sort argsort cumsum logsumexp
count_nonzero nonzero unique bincount matmul mm bmm mv dot outer
flatten unflatten reshape transpose swapaxes permute squeeze unsqueeze t tril triu diag diagonal trace flip roll
split chunk unbind narrow select index_select gather take_along_dim broadcast_to repeat_interleave clone detach numel
"""
METHODS = frozenset(_TEXT.split())
OTHER_NAMES = {"absolute": "abs", "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div",
               "negative": "neg", "swapdims": "swapaxes", "greater": "gt", "less": "lt", "not_equal": "ne"}  # fmt: skip


def of_method(name: str) -> Callable[..., Any]:
    """Return a method as a function; its first argument may be an array or a number, or come as `input`.

    With `out` the result is written there, which is returned.
    """

    def function(*given: Any, out: Any = None, **named: Any) -> Any:
        first, *rest = given if given else (named.pop("input"),)
        made = getattr(as_tensor(first), name)(*rest, **named)
        return made if out is None else out.copy_(made)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Return input.{name}(...)."
    return function
