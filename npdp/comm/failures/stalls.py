"""The watchdog: which rank the others wait for, where it is, for how long; said once, and an error in the end.

    rank 0 ──waits for──▶ rank 1 ──waits for──▶ rank 2      rank 2 is late: the root of the chain
                                                            of ranks 0 and 1 the one that has waited longer says so

A wait asks now and then anyway whether it is in vain; where it has become long it asks here too, and looks at the
others' boards (board.py). A short wait has nothing of it. There is a thread only beside calls of MPI's that cannot ask.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from npdp.base.arguments import require_number
from npdp.base.beside import looking_beside
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.board import ELSEWHERE, FRESH_S, RUNNING, STOPPED, Board, Wait
from npdp.comm.failures.call_log import CallLog
from npdp.comm.failures.chains import Late, Look, late_ranks
from npdp.comm.failures.words import named, where

TOLD_AFTER_S = 0.05  # of waiting: most waits are over
LOOK_EVERY_S = 0.25
AWAY_S = 5.0  # between two looks: all ranks may be stopped together, as a batch system does it
LONGEST_STACK, MOST_TOLD = 15, 4  # calls of a stack; late ranks
Awaited = Callable[[], tuple[list[int], str]]  # for which ranks of its world, in what


@dataclass
class Limits:
    """Time limits of waits; 0 for none.

    Attributes:
        warning_s: after which one rank says who is late.
        abort_s: after which the job ends.
        fences: the late rank is killed then, instead, where the others can live on without it.
    """

    warning_s: float = 10.0
    abort_s: float = 0.0
    fences: bool = False


@dataclass
class _Present:
    """The wait that a rank is in.

    Attributes:
        since: when it began, by which it is known.
        away_s: for how long this rank was itself stopped in it.
        told_s, told_of: when, in it, this rank has warned last; of which late ranks.
    """

    since: float
    away_s: float = 0.0
    told_s: float = 0.0
    told_of: set[Late] = field(default_factory=set)


class Stalls:
    """Watchdog over the waits of one rank in one world.

    Args:
        board: this rank's, and its sight of others'.
        ranks: the numbers at the start of the world's ranks, in order, by which boards and warnings know them.
        rank: this one's, likewise.
        calls: of this world, by messages; from them it is known that a rank of another host waits too.

    Attributes:
        limits: the same for all that is made of this.
        kills: whether a late rank of this host is killed when the job ends: where no launcher would end it.
    """

    def __init__(self, board: Board, ranks: Sequence[int], rank: int, calls: CallLog) -> None:
        self.board, self.limits = board, Limits()
        self._ranks, self._rank, self._calls = list(ranks), rank, calls
        self._as_server = self._of_servers = False
        self.kills = False
        self._looked_at = self._stopped_since = 0.0
        self._present = _Present(0.0)

    def limit(self, warning_s: float | None, abort_s: float | None) -> None:
        """Set these limits, but where they are None."""
        for name, limit in (("warning_s", warning_s), ("abort_s", abort_s)):
            if limit is not None:
                require_number(limit, f"stall_{name} must be a number of seconds, or 0 for never")
                setattr(self.limits, name, float(limit))

    def among(self, ranks: Sequence[int], calls: CallLog) -> Stalls:
        """Return the same for a world of these ranks, by their numbers at the start."""
        made = copy.copy(self)
        made._ranks, made._calls = list(ranks), calls
        return made

    def on_a_line(self, serves: bool) -> Stalls:
        """Return the same between workers and servers: a server may wait for work as long as it takes."""
        made = copy.copy(self)
        made._as_server, made._of_servers = serves, not serves
        return made

    def too_long(self, since: float, awaited: Awaited) -> CommunicationError | None:
        """Return the error to raise where a wait has been too long; say, once, that it is long. For a rank that waits.

        Args:
            since: when it began, by time.perf_counter(): each wait has its own.
            awaited: returns what it waits for.
        """
        now = time.perf_counter()
        if now - since < TOLD_AFTER_S or now - self._looked_at < LOOK_EVERY_S:
            return None
        waited_s = self._time_waited(since, now)
        ranks, call = awaited()
        call = call or self._of_servers * "a request to the parameter server"
        wait = Wait(now - waited_s, [self._ranks[rank] for rank in ranks], self._of_servers, call)
        self.board.tell(wait, self._as_server)
        if self._as_server:
            return None
        warning_s, abort_s = self.limits.warning_s, self.limits.abort_s
        if warning_s and waited_s - self._present.told_s >= warning_s:
            self._warn(wait, waited_s)
        return self._end(wait, waited_s) if abort_s and waited_s >= abort_s else None

    def _time_waited(self, since: float, now: float) -> float:
        """Return how long a wait is, but for what this rank was stopped itself: else it looks often."""
        if self._present.since != since:
            self._present = _Present(since)
        last, self._looked_at = max(since, self._looked_at), now
        self._present.away_s += now - last if now - last > AWAY_S else 0.0
        return now - since - self._present.away_s

    @contextmanager
    def beside(self, awaited: Awaited, fail: Callable[[BaseException], object]) -> Iterator[None]:
        """Watch, within, over a call that cannot ask by itself, as those in which ranks meet after a death.

        Args:
            awaited: as for `too_long`.
            fail: called with the error, on another thread, where it has been too long.
        """
        since = time.perf_counter()

        def look() -> bool:
            error = self.too_long(since, awaited)
            if error is not None:
                fail(error)
            return error is not None

        with looking_beside(LOOK_EVERY_S, look, "npdp watchdog"):
            yield

    def at_the_end(self, ranks: list[int], fail: Callable[[BaseException], None]) -> None:
        """Look after ranks that have still to come to the program's end, of which only one that is stopped is late.

        Args:
            fail: called with the error, where that has been too long.
        """
        stopped = [rank for rank in ranks if self.board.look(self._ranks[rank]).state == STOPPED]
        self._stopped_since = (self._stopped_since or time.perf_counter()) if stopped else 0.0
        if not stopped:
            return
        error = self.too_long(self._stopped_since, lambda: (stopped, "the barrier at the end of the program"))
        if error is not None:
            fail(error)

    def _warn(self, wait: Wait, waited_s: float) -> None:
        """Say who is late, where it is for this rank to do so and it has not."""
        look, present = cache(self.board.look), self._present
        late = self._late(look, wait)
        if not late and waited_s < self.limits.warning_s + 2 * FRESH_S:
            return  # one of them may no longer wait, and not have been seen to
        is_new = not present.told_of.issuperset(late) or not present.told_s
        if is_new and self._is_to_speak(look, wait, late):
            present.told_s = waited_s
            present.told_of.update(late)
            _say("\n".join(f"npdp: {line}" for line in self._words(wait, waited_s)))

    def _end(self, wait: Wait, waited_s: float) -> CommunicationError | None:
        """Return the error with which all end; None where the late ones are killed and the others live on."""
        reasons = [*self._reasons(wait, waited_s), f"the limit is {self.limits.abort_s:g} s"]
        late = {rank for rank, _ in self._late(self.board.look, wait)} if self.kills else set()
        killed = [self.board.kill(rank) for rank in late]
        return None if self.limits.fences and any(killed) else CommunicationError("; ".join(reasons))

    def _late(self, look: Look, wait: Wait) -> list[Late]:
        return late_ranks(look, wait, self._waiting_elsewhere(), self._ranks)

    def _waiting_elsewhere(self) -> set[int]:
        """Return the ranks that have told by messages that they wait where this one does."""
        return {self._ranks[rank] for rank in self._calls.with_this_rank()}

    def _is_to_speak(self, look: Look, wait: Wait, late: list[Late]) -> bool:
        """Return whether this rank has waited for these the longest of its host, if that sees them; else of all."""
        if any((other.since, rank) < (wait.since, self._rank) for rank, other in self._others(look, late)):
            return False
        hosts = {seen.process for rank, _ in late if (seen := look(rank)).state == ELSEWHERE}
        if not late or len(hosts) < len(late):  # this host sees them
            return True
        others = {rank for rank in self._waiting_elsewhere() if look(rank).state == ELSEWHERE}
        return all(look(rank).process not in hosts and rank > self._rank for rank in others)

    def _others(self, look: Look, late: list[Late]) -> Iterator[tuple[int, Wait]]:
        """Yield the other ranks of this host that wait for one of these, and their waits."""
        for rank in self._ranks:
            other = look(rank).waits[0] if rank != self._rank else None
            if other is not None and (not late or {*late} & {*self._late(look, other)}):
                yield rank, other

    def _reasons(self, wait: Wait, waited_s: float) -> Iterator[str]:
        """Yield who waits for whom, and where these are."""
        look = cache(self.board.look)
        late = self._late(look, wait)
        waiting = sorted([self._rank, *(rank for rank, _ in self._others(look, late))])
        have = "has" if len(waiting) == 1 else "have"
        who = named(sorted({rank for rank, _ in late})) if late else "each other"
        call = f" in {wait.call}" if wait.call else ""
        yield f"{named(waiting)} {have} waited for {who} for {waited_s:.0f} s{call}"
        yield from (f"rank {rank} {where(look(rank), is_server)}" for rank, is_server in late[:MOST_TOLD])

    def _words(self, wait: Wait, waited_s: float) -> Iterator[str]:
        yield from self._reasons(wait, waited_s)
        for rank, _ in self._late(self.board.look, wait)[:MOST_TOLD]:
            stack = self.board.stack(rank) if self.board.look(rank).state == RUNNING else []
            if stack:
                yield f"rank {rank}'s program stands at"
                yield from (f"  {call}" for call in stack[:LONGEST_STACK])


def _say(text: str) -> None:
    if sys.stderr is not None:  # as after 2>&-
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
