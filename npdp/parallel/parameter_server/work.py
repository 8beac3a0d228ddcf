"""Work items: their assignment to workers, and the record of those applied.

    WorkPool     the first of all shards has it     each item of a pass to one worker
    AppliedSet   every shard has one                each item applied once, whoever brings it
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from npdp.parallel.parameter_server.messages import NONE_LEFT, Message, Request, WorkItem


class WorkPool:
    """Pool of the work items of all passes, each assigned to whichever worker asks next.

    Last come those that workers had in hand, assigned and not pushed, when they left or went on to another pass.

    Args:
        left: of passes that are under way, and the numbers that are left of them.
    """

    def __init__(self, left: Mapping[tuple[int, int], tuple[Request, Iterable[int]]] = MappingProxyType({})) -> None:
        self._passes = {of: (request, deque(numbers)) for of, (request, numbers) in left.items()}
        self._in_hand: dict[tuple[int, int], WorkItem] = {}  # (worker, loader) -> what it got last

    def assign(self, worker: int, request: Request) -> int:
        """Return the number of the work item that a worker gets, or NONE_LEFT."""
        if request[:2] not in self._passes:
            self._passes[request[:2]] = request, deque(range(request.items))
        known, numbers = self._passes[request[:2]]
        if known != request:
            raise RuntimeError(
                f"worker {worker} wants work of loader {request.loader} in {request.items} items, another worker did "
                f"in {known.items}: their loaders differ; give one that not all have rank and world_size"
            )
        before = self._in_hand.pop((worker, request.loader), None)
        if before is not None and before.epoch != request.epoch:  # else it has gone past it
            self._take_back(before)
        if not numbers:
            return NONE_LEFT
        self._in_hand[worker, request.loader] = WorkItem(*request[:2], numbers.popleft())
        return self._in_hand[worker, request.loader].number

    def pushed(self, push: Message) -> None:
        """Note that a worker has pushed what it had in hand."""
        self._in_hand.pop((push.worker, push.item.loader), None)

    def left(self, worker: int) -> None:
        """Take back what a worker that leaves has in hand."""
        for key in [key for key in self._in_hand if key[0] == worker]:
            self._take_back(self._in_hand.pop(key))

    def _take_back(self, item: WorkItem) -> None:
        self._passes[item[:2]][1].append(item.number)


class AppliedSet:
    """Set of the work items that a shard has applied, without workers' own."""

    def __init__(self) -> None:
        self.passes: dict[tuple[int, int], tuple[Request, set[int]]] = {}  # and the numbers that are missing

    def __contains__(self, item: WorkItem) -> bool:
        return item[:2] in self.passes and item.number not in self.passes[item[:2]][1]

    def add(self, push: Message) -> None:
        """Note that a push was applied."""
        loader, epoch, number = push.item
        if loader >= 0 and (loader, epoch) not in self.passes:
            self.passes[loader, epoch] = push.request, set(range(push.request.items))
        if loader >= 0:
            self.passes[loader, epoch][1].discard(number)
