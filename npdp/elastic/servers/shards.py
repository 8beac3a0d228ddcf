"""Shards that survive: a shard's state as a value, and what it was before its last update.

staleness 0     version 6 ──update──▶ 7     both are there: another shard may still be at 6
staleness > 0                         7     each shard goes on from where it is: it knows which items it has applied
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from npdp.autograd.tensor import Array
from npdp.parallel.parameter_server.messages import Message, Request
from npdp.parallel.parameter_server.record import Record
from npdp.parallel.parameter_server.shard import DenseShard

Place = tuple[int, int]  # of a shard: the number of its parameter group, and that of its server


class Snapshot(NamedTuple):
    """State of a shard.

    Attributes:
        record: what it has applied.
        steps: of its group's parameters.
        arrays: of its range, "data" and the optimiser's state by name.
    """

    record: Record
    steps: list[int]
    arrays: dict[str, Array]

    def describe(self) -> dict[str, Any]:
        """Return all but the arrays, as JSON has it."""
        record = self.record
        passes = [[*key, list(request), sorted(missing)] for key, (request, missing) in record.applied.passes.items()]
        return {"version": record.version, "samples": record.samples, "checksum": record.checksum,
                "staleness": sorted(record.staleness.items()), "passes": passes, "steps": self.steps,
                "arrays": [[name, array.dtype.str, array.size] for name, array in self.arrays.items()]}  # fmt: skip


def described(said: dict[str, Any], arrays: dict[str, Array]) -> Snapshot:
    """Return the snapshot of which `describe` said this, with these arrays."""
    record = Record(said["version"], said["samples"], said["checksum"], Counter(dict(said["staleness"])))
    for loader, epoch, request, missing in said["passes"]:
        record.applied.passes[loader, epoch] = Request(*request), set(missing)
    return Snapshot(record, said["steps"], arrays)


class Kept:
    """A shard that a rank keeps, as its server or as its replica.

    Args:
        place: which it is.
        shard: its arithmetic.
        record: what it has applied; who applies notes it there.
        undoes: whether it keeps what it was before its last update.
    """

    def __init__(self, place: Place, shard: DenseShard, record: Record, undoes: bool) -> None:
        self.place, self.shard, self.record = place, shard, record
        arrays = {name: np.empty_like(array) for name, array in shard.arrays().items()} if undoes else {}
        self._undone = arrays
        self._before: Snapshot | None = None

    def apply(self, pushes: Sequence[Message], version: int) -> None:
        """Update the shard. Nothing in here waits, so a death elsewhere never leaves half an update."""
        if self._undone:
            for name, array in self.shard.arrays().items():
                np.copyto(self._undone[name], array)
            # Items are the workers' own with staleness 0, and not in the set
            record = copy.copy(self.record)
            record.staleness = Counter(record.staleness)
            self._before = Snapshot(record, list(self.shard.steps), self._undone)
        self.shard.apply(pushes, version)

    def snapshots(self) -> list[Snapshot]:
        """Return what it is, and what it was before; the arrays are its own."""
        now = Snapshot(self.record, list(self.shard.steps), self.shard.arrays())
        return [now] if self._before is None else [now, self._before]
