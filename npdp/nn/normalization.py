"""Normalisation of each row: LayerNorm and RMSNorm.

    x (..., width) is worked on as rows (n, width); m and s are a row's mean and standard deviation:
    layer_norm    y = z weight + bias, z = (x - m) / s, s = sqrt(mean((x - m)^2) + eps)
    rms_norm      y = z weight,        z = x / s,       s = sqrt(mean(x^2) + eps)

    gradient of x: (h - mean(h) - z mean(h z)) / s, h = g weight; without mean(h) for rms_norm

A row knows nothing of others: ranks need not meet. Cost: layer_norm, made by kernels, one pass over memory for the
result and one for the gradient; rms_norm, which keeps z, four each.
Source: Ba, Kiros and Hinton, Layer normalization, 2016; Zhang and Sennrich, Root mean square layer normalization, 2019.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.jointly import jointly
from npdp.autograd.operation import INPUTS, SECOND, operation
from npdp.autograd.tensor import Array, TensorLike, Vjp
from npdp.base.arguments import at_least_one
from npdp.kernels import layers as kernels
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter


@operation(keeps=INPUTS)
def _layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> tuple[Array, tuple[Vjp, ...]]:
    """(x - m) / s * weight + bias; x (..., width), weight and bias of the shape of its last axes."""
    rows, flat = _rows(x, weight.size), weight.reshape(-1)
    y, mean, scale = kernels.layer_norm(rows, flat, bias.reshape(-1), eps)

    def gradients(g: Array) -> list[Array]:
        of_each = kernels.layer_norm_gradient(_rows(g, weight.size), rows, flat, mean, scale)
        return [gradient.reshape(like.shape) for gradient, like in zip(of_each, (x, weight, bias))]

    return y.reshape(x.shape), jointly(gradients, 3)


@operation(keeps=SECOND, writes=True)
def _rms_norm(x: Array, weight: Array, *, eps: float) -> tuple[Array, tuple[Vjp, ...]]:
    """x / s * weight; x (..., width), weight of the shape of its last axes."""
    z = _rows(x, weight.size).copy()
    scale = _normalise(z, eps)
    y = z * weight.reshape(-1)

    def to_x(g: Array, out: Array | None = None) -> Array:
        gradient = _rows(g, weight.size) * weight.reshape(-1)
        along = np.einsum("ij,ij->i", gradient, z)[:, None] / z.dtype.type(weight.size)
        gradient -= z * along
        gradient *= scale
        return gradient.reshape(x.shape)

    def to_weight(g: Array, out: Array | None = None) -> Array:
        return _sum_of_rows(_rows(g, weight.size) * z, weight, out)

    return y.reshape(x.shape), (to_x, to_weight)


def _rows(x: Array, width: int) -> Array:
    return x.reshape(x.size // width, width)


def _normalise(rows: Array, eps: float) -> Array:
    """Divide rows, in place, by the root of their mean square and eps; return 1 / that, (n, 1)."""
    squares = np.einsum("ij,ij->i", rows, rows)[:, None]
    scale = 1 / np.sqrt(squares / rows.dtype.type(rows.shape[1]) + rows.dtype.type(eps))
    rows *= scale
    return scale


def _sum_of_rows(rows: Array, parameter: Array, out: Array | None) -> Array:
    """Return the sum of rows in the shape of a parameter, written to `out` if that is an array."""
    if out is None:
        return np.add.reduce(rows, axis=0).reshape(parameter.shape)
    np.add.reduce(rows, axis=0, out=out.reshape(-1))
    return out


def layer_norm(
    input: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axes; in the shape and dtype of the input.

    Args:
        input: (..., *normalized_shape).
        normalized_shape: those axes, or the last one's extent.
        weight, bias: of that shape; 1 and 0 where None.

    Raises:
        ValueError: the input's last axes are others.
    """
    x, shape = _checked("layer_norm", input, normalized_shape)
    weight = np.ones(shape, x.dtype) if weight is None else weight
    return _layer_norm(x, weight, np.zeros(shape, x.dtype) if bias is None else bias, eps=eps)


def rms_norm(
    input: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axes; as `layer_norm`, without mean and bias.

    Args:
        eps: the spacing of numbers of the input's dtype at 1 where None, as in PyTorch.
    """
    x, shape = _checked("rms_norm", input, normalized_shape)
    weight = np.ones(shape, x.dtype) if weight is None else weight
    return _rms_norm(x, weight, eps=np.finfo(x.dtype).eps if eps is None else eps)


def _checked(name: str, input: TensorLike, normalized_shape: int | Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    x, shape = as_tensor(input), _shape_of(name, normalized_shape)
    if x.data.shape[-len(shape) :] != shape:
        raise ValueError(f"{name}: wanted an input of shape (..., {', '.join(map(str, shape))}), got {x.shape}")
    return x, shape


def _shape_of(name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    shape = (given,) if isinstance(given, (int, np.integer)) else tuple(given)
    if not shape:
        raise ValueError(f"{name}: normalized_shape must have at least one axis, got {given!r}")
    return tuple(at_least_one(extent, f"{name}: normalized_shape") for extent in shape)


class LayerNorm(Module):
    """Normalisation of each sample over its last axes: mean 0 and variance 1, then times weight, plus bias.

    Args:
        normalized_shape: the extents of those axes, or the last one's.
        eps: added to the variance.
        elementwise_affine: whether there is a weight, ones at first.
        bias: whether, with a weight, there is a bias, zeros at first.
        dtype: of these, float32 or float64.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape, self.eps = _shape_of("LayerNorm", normalized_shape), eps
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Tensor:
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """Division of each sample by the root of its mean square over its last axes, then times weight.

    Args:
        normalized_shape: the extents of those axes, or the last one's.
        eps: added to the mean square; the spacing of numbers of the input's dtype at 1 where None.
        elementwise_affine: whether there is a weight, ones at first.
        dtype: of it, float32 or float64.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape, self.eps = _shape_of("RMSNorm", normalized_shape), eps
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None

    def forward(self, x: Any) -> Tensor:
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
