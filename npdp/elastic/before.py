"""Memory of all that an iteration changes before its update, so that it can be done again."""

from __future__ import annotations

import numpy as np

from npdp.base import random
from npdp.parallel.data_parallel import DataParallel


class Before:
    """State of a model, of this rank's generator and of what was left out, before an iteration; nothing large."""

    def __init__(self, model: DataParallel) -> None:
        self._model, self._forwards = model, model.own_forwards()
        self._has_buffers = any(True for _ in model.buffers())
        self.remember()

    def remember(self) -> None:
        """Remember how it is now."""
        self._random = random.get_rng_state()
        if (guard := self._model.strategy.guard) is not None:
            self._skipped = guard.skipped
        if self._has_buffers:
            self._buffers = {name: buffer.array.copy() for name, buffer in self._model.named_buffers()}
        if self._forwards is not None:
            self._counted_arrays = self._forwards.counted_arrays

    def put_back(self) -> None:
        """Put back what was remembered."""
        random.set_rng_state(self._random)
        if (guard := self._model.strategy.guard) is not None:
            guard.skipped = self._skipped
        if self._has_buffers:
            for name, buffer in self._model.named_buffers():
                np.copyto(buffer.array, self._buffers[name])
        if self._forwards is not None:  # its `number` goes on: a dropout takes the same one for a second use
            self._forwards.counted_arrays = self._counted_arrays
