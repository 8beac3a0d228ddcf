"""Messages as numbers over a transport: a header of int64, and behind it what it announces.

    worker → server   header | gradient, or rows, in segments (where the server does not see the worker's memory)
    server → worker   header | parameters, in segments (where they have changed and do not lie in memory)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npdp.autograd.tensor import Array
from npdp.collectives.execute import SEGMENT_BYTES
from npdp.comm.transport import Handle, Transport
from npdp.parallel.parameter_server.messages import (
    Fetch,
    Idle,
    Leave,
    Message,
    Pull,
    Push,
    Reply,
    Request,
    Resume,
    Start,
    Unit,
)

KINDS: tuple[type[Any], ...] = (Push, Start, Idle, Pull, Leave, Fetch, Resume)
NONE = -1  # where there is no request, and where iterations are not said
BITS = 62  # of the mask in a number
REPLY = 7  # numbers of a reply's header


class Header(NamedTuple):
    """The numbers of a worker's header, before the mask of unused parameters; what a message lacks is left out.

    Names are those of the messages, but for a request, a unit and a learning rate, which take several numbers.
    """

    kind: int  # an index of KINDS
    shard: int  # of the server that it is for
    sequence: int
    version: int = 0
    loader: int = NONE  # the request
    epoch: int = 0
    units: int = 0
    parts: int = 0
    unit_loader: int = 0
    unit_epoch: int = 0
    unit_number: int = 0
    samples: int = 0
    batch_samples: int = 0
    has_lr: int = False
    lr_bits: int = 0
    rows: int = 0
    completed: int = NONE
    training: int = False
    collectives: int = 0


FIXED = len(Header._fields)
_NO_REQUEST = (NONE, 0, 0, 0)


def header_length(parameters: int) -> int:
    """Return how many numbers a worker's header has, for groups of at most so many parameters."""
    return FIXED + -(-parameters // BITS)


def encode(message: Message, shard: int, header: Array) -> None:
    """Write a message to this shard of a server into a header."""
    header[:FIXED] = _numbers(message, shard)
    header[FIXED:] = 0
    if isinstance(message, Push):
        for index in message.unused:
            header[FIXED + index // BITS] |= 1 << index % BITS


def _numbers(message: Message, shard: int) -> Header:
    start = KINDS.index(type(message)), shard, message.sequence
    if isinstance(message, Push):
        work = *(message.request or _NO_REQUEST), *message.unit, message.samples, message.batch_samples
        has_lr = message.lr is not None
        lr_bits = struct.unpack("q", struct.pack("d", message.lr))[0] if has_lr else 0
        counts = {"rows": message.rows, "completed": message.completed, "collectives": message.collectives}
        return Header(*start, message.version, *work, has_lr, lr_bits, **counts)
    if isinstance(message, Start):
        completed = NONE if message.completed is None else message.completed
        return Header(*start, message.version, *(message.request or _NO_REQUEST), completed=completed)
    return Header(*start, **dict(zip(message._fields[2:], message[2:])))  # behind worker and sequence: by their names


def decode(worker: int, header: Array) -> tuple[Message, int]:
    """Return the message that a worker's header holds, and the shard that it is for."""
    numbers = header.tolist()
    has = Header._make(numbers[:FIXED])
    kind, start = KINDS[has.kind], (worker, has.sequence)
    request = None if has.loader == NONE else Request(has.loader, has.epoch, has.units, has.parts)
    if kind is Push:
        unit, samples = Unit(has.unit_loader, has.unit_epoch, has.unit_number), (has.samples, has.batch_samples)
        lr = struct.unpack("d", struct.pack("q", has.lr_bits))[0] if has.has_lr else None
        unused = tuple(_bits(numbers[FIXED:]))
        counts = has.rows, has.completed, has.collectives
        return Push(*start, unit, has.version, *samples, lr, unused, request, *counts), has.shard
    if kind is Start:
        return Start(*start, has.version, request, None if has.completed == NONE else has.completed), has.shard
    if kind is Fetch:
        return Fetch(*start, has.version, has.rows, bool(has.training)), has.shard
    return kind(*start, *(getattr(has, name) for name in kind._fields[2:])), has.shard


def _bits(words: Sequence[int]) -> Iterator[int]:
    for number, word in enumerate(words):
        while word:
            lowest = word & -word
            yield number * BITS + lowest.bit_length() - 1
            word -= lowest


def encode_reply(reply: Reply, extra_bytes: int) -> Array:
    """Return the header of a reply."""
    return np.array([*reply[1:], extra_bytes], np.int64)


def decode_reply(worker: int, header: Array) -> tuple[Reply, int]:
    """Return a reply, and how many bytes follow it."""
    version, held, unit, pulled, last, completed, extra_bytes = header.tolist()
    return Reply(worker, version, held, unit, bool(pulled), bool(last), completed), extra_bytes


def send(transport: Transport, array: Array, peer: int) -> list[Handle]:
    """Begin to send an array in segments."""
    return [transport.send(segment, peer) for segment in segments(array)]


def receive(transport: Transport, array: Array, peer: int) -> None:
    """Receive an array in segments, in place."""
    for handle in [transport.receive(segment, peer) for segment in segments(array)]:
        transport.wait(handle)


def segments(array: Array) -> Iterator[Array]:
    """Yield the segments in which a 1-D array travels."""
    length = max(1, SEGMENT_BYTES // array.itemsize)
    return (array[start : start + length] for start in range(0, array.size, length))
