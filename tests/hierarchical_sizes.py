"""Small sizes at which the hierarchical all-reduce changes its way, so that some thousand elements show all of them."""

from contextlib import contextmanager
from unittest import mock

from worlds import segments_of

from npdp.collectives import across_hosts, hierarchical
from npdp.collectives.hierarchical import phases_of

GATHERED, MORE, RING, PIECE, SEGMENT = 256, 64, 512, 1024, 128
SIZES = {"GATHERED_UP_TO_BYTES": GATHERED, "MORE_BYTES": MORE, "RING_FROM_BYTES": RING, "PIECE_BYTES": PIECE}


@contextmanager
def small_sizes():
    """Within, the sizes are these; what was worked out for others is forgotten."""
    with mock.patch.multiple(hierarchical, **SIZES), segments_of(SEGMENT):
        _forget()
        yield
    _forget()


def _forget():
    phases_of.cache_clear()
    across_hosts._steps_by_messages.cache_clear()
