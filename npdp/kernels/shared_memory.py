"""The functions of `csrc/shared_memory.c` through cffi: collectives over memory that the ranks of a host map.

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

from npdp.kernels import FORTRAN
from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]
from npdp.kernels.compiled import DTYPES, OPS

Array = NDArray[Any]

DONE, WAITING, DIFFERENT, UNFINISHED = lib.NPDP_DONE, lib.NPDP_WAITING, lib.NPDP_DIFFERENT, lib.NPDP_UNFINISHED
KINDS = {
    "allreduce": lib.NPDP_ALLREDUCE,
    "reduce_scatter": lib.NPDP_REDUCE_SCATTER,
    "allgather": lib.NPDP_ALLGATHER,
    "broadcast": lib.NPDP_BROADCAST,
    "barrier": lib.NPDP_BARRIER,
}
_OPS = OPS | {"mean": lib.NPDP_MEAN}
_OPS |= {op + FORTRAN: code | lib.NPDP_FORTRAN for op, code in _OPS.items()}
_NAMES = {"float32": "f", "float64": "d", "int32": "il", "int64": "lq"}  # C's int, long and long long among them
_CODES = {
    np.dtype(letter).num: DTYPES[name]
    for name, letters in _NAMES.items()
    for letter in letters
    if np.dtype(letter) == np.dtype(name)
}
_begin, _go_on, _pointer = lib.npdp_begin, lib.npdp_go_on, ffi.from_buffer
_BYTES = ffi.typeof("char[]")
LONGEST_S = 0.01  # in C at a stretch: then Python's signals, and ranks that have failed, are looked after


def header_bytes(ranks: int, slot_bytes: int) -> int:
    """Return how much of the memory, at its start, the collectives need for themselves."""
    return int(lib.npdp_header_bytes(ranks, slot_bytes))


class HostRank:
    """What one rank knows of the collectives over its host's memory.

    Args:
        memory: the mapping; zeros at first.
        rank, ranks: this rank's number among those of the host; how many there are.
        slot_bytes: of a staging slot at most; a multiple of 64 * ranks.
        looks, yields: how often to look at once, then with a yield before each look, before sleeping.
    """

    def __init__(self, memory: mmap.mmap, rank: int, ranks: int, slot_bytes: int, looks: int, yields: int) -> None:
        self._memory = ffi.from_buffer(memory)  # keeps the mapping
        self._pointers = ffi.new("void *[]", 2 * ranks + 1)
        self._host = ffi.new("npdp_host *")
        host = self._host
        host.base, host.nbytes, host.longest_slot = ffi.cast("unsigned char *", self._memory), len(memory), slot_bytes
        host.rank, host.ranks, host.looks, host.yields = rank, ranks, looks, yields
        host.pointers, host.fast_strings = self._pointers, lib.npdp_has_fast_strings()
        host.longest_s = LONGEST_S

    def begin(self, kind: str, array: Array, op: str, root_or_bucket: int = 0) -> int:
        """Begin a collective on `array`, contiguous, and go on; return DONE (which is 0), WAITING or DIFFERENT.

        Of a mean it leaves the sum. UNFINISHED: it has not begun, for the last one has not come to its end.
        """
        return _begin(  # type: ignore[no-any-return]
            self._host, KINDS[kind], _OPS[op], _CODES[array.dtype.num],
            _pointer(_BYTES, array), array.size, root_or_bucket,
        )  # fmt: skip

    def persistent(self, kind: str, array: Array, op: str, root_or_bucket: int = 0) -> Callable[[], int]:
        """Return what begins a collective on `array`, as `begin` does, each time that it is called."""
        numbers = KINDS[kind], _OPS[op], _CODES[array.dtype.num]
        return partial(_begin, self._host, *numbers, _pointer(_BYTES, array), array.size, root_or_bucket)

    def go_on(self) -> int:
        """Go on for LONGEST_S; return DONE, WAITING or DIFFERENT."""
        status: int = _go_on(self._host)
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
        """After DIFFERENT: the number, among the host's ranks, of the first that called something else."""
        return int(self._host.different)

    def is_ahead(self, rank: int) -> bool:
        """Return whether a rank of the host is in a collective that this one has not begun."""
        return bool(lib.npdp_is_ahead(self._host, rank))

    def say(self, number: int) -> None:
        """Tell the other ranks of the host a number, in the collective that this one waits in."""
        lib.npdp_say(self._host, number)

    def said(self, rank: int) -> int:
        """Return what a rank of the host has said in the collective that it waits in, -1 where nothing."""
        return int(lib.npdp_said(self._host, rank))

    def call_of(self, rank: int) -> tuple[str, int, np.dtype[Any], str, int]:
        """Return what a rank of the host has called: (collective, count, dtype, op, root or bucket)."""
        count = ffi.new("uint64_t *")
        what = lib.npdp_call_of(self._host, rank, count)
        kind, op, dtype, root_or_bucket = what & 0xFF, what >> 8 & 0xFF, what >> 16 & 0xFF, what >> 32
        return _name(KINDS, kind), count[0], np.dtype(_name(DTYPES, dtype)), _name(_OPS, op), root_or_bucket


def _name(codes: dict[str, int], wanted: int) -> str:
    return next(name for name, code in codes.items() if code == wanted)
