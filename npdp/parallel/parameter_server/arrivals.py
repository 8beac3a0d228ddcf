"""The order in which gradients were applied: written down, and repeated to the same bits.

What an asynchronous run leaves depends on timing only through this: which unit of work was applied when, and on which
version it was computed. A shard that replays keeps early gradients back, and early answers too: a worker that pulled
version 17 then gets version 17 now.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array
from npdp.data.formats import npz
from npdp.errors import InputError
from npdp.parallel.parameter_server.messages import NONE_LEFT, Push, Request, Start, Unit
from npdp.parallel.parameter_server.policies import Workers
from npdp.parallel.parameter_server.server import Arrival
from npdp.whole_file import whole_file

FORMAT = 1
DIGEST = "digest"  # of the tables: what zip itself checks does not cover every byte
FIELDS = ("worker", "loader", "epoch", "number", "version")


class Replayed:
    """The policy of a shard that repeats a record.

    Args:
        record: what was applied, in this order.
        workers: how many there are.
        fetched: whether workers get what they compute on by `Fetch`, as of sparse parameters; else with the answers
            to Push and Start.
    """

    whole_batches = False

    def __init__(self, record: Sequence[Arrival], workers: int, fetched: bool = False) -> None:
        self._record, self._fetched = record, fetched
        self._next = [deque(arrival for arrival in record if arrival.worker == worker) for worker in range(workers)]
        self._served = [False] * workers  # has the version that its next gradient is to be computed on
        self._arrived: dict[int, Push] = {}

    def activate(self, worker: int, completed: int | None, workers: Workers) -> None:
        workers[worker].active = True

    def take(self, push: Push) -> None:
        upcoming = self._next[push.worker]
        if not upcoming or upcoming[0][1:] != (push.unit, push.version):
            wanted = f"{upcoming[0].unit} on version {upcoming[0].version}" if upcoming else "nothing more"
            raise RuntimeError(
                f"replay: worker {push.worker} brings {push.unit} on version {push.version}, the record has {wanted}: "
                "this is not the run that was recorded"
            )
        self._arrived[push.worker] = push

    def holds(self, push: Push) -> bool:
        return self._arrived.get(push.worker) is push

    def next_update(self, version: int, workers: Workers) -> list[Push]:
        if version == len(self._record) or self._record[version].worker not in self._arrived:
            return []
        for upcoming, served in zip(self._next, self._served):
            if upcoming and upcoming[0].version == version and not served:
                return []  # somebody has still to get this version
        worker = self._record[version].worker
        self._next[worker].popleft()
        self._served[worker] = False
        return [self._arrived.pop(worker)]

    def let_go(self, worker: int, message: Push | Start, version: int, workers: Workers) -> bool:
        upcoming = self._upcoming(worker, message.request)
        return upcoming is None or self._fetched or self._serve(worker, upcoming, version)

    def let_fetch(self, worker: int, version: int) -> bool:
        upcoming = self._upcoming(worker, None)
        return upcoming is None or self._served[worker] or self._serve(worker, upcoming, version)

    def _serve(self, worker: int, upcoming: Arrival, version: int) -> bool:
        self._served[worker] = upcoming.version == version
        return self._served[worker]

    def hand_out(self, worker: int, request: Request, workers: Workers) -> int:
        upcoming = self._upcoming(worker, request)
        if upcoming is not None:
            return upcoming.unit.number
        workers[worker].active = False
        return NONE_LEFT

    def _upcoming(self, worker: int, request: Request | None) -> Arrival | None:
        """Return what comes next from a worker; None where that is nothing, or not in the epoch that it asks for."""
        upcoming = self._next[worker][0] if self._next[worker] else None
        other_epoch = upcoming is not None and request is not None and request[:2] != upcoming.unit[:2]
        return None if other_epoch else upcoming


def save(path: str, shards: Sequence[Sequence[Arrival]], run: Mapping[str, Any]) -> None:
    """Write the arrivals of every shard, and what they belong to; the file whole or not at all."""
    tables = []
    for arrivals in shards:
        table = np.array([(a.worker, *a.unit, a.version) for a in arrivals], np.int32).reshape(-1, len(FIELDS))
        tables.append(np.ascontiguousarray(table.T))
    arrays: dict[str, Array] = {f"shard{number}": table for number, table in enumerate(tables)}
    described = json.dumps({"format": FORMAT, **run, DIGEST: _digest(tables)})
    arrays["run"] = np.frombuffer(described.encode(), np.uint8)
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load(path: str, run: Mapping[str, Any]) -> list[list[Arrival]]:
    """Return every shard's arrivals.

    Args:
        run: what the record must belong to.

    Raises:
        InputError: the file cannot be read, was changed or cut, or belongs to another run.
    """
    try:
        recorded, tables = _read(path)
    except _DAMAGE as error:
        if not os.path.exists(path):
            raise InputError(f"--replay-arrivals: no file {path}") from None
        why = str(error).removeprefix(f"{path}: ")
        raise InputError(
            f"--replay-arrivals: {path} is no whole record of arrivals, as --record-arrivals writes it ({why})"
        ) from None
    for name, wanted in {"format": FORMAT, **run}.items():
        if recorded.get(name) != json.loads(json.dumps(wanted)):
            raise InputError(
                f"--replay-arrivals: {path} was recorded with {name} {recorded.get(name)}, this run has {wanted}"
            )
    return [[Arrival(w, Unit(*unit), version) for w, *unit, version in table.T.tolist()] for table in tables]


# What reading a file raises that is something else, was cut, or had a byte changed
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _digest(tables: Sequence[Array]) -> str:
    return hashlib.blake2b(b"".join(table.tobytes() for table in tables), digest_size=8).hexdigest()


def _read(path: str) -> tuple[dict[str, Any], list[Array]]:
    """Return what a record belongs to, and its tables.

    Raises:
        Exception: one of `_DAMAGE`.
    """
    with npz.arrays_of(path, "a record of arrivals") as file:
        arrays = {name: file.read(name) for name in file.names}
    recorded = json.loads(arrays.pop("run").tobytes())
    tables = [arrays[f"shard{number}"] for number in range(len(arrays))]
    if not isinstance(recorded, dict):
        raise TypeError("what it belongs to is missing")
    for table in tables:
        if table.dtype != np.int32 or table.ndim != 2 or len(table) != len(FIELDS):
            raise TypeError(f"a table of {table.dtype} with shape {table.shape}")
    if recorded.pop(DIGEST, None) != _digest(tables):
        raise ValueError("its tables are not those that were written")
    return recorded, tables
