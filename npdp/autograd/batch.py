"""Where the rows of a tensor come from: what makes P ranks count, and drop out, as one would."""

from __future__ import annotations

from collections.abc import Callable


class Batch:
    """Which rows of which global batch a result was computed from.

    A tensor of the loader carries one and every result computed from it inherits it, so a loss knows how
    many samples it stands for, and dropout knows which rows it masks.

    Args:
        count: number of samples on this rank.
        iteration: number of the global batch since training began.
        place: (first row in the global batch, samples of the global batch over all ranks), or a function
            that finds it out, collectively, the first time that somebody asks.
    """

    __slots__ = ("_place", "count", "iteration")

    def __init__(
        self, count: int, iteration: int, place: tuple[int, int] | Callable[[int], tuple[int, int]]
    ) -> None:
        self.count = count
        self.iteration = iteration
        self._place = place

    @property
    def place(self) -> tuple[int, int]:
        if not isinstance(self._place, tuple):
            self._place = self._place(self.count)
        return self._place

    @property
    def first_row(self) -> int:
        return self.place[0]

    @property
    def global_count(self) -> int:
        return self.place[1]
