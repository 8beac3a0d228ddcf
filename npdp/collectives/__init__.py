"""Collectives: schedules as data, the proof that they are right, and the loops that carry them out.

A schedule of your own is made of `add` and `put`, proven by `prove`, and drawn by `show`.
"""

from npdp.collectives.picture import show
from npdp.collectives.schedule import Move, add, put
from npdp.collectives.verify import WrongSchedule, prove, prove_each

__all__ = ["Move", "WrongSchedule", "add", "prove", "prove_each", "put", "show"]
