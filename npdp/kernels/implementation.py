"""Interfaces of the kernels' implementations, which `npdp.kernels` and `npdp.kernels.layers` call.

- `Kernels`: `compiled` and `reference`;
- `LayerKernels`: `layers_compiled` and `layers_reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from npdp.kernels import Gradient

Array = NDArray[Any]


class Kernels(Protocol):
    """Interface of a kernel implementation: functions of checked arguments, and makers of updates.

    What returns an int returns 0; or 1, having changed nothing: `accumulate` and the updates where arrays overlap that
    must not, `shifted_logits` where a label is not in [0, classes). Nothing else looks for overlap. An update that is
    made by a `Sum` which is not finite returns SUM_NOT_FINITE.
    """

    def accumulate(self, dst: Array, src: Array, op: str) -> int: ...

    def combine(self, targets: list[Array], sources: list[Array], op: str) -> None: ...

    def finder_of_not_finite(self, array: Array) -> Callable[[], int]: ...

    def relu_gradient(self, g: Array, y: Array) -> Array: ...

    def shifted_logits(self, logits: Array, labels: Array, shifted: Array, chosen: Array) -> int: ...

    @property
    def cross_entropy_gradient(self) -> Callable[..., None]: ...

    def sgd_updater(self, param: Array, grad: Gradient, velocity: Array | None) -> Callable[..., int]: ...

    def adam_updater(self, param: Array, grad: Gradient, m: Array, v: Array) -> Callable[..., int]: ...


class LayerKernels(Protocol):
    """Interface of the layers' kernels, of checked arguments; the last arrays are written.

    `of_one` takes the name of exp, tanh, erf, gelu or gelu_tanh, `of_two` that of a gradient. `cross_entropy_rows`
    returns 1, having written nothing, where a label is not in [0, classes).
    """

    def of_one(self, name: str, x: Array, y: Array) -> None: ...

    def of_two(self, name: str, g: Array, x: Array, gradient: Array) -> None: ...

    @property
    def layer_norm(self) -> Callable[..., None]: ...

    @property
    def layer_norm_gradient(self) -> Callable[..., None]: ...

    def softmax(self, x: Array, y: Array, largest: Array, totals: Array) -> None: ...

    def softmax_gradient(self, g: Array, y: Array, gradient: Array) -> None: ...

    @property
    def cross_entropy_rows(self) -> Callable[..., int]: ...

    @property
    def cross_entropy_rows_gradient(self) -> Callable[..., None]: ...

    def add_rows(self, table: Array, numbers: Array, g: Array) -> None: ...
