"""Further tensor methods of PyTorch's, made of the operations that there are, and attached from one table.

    x.topk(2)                      the first two of x.sort(descending=True)
    x.sub_(y)                      x - y, written into x; refused, as every change in place, where it is recorded
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# As in operators.py, whose rules these are.

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from npdp.autograd import (
    more_methods,
    operators,
)
from npdp.autograd import pytorch_operations as more
from npdp.autograd.given import axes_of
from npdp.autograd.operation import astype
from npdp.autograd.pytorch_names import Extreme
from npdp.autograd.recording import is_grad_enabled
from npdp.autograd.tensor import Array, Tensor, result
from npdp.base.missing import MISSING, Missing

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
DTYPES = (*FLOATS, *map(np.dtype, (np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)))


# Other numbers, other places
def as_dtype(x: Tensor, dtype: Any) -> Tensor:
    """Return x in a dtype, itself where it has it; a gradient passes between floats."""
    wanted = np.dtype(dtype)
    if wanted not in DTYPES:
        raise TypeError(f"npdp computes in float32 and float64, and with whole numbers and booleans, not in {wanted}")
    if x.dtype == wanted:
        return x
    return astype(x, dtype=wanted) if wanted.kind == "f" == x.dtype.kind else result(x.data.astype(wanted))


class Device(str):
    """The only place of a tensor, the CPU; a text, "cpu", as well.

    Raises:
        ValueError: another device is wanted.
    """

    type = "cpu"
    index = None  # type: ignore[assignment]

    def __new__(cls, name: Any = "cpu", index: int | None = None) -> Device:
        if str(name).partition(":")[0] != "cpu":
            raise ValueError(f'device: npdp computes on CPUs, wanted "cpu", got {str(name)!r}')
        return super().__new__(cls, "cpu")

    def __repr__(self) -> str:
        return "device(type='cpu')"


CPU = Device()


def _to(self: Tensor, *where: Any, dtype: Any = None, device: Any = None, non_blocking=False, copy=False) -> Tensor:
    for given in where:
        if isinstance(given, Tensor):
            dtype = given.dtype
        elif isinstance(given, (np.dtype, type)):
            dtype = given
        elif not isinstance(given, bool):  # non_blocking, copy
            Device(given)
    Device(device or CPU)
    moved = self if dtype is None else as_dtype(self, dtype)
    return moved.clone() if copy and moved is self else moved


def _type(self: Tensor, dtype: Any = None) -> Any:
    return f"npdp.{self.dtype}" if dtype is None else as_dtype(self, dtype)


def _requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    if requires_grad and self.dtype not in FLOATS:
        raise TypeError(f"a gradient needs float32 or float64, got {self.dtype}")
    if not requires_grad and self.node is not None:
        raise RuntimeError("requires_grad_(False) is for leaves; x.detach() gives a result that no gradient passes")
    self.requires_grad = bool(requires_grad)
    return self


# Along axes
def _roll(self: Tensor, shifts: int, dims: int | None = None) -> Tensor:
    if dims is None:
        return _roll(self.flatten(), shifts, 0).view(*self.shape)
    return self.index_select(dims, np.roll(np.arange(self.shape[dims]), shifts))


def _diagonal(self: Tensor, offset: int = 0) -> Tensor:
    if self.ndim == 2:
        rows, columns = np.diagonal(np.indices(self.shape), offset, 1, 2)
        return self[rows, columns]
    count = len(self) + abs(offset)
    places = np.arange(len(self)) + max(0, -offset), np.arange(len(self)) + max(0, offset)
    return result(np.eye(count, dtype=self.dtype)) * 0 if not len(self) else _spread_diagonal(self, places, count)


def _spread_diagonal(self: Tensor, places: tuple[Array, Array], count: int) -> Tensor:
    wide = operators.concatenate(self, np.zeros(1, self.dtype))
    source = np.full((count, count), len(self))
    source[places] = np.arange(len(self))
    return wide[source]


def _sort(self: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Extreme:
    order = np.argsort(np.flip(self.data, dim) if descending else self.data, axis=dim, kind="stable")
    if descending:
        order = self.shape[dim] - 1 - np.flip(order, dim)
    return Extreme(self.gather(dim, order), result(order))


def _topk(self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Extreme:
    if not 0 <= k <= self.shape[dim]:
        raise ValueError(f"topk: wanted k in 0 .. {self.shape[dim]}, the extent of axis {dim}, got {k}")
    order = _sort(self.detach(), dim, largest).indices
    first = order.narrow(dim, 0, k)
    return Extreme(self.gather(dim, first), first)


def _norm(self: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    axis = axes_of(dim)
    if p in (2, "fro", None):
        return more.norm(self, axis=axis, keepdims=keepdim)
    size = operators.abs(self)
    if p == inf:
        return operators.max(size, axis=axis, keepdims=keepdim)
    return operators.sum(size**p, axis=axis, keepdims=keepdim) ** (1 / p)


# Shape
def _repeat_interleave(self: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    x, axis = (self.flatten(), 0) if dim is None else (self, dim)
    return x.index_select(axis, np.repeat(np.arange(x.shape[axis]), np.asarray(repeats)))


def _new(values: Any):
    return lambda self, *shape, dtype=None, device=None, requires_grad=False: _requires_grad_(
        result(values(operators._shape_of(shape), dtype or self.dtype)), requires_grad
    )


# In place
def _in_place(name: str):
    """Return a method that writes into the tensor what the method of this name gives of its values."""

    def method(self: Tensor, *arguments: Any, **named: Any) -> Tensor:
        given = next((x for x in arguments if isinstance(x, Tensor) and x.requires_grad), None)

        def change(data: Array) -> None:
            made = getattr(result(data), name)(*arguments, **named)
            np.copyto(data, made.data, casting="same_kind")

        return self._write(change, given)

    return method


def _fill_(self: Tensor, value: Any) -> Tensor:
    return self._write(lambda data: data.fill(np.asarray(value).item()), value)


def _scatter_(self: Tensor, dim: int, index: Any, src: Any) -> Tensor:
    values = np.asarray(src)
    at: list[Any] = list(np.ogrid[tuple(map(slice, np.shape(index)))])
    at[dim] = np.asarray(index)
    return self._write(lambda data: data.__setitem__(tuple(at), values), src)


def _drawn(draw: Any):
    """Return a method that writes numbers, drawn by this rank's generator, or by one that is given."""
    from npdp.base.random import default_generator

    def method(self: Tensor, *arguments: Any, generator: Any = None, **named: Any) -> Tensor:
        generator = generator or default_generator()

        def change(data: Array) -> None:
            data[...] = draw(generator, data.shape, *arguments, **named)

        return self._write(change)

    return method


def _assigned(name: str, method: Any):
    """Return `+=` and its like: of a leaf that is trained, inside no_grad(), it writes; else it makes a new tensor."""
    return lambda self, other: (
        method(self, other)
        if self.requires_grad and self.node is None and not is_grad_enabled()
        else NotImplemented
    )


METHODS: dict[str, Any] = {
    # other numbers, other places
    "to": _to, "type": _type, "type_as": lambda self, other: as_dtype(self, other.dtype),
    "bool": lambda self: as_dtype(self, np.bool_), "byte": lambda self: as_dtype(self, np.uint8),
    "cpu": lambda self: self, "device": property(lambda self: CPU), "is_cuda": property(lambda self: False),
    "requires_grad_": _requires_grad_, "detach_": lambda self: _requires_grad_(self, False),
    "grad_fn": property(lambda self: self.node), "is_floating_point": lambda self: self.dtype.kind == "f",
    "element_size": lambda self: self.dtype.itemsize, "nelement": Tensor.numel, "ndimension": Tensor.dim,
    "is_contiguous": lambda self: self.data.flags.c_contiguous,
    **{name: Missing("Tensor", name) for name in MISSING["Tensor"]},
    # element by element
    "log1p": more.log1p, "expm1": more.expm1,
    "log2": lambda self: operators.log(self) / np.log(2), "log10": lambda self: operators.log(self) / np.log(10),
    "lerp": lambda self, end, weight: self + weight * (end - self),
    "addcmul": lambda self, a, b, value=1: self + value * a * b,
    "addcdiv": lambda self, a, b, value=1: self + value * a / b,
    **{name: (lambda self, ufunc=ufunc: result(np.asarray(ufunc(self.data)))) for name, ufunc in {
        "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "sign": np.sign, "floor": np.floor,
        "ceil": np.ceil, "round": np.round, "trunc": np.trunc, "logical_not": np.logical_not}.items()},
    **{name: operators._comparison(ufunc) for name, ufunc in {
        "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor,
        "__floordiv__": np.floor_divide, "floor_divide": np.floor_divide}.items()},
    "__mod__": lambda self, other: self - result(np.asarray(np.floor_divide(self.data, _array(other)))) * other,
    # along axes
    "roll": _roll, "take_along_dim": lambda self, indices, dim: self.gather(dim, indices),
    "diag": _diagonal, "diagonal": _diagonal, "trace": lambda self: _diagonal(self).sum(), "sort": _sort,
    "argsort": lambda self, dim=-1, descending=False: _sort(self.detach(), dim, descending).indices, "topk": _topk,
    "argmin": operators._reduction(lambda x, **along: result(np.asarray(x.data.argmin(**along)))),
    "norm": _norm,
    "count_nonzero": operators._reduction(
        lambda x, axis, keepdims: result(np.asarray(np.count_nonzero(x.data, axis, keepdims=keepdims)))),
    "nonzero": lambda self: result(np.argwhere(self.data)), "masked_select": lambda self, mask: self[mask],
    "unique": lambda self: result(np.unique(self.data)),
    "bincount": lambda self, minlength=0: result(np.bincount(self.data, minlength=minlength)),
    "equal": lambda self, other: np.array_equal(self.data, _array(other)),
    "allclose": lambda self, other, rtol=1e-05, atol=1e-08, equal_nan=False: np.allclose(
        self.data, _array(other), rtol, atol, equal_nan),
    # products
    "mv": operators.matmul,
    "outer": lambda self, other: self.unsqueeze(1) * operators.reshape(other, shape=(1, -1)),
    # shape
    "broadcast_to": more_methods._expand, "repeat_interleave": _repeat_interleave,
    "mT": property(lambda self: self.transpose(-2, -1)),
    "new_zeros": _new(np.zeros), "new_ones": _new(np.ones), "new_empty": _new(np.empty),
    "new_full": lambda self, size, fill_value, **named: _new(
        lambda shape, dtype: np.full(shape, fill_value, dtype))(self, size, **named),
    "new_tensor": lambda self, data, dtype=None: result(np.array(data, dtype or self.dtype)),
    # in place
    "fill_": _fill_, "scatter_": _scatter_,
    "normal_": _drawn(lambda rng, shape, mean=0.0, std=1.0: rng.normal(mean, std, shape)),
    "uniform_": _drawn(lambda rng, shape, a=0.0, b=1.0: rng.uniform(a, b, shape)),
    "bernoulli_": _drawn(lambda rng, shape, p=0.5: rng.random(shape) < p),
    "exponential_": _drawn(lambda rng, shape, lambd=1.0: rng.exponential(1 / lambd, shape)),
    "random_": _drawn(lambda rng, shape, low, high: rng.integers(low, high, shape)),
}  # fmt: skip
IN_PLACE = ("sub", "div", "pow", "neg", "abs", "exp", "sqrt", "square", "clamp", "masked_fill", "tril", "triu", "lerp",
            "addcmul", "addcdiv", "relu", "sigmoid", "tanh", "floor", "round")  # fmt: skip


def _array(given: Any) -> Any:
    return given.data if isinstance(given, Tensor) else given


for _name, _method in METHODS.items():
    setattr(Tensor, _name, _method)
for _name in IN_PLACE:
    setattr(Tensor, f"{_name}_", _in_place(_name))
for _name in ("add", "sub", "mul", "div"):
    setattr(Tensor, f"__i{_name.replace('div', 'truediv')}__", _assigned(_name, getattr(Tensor, f"{_name}_")))
