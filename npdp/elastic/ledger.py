"""The ledger of elastic training: which samples have gone into the parameters, and their losses.

    backward     this rank's line    samples | sum of losses | sum of hashes of (epoch, row)
    exchange     the sum of all ranks' lines, beside the gradients
    update       the line is added to what was done before; that of an iteration which is done again is thrown away

The sum of hashes tells whether each sample was used exactly once an epoch, whoever died: it is a function of the data's
size and the epochs alone (`expected_checksum`).

Cost: an all-reduce of three numbers an iteration, and some microseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npdp.data.batch import Batch

# Middle bits of a square, as in Widynski, Squares: a fast counter-based RNG, 2020 (one round)
MIX, HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)
OF_EPOCH = 0xD1B54A32D192ED03


def checksum(rows: npt.NDArray[np.int64], epoch: int) -> int:
    """Return the sum of a 32-bit hash of each (epoch, row)."""
    words = rows.astype(np.uint64)
    words *= MIX
    words += np.uint64(OF_EPOCH * (epoch + 1) % 2**64)
    words *= words
    words >>= HALF
    return int(words.sum())


def expected_checksum(samples: int, epochs: int, first: int = 0) -> int:
    """Return the checksum of a training that has used each of so many samples once in each epoch from `first` on."""
    return sum(checksum(np.arange(samples), epoch) for epoch in range(first, epochs))


class Ledger:
    """Ledger of one rank.

    Args:
        iterations_per_epoch: global batches of an epoch.
        done: how many are done, of all epochs.

    Attributes:
        line: (3,) what this rank adds in this iteration.
        done: global batches done, of all epochs.
        samples, checksum: of those that were done here, over all ranks.
        recoveries: how many there were.
    """

    def __init__(self, iterations_per_epoch: int, done: int) -> None:
        self.iterations_per_epoch, self.done = iterations_per_epoch, done
        self.line = np.zeros(3)
        self.samples = self.checksum = self.recoveries = 0
        self._of_epoch = [0.0, 0.0]  # samples, sum of losses
        self._batch: Batch | None = None
        self._summed: list[float] | None = None  # the line of an iteration whose update is due

    def add(self, loss: Any, batch: Batch | None, rows: npt.NDArray[np.int64]) -> None:
        """Add a backward's samples, each batch once, and its loss, a mean over them."""
        self.line[1] += loss * len(rows)
        if batch is not self._batch:
            self._batch = batch
            self.line[0] += len(rows)
            self.line[2] += checksum(rows, self.done // self.iterations_per_epoch)

    def note_sum(self, line: npt.NDArray[np.float64]) -> None:
        """Note the sum of the lines of all ranks."""
        before = self._summed or (0.0, 0.0, 0.0)
        self._summed = [old + new for old, new in zip(before, line.tolist())]
        self.line[:] = 0

    def commit(self) -> None:
        """Count the iteration: its update is done."""
        samples, losses, hashes = self._summed or (0.0, 0.0, 0.0)
        if self.done % self.iterations_per_epoch == 0:
            self._of_epoch = [0.0, 0.0]
        self._of_epoch = [self._of_epoch[0] + samples, self._of_epoch[1] + losses]
        self.samples += int(samples)
        self.checksum += int(hashes)
        self.done += 1
        self.discard()

    def discard(self) -> None:
        """Throw the line away: its iteration is done again."""
        self.line[:] = 0
        self._summed = self._batch = None

    @property
    def is_due(self) -> bool:
        """True if the line was summed, and is not counted yet."""
        return self._summed is not None

    @property
    def mean_loss(self) -> float:
        """Mean loss over the samples of the epoch of the last iteration."""
        samples, losses = self._of_epoch
        return losses / (samples or 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what is counted so far."""
        return {"done": self.done, "samples": self.samples, "checksum": str(self.checksum), "epoch": self._of_epoch,
                "recoveries": self.recoveries}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, on another rank."""
        self.discard()
        self.done, self.samples, self.checksum = state["done"], state["samples"], int(state["checksum"])
        self._of_epoch, self.recoveries = list(state["epoch"]), state["recoveries"]
