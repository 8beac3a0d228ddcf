"""The update log: the order in which gradients were applied, written down, and repeated to the same bits.

What an asynchronous run leaves depends on timing only through this: which work item was applied when, and on which
version it was computed. A shard that replays keeps early gradients back, and early answers too: a worker that pulled
version 17 then gets version 17 now.

A file is a digest, and behind it compressed JSON: what the log belongs to, and of every shard a column a field.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from npdp.base.errors import InputError
from npdp.base.whole_file import whole_file
from npdp.parallel.parameter_server.messages import NONE_LEFT, Kind, Message, Request, WorkItem
from npdp.parallel.parameter_server.server import Policy, Workers
from npdp.parallel.parameter_server.work import WorkPool

FORMAT = 2
DIGEST_BYTES = 16
GROWTH_MAX = 32  # it is 3 to 10, as versions rise


class Update(NamedTuple):
    """Update of the log: a gradient's worker, its work item, and the version that it was computed on."""

    worker: int
    item: WorkItem
    version: int


class Logged(Policy):
    """Policy that logs the updates of another policy."""

    log: list[tuple[int, ...]]

    def __init__(self, policy: Policy) -> None:
        self._policy, self.log = policy, []

    def next_update(self, version: int, workers: Workers) -> list[Message]:
        pushes = self._policy.next_update(version, workers)
        self.log += [(push.worker, *push.item, push.version) for push in pushes]
        return pushes

    def may_go_on(self, message: Message, version: int, workers: Workers) -> bool:
        return self._policy.may_go_on(message, version, workers)


class Replayed(Policy, WorkPool):
    """Policy that replays a log: work is assigned as it was then.

    Workers get what they compute on by PULL where it is `fetched`, as of sparse parameters, else by PUSH and START.
    """

    def __init__(self, log: Sequence[Update], workers: int, fetched: bool = False) -> None:
        super().__init__()
        self._log, self._fetched = log, fetched
        self._coming = [deque(update for update in log if update.worker == worker) for worker in range(workers)]
        self._served = [False] * workers  # has the version that its next gradient is to be computed on

    def next_update(self, version: int, workers: Workers) -> list[Message]:
        for worker in workers:
            if worker.push is not None:
                self._require_logged(worker.push)
        push = workers[self._log[version].worker].push if version < len(self._log) else None
        if push is None or any(self._has_to_get(worker, version) for worker in range(len(workers))):
            return []
        self._coming[push.worker].popleft()
        self._served[push.worker] = False
        return [push]

    def _has_to_get(self, worker: int, version: int) -> bool:
        coming = self._next_of(worker)
        return coming is not None and coming.version == version and not self._served[worker]

    def may_go_on(self, message: Message, version: int, workers: Workers) -> bool:
        worker, is_pull = message.worker, message.kind == Kind.PULL
        coming = self._next_of(worker, message.request)
        if coming is None or (is_pull and not message.training) or self._fetched != is_pull:
            return True
        self._served[worker] = self._served[worker] or coming.version == version
        return self._served[worker]

    def assign(self, worker: int, request: Request) -> int:
        """Return the number of the work item that the worker got then."""
        coming = self._next_of(worker, request)
        return NONE_LEFT if coming is None else coming.item.number

    def _require_logged(self, push: Message) -> None:
        coming = self._next_of(push.worker)
        if coming != (push.worker, push.item, push.version):
            wanted = "nothing more" if coming is None else f"{coming.item} on version {coming.version}"
            raise RuntimeError(
                f"replay: worker {push.worker} brings {push.item} on version {push.version}, the record has {wanted}: "
                "this is not the run that was recorded"
            )

    def _next_of(self, worker: int, request: Request | None = None) -> Update | None:
        """Return what comes next from a worker; None where that is nothing, or not of the pass that it asks for."""
        coming = self._coming[worker][0] if self._coming[worker] else None
        other_pass = coming is not None and request is not None and request.parts and request[:2] != coming.item[:2]
        return None if other_pass else coming


def save(path: str, reports: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> None:
    """Write every shard's log, from their reports, and what it belongs to; the file whole or not at all."""
    shards = [list(zip(*report["log"])) for report in reports]
    content = zlib.compress(json.dumps({"run": {"format": FORMAT, **run}, "shards": shards}).encode(), 9)
    with whole_file(path) as file:
        file.write(_digest(content) + content)


def load(path: str, run: Mapping[str, Any]) -> list[list[Update]]:
    """Return every shard's log; raise InputError where the file is missing, changed, cut, or of another run."""
    try:
        with open(path, "rb") as file:
            digest, content = file.read(DIGEST_BYTES), file.read()
        if digest != _digest(content):
            raise OSError("its bytes are not those that were written")
        recorded = json.loads(_unpacked(content))
        of_run, shards = dict(recorded["run"]), [_updates(shard) for shard in recorded["shards"]]
    except FileNotFoundError:
        raise InputError(f"--replay-arrivals: no file {path}") from None
    except (OSError, zlib.error, ValueError, TypeError, KeyError, RecursionError) as error:
        what = "no whole record of arrivals, as --record-arrivals writes it"
        raise InputError(f"--replay-arrivals: {path} is {what} ({error})") from None
    for name, wanted in {"format": FORMAT, **run}.items():
        if (got := of_run.get(name)) != json.loads(json.dumps(wanted)):
            raise InputError(f"--replay-arrivals: {path} was recorded with {name} {got}, this run has {wanted}")
    return shards


def _unpacked(content: bytes) -> bytes:
    """Return JSON that was compressed; ValueError where it is more than a log can be."""
    stream = zlib.decompressobj()
    text = stream.decompress(content, GROWTH_MAX * len(content))
    if not stream.eof:
        raise ValueError(f"it is cut, or unpacks to over {GROWTH_MAX} times its bytes")
    return text


def _updates(columns: Sequence[Sequence[int]]) -> list[Update]:
    """Return a shard's log; ValueError, TypeError where its columns are not of one length, and of whole numbers."""
    rows = zip(*(map(index, column) for column in columns), strict=True)
    return [Update(worker, WorkItem(*item), version) for worker, *item, version in rows]


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
