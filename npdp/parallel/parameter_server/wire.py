"""Messages as numbers over a transport: a header of int64, and behind it what it announces.

    worker → server   header | gradient, or rows, in segments (where the server does not see the worker's memory)
    server → worker   header | parameters, in segments (where they have changed and do not lie in memory)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

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

KINDS: tuple[type, ...] = (Push, Start, Idle, Pull, Leave, Fetch, Resume)
FIXED = 18  # numbers of a worker's header before the mask of unused parameters
BITS = 62  # of the mask in a number
REPLY = 7  # numbers of a reply's header
_NO_REQUEST = (-1, 0, 0, 0)


def header_length(parameters: int) -> int:
    """Return how many numbers a worker's header has, for slabs of at most so many parameters."""
    return FIXED + -(-parameters // BITS)


def encode(message: Message, shard: int, header: Array) -> None:
    """Write a message to this shard of a server into a header.

    0 kind, 1 shard, 2 sequence, 3 version, 4 to 7 request (-1: none), 15 rows, 16 whether there is a 17, 17 completed;
    of a Push 8 to 10 unit, 11 samples, 12 batch_samples, 13 whether there is a learning rate, 14 its bits, and from 18
    on the mask of unused parameters; of a Fetch 8 training.
    """
    kind = KINDS.index(type(message))
    header[:] = 0
    header[:4] = kind, shard, message.sequence, getattr(message, "version", 0)
    header[4:8] = getattr(message, "request", None) or _NO_REQUEST
    header[15] = getattr(message, "rows", 0)
    completed = getattr(message, "completed", None)
    header[16:18] = completed is not None, completed or 0
    if isinstance(message, Fetch):
        header[8] = message.training
    if isinstance(message, Push):
        lr = 0 if message.lr is None else struct.unpack("q", struct.pack("d", message.lr))[0]
        header[8:15] = (*message.unit, message.samples, message.batch_samples, message.lr is not None, lr)
        for place in message.unused:
            header[FIXED + place // BITS] |= 1 << place % BITS


def decode(worker: int, header: Array) -> tuple[Message, int]:
    """Return the message that a worker's header holds, and the shard that it is for."""
    numbers = header.tolist()
    number, shard, sequence, version = numbers[:4]
    kind = KINDS[number]
    request = Request(*numbers[4:8]) if numbers[4] >= 0 else None
    if kind is Push:
        *unit, samples, batch_samples, has_lr, lr = numbers[8:15]
        rate = struct.unpack("d", struct.pack("q", lr))[0] if has_lr else None
        unused = tuple(_bits(numbers[FIXED:]))
        told = samples, batch_samples, rate, unused, request, numbers[15], numbers[17]
        return Push(worker, sequence, Unit(*unit), version, *told), shard
    if kind is Start:
        return Start(worker, sequence, version, request, numbers[17] if numbers[16] else None), shard
    if kind is Pull:
        return Pull(worker, sequence, version), shard
    if kind is Fetch:
        return Fetch(worker, sequence, version, numbers[15], bool(numbers[8])), shard
    if kind is Resume:
        return Resume(worker, sequence, numbers[17]), shard
    return (Idle if kind is Idle else Leave)(worker, sequence), shard


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
