"""Pooling: the largest, or the mean, of each window of an image.

    MaxPool2d           y = max of a window           the gradient goes to the first place that has it
    AvgPool2d           y = mean of a window          the gradient goes to all places alike
    AdaptiveAvgPool2d   the mean of as many parts as are asked for, (1, 1) of the whole image

Each takes all windows' elements of one place after the other, kernel * kernel passes over long runs (windows.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor, operators
from npdp.autograd.operation import FIRST, NOTHING, OUTPUT, operation
from npdp.autograd.tensor import Array, Vjp
from npdp.nn.module import Module, as_tensor
from npdp.nn.windows import Windows, as_images, numbers, samples_first, samples_last


@operation(keeps=FIRST + OUTPUT)
def _max_pool2d(x: Array, *, windows: Windows) -> tuple[Array, tuple[Vjp, ...]]:
    """Rule of `max_pool2d`."""
    laid = windows.lay(x, around=-np.inf)
    view = windows.over(laid)
    y = view[:, 0, 0].copy()
    for i, j in windows.places()[1:]:
        np.maximum(y, view[:, i, j], out=y)

    def to_x(g: Array) -> Array:
        turned, left = samples_last(g), np.ones(y.shape, bool)  # windows whose largest is still to be found
        gradient = np.zeros(laid.shape, g.dtype)
        into = windows.over(gradient)
        for i, j in windows.places():
            here = view[:, i, j] == y
            here &= left
            left ^= here
            into[:, i, j] += turned * here
        return windows.take_off(gradient, x)

    return samples_first(y), (to_x,)


@operation(keeps=NOTHING)
def _avg_pool2d(x: Array, *, windows: Windows) -> tuple[Array, tuple[Vjp, ...]]:
    """Rule of `avg_pool2d`."""
    laid = windows.lay(x)
    view, size = windows.over(laid), len(windows.places())
    y = view[:, 0, 0].copy()
    for i, j in windows.places()[1:]:
        y += view[:, i, j]
    y /= size

    def to_x(g: Array) -> Array:
        share = samples_last(g) / size
        gradient = np.zeros(laid.shape, g.dtype)
        into = windows.over(gradient)
        for i, j in windows.places():
            into[:, i, j] += share
        return windows.take_off(gradient, x)

    return samples_first(y), (to_x,)


def max_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Tensor:
    """Largest of each window, as `torch.nn.functional.max_pool2d`.

    Args:
        input: (batch, channels, height, width).
        kernel_size: of a window; a number, or (vertical, horizontal).
        stride: likewise, the step from one to the next; the kernel's size where None.
        padding: likewise, what is put on both sides: -inf, at most half of a window.

    Returns:
        (batch, channels, rows, columns).
    """
    return _max_pool2d(as_tensor(input), windows=_windows("max_pool2d", 2, input, kernel_size, stride, padding))


def avg_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Tensor:
    """Mean of each window, as `max_pool2d`; padding is of zeros, which count."""
    return _avg_pool2d(as_tensor(input), windows=_windows("avg_pool2d", 2, input, kernel_size, stride, padding))


def max_pool1d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Tensor:
    """Largest of each window of a sequence, as `max_pool2d`; input (batch, channels, time)."""
    x = as_tensor(input)
    windows = _windows("max_pool1d", 1, x, kernel_size, stride, padding)
    y = _max_pool2d(operators.reshape(x, shape=(*x.shape[:2], 1, x.shape[2])), windows=windows)
    return operators.reshape(y, shape=(*y.shape[:2], y.shape[3]))


def _windows(name: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any) -> Windows:
    """Return the windows of a layer, and see that the input has room for them."""
    if np.ndim(x.data) != 2 + axes:
        wanted = "(batch, channels, height, width)" if axes == 2 else "(batch, channels, time)"
        raise ValueError(f"{name}: wanted an input of shape {wanted}, got {np.shape(x.data)}")
    extents = numbers(kernel, axes, f"{name}: kernel_size")
    steps = extents if stride is None else numbers(stride, axes, f"{name}: stride")
    sides = numbers(padding, axes, f"{name}: padding", 0)
    if any(side > extent // 2 for side, extent in zip(sides, extents)):
        raise ValueError(f"{name}: padding must be at most half of kernel_size, {kernel}, got {padding}")
    both_sides = tuple((side, side) for side in sides)
    windows = Windows(as_images(extents, 1), as_images(steps, 1), as_images(both_sides, (0, 0)))
    windows.require_room(name, *as_images(x.shape[2:], 1))
    return windows


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Tensor:
    """Mean of each of so many parts of images, as `torch.nn.functional.adaptive_avg_pool2d`.

    Part i of n begins at floor(i * height / n) and ends at ceil((i + 1) * height / n).

    Args:
        input: (batch, channels, height, width).
        output_size: parts, a number or (vertical, horizontal); None leaves an axis as it is.

    Returns:
        (batch, channels, rows, columns).
    """
    x = as_tensor(input)
    if x.data.ndim != 4:
        raise ValueError(f"adaptive_avg_pool2d: wanted an input (batch, channels, height, width), got {x.shape}")
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    counts = [extent if count is None else count for count, extent in zip(wanted, x.shape[2:])]
    rows, columns = numbers(counts, 2, "adaptive_avg_pool2d: output_size")
    by_rows = operators.matmul(_parts(rows, x.shape[2], x.dtype), x)
    return operators.matmul(by_rows, _parts(columns, x.shape[3], x.dtype).T)


def _parts(count: int, extent: int, dtype: Any) -> Array:
    """Return the matrix (count, extent) of which a row has 1 / length where its part is."""
    places, parts = np.arange(extent), np.arange(count)[:, None]
    inside = (places >= parts * extent // count) & (places < -(-(parts + 1) * extent // count))
    parts_of_one: Array = inside / inside.sum(axis=1, keepdims=True)
    return parts_of_one.astype(dtype)


class MaxPool2d(Module):
    """Largest of each window of images; see `max_pool2d`, whose arguments it takes."""

    pool = staticmethod(max_pool2d)

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Any) -> Tensor:
        return self.pool(as_tensor(x), self.kernel_size, self.stride, self.padding)

    def describe(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool1d(MaxPool2d):
    """Largest of each window of sequences; see `max_pool1d`, whose arguments it takes."""

    pool = staticmethod(max_pool1d)


class AvgPool2d(MaxPool2d):
    """Mean of each window of images; see `avg_pool2d`, whose arguments it takes."""

    pool = staticmethod(avg_pool2d)


class AdaptiveAvgPool2d(Module):
    """Mean of each of so many parts of images; see `adaptive_avg_pool2d`."""

    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size

    def forward(self, x: Any) -> Tensor:
        return adaptive_avg_pool2d(x, self.output_size)

    def describe(self) -> str:
        return f"output_size={self.output_size}"
