"""The strategy of elastic training: all-reduce, with the ledger's line summed beside the gradients."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.collectives.communicator import Communicator
from npdp.comm.errors import RankDied
from npdp.data.sampler import this_rank
from npdp.elastic.ledger import Ledger
from npdp.nn.parameter import Parameter, allocate
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.data_parallel import DataParallel


class ElasticAllReduce(AllReduce):
    """All-reduce strategy that keeps a ledger.

    Args:
        like: the all-reduce whose buckets it has.
        ledger: what it writes to.
    """

    def __init__(self, like: AllReduce, ledger: Ledger) -> None:
        super().__init__(like.bucket_cap_mb, like.first_bucket_mb, like.overlap)
        self.ledger = ledger

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        super().attach(parameters, communicator)
        self._line = np.zeros_like(self.ledger.line)
        self._sum_line = communicator.persistent_allreduce(self._line, communicator.number_buckets(1))

    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        weight = super().begin(loss, counted, alone)
        if (rows := this_rank.rows) is not None:
            self.ledger.add(loss.array.sum(), this_rank.batch, rows)
        return weight

    def finish(self) -> None:
        super().finish()
        if self.syncing:
            self._line[:] = self.ledger.line
            self._sum_line()  # before any rank updates: whoever does has the line, too
            self.ledger.note_sum(self._line)

    def cancel(self) -> None:
        self.ledger.discard()
        if isinstance(sys.exc_info()[1], RankDied):  # others that live may still read what this rank has sent
            for parameter in self.parameters:
                parameter.raw_grad = None
        else:
            super().cancel()

    def end_training(self) -> dict[str, Any]:
        ledger = self.ledger
        return {"samples_seen": ledger.samples, "samples_checksum": ledger.checksum, "recoveries": ledger.recoveries}


def train_by_anew(model: DataParallel, strategy: AllReduce) -> None:
    """Replace a model's strategy, among the ranks that its communicator has now; collective.

    Gradients are thrown away, and get memory of their own: messages of before may still be written to the old one.
    """
    parameters = model.strategy.parameters
    for parameter in parameters:
        parameter.raw_grad = None
        parameter.reduce_by(None)
    for flat in model.strategy.flats:
        flat.leave_reducers(allocate(flat.data.size, flat.dtype))
    strategy.attach(parameters, model.world)
    strategy.exchanged_bytes = model.strategy.exchanged_bytes
    guard = model.strategy.guard
    model.train_by(strategy)
    if guard is not None and strategy.guard is not None:
        strategy.guard.skipped = guard.skipped
