"""Interface of the kernels' implementations, `compiled` and `reference`, which `npdp.kernels` calls."""

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
    must not, `shifted_logits` where a label is not in [0, classes). Nothing else looks for overlap.
    """

    def accumulate(self, dst: Array, src: Array, op: str) -> int: ...

    def combine(self, targets: list[Array], sources: list[Array], op: str) -> None: ...

    def relu_gradient(self, g: Array, y: Array) -> Array: ...

    def shifted_logits(self, logits: Array, labels: Array, shifted: Array, chosen: Array) -> int: ...

    @property
    def cross_entropy_gradient(self) -> Callable[..., None]: ...

    def sgd_updater(self, param: Array, grad: Gradient, velocity: Array | None) -> Callable[..., int]: ...

    def adam_updater(self, param: Array, grad: Gradient, m: Array, v: Array) -> Callable[..., int]: ...
