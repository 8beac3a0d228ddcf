"""The error of a schedule that is wrong: a sentence that says where, and a picture in text."""

from __future__ import annotations

from npdp.collectives.schedule import Schedule


class WrongSchedule(ValueError):  # noqa: N818  (what is wrong is the schedule)
    """Error: a schedule does not do what its collective promises.

    Attributes:
        sentence: what is wrong first, and what it should have been.
        picture: the contents of the chunks concerned, before and after that step; empty where there is none.
        step: its number; None where the schedule ends too early, or no one step is to blame.
        mended: a right schedule, which differs from this one only in what the sentence names; None where none is known.
    """

    def __init__(
        self, sentence: str, picture: str = "", step: int | None = None, mended: Schedule | None = None
    ) -> None:
        super().__init__(f"{sentence}\n{picture}".rstrip())
        self.sentence, self.picture, self.step, self.mended = sentence, picture, step, mended
