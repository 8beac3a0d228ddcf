"""Messages between workers and servers, and how they travel: as a header of their fields, in order.

    worker → server   header | gradient, or rows, in segments (where the server does not see the worker's memory)
    server → worker   header | parameters, in segments (where they have changed and do not lie in memory)

A header is a record of NumPy's, made of the annotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from npdp.autograd.tensor import Array
from npdp.collectives.execute import SEGMENT_BYTES
from npdp.comm.transport import Handle, Transport

NONE_LEFT = -1  # in a reply: this pass has no work item left
NOT_ASKED = -2
ALL = -1  # rows of a PULL
NOT_SAID = -1  # completed iterations
AS_BEGUN = -1.0  # a learning rate: as it was when the model was wrapped, a schedule maybe


class Kind(IntEnum):
    """Kind of a worker's message to a shard."""

    PUSH = 0  # brings a gradient; waits for new parameters
    START = 1  # begins a pass; waits until it may, for parameters no staler than allowed
    PULL = 2  # waits for the newest parameters, all or some rows
    STATUS = 3  # only says whether it is at work; not answered
    LEAVE = 4  # will send nothing more; waits for the shard's report


class Request(NamedTuple):
    """Request for the next work item of a loader's pass over the data, which has `items`; `parts` of them make a batch.

    Without parts: for nothing.
    """

    loader: int = -1
    epoch: int = 0
    items: int = 0
    parts: int = 0


class WorkItem(NamedTuple):
    """Work item: part `number` of a loader's pass over the data. Without a loader (-1): the worker's own count."""

    loader: int = -1
    epoch: int = 0
    number: int = 0


class Message(NamedTuple):
    """A worker's message to a shard."""

    kind: int
    worker: int  # its number
    active: bool = True  # at work: others may have to wait for it; else it is between passes, or in a collective
    completed: int = NOT_SAID  # iterations, with this one; where not said, the shard says it, in its reply
    collectives: int = 0  # of the workers, to which it has come, with the one in which it is
    shard: int = 0  # which of its server's
    version: int = 0  # of the shard's parameters, that the worker has
    request: Request = Request()  # for the next work item
    item: WorkItem = WorkItem()  # what a gradient was computed from
    samples: int = 0  # how many it was computed from
    lr: float = AS_BEGUN  # the worker's learning rate
    unused: int = 0  # how many parameters have no gradient; they have zeros instead, and their indices follow
    rows: int = ALL  # of a sparse parameter, how many are pushed, or wanted; their numbers follow
    training: bool = False  # whether a gradient will come of what is pulled; else it is looked at only
    hashed: int = 0  # sum of hashes of the samples, where somebody wants it


class Reply(NamedTuple):
    """Reply of a shard, for which a worker waits."""

    worker: int
    version: int  # that there is now; parameters travel along where it is not the one that the worker has
    held: int  # that one
    number: int = NOT_ASKED  # of the work item that it gets, or NONE_LEFT
    completed: int = 0  # the worker's iterations, as this shard counts them

    @property
    def changed(self) -> bool:
        return self.version != self.held


@cache
def _record(kind: Any) -> tuple[np.dtype[Any], list[Any]]:
    """Return the type of a named tuple as a record, its fields in their order, and the fields' own types."""
    types = get_type_hints(kind)
    fields = [(name, _record(field)[0] if issubclass(field, tuple) else field) for name, field in types.items()]
    return np.dtype(fields), list(types.values())


def new_header(kind: type) -> Array:
    """Return memory for the header of a `Message` or a `Reply`."""
    return np.zeros(_record(kind)[0].itemsize, np.uint8)


def encode(message: Message | Reply) -> Array:
    """Return the header of a message, or of a reply."""
    kind: Any = type(message)
    return np.array([message], _record(kind)[0]).view(np.uint8)


def decode(kind: type, header: Array) -> Any:
    """Return the message, or the reply, that a header holds."""
    record, types = _record(kind)
    values = zip(types, header.view(record).item())
    return kind(*(field(*value) if isinstance(value, tuple) else value for field, value in values))


def send(transport: Transport, array: Array, peer: int) -> list[Handle]:
    """Begin to send an array in segments."""
    return [transport.send(segment, peer) for segment in _segments(array)]


def receive(transport: Transport, array: Array, peer: int) -> None:
    """Receive an array in segments, in place."""
    for handle in [transport.receive(segment, peer) for segment in _segments(array)]:
        transport.wait(handle)


def _segments(array: Array) -> Iterator[Array]:
    length = max(1, SEGMENT_BYTES // array.itemsize)
    return (array[start : start + length] for start in range(0, array.size, length))
