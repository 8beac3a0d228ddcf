"""Dropout whose masks are the same however many ranks share a batch.

    mask of a row = f(seed, number of the layer in the model, iteration, row in the global batch, use in this forward)

f is a counter-based generator (Philox): a rank draws the masks of its own rows and of no others.
Source: Srivastava et al., Dropout, 2014; Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011 (Philox).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.tensor import Array
from npdp.base import random
from npdp.base.arguments import require_number, seed_of
from npdp.nn.forward import Forward, Samples
from npdp.nn.functional import scale_by
from npdp.nn.module import Module, as_tensor

MASK_STREAM = 1  # of Philox's counter: with 0 there, its draws make the orders of epochs (data/sampler.py)


class Dropout(Module):
    """Sets a part p of the elements to 0 and scales the rest by 1 / (1 - p); in evaluation, nothing.

    The first axis of an input is samples, or samples times k, as of (batch * time, ...). What has another one, a
    position embedding of (time, width), say, is dropped with what has that axis, `drop(tokens + positions)`; or as
    (1, time, width), which goes wrong only where a rank's part of a batch has one sample. A layer that is used several
    times in a forward has another mask each time. A layer that is put into a model after its first forward, or after it
    was wrapped, belongs to nobody: it counts forwards by itself, and ranks mask their rows by number within their part.

    Args:
        p: the probability of dropping, in [0, 1).
        seed: of the masks; this rank's (`npdp.manual_seed`) where None.
    """

    def __init__(self, p: float = 0.5, seed: int | None = None) -> None:
        require_number(p, "Dropout: p must be a number in [0, 1)")
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must be in [0, 1), got {p}")
        self.p, self.seed = p, None if seed is None else seed_of(seed, "Dropout: seed")
        self.layer_number, self.forwards = 0, Forward()  # the model's, once it is numbered
        self._last = -1, 0  # the forward that it was used in last, and how often since

    def number_dropouts(self, forwards: Forward, first: int = 0) -> int:
        self._forwards, self.layer_number, self.forwards = None, first, forwards
        return first + 1

    def forward(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if not self.training or self.p == 0:
            return x  # type: ignore[no-any-return]
        number = self.forwards.number
        last, uses = self._last
        self._last = number, uses + 1 if number == last else 0
        samples = self.forwards.samples or Samples(max(0, number), 0, len(x))
        rows_per_sample, rest = divmod(len(x), max(1, samples.count))  # not 1 where (batch, time, ...) was flattened
        if rest and len(x) == 1:
            rest = 0  # no samples, but the same for all of them: rows_per_sample is 0, as the first row is
        if rest and samples.shared:
            raise ValueError(
                "Dropout: for ranks to mask rows as one would, an input must begin with the axis of the batch; this "
                f"rank has {samples.count} samples, and the input has shape {x.shape}: bring that axis to the front, "
                "and drop before rows are chosen"
            )
        return scale_by(x, self._mask(x, samples.iteration, samples.first * rows_per_sample))

    def _mask(self, x: Tensor, iteration: int, first_row: int) -> Array:
        """Return 0 or 1 / (1 - p) for each element of `x`, whose rows begin at `first_row` of the global batch."""
        width = int(np.prod(x.shape[1:]))
        ticks = -(-width // 8)  # one tick of Philox gives 4 x 64 bits: 8 elements of 32 bits; a row starts on a tick
        seed = random.current_seed() if self.seed is None else self.seed
        bits = np.random.Philox(
            key=np.array([seed, self.layer_number], np.uint64),
            counter=np.array([first_row * ticks, iteration, self._last[1], MASK_STREAM], np.uint64),
        ).random_raw(len(x) * ticks * 4)
        numbers = bits.astype("<u8", copy=False).view("<u4").reshape(len(x), ticks * 8)[:, :width]
        kept = numbers >= np.uint32(self.p * 2.0**32)
        return np.reshape(kept * x.dtype.type(1 / (1 - self.p)), x.shape)

    def describe(self) -> str:
        return f"p={self.p}"
