"""Products of float32 matrices by `csrc/gemm/`, through cffi.

Where the C code was not compiled, importing this raises ImportError. On one thread, a layer's product takes 0.4 to 0.8
of OpenBLAS's time with AMX, 0.5 to 1 with AVX-512; one of few outputs 0.25 to 1.1 with AVX-512, 0.35 to 0.8 with AVX2;
those of a small batch's backward with AVX2 0.55 to 0.95 (docs/measurements.md). Sums are made in another order than
BLAS's: results agree up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]

Array = NDArray[Any]
_FLOAT32 = np.dtype(np.float32)
_NUMBERS = ffi.typeof("float[]")
_pointer = ffi.from_buffer


class Tiles(NamedTuple):
    """Tiled product kernels of one instruction set, and the sizes at which they are quick."""

    times: Callable[..., int] | None
    times_transposed: Callable[..., int]
    transposed_times: Callable[..., int]
    rows: int  # of a tile
    columns: int
    depth: int
    least_work: int  # multiply-adds: from there on it is quicker than BLAS
    least_rows: int = 1  # what a result must have: tiles that overlap are whole
    least_columns: int = 1
    narrowest: int = sys.maxsize  # a result's rows or columns, which are fewer; with more of both it is not narrow
    largest: int = sys.maxsize  # numbers in a plain product's first factor: beyond, the result is walked too often
    deepest: int = sys.maxsize  # of a product with a transposed weight: what is copied stays in the cache
    largest_batch: int = sys.maxsize  # rows of x and g
    most_work: float = 1.4  # of what the result needs, where tiles overlap or reach over the ends

    def fit(self, rows: int, columns: int, depth: int) -> bool:
        """Say whether tiles are filled by a result for the most part; the rest is computed for nothing."""
        tiles = -(-rows // self.rows) * -(-columns // self.columns) * -(-depth // self.depth)
        work = tiles * self.rows * self.columns * self.depth
        inside = rows >= self.least_rows and columns >= self.least_columns
        return inside and work <= self.most_work * rows * columns * depth


AVX512 = Tiles(
    lib.npdp_times_f32, lib.npdp_times_transposed_f32, lib.npdp_transposed_times_f32, rows=8, columns=32, depth=1,
    least_work=1 << 22, least_rows=8, least_columns=32, largest=1 << 19, deepest=4096,
)  # fmt: skip
AMX = Tiles(
    lib.npdp_amx_times_f32, lib.npdp_amx_times_transposed_f32, lib.npdp_amx_transposed_times_f32, rows=32, columns=32,
    depth=32, least_work=1 << 20,
)  # fmt: skip
AVX512_NARROW = Tiles(
    lib.npdp_narrow_times_f32, lib.npdp_narrow_times_transposed_f32, lib.npdp_narrow_transposed_times_f32, rows=5,
    columns=32, depth=1, least_work=10**6, least_rows=5, least_columns=32, narrowest=15,
)  # fmt: skip
AVX2_NARROW = Tiles(
    lib.npdp_avx2_narrow_times_f32, lib.npdp_avx2_narrow_times_transposed_f32,
    lib.npdp_avx2_narrow_transposed_times_f32, rows=5, columns=16, depth=1, least_work=1 << 17, least_rows=5,
    least_columns=16, narrowest=15, most_work=1.2,
)  # fmt: skip
AVX2 = Tiles(
    None, lib.npdp_avx2_times_transposed_f32, lib.npdp_avx2_transposed_times_f32, rows=6, columns=16, depth=1,
    least_work=1 << 22, least_rows=6, least_columns=16, largest_batch=256,
)  # fmt: skip


def possible() -> list[Tiles]:
    """Return what this processor can do, the quickest first."""
    processor = lib.npdp_processor()
    avx2 = lib.NPDP_HAS_AVX2
    avx512 = lib.NPDP_HAS_AVX512
    needs = {AMX: lib.NPDP_HAS_AMX, AVX512: avx512, AVX512_NARROW: avx512, AVX2_NARROW: avx2, AVX2: avx2}
    return [tiles for tiles, flag in needs.items() if processor & flag]


def quicker() -> list[Tiles]:
    """Return what was measured to be quicker than OpenBLAS on such a processor, the quickest first.

    With AVX-512 OpenBLAS has kernels of its own for small matrices: up to half a million multiply-adds forward, a
    million backward. Where that works on 256 bits at a time (Zen 4), AVX2 makes what is too small for its tiles. AVX2
    alone stands for one processor, a Zen 3.
    """
    kinds = possible()
    if AVX512 not in kinds:
        return kinds
    left_to_blas = {AVX2_NARROW, AVX2} if lib.npdp_processor() & lib.NPDP_WIDE_UNITS else {AVX2_NARROW}
    return [tiles for tiles in kinds if tiles not in left_to_blas]


def dot(kinds: list[Tiles], a: Array, b: Array, out: Array | None = None) -> Array | None:
    """Return the product of two matrices as `np.dot` does; None where it is not for these tiles.

    That is a small product, and one of other dtypes or of arrays that are neither rows nor columns side by side; and,
    with AMX, one that has an infinity or NaN in it, which may have been written to `out` already.

    Args:
        kinds: what may make it; the first that it is for does.
        a: (m, k); b: (k, n).
        out: (m, n), C-contiguous, apart from a and b; the result, made anew where None.
    """
    m, depth = a.shape
    n = b.shape[1]
    work = m * n * depth
    for tiles in kinds:
        large = work >= tiles.least_work and work > 0 and min(m, n) <= tiles.narrowest
        if large and a.dtype == b.dtype == _FLOAT32 and len(b) == depth:
            product = _dot(tiles, a, b, out)
            if product is not None:
                return product
    return None


def _dot(tiles: Tiles, a: Array, b: Array, out: Array | None) -> Array | None:
    m, depth = a.shape
    n = b.shape[1]
    a_flags, b_flags = a.flags, b.flags
    if a_flags.c_contiguous and b_flags.c_contiguous:
        function, first, second, sizes = tiles.times, a, b, (m, depth, n)
        fits = tiles.fit(m, n, depth) and a.size <= tiles.largest
    elif a_flags.c_contiguous and b_flags.f_contiguous:
        function, first, second, sizes = tiles.times_transposed, a, b.T, (m, n, depth)
        fits = tiles.fit(n, m, depth) and depth <= tiles.deepest and m <= tiles.largest_batch
    elif a_flags.f_contiguous and b_flags.c_contiguous:
        function, first, second, sizes = tiles.transposed_times, a.T, b, (depth, m, n)
        fits = tiles.fit(m, n, depth) and depth <= tiles.largest_batch
    else:
        return None
    if function is None or not fits:
        return None
    if out is None:
        out = np.empty((m, n), np.float32)
    elif out.shape != (m, n) or out.dtype != _FLOAT32 or not out.flags.carray:
        return None
    pointers = _pointer(_NUMBERS, first), _pointer(_NUMBERS, second), _pointer(_NUMBERS, out)
    return None if function(*pointers, *sizes) else out
