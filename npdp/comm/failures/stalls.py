"""The watchdog: which rank the others wait for, where it is, for how long; said once, and an error in the end.

    rank 0 ──waits for──▶ rank 1 ──waits for──▶ rank 2      rank 2 is late: the root of the chain
                                                            rank 0 or 1, who waited first, says so

A rank that has waited for long looks at the others' boards (board.py). There is no thread for it: a wait asks now and
then anyway whether it is in vain, and asks here too.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from npdp.base.arguments import require_number
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.board import ELSEWHERE, ENDED, FRESH_S, STOPPED, Board, Seen, Wait

WARNING_S = 10.0
TOLD_AFTER_S = 0.1  # of waiting
LONGEST_STACK = 15
MOST_NAMED = 8
Awaited = Callable[[], tuple[list[int], str]]  # for which ranks, in what
Node = tuple[int, bool]  # a rank, as a server or not


@dataclass
class Limits:
    """Time limits of waits; 0 for none.

    Attributes:
        warning_s: after which one rank says who is late.
        abort_s: after which the job ends.
    """

    warning_s: float = WARNING_S
    abort_s: float = 0.0


class Stalls:
    """Watchdog over the waits of one rank.

    Args:
        board: its own and its sight of others.
        ranks: the numbers at the start of the world's ranks, in order.
        rank: this one's, likewise.
    """

    def __init__(self, board: Board, ranks: Sequence[int], rank: int) -> None:
        self.board, self.limits = board, Limits()
        self._ranks, self._rank = list(ranks), rank
        self._as_server = self._of_servers = False
        self._said_of = 0.0  # a wait, by its beginning

    def limit(self, warning_s: float | None, abort_s: float | None) -> None:
        """Set these limits, but where they are None; of all that was made of this one, too."""
        for name, limit in (("warning_s", warning_s), ("abort_s", abort_s)):
            if limit is not None:
                require_number(limit, f"stall_{name} must be a number of seconds, or 0 for never")
                setattr(self.limits, name, float(limit))

    def among(self, ranks: Sequence[int]) -> Stalls:
        """Return the same for a world of these ranks, by their numbers at the start."""
        made = copy.copy(self)
        made._ranks = list(ranks)
        return made

    def of_server(self) -> Stalls:
        """Return the same for this rank's server, which may wait for work as long as it takes."""
        made = copy.copy(self)
        made._as_server = True
        return made

    def of_client(self) -> Stalls:
        """Return the same for waits for what other ranks do as servers."""
        made = copy.copy(self)
        made._of_servers = True
        return made

    def too_long(self, since: float, awaited: Awaited) -> CommunicationError | None:
        """Return the error to raise where a wait has been too long; say, once, that it is long. For a rank that waits.

        Args:
            since: when it began, by time.perf_counter().
            awaited: returns what it waits for.
        """
        waited_s = time.perf_counter() - since
        if waited_s < TOLD_AFTER_S:
            return None
        ranks, call = awaited()
        wait = Wait(since, [self._ranks[rank] for rank in ranks], self._of_servers, call, self._said_of == since)
        self.board.tell(wait, self._as_server)
        if self._as_server:
            return None
        if self.limits.warning_s and waited_s >= self.limits.warning_s and not wait.said:
            self._warn(wait, waited_s)
        if self.limits.abort_s and waited_s >= self.limits.abort_s:
            return CommunicationError("; ".join(self._reasons(wait, waited_s)))
        return None

    def _warn(self, wait: Wait, waited_s: float) -> None:
        late = late_ranks(self.board, wait)
        if not late and waited_s < self.limits.warning_s + 2 * FRESH_S:
            return  # it may be that one of them waits no longer
        if self._is_to_speak(wait, late):
            self._said_of = wait.since
            self.board.tell(wait._replace(said=True), self._as_server)
            _say("\n".join(self._words(wait, waited_s, late)))

    def _is_to_speak(self, wait: Wait, late: list[Node]) -> bool:
        """Return whether this rank is the first that has waited for these, and nobody has said so."""
        for rank, other in self._others(late):
            if other.said or (other.since, rank) < (wait.since, self._rank):
                return False
        return True

    def _others(self, late: list[Node]) -> Iterator[tuple[int, Wait]]:
        """Yield the other ranks that wait for one of these, and their waits."""
        for rank in self._ranks:
            other = self.board.look(rank).waits[0] if rank != self._rank else None
            if other is not None and (not late or {*late} & {*late_ranks(self.board, other)}):
                yield rank, other

    def _summary(self, wait: Wait, waited_s: float) -> str:
        late = late_ranks(self.board, wait)
        waiting = sorted([self._rank, *(rank for rank, _ in self._others(late))])
        have = "has" if len(waiting) == 1 else "have"
        who = named([rank for rank, _ in late]) if late else "each other"
        call = f" in {wait.call}" if wait.call else ""
        return f"{named(waiting)} {have} waited for {who} for {waited_s:.0f} s{call}"

    def _reasons(self, wait: Wait, waited_s: float) -> Iterator[str]:
        yield self._summary(wait, waited_s)
        for rank, is_server in late_ranks(self.board, wait)[:1]:
            yield f"rank {rank} {where(self.board.look(rank), is_server)}"
        yield f"the limit is {self.limits.abort_s:g} s"

    def _words(self, wait: Wait, waited_s: float, late: list[Node]) -> Iterator[str]:
        yield f"npdp: {self._summary(wait, waited_s)}"
        for rank, is_server in late[:MOST_NAMED]:
            seen = self.board.look(rank)
            stack = [] if seen.state in (STOPPED, ENDED, ELSEWHERE) else self.board.stack(rank)[:LONGEST_STACK]
            yield f"npdp: rank {rank} {where(seen, is_server)}{'; its program stands at' if stack else ''}"
            yield from (f"npdp:   {line}" for line in stack)


def late_ranks(board: Board, wait: Wait) -> list[Node]:
    """Return the roots of a wait: who is waited for, over others that wait too, and waits for nobody."""
    roots, met = [], set[Node]()
    ahead = [(rank, wait.of_servers) for rank in wait.ranks]
    while ahead:
        node = ahead.pop()
        if node in met:
            continue
        met.add(node)
        seen = board.look(node[0])
        further = seen.waits[node[1]] if seen.state not in (STOPPED, ENDED) else None
        if further is None:
            roots.append(node)
        else:
            ahead += [(rank, further.of_servers) for rank in further.ranks]
    return sorted(roots)


def where(seen: Seen, is_server: bool) -> str:
    """Return in words where a rank is."""
    if seen.state == ELSEWHERE:
        return f"is on {seen.process}, and only its host can tell where"
    parts = [f"iteration {seen.iteration + 1}"] * (seen.iteration >= 0) + [seen.part] * bool(seen.part)
    place = " as a server" if is_server else f" in {', '.join(parts)}" if parts else " before its first iteration"
    state = {ENDED: "has ended", STOPPED: f"is stopped (SIGSTOP){place}; SIGCONT lets it go on"}
    process = f"({seen.process}) " if seen.process else ""
    return process + state.get(seen.state, f"is{place}")


def named(ranks: Sequence[int]) -> str:
    """Return ranks in words, as "ranks 0, 1 and 5"."""
    texts = [str(rank) for rank in ranks[:MOST_NAMED]]
    if len(ranks) > MOST_NAMED:
        texts.append(f"{len(ranks) - MOST_NAMED} more")
    *first, last = texts
    return f"ranks {', '.join(first)} and {last}" if first else f"rank {last}"


def _say(text: str) -> None:
    if sys.stderr is not None:  # as after 2>&-
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
