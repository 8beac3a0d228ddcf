"""What ranks say when those that are left meet after a death: how far they are, or one of these words."""

from __future__ import annotations

Words = tuple[int, ...]
FAILED: Words = (-1,)  # this rank has failed, or has seen that one did: all end
LEFT: Words = (-2,)  # its program has ended
NOT_BEGUN: Words = (-3,)  # it has not begun what survives
