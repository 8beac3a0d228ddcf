"""The record of what a shard has applied: how many updates, from which samples, how stale, which work items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from npdp.parallel.parameter_server.messages import Message
from npdp.parallel.parameter_server.work import AppliedSet


@dataclass
class Record:
    """Record of what a shard has applied.

    Attributes:
        version: updates so far.
        samples: what they were computed from.
        checksum: sum of the hashes of these, where pushes say them.
        staleness: of pushes: version applied to minus version computed on.
        applied: the work items.
    """

    version: int = 0
    samples: int = 0
    checksum: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    applied: AppliedSet = field(default_factory=AppliedSet)

    def note(self, pushes: Sequence[Message]) -> None:
        """Note an update, made of these pushes."""
        for push in pushes:
            self.applied.add(push)
            self.staleness[self.version - push.version] += 1
            self.samples += push.samples
            self.checksum += push.hashed
        self.version += 1
