"""Shared-memory collectives, `csrc/shared_memory.c`, through cffi: over memory that the ranks of a host map.

Arguments have been checked by the caller. Where the C code was not compiled, importing this raises ImportError.
Cost of a call, apart from the collective: about half a microsecond.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]
from npdp.kernels.compiled import DTYPES, OPS

Array = NDArray[Any]

Words = tuple[int, int, int, int]

DONE, WAITING, DIFFERENT, UNFINISHED = lib.NPDP_DONE, lib.NPDP_WAITING, lib.NPDP_DIFFERENT, lib.NPDP_UNFINISHED
KINDS = {
    "allreduce": lib.NPDP_ALLREDUCE,
    "reduce_scatter": lib.NPDP_REDUCE_SCATTER,
    "allgather": lib.NPDP_ALLGATHER,
    "broadcast": lib.NPDP_BROADCAST,
    "barrier": lib.NPDP_BARRIER,
}
_OPS = OPS | {"mean": lib.NPDP_MEAN}
_NAMES = {"float32": "f", "float64": "d", "int32": "il", "int64": "lq"}  # C's int, long and long long among them
_CODES = {
    np.dtype(letter).num: DTYPES[name]
    for name, letters in _NAMES.items()
    for letter in letters
    if np.dtype(letter) == np.dtype(name)
}
_start, _test, _pointer = lib.npdp_start, lib.npdp_test, ffi.from_buffer
_BYTES = ffi.typeof("char[]")
LONGEST_S = 0.01  # in C at a stretch: then Python's signals, and ranks that have failed, are looked after


def header_bytes(ranks: int, slot_bytes: int) -> int:
    """Return how much of the memory, at its start, the collectives need for themselves."""
    return int(lib.npdp_header_bytes(ranks, slot_bytes))


class HostRank:
    """State of one rank's collectives over its host's memory.

    Args:
        memory: the mapping; zeros at first.
        rank, ranks: this rank's number among those of the host; how many there are.
        slot_bytes: of a staging slot at most; a multiple of 64 * ranks.
        spins, yields: how often to look at once, then with a yield before each look, before sleeping.
    """

    def __init__(self, memory: mmap.mmap, rank: int, ranks: int, slot_bytes: int, spins: int, yields: int) -> None:
        self._memory = ffi.from_buffer(memory)  # keeps the mapping
        self._pointers = ffi.new("void *[]", 2 * ranks + 1)
        self._host = ffi.new("npdp_host *")
        host = self._host
        host.base, host.nbytes, host.longest_slot = ffi.cast("unsigned char *", self._memory), len(memory), slot_bytes
        host.rank, host.ranks, host.spins, host.yields = rank, ranks, spins, yields
        host.pointers, host.fast_strings = self._pointers, lib.npdp_has_fast_strings()
        host.longest_s = LONGEST_S

    def start(self, words: Words, array: Array) -> int:
        """Start a collective on `array`, contiguous, and test it; return DONE (which is 0), WAITING or DIFFERENT.

        Of a mean it leaves the sum. UNFINISHED: it has not started, for the last one has not come to its end.
        """
        kind, op, dtype, root_or_label = words
        return _start(  # type: ignore[no-any-return]
            self._host, kind, op, dtype, _pointer(_BYTES, array), array.size, root_or_label
        )

    def persistent(self, words: Words, array: Array) -> Callable[[], int]:
        """Return what starts a collective on `array`, as `start` does, each time that it is called."""
        kind, op, dtype, root_or_label = words
        return partial(_start, self._host, kind, op, dtype, _pointer(_BYTES, array), array.size, root_or_label)

    def test(self) -> int:
        """Go on for LONGEST_S; return DONE, WAITING or DIFFERENT."""
        status: int = _test(self._host)
        return status

    @property
    def wait_s(self) -> float:
        """Seconds in which this rank waited for others."""
        return float(self._host.wait_s)

    @property
    def collective_s(self) -> float:
        """Seconds in collectives that were done."""
        return float(self._host.collective_s)

    def clear_times(self) -> None:
        """Begin to measure anew."""
        self._host.wait_s = self._host.collective_s = 0.0

    @property
    def different(self) -> int:
        """Number, among the host's ranks, of the first that called something else, after DIFFERENT."""
        return int(self._host.different)

    def is_ahead(self, rank: int) -> bool:
        """Return whether a rank of the host is in a collective that this one has not begun."""
        return bool(lib.npdp_is_ahead(self._host, rank))

    def is_behind(self, rank: int) -> bool:
        """Return whether a rank of the host has still to come to where this one waits."""
        return bool(lib.npdp_is_behind(self._host, rank))

    def say(self, number: int) -> None:
        """Tell the other ranks of the host a number, in the collective that this one waits in."""
        lib.npdp_say(self._host, number)

    def said(self, rank: int) -> int:
        """Return what a rank of the host has said in the collective that it waits in, -1 where nothing."""
        return int(lib.npdp_said(self._host, rank))

    def call_of(self, rank: int) -> tuple[str, int, str, str, bool, int]:
        """Return what a rank of the host has called: (kind, count, dtype, op, is in Fortran order, root or label)."""
        count = ffi.new("uint64_t *")
        what = lib.npdp_call_of(self._host, rank, count)
        kind, op, dtype, root_or_label = what & 0xFF, what >> 8 & 0xFF, what >> 16 & 0xFF, what >> 32
        fortran = bool(op & lib.NPDP_FORTRAN)
        op_name = _name(_OPS, op & ~lib.NPDP_FORTRAN)
        return _name(KINDS, kind), count[0], _name(DTYPES, dtype), op_name, fortran, root_or_label


def words_of(kind: str, dtype: np.dtype[Any], op: str, fortran: bool, root_or_label: int) -> Words:
    """Return a call as the kernel takes it: numbers of kind, op and dtype, and the root of a broadcast or a label."""
    return KINDS[kind], _OPS[op] | (lib.NPDP_FORTRAN if fortran else 0), _CODES[dtype.num], root_or_label


def _name(codes: dict[str, int], wanted: int) -> str:
    return next(name for name, code in codes.items() if code == wanted)
