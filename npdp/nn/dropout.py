"""Dropout whose masks are the same however many ranks share a batch.

    mask of a row = f(seed, number of the layer in the model, iteration, row in the global batch, use in this forward)

f is a counter-based generator (masks.py): a rank draws the masks of its own rows and of no others.
Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, 2014.
"""

from __future__ import annotations

from typing import Any

from npdp.autograd import Tensor
from npdp.base import random
from npdp.base.arguments import require_number, seed_of
from npdp.nn.forward import Forward, Samples
from npdp.nn.masks import Masks
from npdp.nn.module import Module, as_tensor
from npdp.nn.rules import scale_by


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

    def join_forwards(self, forwards: Forward, first: int = 0) -> int:
        self._forwards, self.layer_number, self.forwards = None, first, forwards
        return first + 1

    def forward(self, x: Any) -> Tensor:
        x = as_tensor(x)
        if not self.training or self.p == 0:
            return x  # type: ignore[no-any-return]
        return scale_by(x, self.masks(x.shape).draw(x.shape, x.dtype))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        """Count a use in this forward, and return its masks, of an input of this shape."""
        number = self.forwards.number
        last, uses = self._last
        self._last = number, uses + 1 if number == last else 0
        samples = self.forwards.samples or Samples(max(0, number), 0, shape[0])
        rows_per_sample, rest = divmod(shape[0], max(1, samples.count))  # not 1 where (batch, time, ...) was flattened
        if rest and shape[0] == 1:
            rest = 0  # no samples, but the same for all of them: rows_per_sample is 0, as the first row is
        if rest and samples.shared:
            raise ValueError(
                "Dropout: for ranks to mask rows as one would, an input must begin with the axis of the batch; this "
                f"rank has {samples.count} samples, and the input has shape {shape}: bring that axis to the front, "
                "and drop before rows are chosen"
            )
        seed = random.current_seed() if self.seed is None else self.seed
        first_row = samples.first * rows_per_sample
        return Masks(self.p, seed, self.layer_number, samples.iteration, self._last[1], first_row)

    def describe(self) -> str:
        return f"p={self.p}"
