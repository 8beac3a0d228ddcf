"""Activations of language models: GELU and SiLU, and Softplus and ELU.

    gelu(x) = x P(X <= x), X ~ N(0, 1)      approximate="tanh": x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    silu(x) = x sigmoid(x)
    softplus(x) = log(1 + exp(beta x)) / beta
    elu(x) = x above 0, else alpha (exp(x) - 1)

Cost: one pass for the result, one for the gradient; GELU is made by kernels.
Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016; Clevert et al., Exponential Linear Units, 2016.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.operation import FIRST, OUTPUT, logistic, operation
from npdp.autograd.tensor import Array, TensorLike, Vjp
from npdp.base.arguments import require_number
from npdp.kernels import layers as kernels
from npdp.nn.module import Module, as_tensor

APPROXIMATIONS = ("none", "tanh")


@operation(keeps=FIRST)
def _gelu(x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """x P(X <= x), X ~ N(0, 1)."""
    return kernels.gelu(x), (lambda g: kernels.gelu_gradient(g, x),)


@operation(keeps=FIRST)
def _gelu_tanh(x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    return kernels.gelu(x, "tanh"), (lambda g: kernels.gelu_gradient(g, x, "tanh"),)


def gelu(input: TensorLike, approximate: str = "none") -> Tensor:
    """x P(X <= x), X ~ N(0, 1), of any shape; or, with `approximate="tanh"`, the usual approximation of it.

    Raises:
        ValueError: `approximate` is another word.
    """
    if approximate not in APPROXIMATIONS:
        raise ValueError(f"gelu: approximate must be one of {', '.join(APPROXIMATIONS)}, got {approximate!r}")
    return _gelu_tanh(input) if approximate == "tanh" else _gelu(input)


@operation(keeps=FIRST)
def silu(x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """x / (1 + exp(-x)), of any shape: also called swish."""
    share = logistic(x)
    return x * share, (lambda g: g * share * (1 + x * (1 - share)),)


@operation(keeps=FIRST)
def _softplus(x: Array, *, beta: float, threshold: float) -> tuple[Array, tuple[Vjp, ...]]:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold."""
    scaled = x * beta
    y = np.logaddexp(0, scaled, dtype=x.dtype) / beta
    above = scaled > threshold
    return np.where(above, x, y), (lambda g: np.where(above, g, g * logistic(scaled)),)


def softplus(input: TensorLike, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, a smooth ReLU; x itself where beta x is above `threshold`."""
    return _softplus(input, beta=beta, threshold=threshold)


@operation(keeps=FIRST + OUTPUT)
def _elu(x: Array, *, alpha: float) -> tuple[Array, tuple[Vjp, ...]]:
    """x where it is above 0, else alpha * (exp(x) - 1)."""
    y = np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha)
    return y, (lambda g: np.where(x > 0, g, g * (y + alpha)),)


def elu(input: TensorLike, alpha: float = 1.0) -> Tensor:
    """x where it is above 0, else alpha * (exp(x) - 1)."""
    return _elu(input, alpha=alpha)


class GELU(Module):
    """x P(X <= x), X ~ N(0, 1); `approximate="tanh"` as GPT-2 has it."""

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in APPROXIMATIONS:
            raise ValueError(f"GELU: approximate must be one of {', '.join(APPROXIMATIONS)}, got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Any) -> Tensor:
        return gelu(as_tensor(x), self.approximate)

    def describe(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x sigmoid(x)."""

    def forward(self, x: Any) -> Tensor:
        return silu(as_tensor(x))


class Softplus(Module):
    """log(1 + exp(beta x)) / beta, a smooth ReLU."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = float(beta), float(threshold)

    def forward(self, x: Any) -> Tensor:
        return softplus(as_tensor(x), self.beta, self.threshold)

    def describe(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class ELU(Module):
    """x where it is above 0, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        require_number(alpha, "ELU: alpha must be a number")
        self.alpha = float(alpha)

    def forward(self, x: Any) -> Tensor:
        return elu(as_tensor(x), self.alpha)

    def describe(self) -> str:
        return f"alpha={self.alpha}"
