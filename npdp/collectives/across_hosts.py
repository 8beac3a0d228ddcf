"""Carries out the hierarchical all-reduce: through shared memory inside each host, by messages between hosts.

    gathered     what is small: a host's ranks add up | its leader sends the sum to all other leaders, and adds theirs
                 to it in the order of hosts: the time of one message, not of two | it tells its host
    in pieces    reduce-scatter in the host | each rank's slice across | allgather in the host; where hosts are uneven,
                 by leaders. The link does not wait for memory:

                     link    |         | piece 0 | piece 1        | piece 2        |         |
                     host    | 0 in    | 1 in    | 0 out, 2 in    | 1 out          | 2 out   |

    by messages  the whole schedule, where a host's ranks share no memory

What is small, and into how many pieces the rest is cut: `phases_of` (hierarchical.py).
While a leader waits for the link, the others of its host sleep in the kernel: they take no core from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npdp import kernels
from npdp.base.partition import bounds, part
from npdp.collectives.execute import RankStep, cut_steps, elementwise, messages, rank_steps
from npdp.collectives.hierarchical import Phases, by_messages, groups, phases_of
from npdp.collectives.host import Host
from npdp.comm.failures.call_log import LoggedCall
from npdp.comm.transport import Buffer, Transport

MOST_GATHERINGS = 100


class Gathering(NamedTuple):
    """Buffer of all hosts' sums on a leader, and the steps that fill it; ordinary memory, so the kernel posts once."""

    steps: list[RankStep]
    sums: Buffer
    mine: Buffer  # this host's, in `sums`
    first: Buffer  # the first host's, to which the others are added
    others: list[Buffer]


class AcrossHosts:
    """Hierarchical all-reduce over the hosts of a world, on one rank.

    Args:
        hosts: each rank's host.
        rank: this one's number.
        host: the ranks of this host and their memory; None on all ranks where those of a host share none.
    """

    def __init__(self, hosts: tuple[int, ...], rank: int, host: Host | None) -> None:
        self._hosts, self._rank, self._host = hosts, rank, host
        self._host_index, group = next(pair for pair in enumerate(groups(hosts)) if rank in pair[1])
        self._local_rank, self._local_size = group.index(rank), len(group)
        self._gatherings: dict[tuple[int, int], Gathering] = {}

    def allreduce(self, buffer: Buffer, op: str, transport: Transport, call: LoggedCall) -> Iterator[Any]:
        """Leave the sum, or other op, in the buffer; collective, in place.

        Args:
            buffer: (count,) contiguous, float32, float64, int32 or int64.
            op: "sum", "mean" (the sum, which the caller divides), "prod", "min" or "max".
            call: that the messages belong to.

        Yields:
            Each message that is to be waited for before it can go on; None before it waits for something else.
        """
        if self._host is None:
            steps = _steps_by_messages(self._hosts, self._rank, buffer.size, buffer.itemsize)
            yield from messages(steps, transport, buffer, op, call)
            return
        if self._local_size > 1:
            yield None  # no message, but what comes next waits for the ranks of this host
        phases = phases_of(buffer.nbytes, self._hosts, shares_memory=True)
        carry_out = self._gathered if phases.gathered else self._in_pieces
        yield from carry_out(phases, buffer, op, transport, call)

    def _in_host(self, collective: str, buffer: Buffer, *like: str) -> None:
        """Carry out a collective among the host's ranks; `like` are op, label and order, where these matter."""
        if self._local_size > 1:
            self._host.collective(collective, buffer, *like)  # type: ignore[union-attr]

    def _gathered(
        self, phases: Phases, buffer: Buffer, op: str, transport: Transport, call: LoggedCall
    ) -> Iterator[Any]:
        steps, sums, mine, first, others = self._gathering(phases, buffer.size, buffer.dtype)
        mine[:] = buffer
        self._in_host(phases.before, mine, op, call.call.label, call.call.order)
        if self._local_rank == 0:
            yield from messages(steps, transport, sums, op, call)
            for other in others:
                kernels.accumulate(first, other, elementwise(op))
        self._in_host(phases.after, first)
        buffer[:] = first

    def _gathering(self, phases: Phases, count: int, dtype: np.dtype[Any]) -> Gathering:
        """Return what there is for this count and dtype, made the first time."""
        found = self._gatherings.get((count, dtype.num))
        if found is None:
            if len(self._gatherings) == MOST_GATHERINGS:
                self._gatherings.clear()
            rows = np.empty((len(phases.columns[0]), count), dtype)
            steps = self._steps(phases, 0, rows.size, dtype.itemsize)
            found = Gathering(steps, rows.reshape(-1), rows[self._host_index], rows[0], list(rows[1:]))
            self._gatherings[count, dtype.num] = found
        return found

    def _in_pieces(
        self, phases: Phases, buffer: Buffer, op: str, transport: Transport, call: LoggedCall
    ) -> Iterator[Any]:
        pieces = [buffer[start:stop] for start, stop in pairwise(bounds(buffer.size, phases.pieces))]
        self._in_host(phases.before, pieces[0], op, call.call.label, call.call.order)
        for number, piece in enumerate(pieces):
            meanwhile = self._meanwhile(phases, pieces, number, op)
            yield from self._cross(phases, piece, op, transport, call, meanwhile)
            for _ in meanwhile:
                pass
        self._in_host(phases.after, pieces[-1])

    def _meanwhile(self, phases: Phases, pieces: list[Buffer], crossing: int, op: str) -> Iterator[None]:
        """Do, one after the other, what there is to do in the host while a piece crosses; the same on all its ranks."""
        if crossing:
            self._in_host(phases.after, pieces[crossing - 1])
            yield
        if crossing + 1 < len(pieces):
            self._in_host(phases.before, pieces[crossing + 1], op)
            yield

    def _cross(
        self, phases: Phases, piece: Buffer, op: str, transport: Transport, call: LoggedCall, meanwhile: Iterator[None]
    ) -> Iterator[Any]:
        """All-reduce what this rank carries, if it carries something, in its cross-host group."""
        slices = len(phases.columns)
        if self._local_rank < slices:
            mine = piece[slice(*part(piece.size, slices, self._local_rank))]
            steps = self._steps(phases, self._local_rank, mine.size, mine.itemsize)
            yield from messages(steps, transport, mine, op, call, meanwhile)

    def _steps(self, phases: Phases, column: int, count: int, itemsize: int) -> list[RankStep]:
        """Return this host's share of the steps of a cross-host group."""
        ranks = phases.columns[column]
        how = phases.across, phases.algorithm, len(ranks), self._host_index
        return rank_steps(*how, count, itemsize, among=ranks)


@lru_cache(maxsize=1024)
def _steps_by_messages(hosts: tuple[int, ...], rank: int, count: int, itemsize: int) -> list[RankStep]:
    schedule = by_messages(hosts, phases_of(count * itemsize, hosts, shares_memory=False))
    return cut_steps(schedule, rank, bounds(count, len(hosts)), itemsize, range(len(hosts)))
