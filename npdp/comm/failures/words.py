"""Words of the watchdog: ranks, and where their programs are."""

from __future__ import annotations

from collections.abc import Sequence

from npdp.base.words import ranks_in_words
from npdp.comm.failures.board import ELSEWHERE, ENDED, STOPPED, Seen

MOST_NAMED = 8


def named(ranks: Sequence[int]) -> str:
    """Return ranks in words, but for the ninth and later ones."""
    return ranks_in_words(ranks, MOST_NAMED)


def where(seen: Seen, is_server: bool) -> str:
    """Return in words where a rank is, as what follows its name."""
    if seen.state == ELSEWHERE:
        what, whither = ("a server ", "for whom it waits") if is_server else ("", "where its program is")
        return f"is {what}on {seen.process}: only its host can tell {whither}"
    place = " as a server" if is_server else f" in {seen.place}" if seen.place else ""
    state = {ENDED: "has ended", STOPPED: f"is stopped (SIGSTOP){place}; SIGCONT lets it go on"}
    process = f"({seen.process}) " if seen.process else ""
    return process + state.get(seen.state, f"is{place}" if place else "runs")
