"""Batch normalisation, over the global batch however many ranks share it.

    y = (x - mean) / sqrt(var + eps) * weight + bias        mean, var: of a channel, over all samples and places

    forward     count, sums   summed over the ranks: mean       squares of x - mean   summed: var
    backward    sums of g and of g * z, z = (x - mean) / sqrt(var + eps)              summed: their means
                x' = weight / sqrt(var + eps) * (g - mean(g) - z * mean(g * z))

The gradient g of a rank is its share of the global mean's, so sums over the ranks are one rank's.
Cost: three sums over the ranks, of one or two numbers a channel, for each layer and iteration.
Source: Ioffe, Szegedy, Batch normalization, 2015; backward over ranks as PyTorch's SyncBatchNorm.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from npdp.autograd import Tensor, is_grad_enabled, operators
from npdp.autograd.jointly import one_pass
from npdp.autograd.operation import SECOND, operation
from npdp.autograd.tensor import Array, Vjp
from npdp.base.arguments import at_least_one
from npdp.nn.forward import Forward, SumOverRanks, alone
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter
from npdp.nn.windows import samples_first, samples_last

Note = Callable[[int, Array, Array], object]  # of a batch: values a channel, mean, and variance as a mean of squares


@operation(keeps=SECOND)
def _batch_norm(
    x: Array, weight: Array, bias: Array, *, eps: float, sum_over_ranks: SumOverRanks, note: Note
) -> tuple[Array, tuple[Vjp, ...]]:
    """Rule of `BatchNorm1d` and `BatchNorm2d` in training."""
    laid = samples_last(x)
    z, count, mean, var = _centred(_of_channels(laid), sum_over_ranks)
    note(count, mean, var)
    scale = (1 / np.sqrt(var + eps)).astype(x.dtype)
    z *= scale[:, None]
    y = z * weight[:, None]
    y += bias[:, None]

    @one_pass
    def sums_of(g: Array) -> tuple[Array, Array, Array]:
        """Return a gradient as (channels, values), its sums, and those of g * z."""
        values = _of_channels(samples_last(g))
        return values, values.sum(axis=1), np.einsum("cv,cv->c", values, z)

    def to_x(g: Array) -> Array:
        values, *sums = sums_of(g)
        means = np.array(sums, np.float64)
        sum_over_ranks(means)
        means /= max(count, 1)
        of_g, of_product = means.astype(g.dtype)
        gradient = z * -of_product[:, None]
        gradient += values
        gradient -= of_g[:, None]
        gradient *= (weight * scale)[:, None]
        return samples_first(gradient.reshape(laid.shape))

    return samples_first(y.reshape(laid.shape)), (to_x, lambda g: sums_of(g)[2], lambda g: sums_of(g)[1])


def _of_channels(laid: Array) -> Array:
    """Return (channels, ..., batch) as (channels, values)."""
    return laid.reshape(len(laid), prod(laid.shape[1:]))


def _centred(values: Array, sum_over_ranks: SumOverRanks) -> tuple[Array, int, Array, Array]:
    """Return values less their channel's mean over all ranks; their count, mean and variance there."""
    sums = np.append(values.sum(axis=1, dtype=np.float64), values.shape[1])
    sum_over_ranks(sums)
    count = int(sums[-1])
    if count == 1:
        raise ValueError("BatchNorm: wanted more than one value for each channel in training, got 1")
    mean = sums[:-1] / max(count, 1)
    centred = values - mean.astype(values.dtype)[:, None]
    squares = np.einsum("cv,cv->c", centred, centred).astype(np.float64)
    sum_over_ranks(squares)
    return centred, count, mean, squares / max(count, 1)


class _BatchNorm(Module):
    """Batch normalisation of channels, which are an input's second axis; see `BatchNorm2d`."""

    shapes: tuple[tuple[str, ...], ...]  # that an input may have
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = at_least_one(num_features, f"{type(self).__name__}: num_features")
        self.eps, self.momentum = eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        self.register_buffer("running_mean", np.zeros(num_features, dtype) if track_running_stats else None)
        self.register_buffer("running_var", np.ones(num_features, dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", np.array(0) if track_running_stats else None)
        self.forwards = Forward()  # the model's, once it is numbered

    def join_forwards(self, forwards: Forward, first: int = 0) -> int:
        self._forwards, self.forwards = None, forwards
        return first

    def forward(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if x.data.ndim not in map(len, self.shapes) or x.shape[1] != self.num_features:
            wanted = " or ".join(f"(batch, {', '.join((str(self.num_features), *axes[2:]))})" for axes in self.shapes)
            raise ValueError(f"{type(self).__name__}: wanted an input of shape {wanted}, got {x.shape}")
        learns = self.training and is_grad_enabled()
        if self.track_running_stats and not learns:
            return self._by_running_statistics(x)
        weight = np.ones(self.num_features, x.dtype) if self.weight is None else self.weight
        bias = np.zeros(self.num_features, x.dtype) if self.bias is None else self.bias
        over_ranks = self.forwards.sum_over_ranks if learns else alone
        return _batch_norm(x, weight, bias, eps=self.eps, sum_over_ranks=over_ranks, note=self._note)

    def _note(self, count: int, mean: Array, var: Array) -> None:
        """Take a batch into the running statistics, its variance as an unbiased estimate."""
        if not self.track_running_stats or not count:
            return
        batches = self.num_batches_tracked.data + 1
        part = 1 / batches if self.momentum is None else self.momentum
        self.num_batches_tracked = Tensor(batches)
        self.running_mean = _moved(self.running_mean, part, mean)
        self.running_var = _moved(self.running_var, part, var * (count / (count - 1)))

    def _by_running_statistics(self, x: Tensor) -> Tensor:
        shape = 1, self.num_features, *[1] * (x.data.ndim - 2)
        scale: Any = (1 / np.sqrt(self.running_var.data + self.eps)).reshape(shape)
        if self.weight is not None:
            scale = operators.reshape(self.weight, shape=shape) * scale
        shift = self.running_mean.data.reshape(shape) * scale
        if self.bias is not None:
            shift = shift - operators.reshape(self.bias, shape=shape)
        return operators.sub(operators.mul(x, scale), shift)

    def describe(self) -> str:
        names = ("eps", "momentum", "affine", "track_running_stats")
        return ", ".join([str(self.num_features), *(f"{name}={getattr(self, name)}" for name in names)])


def _moved(running: Tensor, part: Any, value: Array) -> Tensor:
    """Return a running mean moved towards a value."""
    return Tensor(((1 - part) * running.data + part * value).astype(running.dtype))


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images' channels: (batch, channels, height, width), the same shape back.

    In training a channel is scaled by its mean and variance over the *global* batch, uneven and empty parts included:
    P ranks get one rank's result, as with PyTorch's SyncBatchNorm. All ranks must make the same forwards and backwards.
    In evaluation, and under `no_grad()` (in PyTorch only in evaluation), it takes the running statistics, and ranks
    need not meet. With accumulation a micro-batch is a batch of its own, and the number of ranks says who is in it.

    A layer of a model that no `DataParallel` has (a `DistributedOptimizer` alone does not know of it), or that was put
    into it after it was wrapped, and one whose ranks do not step together (local SGD, a parameter server with
    staleness), uses this rank's own batch; its running statistics are this rank's own then.

    Args:
        num_features: channels.
        eps: what is added to a variance.
        momentum: the part of a new batch in the running statistics; None: all batches count alike.
        affine: whether there are `weight` and `bias`, at first ones and zeros.
        track_running_stats: whether there are running statistics; without them evaluation takes its own batch's.
        dtype: of parameters and running statistics, float32 or float64.

    Raises:
        ValueError: one value a channel in training, or an input of another shape.
    """

    shapes = (("batch", "channels", "height", "width"),)


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of features or sequences: (batch, channels) or (batch, channels, time); see `BatchNorm2d`."""

    shapes = ("batch", "channels"), ("batch", "channels", "time")
