"""The hierarchical all-reduce, carried out: through shared memory inside each host, by messages between hosts.

    gathered     what is small: a host's ranks add up | its leader sends the sum to all other leaders, and adds theirs
                 to it in the order of hosts: the time of one message, not of two | it tells its host
    in pieces    reduce-scatter in the host | each rank's slice across | allgather in the host; where hosts are uneven,
                 by leaders (hierarchical.py). The link does not wait for memory:

                     link    |         | piece 0 | piece 1        | piece 2        |         |
                     host    | 0 in    | 1 in    | 0 out, 2 in    | 1 out          | 2 out   |

    by messages  the whole schedule, where a host's ranks share no memory

While a leader waits for the link, the others of its host sleep in the kernel: they take no core from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npdp import kernels
from npdp.collectives import hierarchical
from npdp.collectives.execute import RankStep, carried_out, cut_steps, messages, rank_steps
from npdp.collectives.shared_memory import Host
from npdp.comm.calls import Call
from npdp.comm.transport import Buffer, Transport
from npdp.partition import bounds, part

# Measured on emulated hosts with links of 1 Gbit/s: docs/measurements.md
GATHERED_UP_TO_BYTES = 64 << 10
MORE_BYTES = 8 << 10  # that gathering may send over a link than a ring would: it takes as long as the ring's messages
RING_FROM_BYTES = 64 << 10  # of a slice, on many hosts: below, its many messages cost more than it saves
FEW_HOSTS = 3  # a ring of these takes no more steps than halving-doubling
PIECE_BYTES = 1 << 20  # and so much for each host, since a piece is cut into a chunk for each
MOST_GATHERINGS = 100


def gathers(nbytes: int, hosts: int) -> bool:
    """Return whether a buffer is so small that each leader sends its host's sum to all others."""
    more_bytes = nbytes * (hosts - 1) * (hosts - 2) // hosts  # hosts - 1 buffers; a ring sends 2 (hosts - 1) / hosts
    return nbytes <= GATHERED_UP_TO_BYTES and more_bytes <= MORE_BYTES


def number_of_pieces(nbytes: int, hosts: int, ranks: int) -> int:
    """Return in how many pieces a buffer goes; in one where there is nothing to do in a host meanwhile."""
    return 1 if hosts == ranks else -(-nbytes // (PIECE_BYTES * hosts))


def algorithm_across(nbytes: int, hosts: int) -> str:
    """Return how ranks on so many hosts, one each, all-reduce what they carry."""
    return "ring" if hosts <= FEW_HOSTS or nbytes >= RING_FROM_BYTES else "halving_doubling"


class Gathering(NamedTuple):
    """Where a leader puts all hosts' sums, and how it gets them; ordinary memory: the kernel then posts only once."""

    steps: list[RankStep]
    sums: Buffer
    mine: Buffer  # this host's, in `sums`
    first: Buffer  # the first host's, to which the others are added
    others: list[Buffer]


class AcrossHosts:
    """All-reduces over the hosts of a world, as one of its ranks.

    Args:
        hosts: each rank's host.
        rank: this one's number.
        host: the ranks of this host and their memory; None on all ranks where those of a host share none.
    """

    def __init__(self, hosts: tuple[int, ...], rank: int, host: Host | None) -> None:
        groups = hierarchical.groups(hosts)
        self._hosts, self._rank, self._host = hosts, rank, host
        self._number = next(number for number, group in enumerate(groups) if rank in group)
        self._place, self._places = groups[self._number].index(rank), len(groups[self._number])
        self._leaders = tuple(group[0] for group in groups)
        self._even = hierarchical.even(hosts)
        self._crossing = tuple(group[self._place] for group in groups) if self._even else self._leaders
        self._gatherings: dict[tuple[int, int], Gathering] = {}

    def allreduce(self, buffer: Buffer, op: str, transport: Transport, call: Call, which: int = 0) -> Iterator[Any]:
        """Leave the sum, or other op, in the buffer; collective, in place.

        Args:
            buffer: (count,) contiguous, float32, float64, int32 or int64.
            op: "sum", "mean" (the sum, which the caller divides), "prod", "min" or "max".
            call: that the messages belong to.
            which: the number of a bucket, which the ranks of a host compare where they first meet.

        Yields:
            Each message that is to be waited for before it can go on; None before it waits for something else.
        """
        small = gathers(buffer.nbytes, len(self._leaders))
        if self._host is not None and self._places > 1:
            yield None  # no message, but what comes next waits for the ranks of this host
        if self._host is None:
            steps = _steps_by_messages(self._hosts, self._rank, buffer.size, buffer.itemsize, small)
            yield from messages(steps, transport, buffer, op, call)
        elif small:
            yield from self._gathered(buffer, op, transport, call, which)
        else:
            yield from self._in_pieces(buffer, op, transport, call, which)

    def _in_host(self, collective: str, buffer: Buffer, op: str = "sum", which: int = 0) -> None:
        if self._places > 1:
            self._host.collective(collective, buffer, op, which)  # type: ignore[union-attr]

    def _gathered(self, buffer: Buffer, op: str, transport: Transport, call: Call, which: int) -> Iterator[Any]:
        steps, sums, mine, first, others = self._gathering(buffer.size, buffer.dtype)
        mine[:] = buffer
        self._in_host("allreduce", mine, op, which)
        if self._place == 0:
            yield from messages(steps, transport, sums, op, call)
            for other in others:
                kernels.accumulate(first, other, carried_out(op))
        self._in_host("broadcast", first)
        buffer[:] = first

    def _gathering(self, count: int, dtype: np.dtype[Any]) -> Gathering:
        """Return what there is for this count and dtype, made the first time."""
        found = self._gatherings.get((count, dtype.num))
        if found is None:
            if len(self._gatherings) == MOST_GATHERINGS:
                self._gatherings.clear()
            hosts = len(self._leaders)
            among = (hosts * count, dtype.itemsize, self._leaders)
            steps = rank_steps("allgather", "naive", hosts, 0, self._number, *among)
            rows = np.empty((hosts, count), dtype)
            found = Gathering(steps, rows.reshape(-1), rows[self._number], rows[0], list(rows[1:]))
            self._gatherings[count, dtype.num] = found
        return found

    def _in_pieces(self, buffer: Buffer, op: str, transport: Transport, call: Call, which: int) -> Iterator[Any]:
        cuts = bounds(buffer.size, number_of_pieces(buffer.nbytes, len(self._leaders), len(self._hosts)))
        pieces = [buffer[start:stop] for start, stop in pairwise(cuts)]
        self._into(pieces[0], op, which)
        for number, piece in enumerate(pieces):
            meanwhile = self._inside(pieces, number, op)
            yield from self._cross(piece, op, transport, call, meanwhile)
            for _ in meanwhile:
                pass
        self._out(pieces[-1])

    def _inside(self, pieces: list[Buffer], crossing: int, op: str) -> Iterator[None]:
        """Do, one after the other, what there is to do in the host while a piece crosses; the same on all its ranks."""
        if crossing:
            self._out(pieces[crossing - 1])
            yield
        if crossing + 1 < len(pieces):
            self._into(pieces[crossing + 1], op)
            yield

    def _into(self, piece: Buffer, op: str, which: int = 0) -> None:
        """Leave the host's sum where it will cross: on each rank its slice, or all on the leader."""
        self._in_host("reduce_scatter" if self._even else "allreduce", piece, op, which)

    def _out(self, piece: Buffer) -> None:
        """Leave on all ranks of the host what has crossed."""
        self._in_host("allgather" if self._even else "broadcast", piece)

    def _cross(
        self, piece: Buffer, op: str, transport: Transport, call: Call, meanwhile: Iterator[None]
    ) -> Iterator[Any]:
        """All-reduce what this rank carries among the ranks that carry the same on the other hosts."""
        if self._even:
            piece = piece[slice(*part(piece.size, self._places, self._place))]
        elif self._place:
            return
        hosts = len(self._crossing)
        algorithm, among = algorithm_across(piece.nbytes, hosts), (piece.size, piece.itemsize, self._crossing)
        steps = rank_steps("allreduce", algorithm, hosts, 0, self._number, *among)
        yield from messages(steps, transport, piece, op, call, meanwhile)


@lru_cache(maxsize=1024)
def _steps_by_messages(hosts: tuple[int, ...], rank: int, count: int, itemsize: int, small: bool) -> list[RankStep]:
    schedule = hierarchical.by_messages(hosts, small)
    return cut_steps(schedule, rank, bounds(count, len(hosts)), itemsize, range(len(hosts)))
