"""Tensors made anew, under PyTorch's names: from values, of one number, in a row, drawn at random.

Floats are float32 and whole numbers int64 unless `dtype` says otherwise. One with `requires_grad=True` is a
`Parameter`: optimisers take it, and `w -= lr * w.grad` inside no_grad() changes it in place. Draws are this rank's
(`npdp.manual_seed`), or those of a `Generator`: other numbers than PyTorch's of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npdp.autograd.given import changed
from npdp.autograd.pytorch_methods import Device, as_dtype
from npdp.autograd.tensor import Array, Tensor, result
from npdp.base import random
from npdp.base.arguments import seed_of, whole
from npdp.nn.parameter import Parameter
from npdp.torch_names.dtypes import FLOAT

WHOLE = np.dtype(np.int64)
Dtype = Any


class Generator:
    """Random generator of one's own, as PyTorch's; its draws are NumPy's.

    Args:
        device: "cpu".
    """

    def __init__(self, device: Any = None) -> None:
        Device(device or "cpu")
        self.manual_seed(0)

    def manual_seed(self, seed: int) -> Generator:
        """Begin anew from a seed; return the generator."""
        self._seed = seed_of(seed, "Generator.manual_seed: seed")
        self.numpy = np.random.default_rng(self._seed)
        return self

    def initial_seed(self) -> int:
        """Return the seed that it began from."""
        return self._seed

    def __getattr__(self, name: str) -> Any:  # draws of NumPy's generator, for layers and nn.init
        if name in ("numpy", "_seed"):
            raise AttributeError(name)
        return getattr(self.numpy, name)


def _made(array: Any, dtype: Dtype = None, requires_grad: bool = False, device: Any = None, **rest: Any) -> Tensor:
    """Return a new tensor on an array, with the arguments that all these functions have."""
    for name in rest:
        if name not in ("pin_memory", "layout", "memory_format"):  # which change no number
            raise TypeError(f"unexpected argument {name!r}: wanted dtype, device, requires_grad")
    if device is not None:
        Device(device)
    made = result(np.asarray(array))
    made = made if dtype is None else as_dtype(made, dtype)
    return Parameter(made.data) if requires_grad else made


def tensor(data: Any, **named: Any) -> Tensor:
    """Return a tensor with a copy of values: numbers, lists, arrays or tensors."""
    plain = changed(data, _value) if isinstance(data, (list, tuple)) else data
    return _made(np.array(Tensor(plain).data), **named)


def _value(given: Any) -> Any:
    return given.data if isinstance(given, Tensor) else given


def as_tensor(data: Any, dtype: Dtype = None, device: Any = None) -> Tensor:
    """Return values as a tensor; an array's memory is shared, and a tensor is itself."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    make = _made if isinstance(data, np.ndarray) else tensor
    return make(data, dtype=dtype, device=device)


def _size(size: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def _filled(values: Callable[..., Array]) -> Callable[..., Tensor]:
    """Return a function of sizes, f(2, 3) or f((2, 3)), or size=(2, 3)."""

    def make(*size: Any, dtype: Dtype = None, **named: Any) -> Tensor:
        shape = _size(size) if size else tuple(named.pop("size", ()))
        return _made(values(shape, dtype or FLOAT), dtype, **named)

    return make


def full(size: Any, fill_value: Any, dtype: Dtype = None, **named: Any) -> Tensor:
    """Return a tensor of one number, with its dtype: float32, int64 or bool."""
    return _made(np.full(size, Tensor(fill_value).data, dtype), **named)


def eye(n: int, m: int | None = None, dtype: Dtype = None, **named: Any) -> Tensor:
    """Return ones on the diagonal, zeros elsewhere; (n, m), (n, n) where m is None."""
    return _made(np.eye(n, m, dtype=dtype or FLOAT), **named)


def arange(start: Any, end: Any = None, step: Any = 1, dtype: Dtype = None, **named: Any) -> Tensor:
    """Return start, start + step, ... before `end`; of one argument, that is the end. int64 of whole numbers."""
    start, end = (0, start) if end is None else (start, end)
    is_whole = all(isinstance(_value(x), (int, np.integer)) for x in (start, end, step))
    return _made(np.arange(start, end, step).astype(dtype or (WHOLE if is_whole else FLOAT)), **named)


def linspace(start: float, end: float, steps: int, dtype: Dtype = None, **named: Any) -> Tensor:
    """Return so many evenly spaced numbers from start to end, both among them."""
    return _made(np.linspace(start, end, steps).astype(dtype or FLOAT), **named)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Return the coordinates of a grid; the first axis is the first tensor's unless indexing="xy"."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    grid: Any = np.meshgrid(*(_value(x) for x in given), indexing=indexing)  # type: ignore[call-overload]
    return tuple(result(axis) for axis in grid)


# Drawn
def numpy_generator(generator: Any) -> np.random.Generator:
    """Return NumPy's generator behind a `Generator`; this rank's where None."""
    return random.default_generator() if generator is None else getattr(generator, "numpy", generator)


def _drawn(draw: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> Callable[..., Tensor]:
    def make(*size: Any, generator: Any = None, dtype: Dtype = None, **named: Any) -> Tensor:
        shape = _size(size) if size else tuple(named.pop("size", ()))
        return _made(draw(numpy_generator(generator), shape), dtype or FLOAT, **named)

    return make


def randint(*given: Any, size: Any = None, generator: Any = None, dtype: Dtype = None, **named: Any) -> Tensor:
    """Return whole numbers from low (0 where left out) up to, not including, high: randint(low, high, size)."""
    low, high = named.pop("low", 0), named.pop("high", None)
    *ends, size = given if size is None else (*given, size)
    if ends:
        low, high = ends if len(ends) == 2 else (low, ends[0]) if high is None else (ends[0], high)
    return _made(numpy_generator(generator).integers(low, high, tuple(size)), dtype or WHOLE, **named)


def randperm(n: int, generator: Any = None, dtype: Dtype = None, **named: Any) -> Tensor:
    """Return 0 .. n - 1 in an order that is drawn."""
    return _made(numpy_generator(generator).permutation(n), dtype or WHOLE, **named)


def normal(mean: Any, std: Any, size: Any = None, generator: Any = None, **named: Any) -> Tensor:
    """Return draws of N(mean, std^2); of the size, or of one for each mean and deviation."""
    means, deviations = np.asarray(mean), np.asarray(std)
    return _made(numpy_generator(generator).normal(means, deviations, size), named.pop("dtype", FLOAT), **named)


def bernoulli(input: Any, generator: Any = None) -> Tensor:
    """Return 1 with the probability that each element says, else 0; in the dtype of the input."""
    p = as_tensor(input)
    return result((numpy_generator(generator).random(p.shape) < p.data).astype(p.dtype))


def multinomial(input: Any, num_samples: int, replacement: bool = False, generator: Any = None) -> Tensor:
    """Draw numbers of elements, each row by its weights, which need not add up to 1.

    Returns:
        (num_samples,) or (rows, num_samples) int64.

    Raises:
        ValueError: a weight is negative or not finite, a row has none above 0, or fewer than are to be drawn without
            replacement.
    """
    weights = np.atleast_2d(np.asarray(input, np.float64))
    count = whole(num_samples, "multinomial: num_samples must be a whole number, at least 1", 1)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(axis=-1) > 0).all()):
        raise ValueError("multinomial: wanted weights that are finite, not negative, and not all 0 in a row")
    if not replacement and ((weights > 0).sum(axis=-1) < count).any():
        raise ValueError(f"multinomial: wanted at least {count} weights above 0 in each row, or replacement=True")
    rng = numpy_generator(generator)
    if count > 1 and not replacement:  # the largest of log(w) + Gumbel noise are a draw without replacement
        with np.errstate(divide="ignore"):
            keys = np.log(weights) + rng.gumbel(size=weights.shape)
        drawn = np.argsort(-keys, axis=-1)[:, :count]
    else:
        ends = np.cumsum(weights, axis=-1)
        places = rng.random((len(weights), count)) * ends[:, -1:]
        drawn = np.stack([np.searchsorted(row, place, side="right") for row, place in zip(ends, places)])
    return result(drawn.astype(WHOLE) if np.ndim(input) > 1 else drawn[0].astype(WHOLE))


def _like(name: str) -> Callable[..., Tensor]:
    """Return a function that makes what `name` makes, in the shape and dtype of a tensor."""

    def make(input: Any, *given: Any, dtype: Dtype = None, **named: Any) -> Tensor:
        like: Any = as_tensor(input)
        made: Tensor = NAMES[name](*_order(name, like.shape, given), dtype=dtype or like.dtype, **named)
        return made

    return make


def _order(name: str, shape: tuple[int, ...], given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*given, shape) if name == "randint" else (shape, *given)


NAMES: dict[str, Any] = {
    **{f.__name__: f for f in (tensor, as_tensor, full, eye, arange, linspace, meshgrid, randint, randperm, normal,
                               bernoulli, multinomial, Generator)},
    "asarray": as_tensor, "from_numpy": as_tensor, "scalar_tensor": tensor,
    "zeros": _filled(np.zeros), "ones": _filled(np.ones), "empty": _filled(np.zeros),
    "rand": _drawn(lambda rng, size: rng.random(size)), "randn": _drawn(lambda rng, size: rng.standard_normal(size)),
    "seed": lambda: random.current_seed(), "initial_seed": lambda: random.current_seed(),
}  # fmt: skip
NAMES |= {f"{name}_like": _like(name) for name in ("zeros", "ones", "empty", "full", "rand", "randn", "randint")}
