"""Reference kernels in NumPy: the definition that `csrc/` is tested against, to the last bit.

It also does the work where npdp was installed without a C compiler. Each function goes through its arrays in blocks
that stay in the L2 cache, so that no temporary is as long as the arrays are. Arguments have been checked by
`npdp.kernels`, and an int that is returned is a status, as in C: see implementation.py.

Scalars are rounded to the arrays' dtype first, and the operations come in the order of `csrc/npdp_kernels.h`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SUM_NOT_FINITE = 2  # as csrc/npdp_kernels.h has it
BLOCK = 16 * 1024
"""Elements in a block: six arrays of float64 take 768 KiB, and L2 caches have 1 MiB or more."""


def _lower(dst: Array, src: Array, out: Array) -> None:
    # np.minimum leaves open which of +0 and -0 it takes, and decides by processor.
    np.copyto(out, src, where=~((dst < src) | (dst != dst)))


def _higher(dst: Array, src: Array, out: Array) -> None:
    np.copyto(out, src, where=~((dst > src) | (dst != dst)))


_ACCUMULATE: dict[str, Callable[..., Any]] = {"sum": np.add, "prod": np.multiply, "min": _lower, "max": _higher}


@np.errstate(all="ignore")  # C does not warn of overflow either
def accumulate(dst: Array, src: Array, op: str) -> int:
    if np.may_share_memory(dst, src) and not _same(dst, src):
        return 1
    function = _ACCUMULATE[op]
    for block in _blocks(dst):
        function(dst[block], src[block], out=dst[block])
    return 0


@np.errstate(all="ignore")
def combine(targets: list[Array], sources: list[Array], op: str) -> None:
    function = _ACCUMULATE[op]
    for block in _blocks(sources[0]):
        total = sources[0][block].copy()
        for source in sources[1:]:
            function(total, source[block], out=total)
        for target in targets:
            target[block] = total


def finder_of_not_finite(array: Array) -> Callable[[], int]:
    return partial(first_not_finite, array)


def first_not_finite(array: Array) -> int:
    for block in _blocks(array):
        if not (finite := np.isfinite(array[block])).all():
            return int(block.start + finite.argmin())
    return array.size


@np.errstate(all="ignore")
def relu_gradient(g: Array, y: Array) -> Array:
    gradient: Array = g * (y > 0)
    return gradient


@np.errstate(all="ignore")
def shifted_logits(logits: Array, labels: Array, shifted: Array, chosen: Array) -> int:
    if ((labels < 0) | (labels >= logits.shape[1])).any():
        return 1
    np.subtract(logits.T, np.maximum.reduce(logits, axis=1), out=shifted)
    chosen[:] = shifted[labels, np.arange(len(labels))]
    return 0


@np.errstate(all="ignore")
def cross_entropy_gradient(
    powers: Array, totals: Array, labels: Array, gradient: Array, share: float, everywhere: float, at_label: float
) -> None:
    share, everywhere, at_label = map(powers.dtype.type, (share, everywhere, at_label))
    np.multiply(powers, share / totals, out=gradient)
    if everywhere != 0:
        gradient -= everywhere
    gradient[labels, np.arange(len(labels))] -= at_label


def _sum(grad: Any) -> Array:
    """Return the gradient; of several (`kernels.Sum`), their sum, in memory of its own."""
    if isinstance(grad, np.ndarray):
        return grad
    total: Array = np.empty_like(grad.arrays[0])
    combine([total], grad.arrays, "sum")
    return total


def _status(grad: Any, gradient: Array) -> int:
    """Return what an update that was made returns: of a `kernels.Sum` it looks whether that is finite."""
    is_sum = not isinstance(grad, np.ndarray)
    return SUM_NOT_FINITE if is_sum and first_not_finite(gradient) < gradient.size else 0


@np.errstate(all="ignore")
def sgd_update(
    param: Array,
    grad: Any,
    velocity: Array | None,
    lr: float,
    momentum: float,
    keep: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> int:
    gradient = _sum(grad)
    scalars = (lr, momentum, keep, weight_decay)
    lr, momentum, keep, weight_decay = map(param.dtype.type, scalars)
    state = [velocity] if velocity is not None and momentum != 0 else []
    if _any_overlap(param, gradient, *state):
        return 1
    for block in _blocks(param):
        p, g = param[block], gradient[block]
        if weight_decay != 0:
            g = g + weight_decay * p
        for v in (array[block] for array in state):
            v[:] = _flushed(g if first else momentum * v + keep * g)
            g = g + momentum * v if nesterov else v
        p -= lr * g
    return _status(grad, gradient)


@np.errstate(all="ignore")
def adam_update(
    param: Array,
    grad: Any,
    m: Array,
    v: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
) -> int:
    gradient = _sum(grad)
    if _any_overlap(param, gradient, m, v):
        return 1
    scalars = adam_scalars(lr, beta1, beta2, eps, weight_decay, decoupled, step)
    step_size, beta1, rest1, beta2, rest2, root2, eps, l2, shrink = map(param.dtype.type, scalars)
    for block in _blocks(param):
        p, g, mean, square = param[block], gradient[block], m[block], v[block]
        if l2 != 0:
            g = g + l2 * p
        mean[:] = _flushed(beta1 * mean + rest1 * g)
        square[:] = _flushed(beta2 * square + (rest2 * g) * g)
        p[:] = shrink * p - (step_size * mean) / (np.sqrt(square) / root2 + eps)
    return _status(grad, gradient)


def sgd_updater(param: Array, grad: Any, velocity: Array | None) -> Callable[..., int]:
    return partial(sgd_update, param, grad, velocity)


def adam_updater(param: Array, grad: Any, m: Array, v: Array) -> Callable[..., int]:
    return partial(adam_update, param, grad, m, v)


def _flushed(state: Array) -> Array:
    """Return the array with 0 for what is nearer to 0 than the smallest normal number: arithmetic on that is slow."""
    return np.where(np.abs(state) < np.finfo(state.dtype).tiny, state.dtype.type(0), state)


def adam_scalars(
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool, step: int
) -> tuple[float, ...]:
    """Work out in double precision what is the same for all elements.

    Returns:
        step_size, beta1, 1 - beta1, beta2, 1 - beta2, root2, eps, l2, shrink: in the order of `npdp_adam_f32`.

    Source: Kingma and Ba, Adam, 2015; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """
    step_size = lr / (1 - beta1**step)
    root2 = sqrt(1 - beta2**step)
    l2, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    return step_size, beta1, 1 - beta1, beta2, 1 - beta2, root2, eps, l2, shrink


def _blocks(array: Array) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, array.size, BLOCK))


def _any_overlap(*arrays: Array) -> bool:
    return any(np.may_share_memory(a, b) for a, b in combinations(arrays, 2))


def _same(a: Array, b: Array) -> bool:
    return bool(a.ctypes.data == b.ctypes.data)
