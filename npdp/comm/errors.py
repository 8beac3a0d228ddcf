"""Errors of communication between ranks."""

from __future__ import annotations

from collections.abc import Sequence


class CommunicationError(RuntimeError):
    """Error: a message did not fit or will never come; the ranks do not do the same thing."""


class WorldEnded(BaseException):
    """Unwinds this rank when another has failed. Not an Exception, so that no handler of the user's keeps it."""


class RankDied(CommunicationError):  # noqa: N818 - what has happened, and is survived
    """Error: ranks of this world have died; those that are left may make a new one (ulfm.py).

    Attributes:
        ranks: their numbers at launch, as far as this rank knows.
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}" if ranks else "a rank"
        super().__init__(f"{who} died")
        self.ranks = list(ranks)
