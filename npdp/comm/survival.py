"""Words that the ranks which are left exchange as they meet after a death: how far each is, or one of these."""

from __future__ import annotations

Words = tuple[int, ...]
FAILED: Words = (-1,)  # this rank has failed, or has seen that one did: all end
LEFT: Words = (-2,)  # its program has ended
NOT_BEGUN: Words = (-3,)  # it has not begun what survives
