"""Arithmetic on arrays, for both halves of npdp: accumulate for the collectives, updates for the optimisers.

    accumulate      dst = dst op src                        float32, float64, int32, int64; sum, prod, min, max
    combine         targets = source 0 op source 1 op ...   the same, in one pass over memory
    first_not_finite    where the first NaN or infinity is  float32, float64
    relu_gradient   g where y > 0                           float32, float64
    shifted_logits, cross_entropy_gradient                  the same; around exp and log, which are NumPy's
    sgd_updater     param, velocity from grad, in place     float32, float64; from the sum of several in one pass
    adam_updater    param, m, v from grad, in place         the same
    matmul          a @ b of two matrices                   float32, float64
    exp, tanh, erf, gelu, layer_norm, softmax_rows, cross_entropy_rows, add_rows: layers.py

Two implementations give the same bits, but for a zero's sign in cross entropy: `compiled` (C, `csrc/`; None where it
was not built) and `reference` (NumPy).
`matmul` (products.py) is made by whatever is quickest: C of npdp's own (gemm.py, `csrc/gemm/`) or NumPy's BLAS, whose
sums come in another order. Rows of bytes, scaled (rows.py), are C's alone: `data/scaling.py` otherwise makes three
passes.
NPDP_KERNELS=c or numpy chooses; unset, C is taken where it is there. The choice is made at the first call.
"""

import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.base import environment
from npdp.kernels import reference
from npdp.kernels.checks import FLOATS, NUMBERS, Arguments, check
from npdp.kernels.implementation import Kernels
from npdp.kernels.layers import (
    add_rows,
    cross_entropy_rows,
    cross_entropy_rows_gradient,
    erf,
    exp,
    gelu,
    gelu_gradient,
    layer_norm,
    layer_norm_gradient,
    softmax_rows,
    softmax_rows_gradient,
    tanh,
)
from npdp.kernels.products import NARROW, matmul
from npdp.kernels.reference import SUM_NOT_FINITE

__all__ = ["NARROW", "OPS", "SUM_NOT_FINITE", "Sum", "accumulate", "adam_updater", "add_rows", "backend",
           "combine", "compiled", "cross_entropy_gradient", "cross_entropy_rows",
           "cross_entropy_rows_gradient", "erf", "exp", "finder_of_not_finite", "first_not_finite", "gelu",
           "gelu_gradient", "layer_norm", "layer_norm_gradient", "matmul", "reference", "relu_gradient", "sgd_updater",
           "shifted_logits", "softmax_rows", "softmax_rows_gradient", "tanh"]  # fmt: skip

Array = NDArray[Any]

OPS = ("sum", "prod", "min", "max")
FEW_CLASSES = 64  # up to here cross entropy works on (classes, rows): with more, walks across rows cost more
_ACCUMULATE = Arguments("accumulate", NUMBERS, ("dst", "src"))
_COMBINE = Arguments("combine", NUMBERS, ("target", "source"))
_SUM = Arguments("Sum", FLOATS, ("first array", "array"), only_read=2)
_LOOK = Arguments("first_not_finite", FLOATS, ("array",))
_SGD = Arguments("sgd_updater", FLOATS, ("param", "velocity", "grad"))
_SGD_PLAIN = Arguments("sgd_updater", FLOATS, ("param", "grad"))
_ADAM = Arguments("adam_updater", FLOATS, ("param", "m", "v", "grad"))


class Sum:
    """Gradient that is the sum of several arrays, in their order, never stored; checked once, used often.

    Attributes:
        was_finite: whether it was, in all updates by it so far.
    """

    was_finite = True

    def __init__(self, arrays: list[Array]) -> None:
        if not arrays:
            raise ValueError("Sum: got no array, wanted at least one")
        for array in arrays:
            check(_SUM, arrays[0], array)
        self.arrays = arrays


Gradient = Array | Sum


def _load_compiled() -> tuple[Kernels | None, str]:
    try:
        from npdp.kernels import compiled
    except ImportError as error:
        return None, str(error)
    return compiled, ""


compiled, _why_missing = _load_compiled()


def backend() -> str:
    """Say which kernels are used: "c" or "numpy".

    Raises:
        ImportError: NPDP_KERNELS=c, and the C kernels are not compiled.
        ValueError: NPDP_KERNELS is neither c nor numpy.
    """
    return "c" if _selected() is compiled else "numpy"


def accumulate(dst: Array, src: Array, op: str = "sum") -> None:
    """Combine src into dst, in place: dst = dst op src.

    Integers wrap. For min and max NaN in either gives NaN, and of +0 and -0 src's is taken.

    Args:
        dst: (count,) contiguous and writeable, float32, float64, int32 or int64.
        src: (count,) contiguous, of dst's dtype; dst itself, or memory apart from dst's.
        op: "sum", "prod", "min" or "max".

    Raises:
        TypeError: Not arrays, or their dtype is another.
        ValueError: They do not match or overlap in part; or an unknown op.
    """
    if op not in OPS:
        raise ValueError(f"accumulate: op is {op!r}, wanted one of {', '.join(OPS)}")
    check(_ACCUMULATE, dst, src)
    if _selected().accumulate(dst, src, op):
        raise ValueError("accumulate: dst and src overlap in part, wanted separate memory, or one and the same array")


def combine(targets: list[Array], sources: list[Array], op: str = "sum") -> None:
    """Leave in every target source 0 op source 1 op ..., in this order; in place, one pass over memory.

    Args:
        targets: at least one, (count,) contiguous and writeable; each is one of the sources or apart from all arrays.
        sources: at least one, (count,) of the targets' dtype.
        op: "sum", "prod", "min" or "max"; as in `accumulate`.

    Raises:
        TypeError: Not arrays, or their dtype is another.
        ValueError: They do not match; or an unknown op.
    """
    if op not in OPS:
        raise ValueError(f"combine: op is {op!r}, wanted one of {', '.join(OPS)}")
    if not targets or not sources:
        raise ValueError(f"combine: got {len(targets)} targets and {len(sources)} sources, wanted at least one of each")
    for target in targets:
        for source in sources:
            check(_COMBINE, target, source)
    _selected().combine(targets, sources, op)


def first_not_finite(array: Array) -> int:
    """Return the place of the first element that is NaN or infinite; see `finder_of_not_finite`."""
    return finder_of_not_finite(array)()


def finder_of_not_finite(array: Array) -> Callable[[], int]:
    """Return what returns the first place of NaN or infinity, the size where none is; the array is checked once.

    Args:
        array: (count,) contiguous, float32 or float64.

    Raises:
        TypeError: Not an array, or its dtype is another.
        ValueError: It is not contiguous, say.
    """
    check(_LOOK, array)
    return _selected().finder_of_not_finite(array)


def relu_gradient(g: Array, y: Array) -> Array:
    """Return the gradient of ReLU's input: g where the output y is above 0, else g * 0; a new array.

    Args:
        g, y: of one shape, any, and any dtype; one pass where both are C-contiguous and of one float dtype.
    """
    alike = g.dtype is y.dtype and g.dtype in FLOATS and g.shape == y.shape
    if alike and g.flags.c_contiguous and y.flags.c_contiguous:
        return _selected().relu_gradient(g, y)
    return reference.relu_gradient(g, y)


def shifted_logits(logits: Array, labels: Array) -> tuple[Array, Array] | None:
    """Return logits less the largest of their row, (classes, rows), and those at the labels, (rows,).

    Args:
        logits: (rows, classes) C-contiguous, any float dtype, at least one class.
        labels: (rows,) int64, contiguous; where one is not in [0, classes), None is returned.
    """
    few = logits.shape[1] <= FEW_CLASSES and logits.dtype in FLOATS
    selected = _selected() if few and logits.flags.aligned and labels.flags.aligned else reference
    shifted = np.empty(logits.shape[::-1], logits.dtype, order="C" if few else "F")
    chosen = np.empty(len(logits), logits.dtype)
    return None if selected.shifted_logits(logits, labels, shifted, chosen) else (shifted, chosen)


def cross_entropy_gradient(
    powers: Array, totals: Array, labels: Array, share: float, everywhere: float, at_label: float
) -> Array:
    """Return the gradient of the logits, (classes, rows), as `csrc/npdp_kernels.h` says; new, laid as powers are.

    Args:
        powers: (classes, rows) any float dtype, laid as `shifted_logits` lays what this is exp of.
        totals: (rows,) contiguous, of powers' dtype: their sums over the classes.
        labels: (rows,) int64, contiguous, in [0, classes): it is not looked at again.
        share: d loss / d (a sample's loss); probabilities, powers / totals, are multiplied by it.
        everywhere: what is subtracted from every element, as much of `share` as label smoothing gives each class.
        at_label: what is subtracted at each row's label besides: the rest of `share`.
    """
    gradient = np.empty_like(powers)
    quick = powers.flags.c_contiguous and powers.dtype in FLOATS and labels.flags.aligned
    selected = _selected() if quick else reference
    selected.cross_entropy_gradient(powers, totals, labels, gradient, share, everywhere, at_label)
    return gradient


def sgd_updater(param: Array, grad: Gradient, velocity: Array | None = None) -> Callable[..., int]:
    """Return the update of these arrays that torch.optim.SGD makes, in place; they are checked once, for every step.

    It takes lr, momentum, 1 - dampening, weight_decay and nesterov, those of torch.optim.SGD, rounded to param's dtype;
    and first, whether velocity is made by this update (it becomes the gradient) or goes on. It returns 0; or 1, having
    done nothing, where the arrays overlap; or SUM_NOT_FINITE, having done it, where a `Sum` is not finite.

    Args:
        param: (count,) contiguous and writeable, float32 or float64.
        grad: (count,) of param's dtype; it is not changed. A `Sum` of such will do.
        velocity: (count,) of param's dtype, writeable; without it momentum is taken as 0.

    Raises:
        TypeError: Not arrays, or their dtype is another.
        ValueError: They do not match.
    """
    state = [] if velocity is None else [velocity]
    check(_SGD if state else _SGD_PLAIN, param, *state, grad.arrays[0] if isinstance(grad, Sum) else grad)
    return _selected().sgd_updater(param, grad, velocity)


def adam_updater(param: Array, grad: Gradient, m: Array, v: Array) -> Callable[..., int]:
    """Return the update of these arrays that torch.optim.Adam and AdamW make, as `sgd_updater` does theirs.

    It takes lr, beta1, beta2, eps and weight_decay, those of torch.optim.Adam; decoupled, whether weight decay shrinks
    param directly (AdamW) or is added to grad (Adam); and step, the number of the update, from 1: the running means are
    corrected for their start at zero.

    Args:
        param: (count,) contiguous and writeable, float32 or float64.
        grad: (count,) of param's dtype; it is not changed. A `Sum` of such will do.
        m, v: (count,) of param's dtype, writeable: the running means of grad and of its square, at first zeros.

    Raises:
        TypeError: Not arrays, or their dtype is another.
        ValueError: They do not match.
    """
    check(_ADAM, param, m, v, grad.arrays[0] if isinstance(grad, Sum) else grad)
    return _selected().adam_updater(param, grad, m, v)


@cache
def _selected() -> Kernels:
    wanted = os.environ.get("NPDP_KERNELS", "")
    if wanted not in _CHOICES:
        raise ValueError(f"NPDP_KERNELS is {wanted!r}, wanted c or numpy, or unset for the best there is")
    return _CHOICES[wanted]()


def _demand_compiled() -> Kernels:
    if compiled is None:
        raise ImportError(f"NPDP_KERNELS=c, but npdp's C kernels are not compiled ({_why_missing}). {_HOW_TO_COMPILE}")
    return compiled


def _prefer_compiled() -> Kernels:
    if compiled is None:
        launched = environment.launch()
        if launched is not None and launched.rank > 0:
            return reference  # rank 0 says it for all
        warnings.warn(
            f"npdp's C kernels are not compiled ({_why_missing}), so NumPy does their work: the same results, slower. "
            f"{_HOW_TO_COMPILE} NPDP_KERNELS=numpy chooses NumPy and is silent.",
            RuntimeWarning,
            stacklevel=_level_of_user(),
        )
        return reference
    return compiled


def _level_of_user() -> int:
    """Return how far up the stack, as a caller's `stacklevel`, the first line is that is not npdp's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "npdp":
        frame, level = frame.f_back, level + 1
    return level


_HOW_TO_COMPILE = "To have them, install a C compiler (gcc) and then npdp again."
_CHOICES: dict[str, Callable[[], Kernels]] = {"": _prefer_compiled, "c": _demand_compiled, "numpy": lambda: reference}
