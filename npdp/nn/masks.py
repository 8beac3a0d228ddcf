"""Masks of dropout, drawn by a counter-based generator (Philox), so that a rank draws those of its own rows alone.

Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npdp.autograd.tensor import Array

MASK_STREAM = 1  # of Philox's counter: with 0 there, its draws make the orders of epochs (data/sampler.py)


class Masks(NamedTuple):
    """Masks of one use of a dropout in a forward; each is a function of these numbers and of the block it is for.

    Attributes:
        p: the probability of 0.
        seed, layer, iteration, use: whose masks these are.
        first_row: the number, in the global batch, of the first row that is masked.
    """

    p: float
    seed: int
    layer: int = 0
    iteration: int = 0
    use: int = 0
    first_row: int = 0

    def draw(self, shape: tuple[int, ...], dtype: Any, block: int = 0) -> Array:
        """Return 0 or 1 / (1 - p) for each element; a block's are drawn again alike, and differ from another's.

        Args:
            shape: (rows, ...); beyond the rows it must be the same on all ranks.
            block: the number of what is masked by itself, where an array is never there as a whole.
        """
        rows, width = shape[0], int(np.prod(shape[1:]))
        ticks = -(-width // 8)  # one tick of Philox gives 4 x 64 bits: 8 elements of 32 bits; a row starts on a tick
        counter = [self.first_row * ticks, self.iteration, (block << 32) + self.use, MASK_STREAM]
        generator = np.random.Philox(
            key=np.array([self.seed, self.layer], np.uint64), counter=np.array(counter, np.uint64)
        )
        bits = generator.random_raw(rows * ticks * 4)
        numbers = bits.astype("<u8", copy=False).view("<u4").reshape(rows, ticks * 8)[:, :width]
        kept = numbers >= np.uint32(self.p * 2.0**32)
        return np.reshape(kept * np.dtype(dtype).type(1 / (1 - self.p)), shape)
