"""The place of a rank's program in training, for whoever asks from beside it.

    data | forward | backward | exchange | update      set as a program comes there
"""

from __future__ import annotations


class Place:
    """Place of a rank's program: which part of which iteration it is in.

    Attributes:
        part: as above, and what a program or a command adds, `evaluation` or `checkpoint`, say; empty before the first.
        iteration: number of the global batch that its loader gave last; -1 before the first.
    """

    def __init__(self) -> None:
        self.part, self.iteration = "", -1

    def __str__(self) -> str:
        """Return "backward of iteration 17", counted from 1 as people do; empty before the first part."""
        return self.part and self.part + f" of iteration {self.iteration + 1}" * (self.iteration >= 0)
