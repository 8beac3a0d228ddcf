"""Convolution: Conv1d, Conv2d, as products of matrices.

    columns (channels * kernel, windows)    each window's elements one below the other: im2col
    y       = weight (out, channels * kernel) @ columns + bias
    weight' = g @ columns.T        x' = weight.T @ g, each column added up where its window lies: col2im

Columns are made of some rows of windows at a time, so that they stay in the cache, and made again in backward: all of
them would take kernel times the memory of the input. Windows lie as windows.py says.
Cost: 2 * out * channels / groups * kernel * windows operations forward, twice that backward.
Source: Chetlur et al., cuDNN: efficient primitives for deep learning, 2014 (im2col in blocks).
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd import Tensor, operators
from npdp.autograd.operation import INPUTS, operation
from npdp.autograd.tensor import Array, Vjp
from npdp.base import random
from npdp.base.arguments import at_least_one
from npdp.nn.initializers import uniform_fan_in
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter
from npdp.nn.windows import Windows, as_images, numbers, samples_first, samples_last

BLOCK_BYTES = 2**19  # of columns at once: half of a small second-level cache, beside what they are multiplied by
ADDED_BYTES = 2**22  # likewise, where they are added up: each block takes as many additions as a kernel has elements


@operation(keeps=INPUTS)
def _conv2d(x: Array, weight: Array, bias: Array, *, windows: Windows, groups: int) -> tuple[Array, tuple[Vjp, ...]]:
    """Rule of `conv2d`."""
    laid = windows.lay(x)
    view = windows.over(laid)
    matrices = weight.reshape(groups, len(weight) // groups, prod(weight.shape[1:]))
    y = np.empty((len(weight), *view.shape[3:]), np.result_type(x, weight))
    by_group = y.reshape(*matrices.shape[:2], *y.shape[1:])
    biases = bias.reshape(groups, -1, 1, 1, 1)
    for rows, room in _blocks(view, y.dtype, BLOCK_BYTES):
        columns = _columns(view, rows, room, groups)
        for number, matrix in enumerate(matrices):
            product = kernels.matmul(matrix, columns[number])
            into = by_group[number, :, rows]
            np.add(product.reshape(into.shape), biases[number], out=into)

    def to_x(g: Array) -> Array:
        gradient = np.zeros(laid.shape, g.dtype)
        into, turned = windows.over(gradient), _by_group(g, groups)
        for rows, room in _blocks(view, g.dtype, ADDED_BYTES):
            for matrix, part, out in zip(matrices, turned, _as_matrices(room, groups)):
                kernels.matmul(matrix.T, _matrix(part[:, rows]), out)
            for i, j in windows.places():
                into[:, i, j, rows] += room[:, i, j]
        return windows.take_off(gradient, x)

    def to_weight(g: Array) -> Array:
        gradient = np.zeros((groups, matrices.shape[2], matrices.shape[1]), g.dtype)
        turned = _by_group(g, groups)
        for rows, room in _blocks(view, g.dtype, BLOCK_BYTES):
            columns = _columns(view, rows, room, groups)
            for number, part in enumerate(turned):
                gradient[number] += kernels.matmul(columns[number], _matrix(part[:, rows]).T)
        return gradient.transpose(0, 2, 1).reshape(weight.shape)

    def to_bias(g: Array) -> Array:
        return _matrix(samples_last(g)).sum(axis=1)

    return samples_first(y), (to_x, to_weight, to_bias)


def _blocks(view: Array, dtype: Any, nbytes: int) -> Iterator[tuple[slice, Array]]:
    """Yield some rows of windows at a time, and room for their columns, shaped as windows are; used again."""
    *element, rows, columns, batch = view.shape
    of_row = prod(element) * columns * batch
    length = max(1, min(rows, nbytes // max(1, of_row * np.dtype(dtype).itemsize)))
    room = np.empty(of_row * length, dtype)
    for start in range(0, rows, length):
        stop = min(start + length, rows)
        yield slice(start, stop), room[: of_row * (stop - start)].reshape(*element, stop - start, columns, batch)


def _columns(view: Array, rows: slice, room: Array, groups: int) -> Array:
    """Copy some rows of windows to where there is room; return them as matrices, (groups, elements, windows)."""
    np.copyto(room, view[:, :, :, rows])
    return _as_matrices(room, groups)


def _as_matrices(columns: Array, groups: int) -> Array:
    return columns.reshape(groups, prod(columns.shape[:3]) // groups, prod(columns.shape[3:]))


def _matrix(laid: Array) -> Array:
    """Return (channels, rows, columns, batch) as (channels, all the rest)."""
    return laid.reshape(len(laid), prod(laid.shape[1:]))


def _by_group(g: Array, groups: int) -> Array:
    """Return a gradient (batch, out, rows, columns) as (groups, out / groups, rows, columns, batch)."""
    turned = samples_last(g)
    return turned.reshape(groups, len(turned) // groups, *turned.shape[1:])


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """Convolution of images, as `torch.nn.functional.conv2d`.

    Args:
        input: (batch, channels, height, width).
        weight: (out, channels / groups, kernel rows, kernel columns).
        bias: (out,), or None.
        stride, dilation: a number, or one for each axis.
        padding: likewise, of zeros on both sides; or "valid", none, or "same", as many as keep the shape.
        groups: into how many groups channels are parted, each with its part of `out`.

    Returns:
        (batch, out, rows, columns).

    Raises:
        ValueError: shapes do not fit each other.
    """
    return _convolve("conv2d", 2, as_tensor(input), as_tensor(weight), bias, stride, padding, dilation, groups)


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """Convolution of sequences, as `conv2d`; input (batch, channels, time), weight (out, channels / groups, kernel)."""
    return _convolve("conv1d", 1, as_tensor(input), as_tensor(weight), bias, stride, padding, dilation, groups)


def _convolve(
    name: str, axes: int, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    if x.data.ndim != 2 + axes or weight.data.ndim != 2 + axes or x.shape[1] != weight.shape[1] * groups:
        wanted = f"{name}: wanted an input (batch, channels, {'height, width' if axes == 2 else 'time'})"
        raise ValueError(f"{wanted} of {weight.shape[1] * groups} channels, got {x.shape}, weight {weight.shape}")
    if groups < 1 or len(weight.data) % groups:
        raise ValueError(f"{name}: groups must divide the channels out, {len(weight.data)}, got {groups}")
    windows = _windows(name, weight.shape[2:], stride, padding, dilation)
    image, kernel = ((*shape[:2], *as_images(shape[2:], 1)) for shape in (x.shape, weight.shape))
    windows.require_room(name, *image[2:])
    if bias is None:
        bias = np.zeros(len(weight.data), weight.dtype)
    if axes == 2:
        return _conv2d(x, weight, bias, windows=windows, groups=groups)
    y = _conv2d(x.reshape(image), weight.reshape(kernel), bias, windows=windows, groups=groups)
    return operators.reshape(y, shape=(*y.shape[:2], y.shape[3]))


def _windows(name: str, kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> Windows:
    """Return the windows of a layer of one axis or two."""
    steps, within = (numbers(value, len(kernel), f"{name}: {what}")
                     for value, what in ((stride, "stride"), (dilation, "dilation")))  # fmt: skip
    if padding == "same":
        if set(steps) != {1}:
            raise ValueError(f'{name}: padding="same" is for stride 1, got {stride}')
        around = [(step * (extent - 1)) for extent, step in zip(kernel, within)]
        both_sides = tuple((total // 2, total - total // 2) for total in around)
    else:
        sides = numbers(0 if padding == "valid" else padding, len(kernel), f"{name}: padding", 0)
        both_sides = tuple((side, side) for side in sides)
    return Windows(as_images(kernel, 1), as_images(steps, 1), as_images(both_sides, (0, 0)), as_images(within, 1))


class _Convolution(Module):
    """Convolution over the axes after the first two; see `Conv2d`."""

    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        kind = type(self).__name__
        self.in_channels = at_least_one(in_channels, f"{kind}: in_channels")
        self.out_channels = at_least_one(out_channels, f"{kind}: out_channels")
        self.groups = at_least_one(groups, f"{kind}: groups")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{kind}: groups must divide {in_channels} and {out_channels} channels, got {groups}")
        self.kernel_size = numbers(kernel_size, self.axes, f"{kind}: kernel_size")
        _windows(kind, self.kernel_size, stride, padding, dilation)  # says what is wrong with them
        self.stride, self.padding, self.dilation = stride, padding, dilation
        shape = out_channels, in_channels // groups, *self.kernel_size
        generator = generator or random.default_generator()
        self.weight = Parameter(uniform_fan_in(shape, prod(shape[1:]), dtype, generator))
        self.bias = Parameter(uniform_fan_in(shape[:1], prod(shape[1:]), dtype, generator)) if bias else None

    def forward(self, x: Any) -> Tensor:
        return _convolve(
            type(self).__name__, self.axes, as_tensor(x), self.weight, self.bias, self.stride, self.padding,
            self.dilation, self.groups,
        )  # fmt: skip

    def describe(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        others = {"padding": (self.padding, 0), "dilation": (self.dilation, 1), "groups": (self.groups, 1)}
        text += "".join(f", {name}={value!r}" for name, (value, usual) in others.items() if value != usual)
        return text + ("" if self.bias is not None else ", bias=False")


class Conv2d(_Convolution):
    """Convolution layer for images: (batch, channels, height, width) -> (batch, out, rows, columns).

    Args:
        in_channels, out_channels: channels of the input and of the output; `groups` divides both.
        kernel_size, stride, padding, dilation, groups: as of `conv2d`; a number, or (vertical, horizontal).
        bias: whether to add one for each channel.
        dtype: of the parameters, float32 or float64.
        generator: for the first values, U(-1/sqrt(n), 1/sqrt(n)) for n inputs of an output, as in PyTorch (its
            kaiming_uniform with a = sqrt(5)); else this rank's own.
    """

    axes = 2


class Conv1d(_Convolution):
    """Convolution layer for sequences: (batch, channels, time) -> (batch, out, steps); arguments as of `Conv2d`."""

    axes = 1
