"""A tensor: an array, its gradient, and the operation that made it.

    a ──┐
        ├─ mul ─ c ─ sum ─ loss         loss.node → Node(sum) → Node(mul) → a, b
    b ──┘

An operation on tensors that need a gradient leaves a `Node`: its inputs ("parents") and, for each, the
function from the output's gradient to that input's (its "vjp", vector-Jacobian product). The graph is
all that `backward` (engine.py) walks; a node holds no result, so what nobody needs is freed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npdp.autograd.given import has_dtype, leaves
from npdp.autograd.recording import is_grad_enabled
from npdp.autograd.values import Values, plain

if TYPE_CHECKING:
    from npdp.autograd.engine import Reducer

Array = npt.NDArray[Any]
Vjp = Callable[..., Any]
Hook = Callable[[Array], "Array | None"]

NOT_RECORDED = "a change in place is not recorded: write it as x = x + y, or, for a parameter, inside no_grad()"


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """Node of the graph: one operation that was carried out, its inputs, and their gradient rules.

    Attributes:
        name: the operation's name, for messages.
        parents: one entry an input: the Node that made it, a leaf Tensor, or None where no gradient is wanted.
        vjps: one function an input, from the gradient of the output to that of the input; None once backward has run.
        writes: whether the vjps take `out`, an array to write the gradient into.
        kept: (version cell, version) of each array that the vjps read again; a change since then is a mistake.
        counted: of a loss, what it is the mean over where that is not the number of samples; see engine.py.
    """

    name: str
    parents: Sequence[Node | Tensor | None]
    vjps: tuple[Vjp | None, ...] | None
    writes: bool
    kept: list[tuple[list[int], int]]
    counted: float | None = None


class Tensor:
    """An array with its gradient and the operation that computed it.

    Args:
        data: anything NumPy takes; an array is not copied. Python floats, also in lists, become float32.
        requires_grad: whether `backward` fills `.grad`; floats only.

    Attributes:
        array, data: the array; `data` as users take hold of it, of a parameter with PyTorch's methods (values.py).
        grad: d loss / d data, an array of the same shape, or None before any `backward`.
        raw_grad: the same, also where `why_hidden` keeps users from it; what optimisers and reducers use.
        why_hidden: the reason why `grad` must not be read now; None as a rule.
        reducer: makes the gradient that of all ranks, in each backward that reaches this leaf; None: nobody.
    """

    __array_priority__ = 100  # array * tensor asks the tensor
    __array_ufunc__ = None

    array: Array
    requires_grad: bool = False
    raw_grad: Array | None = None
    why_hidden: str | None = None
    grad_buffer: Array | None = None  # where the gradient is to be written, if somebody said so, laid as `data_buffer`
    data_buffer: Array | None = None  # what `array` is then, unless the user has put another array in its place
    node: Node | None = None
    hooks: list[Hook] | None = None
    reducer: Reducer | None = None
    version: list[int]  # counts changes in place; views of one array share the list

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self.version = [0]
        if isinstance(data, Tensor):
            data, self.version = data.array, data.version
        elif isinstance(data, (list, tuple)) and any(isinstance(part, Tensor) for part in leaves(data)):
            raise TypeError("a Tensor made of Tensors would lose their gradients; use stack(a, b) or concatenate(a, b)")
        self.array = np.asarray(data)
        if self.array is not data and self.array.dtype == np.float64 and not has_dtype(data):
            self.array = self.array.astype(np.float32)
        if requires_grad:
            if self.array.dtype not in (np.float32, np.float64):
                raise TypeError(f"a gradient needs float32 or float64, got {self.array.dtype}")
            self.requires_grad = True

    # What it is
    @property
    def data(self) -> Array:
        return self.array

    @data.setter
    def data(self, data: Any) -> None:
        self.array = plain(data, self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def is_leaf(self) -> bool:
        return self.node is None

    def size(self, dim: int | None = None) -> int | tuple[int, ...]:
        """Return the shape, or the extent of one axis, as PyTorch's `size` does."""
        return self.array.shape if dim is None else self.array.shape[dim]

    def dim(self) -> int:
        """Return the number of axes, as `ndim`."""
        return self.array.ndim

    def numel(self) -> int:
        """Return the number of elements."""
        return self.array.size

    def numpy(self) -> Array:
        """Return the array itself, not a copy."""
        return self.array

    def tolist(self) -> Any:
        """Return the elements as Python's numbers, in lists of lists."""
        return self.array.tolist()

    def item(self) -> float:
        """Return the only element as a Python number; local, it never communicates."""
        return self.array.item()  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the values; the gradient ends there, also of `np.array([h, z])`, which `stack(h, z)` keeps.

        NumPy asks alike for that and for `np.asarray(h)`, by which a value is looked at: neither can be refused alone.
        """
        return np.array(self.array, dtype=dtype, copy=copy)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, spec: str) -> str:
        if spec and self.array.size != 1:
            raise TypeError(f"only one number takes a format, got {spec!r} for a Tensor of shape {self.shape}")
        return format(self.item(), spec) if spec else str(self)

    def __bool__(self) -> bool:  # else Python asks for the length
        return bool(self.array)

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Tensor]:  # else Python takes a number for an empty sequence
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        suffix = f", made by {self.node.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.array, separator=', ', prefix='Tensor(')}{suffix})"

    # Gradients
    @property
    def grad(self) -> Any:
        if self.why_hidden is not None:
            raise RuntimeError(self.why_hidden)
        grad = self.raw_grad
        return grad.view(Values) if type(grad) is np.ndarray else grad

    @grad.setter
    def grad(self, grad: Any) -> None:
        self.raw_grad = plain(grad, self.raw_grad)

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d self / d leaf to `.grad` of every leaf that this was computed from.

        Under DataParallel this is collective, and `.grad` is the mean over the global batch.

        Args:
            gradient: the gradient of self; needed where self is not a single number.
            retain_graph: keep what a second `backward` over the same graph needs.
        """
        engine.backward(self, gradient, retain_graph)

    def accumulate_grad(self, gradient: Array, weight: float) -> None:
        """Add the whole gradient of a backward to `.grad`, or what hooks, which see it unweighted, leave of it."""
        gradient = np.array(gradient)  # an array of its own, which a hook may change
        if weight == 0:
            gradient[...] = 0  # whatever it is, as of a leaf without hooks
        local = gradient / gradient.dtype.type(weight) if weight not in (0, 1) else gradient
        for hook in self.hooks or ():
            if (replaced := hook(local)) is not None:
                local = np.asarray(replaced, dtype=self.dtype)
                if local.shape != self.shape:
                    raise ValueError(f"a hook of a leaf of shape {self.shape} gave a gradient of shape {local.shape}")
        gradient = local * local.dtype.type(weight) if weight != 1 else local
        engine.accumulate(self, lambda g: g, gradient, writes=False)

    def register_hook(self, hook: Hook) -> Callable[[], None]:
        """Call `hook(gradient)` when this leaf's gradient of a `backward` is complete, before any exchange.

        What the hook returns, if not None, takes the gradient's place. Returns a function that removes it.
        """
        if not self.requires_grad or self.node is not None:
            raise ValueError("a hook needs a leaf with requires_grad=True, got a result or a tensor without gradient")
        self.hooks = [*(self.hooks or []), hook]

        def remove() -> None:
            self.hooks = [h for h in self.hooks or [] if h is not hook] or None

        return remove

    def detach(self) -> Tensor:
        """Return a tensor on the same array that no gradient passes."""
        return result(self.array, self.version)

    # In place: refused where it would make a recorded gradient wrong
    def _write(self, change: Callable[[Array], object], values: Any = None) -> Tensor:
        wanted = self.requires_grad or (isinstance(values, Tensor) and values.requires_grad)
        if self.node is not None or (wanted and is_grad_enabled()):
            raise RuntimeError(NOT_RECORDED)
        change(self.array)
        self.version[0] += 1
        return self

    def copy_(self, values: Any) -> Tensor:
        """Write `values` into the array, in place; returns self."""
        return self._write(lambda data: np.copyto(data, np.asarray(values), casting="same_kind"), values)

    def add_(self, values: Any, alpha: float = 1) -> Tensor:
        """Add alpha x `values`, in place; returns self."""
        array = np.asarray(values)
        return self._write(lambda data: np.add(data, np.multiply(alpha, array, dtype=data.dtype), out=data), values)

    def mul_(self, values: Any) -> Tensor:
        """Multiply by `values`, in place; returns self."""
        return self._write(lambda data: np.multiply(data, np.asarray(values), out=data, dtype=data.dtype), values)

    def zero_(self) -> Tensor:
        """Write zeros, in place; returns self."""
        return self._write(lambda data: data.fill(0))

    def __setitem__(self, index: Any, values: Any) -> None:
        self._write(lambda data: data.__setitem__(index, np.asarray(values)), values)

    __hash__ = object.__hash__

    if TYPE_CHECKING:  # operators.py gives these, one registration each
        T: Tensor

        def __add__(self, other: TensorLike) -> Tensor: ...
        def __radd__(self, other: TensorLike) -> Tensor: ...
        def __sub__(self, other: TensorLike) -> Tensor: ...
        def __rsub__(self, other: TensorLike) -> Tensor: ...
        def __mul__(self, other: TensorLike) -> Tensor: ...
        def __rmul__(self, other: TensorLike) -> Tensor: ...
        def __truediv__(self, other: TensorLike) -> Tensor: ...
        def __rtruediv__(self, other: TensorLike) -> Tensor: ...
        def __pow__(self, other: TensorLike) -> Tensor: ...
        def __matmul__(self, other: TensorLike) -> Tensor: ...
        def __rmatmul__(self, other: TensorLike) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...


TensorLike = Tensor | Array | float | int


def result(data: Array, version: list[int] | None = None) -> Tensor:
    """Return a tensor on `data` without looking at it: the quick way in, for results of operations."""
    tensor: Tensor = object.__new__(Tensor)
    tensor.array = data
    tensor.version = [0] if version is None else version
    return tensor


# Last, since it needs a Tensor; not in `backward`, where looking it up each time takes a microsecond
import npdp.autograd.engine as engine  # noqa: E402
