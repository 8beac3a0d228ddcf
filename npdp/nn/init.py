"""First values of parameters, written in place: PyTorch's names and formulas.

    xavier    variance gain^2 2 / (fan_in + fan_out)       fan_in, fan_out: the inputs and outputs of an element of the
    kaiming   variance gain^2 / fan_in, or fan_out          result; of (out, in, k, ...) in k ... and out k ...

All draw from a generator, this rank's (`npdp.manual_seed`) where none is given: the same on all ranks. Each returns the
tensor that it was given, whose gradient passes nothing of it.
Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010; He et al.,
Delving deep into rectifiers, 2015; Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014.
"""

from __future__ import annotations

from math import erf, prod, sqrt
from typing import Any

import numpy as np

from npdp.autograd import Tensor, no_grad
from npdp.base import random

Generator = np.random.Generator | None

GAINS = {"linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": sqrt(2), "selu": 3 / 4}
LEAST_KEPT = 0.01  # of the draws of a truncated normal: with fewer, drawing again takes too long


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the gain for what comes behind a layer: linear, conv1d, conv2d, sigmoid, tanh, relu, selu, leaky_relu.

    Args:
        param: leaky_relu's slope, 0.01 where None.

    Raises:
        ValueError: the name is another.
    """
    if nonlinearity == "leaky_relu":
        return sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        raise ValueError(f"calculate_gain: wanted one of leaky_relu, {', '.join(GAINS)}, got {nonlinearity!r}")
    return GAINS[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Draw from U(a, b)."""
    return _written(tensor, _of(generator).uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None) -> Tensor:
    """Draw from N(mean, std^2)."""
    return _written(tensor, _of(generator).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Generator = None
) -> Tensor:
    """Draw from N(mean, std^2), again what lies outside [a, b].

    Raises:
        ValueError: less than a hundredth lies within.
    """
    below, above = (0.5 * (1 + erf((bound - mean) / std / sqrt(2))) for bound in (a, b))
    if not above - below >= LEAST_KEPT:
        raise ValueError(f"trunc_normal_: wanted [a, b] that keeps a hundredth of N({mean}, {std}^2), got [{a}, {b}]")
    generator = _of(generator)
    values = generator.normal(mean, std, tensor.shape)
    while (outside := (values < a) | (values > b)).any():
        values = np.where(outside, generator.normal(mean, std, tensor.shape), values)
    return _written(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Write one number everywhere."""
    return _written(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """Write ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Write zeros."""
    return constant_(tensor, 0.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Draw from U(-c, c) with the variance of `xavier_normal_`: c = gain sqrt(6 / (fan_in + fan_out))."""
    bound = gain * sqrt(6 / sum(_fans("xavier_uniform_", tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Draw from N(0, gain^2 2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * sqrt(2 / sum(_fans("xavier_normal_", tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator = None
) -> Tensor:
    """Draw from U(-c, c), c = gain sqrt(3 / fan), with the gain of a nonlinearity and its slope `a`.

    Args:
        mode: fan_in or fan_out.
    """
    bound = sqrt(3) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator = None
) -> Tensor:
    """Draw from N(0, gain^2 / fan); see `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Write gain times a random matrix whose rows, or columns where they are fewer, are orthonormal.

    Args:
        tensor: (rows, ...), what comes after the rows taken for columns.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: wanted at least two axes, got shape {tensor.shape}")
    rows, columns = tensor.shape[0], prod(tensor.shape[1:])
    drawn = _of(generator).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.sign(np.diag(r))  # without it, not every orthogonal matrix would be as likely
    return _written(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def _of(generator: Generator) -> np.random.Generator:
    return generator or random.default_generator()


def _written(tensor: Tensor, values: Any) -> Tensor:
    with no_grad():
        return tensor.copy_(values)


def _fans(name: str, tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"{name}: wanted at least two axes, got shape {tensor.shape}")
    places = prod(tensor.shape[2:])
    return tensor.shape[1] * places, tensor.shape[0] * places


def _kaiming_std(name: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode must be fan_in or fan_out, got {mode!r}")
    fan_in, fan_out = _fans(name, tensor)
    return calculate_gain(nonlinearity, a) / sqrt(max(1, fan_in if mode == "fan_in" else fan_out))
