"""Sliding windows over images, which convolution and pooling look through.

    x        (batch, channels, height, width)
    laid     (channels, height + padding, width + padding, batch)    in memory: samples last
    windows  (channels, kernel rows, kernel columns, rows, columns, batch)    a view; one place of all: [:, i, j]

With samples last, what a kernel's element meets in a row of windows is one long run, columns * batch numbers, which is
copied, added and compared at the speed of memory; in runs of 28 pixels, say, NumPy mostly begins and ends.
Results of these layers keep that order in memory under PyTorch's shapes, so the next one finds its input laid.
Source: Chellapilla et al., High performance convolutional neural networks for document processing, 2006 (im2col).
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npdp.autograd.tensor import Array
from npdp.base.arguments import whole

Pair = tuple[int, int]


def numbers(value: Any, count: int, name: str, least: int = 1) -> tuple[int, ...]:
    """Return a whole number for each of `count` axes: of one for all, or one each; `name` says whose argument it is."""
    each = value if isinstance(value, (tuple, list)) and len(value) == count else (value,) * count
    wanted = f"{name} must be a whole number, at least {least}" + (f", or {count} of them" if count > 1 else "")
    return tuple(whole(number, wanted, least) for number in each)


def as_images(values: tuple[Any, ...], fill: Any) -> Any:
    """Return (vertical, horizontal) of one value an axis: a sequence is an image of one row, whose vertical is fill."""
    return (fill,) * (2 - len(values)) + values


def samples_last(x: Array) -> Array:
    """Return x (batch, channels, ...) as (channels, ..., batch), contiguous: a view where it lies so, else a copy."""
    return np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0))


def samples_first(laid: Array) -> Array:
    """Return what `samples_last` made in its public shape: a view."""
    return laid.transpose(-1, *range(laid.ndim - 1))


class Windows(NamedTuple):
    """Windows of a layer: their size, the steps between them and within, and what is put around an image.

    All are (vertical, horizontal); padding is ((above, below), (left, right)).
    """

    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair = (1, 1)

    def places(self) -> list[Pair]:
        """Return the (row, column) of each of a kernel's elements, row by row."""
        return list(product(range(self.kernel[0]), range(self.kernel[1])))

    def require_room(self, name: str, height: int, width: int) -> None:
        """Raise ValueError where images are smaller than a window."""
        if min(self._counts(height, width)) < 1:
            raise ValueError(
                f"{name}: wanted images of at least one window, {self.kernel} with dilation {self.dilation}, got "
                f"{height, width} with padding {self.padding}"
            )

    def _counts(self, height: int, width: int) -> Pair:
        """Return how many windows there are, down and across."""
        rows, columns = (
            (extent + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1
            for extent, kernel, stride, padding, dilation in zip((height, width), *self)
        )
        return rows, columns

    def lay(self, x: Array, around: float = 0.0) -> Array:
        """Return x with samples last, and padded: a view of x where it lies so already, else a copy."""
        if self.padding == ((0, 0), (0, 0)):
            return samples_last(x)
        batch, channels, height, width = x.shape
        (above, below), (left, right) = self.padding
        laid = np.full((channels, above + height + below, left + width + right, batch), around, x.dtype)
        laid[self._inside(x)] = x.transpose(1, 2, 3, 0)
        return laid

    def take_off(self, laid: Array, x: Array) -> Array:
        """Return what `lay` would make `laid` of, in the shape of x: a view."""
        return samples_first(laid[self._inside(x)])

    def _inside(self, x: Array) -> tuple[slice, slice, slice]:
        (above, _), (left, _) = self.padding
        return slice(None), slice(above, above + x.shape[2]), slice(left, left + x.shape[3])

    def over(self, laid: Array) -> Array:
        """Return all windows, a view in which an element stands as often as windows have it.

        One place of all windows, [:, i, j], has each element once, and may be written.
        """
        channels, height, width, batch = laid.shape
        unpadded = self._replace(padding=((0, 0), (0, 0)))
        rows, columns = unpadded._counts(height, width)
        of_channel, down, across, of_sample = laid.strides
        within = self.dilation[0] * down, self.dilation[1] * across
        between = self.stride[0] * down, self.stride[1] * across
        shape = (channels, *self.kernel, rows, columns, batch)
        return as_strided(laid, shape, (of_channel, *within, *between, of_sample))
