"""Shared data sets: the ranks of a host hold them once between them; one loads, all see.

    rank 0 of a host    load ── pickle ── the description, and the arrays beside it → shared memory
    every rank          unpickle: the same object, its arrays read-only views of that memory

An array that maps a file goes as the file's name: each rank maps it, and the system has its pages once.
"""

from __future__ import annotations

import io
import mmap
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from npdp.base.partition import rounded_up
from npdp.collectives.communicator import Communicator
from npdp.collectives.host import Host
from npdp.nn.parameter import LINE_BYTES
from npdp.parallel.agreement import agree

T = TypeVar("T")


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        memory = thing
        while isinstance(memory, np.ndarray) and not isinstance(memory.base, mmap.mmap):
            memory = memory.base
        if not isinstance(memory, np.memmap) or memory.filename is None:
            return NotImplemented
        start = memory.offset + thing.ctypes.data - memory.ctypes.data
        return _mapped, (str(memory.filename), start, thing.dtype, thing.shape, thing.strides)


def _mapped(path: str, start: int, *layout: Any) -> Any:
    """Return the array of this dtype, shape and strides that begins at a byte of a file."""
    dtype, shape, strides = layout
    return np.ndarray(shape, dtype, np.memmap(path, np.uint8, "r"), start, strides)


def load_once(world: Communicator, load: Callable[[], T]) -> T:
    """Return what `load()` returns, loaded by one rank of each host where its ranks share memory; collective.

    Raises:
        InputError: a rank cannot load it; on all ranks alike.
    """
    host = world.memory.host
    if host is None or len(host.ranks) == 1:
        return agree(world, load)
    loaded = agree(world, lambda: load() if host.rank == 0 else None)
    pieces = _pieces(loaded) if host.rank == 0 else None
    sizes = _broadcast_sizes(host, pieces)
    nbytes = sum(rounded_up(size, LINE_BYTES) for size in sizes)
    memory = host.arena.empty(nbytes, np.dtype(np.uint8), one_for_all=True)
    if memory is None:  # no room: each rank for itself
        return load() if loaded is None else loaded
    views = _lay_out(memory, sizes)
    for view, piece in zip(views, pieces or ()):
        view[:] = np.frombuffer(piece, np.uint8)
    host.collective("barrier", np.empty(0, np.int64))
    return pickle.loads(views[0], buffers=[memoryview(view).toreadonly() for view in views[1:]])  # type: ignore[no-any-return]


def _pieces(loaded: Any) -> list[Any]:
    """Return the pickled description and, each by itself, the arrays in it."""
    description, arrays = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(description, protocol=5, buffer_callback=arrays.append).dump(loaded)
    return [description.getbuffer(), *(array.raw() for array in arrays)]


def _broadcast_sizes(host: Host, pieces: list[Any] | None) -> list[int]:
    """Return the bytes of each of rank 0's pieces, [] where there are none; collective over the host."""
    count = np.array([len(pieces or ())], np.int64)
    host.collective("broadcast", count)
    sizes = np.array([piece.nbytes for piece in pieces] if pieces else [0] * int(count[0]), np.int64)
    host.collective("broadcast", sizes)
    return [int(size) for size in sizes]


def _lay_out(memory: Any, sizes: list[int]) -> list[Any]:
    """Return a view of where each piece lies in the memory."""
    starts = np.cumsum([0, *(rounded_up(size, LINE_BYTES) for size in sizes)])
    return [memory[start : start + size] for start, size in zip(starts, sizes)]
