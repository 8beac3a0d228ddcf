"""Which units of work a shard has applied: each exactly once, whoever brings it.

Of a pass that is handed out, the numbers; once all have come, only that. Of a worker's own units, which it counts up,
the highest.
"""

from __future__ import annotations

from npdp.parallel.parameter_server.messages import Push


class Ledger:
    """The units applied."""

    def __init__(self) -> None:
        self._own: dict[int, int] = {}  # worker -> its highest
        self._passes: dict[tuple[int, int], set[int] | None] = {}  # None: all of it

    def __contains__(self, push: Push) -> bool:
        loader, epoch, number = push.unit
        if loader < 0:
            return number <= self._own.get(push.worker, -1)
        numbers = self._passes.get((loader, epoch), set())
        return numbers is None or number in numbers

    def add(self, push: Push) -> None:
        """Note that a push was applied."""
        loader, epoch, number = push.unit
        if loader < 0:
            self._own[push.worker] = number
            return
        numbers = self._passes.setdefault((loader, epoch), set())
        assert numbers is not None
        numbers.add(number)
        if push.request is not None and len(numbers) == push.request.units:
            self._passes[loader, epoch] = None
