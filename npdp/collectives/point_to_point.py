"""Messages between two ranks: what a program sends and receives by itself, outside collectives.

    rank 0   sends 10 float32 to rank 1       ──▶ ◀──   rank 1   receives 10 float32 from rank 0
             the array                        ──▶

Each first tells the other what it is about to do. So a send ends only when its receive is there, under MPI as between
threads, and two that do not fit raise the same error on both ranks instead of waiting for ever.

Cost: 2 alpha + S beta.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from npdp.base.arguments import whole
from npdp.collectives.arrays import DTYPES, Array, checked, order_of
from npdp.collectives.communicator import Communicator
from npdp.collectives.overlap import Work
from npdp.comm.call import FORTRAN
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import MESSAGE
from npdp.comm.transport import Buffer, Transport

SEND, RECEIVE = 0, 1
_VERBS = {SEND: ("sends", "to"), RECEIVE: ("receives", "from")}
_ARGUMENTS = {SEND: "send: to", RECEIVE: "receive: source"}
_BOTH = {SEND: "one of them must receive first", RECEIVE: "one of them must send first"}


def send(communicator: Communicator, array: Array, to: int) -> None:
    """Send a message; see `npdp.send`."""
    _carry_out(communicator, SEND, array, checked(array, "sum", writeable=False), to)


def receive(communicator: Communicator, array: Array, source: int) -> None:
    """Receive a message; see `npdp.receive`."""
    _carry_out(communicator, RECEIVE, array, checked(array, "sum"), source)


def _carry_out(communicator: Communicator, does: int, array: Array, buffer: Buffer, peer: int) -> None:
    ranks, rank = communicator.world_size, communicator.rank
    wanted = f"{_ARGUMENTS[does]} must be another rank of this world of {ranks}"
    peer = whole(peer, wanted, 0, ranks)
    if peer == rank:
        raise ValueError(f"{wanted}, got {peer}")
    offer = np.array([does, buffer.size, DTYPES.index(buffer.dtype), order_of(array, buffer) == FORTRAN], np.int64)
    communicator.finish()
    communicator.by_messages.run(MESSAGE.call, partial(_work, communicator.transport, offer, buffer, peer))


def _work(transport: Transport, offer: Array, buffer: Buffer, peer: int) -> Work:
    """Yield each message that is to be waited for.

    Args:
        offer: (4,) what this rank is about to do: SEND or RECEIVE; count, dtype and order of the array.
    """
    theirs = np.empty_like(offer)
    coming = transport.receive(theirs, peer, MESSAGE)
    yield transport.send(offer, peer, MESSAGE)
    yield coming
    if offer[0] == theirs[0] or not np.array_equal(offer[1:], theirs[1:]):
        raise CommunicationError(_why_not({transport.rank: offer, peer: theirs}))
    yield (transport.send if offer[0] == SEND else transport.receive)(buffer, peer, MESSAGE)


def _why_not(offers: dict[int, Any]) -> str:
    """Return why two offers do not fit, by their ranks; on both ranks alike."""
    (first, one), (second, other) = sorted(offers.items())
    both = f"both would wait for ever: {_BOTH[int(one[0])]}"
    why = both if one[0] == other[0] else "wanted the same count, dtype and order on both"
    return f"{_words(first, one, second)}, {_words(second, other, first)}: {why}"


def _words(rank: int, offer: Any, peer: int) -> str:
    does, count, dtype, is_fortran = (int(number) for number in offer)
    verb, preposition = _VERBS[does]
    order = " in Fortran order" if is_fortran else ""
    return f"rank {rank} {verb} {count} {DTYPES[dtype]}{order} {preposition} rank {peer}"
