"""NumPy's own formats: `.npz` in memory, and a pair of `.npy` files memory-mapped.

    data.npz    arrays x, y and, if there is a test part, x_test, y_test
                or sparse (sparse_npz.py)
    folder/     x.npy, y.npy and, if there is a test part, x_test.npy, y_test.npy

Headers are checked against the size of the file before anything is allocated; pickled objects are never loaded.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from math import prod
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from npdp.data.formats import sparse_npz
from npdp.data.formats.raw import DEFLATE_LIMIT, Array, Part, RawData, open_file, status
from npdp.errors import InputError
from npdp.parser_lock import ONE_AT_A_TIME

if TYPE_CHECKING:
    import zipfile

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
NUMBERS = "buif"  # dtype kinds: bool, unsigned, signed, floating


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    nbytes: int  # of the header itself


def read_npz(path: str) -> RawData:
    """Read the arrays x, y (and x_test, y_test) of an .npz file into memory; or those of a sparse one.

    Raises:
        InputError: no zip file, an array missing, corrupt, of objects or of the wrong shape.
    """
    import zipfile

    file, file_bytes = open_file(path, "an .npz file")
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
                parts = sparse_npz.parts if sparse_npz.is_sparse(names) else _parts
                return parts(lambda name: f"{path}, array {name}", names, path,
                             lambda name: _member(archive, path, name, file_bytes))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{path}: expected an .npz file (a zip of arrays): {error}") from None


def read_pair(folder: str) -> RawData:
    """Map x.npy and y.npy (and x_test.npy, y_test.npy) of a folder; pages are read when their rows are taken.

    Raises:
        InputError: a file is missing, of objects, too short or too long, or of the wrong shape.
    """
    names = [name for name in ("x", "y", "x_test", "y_test") if status(_npy(folder, name))]
    return _parts(lambda name: _npy(folder, name), names, folder or ".", lambda name: _mapped(_npy(folder, name)))


def read_npy(path: str) -> RawData:
    """Map a pair that is named by its x.npy, as `read_pair` does."""
    if os.path.basename(path) != "x.npy":
        raise InputError(f"{path}: expected x.npy, with y.npy beside it")
    return read_pair(os.path.dirname(path))


def is_pair(folder: str) -> bool:
    """Tell whether x.npy or y.npy is in the folder."""
    return any(status(_npy(folder, name)) for name in ("x", "y"))


def _npy(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.npy")


def _parts(place: Callable[[str], str], names: list[str], source: str, read: Callable[[str], Array]) -> RawData:
    def part(x_name: str, y_name: str) -> Part:
        for name in (x_name, y_name):
            if name not in names:
                raise InputError(f"{source}: expected the array '{name}', found {', '.join(sorted(names)) or 'none'}")
        x, y = read(x_name), read(y_name)
        if not x.ndim or not y.ndim or y.size != len(y):
            raise InputError(f"{place(y_name)}: expected x of shape (N, ...) and y of shape (N,) or (N, 1), "
                             f"got {x.shape} and {y.shape}")
        if len(x) != len(y):
            raise InputError(f"{place(y_name)}: expected {len(x)} labels, one for each row of {x_name}, got {len(y)}")
        return Part(x, y.reshape(len(y)), lambda row: f"{source}, {x_name} and {y_name}, row {row}")

    train = part("x", "y")
    test = part("x_test", "y_test") if {"x_test", "y_test"} & set(names) else None
    return RawData(train, test, classes=train.y.dtype.kind in "bui")


def _member(archive: zipfile.ZipFile, path: str, name: str, file_bytes: int) -> Array:
    place, info = f"{path}, array {name}", archive.getinfo(f"{name}.npy")
    if info.file_size > DEFLATE_LIMIT * file_bytes:
        raise InputError(f"{place}: declares {info.file_size} bytes, more than a file of {file_bytes} bytes can hold")
    with archive.open(info) as file:
        header = _header(file, place, info.file_size)
        elements = np.frombuffer(file.read(), header.dtype)
    return elements.reshape(header.shape, order="F" if header.fortran_order else "C")


def _mapped(path: str) -> Array:
    file, file_bytes = open_file(path, "an .npy file")
    with file:
        header = _header(file, path, file_bytes)
    if not prod(header.shape):
        raise InputError(f"{path}: expected samples, got an empty array of shape {header.shape}")
    return np.memmap(path, header.dtype, "r", header.nbytes, header.shape, "F" if header.fortran_order else "C")


def _header(file: IO[bytes], place: str, file_bytes: int) -> _Header:
    """Read an array's header, leave the file at its first element, and see that the elements fill it exactly."""
    try:
        version = npy.read_magic(file)
        with ONE_AT_A_TIME:
            shape, fortran_order, dtype = HEADERS[version](file)
    except KeyError:
        raise InputError(f"{place}: expected version 1.0 or 2.0 of the .npy format, got {version}") from None
    except Exception as error:
        raise InputError(f"{place}: expected an array in .npy format: {error}") from None
    if dtype.kind not in NUMBERS:
        raise InputError(f"{place}: expected numbers, got an array of {'objects' if dtype.hasobject else dtype}")
    header = _Header(shape, fortran_order, dtype, file.tell())
    wanted = header.nbytes + dtype.itemsize * prod(shape)
    if wanted != file_bytes:
        raise InputError(f"{place}: expected {wanted} bytes ({header.nbytes} of header and {shape} of {dtype}), "
                         f"got {file_bytes}")
    return header
