"""NumPy's own formats: `.npz` in memory, and a pair of `.npy` files memory-mapped.

    data.npz    arrays x, y and, if there is a test part, x_test, y_test
                or sparse (sparse_npz.py)
    folder/     x.npy, y.npy and, if there is a test part, x_test.npy, y_test.npy

Headers are checked against the size of the file before anything is allocated; pickled objects are never loaded. An
array of an .npz takes what its header declares, if that is what the zip has for it. All together declare no more than
the file can unpack to: 1032 times its bytes; where they are not to be compressed, as in a saved model, its bytes.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from npdp.base.errors import InputError
from npdp.base.parser_lock import ONE_AT_A_TIME
from npdp.data.formats import sparse_npz
from npdp.data.formats.raw import DEFLATE_LIMIT, Array, Part, RawData, open_file, status

if TYPE_CHECKING:
    import zipfile

HEADER_BYTES_MAX = 12 + 10_000  # NumPy takes no longer ones: they are a program for Python's parser
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
NUMBERS, TEXT = "buif", "U"  # dtype kinds: bool, unsigned, signed, floating; and text


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    nbytes: int  # of the header itself


class Arrays:
    """The arrays of an open .npz file; each is read when it is asked for.

    Attributes:
        names: theirs.
        entries: of the zip, arrays (which end in .npy) and what else there is.
    """

    def __init__(self, path: str, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self.entries = archive.namelist()
        self.names = [name[:-4] for name in self.entries if name.endswith(".npy")]

    def content(self, entry: str) -> bytes:
        """Return an entry as it is, which is as large as the zip says."""
        info = self._archive.getinfo(entry)
        with self._archive.open(info) as file:
            return file.read(info.file_size)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return what an array of numbers declares, which is as large as the zip says.

        Raises:
            InputError: it is none, or something else.
        """
        return self._header(name, NUMBERS).shape

    def read(self, name: str, kinds: str = NUMBERS) -> Array:
        """Return an array of these kinds, read-only.

        Raises:
            InputError: it is none, something else, or of another size than it declares.
        """
        header = self._header(name, kinds)
        with self._archive.open(f"{name}.npy") as file:
            file.read(header.nbytes)
            nbytes = header.dtype.itemsize * prod(header.shape)
            content = file.read(nbytes)  # of this length: without one the zip might unpack what it does not declare
        if len(content) != nbytes:
            raise InputError(f"{self._place(name)}: expected {nbytes} bytes of elements, got {len(content)}")
        elements = np.frombuffer(content, header.dtype)
        return elements.reshape(header.shape, order="F" if header.fortran_order else "C")

    def _header(self, name: str, kinds: str) -> _Header:
        info = self._archive.getinfo(f"{name}.npy")
        with self._archive.open(info) as file:
            return _header(file, self._place(name), info.file_size, kinds)

    def _place(self, name: str) -> str:
        return f"{self._path}, array {name}"


@contextmanager
def arrays_of(path: str, wanted: str = "an .npz file", growth: int = DEFLATE_LIMIT) -> Iterator[Arrays]:
    """Open an .npz file.

    Args:
        path: the file.
        wanted: what it should be, for messages.
        growth: how many times the file's bytes its arrays may have together; 1 where they are not compressed.

    Raises:
        InputError: no zip file, damaged, or with larger arrays; also where they are read inside.
    """
    file, _ = open_file(path, wanted)
    with file, arrays_in(file, path, wanted, growth) as arrays:
        yield arrays


@contextmanager
def arrays_in(file: IO[bytes], path: str, wanted: str, growth: int) -> Iterator[Arrays]:
    """Open an .npz file that is open already; see `arrays_of`."""
    import zipfile

    try:
        file_bytes = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            if {info.compress_type for info in archive.infolist()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise InputError(f"{path}: expected {wanted}, stored or deflated as NumPy does it, got another zip")
            declared = sum(info.file_size for info in archive.infolist())
            if declared > growth * file_bytes:
                raise InputError(f"{path}: expected {wanted}: it declares {declared} bytes of arrays, more than "
                                 f"{file_bytes} bytes {'can' if growth > 1 else 'that are not compressed'} hold")
            yield Arrays(path, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeError) as error:
        raise InputError(f"{path}: expected {wanted} (a zip of arrays): {error}") from None


def read_npz(path: str) -> RawData:
    """Read the arrays x, y (and x_test, y_test) of an .npz file into memory; or those of a sparse one.

    Raises:
        InputError: no zip file, an array missing, corrupt, of objects or of the wrong shape.
    """
    with arrays_of(path) as arrays:
        parts = sparse_npz.parts if sparse_npz.is_sparse(arrays.names) else _parts
        return parts(lambda name: f"{path}, array {name}", arrays.names, path, arrays.read)


def read_pair(folder: str) -> RawData:
    """Map x.npy and y.npy (and x_test.npy, y_test.npy) of a folder; pages are read when their rows are taken.

    Raises:
        InputError: a file is missing, of objects, too short or too long, or of the wrong shape.
    """
    names = [name for name in ("x", "y", "x_test", "y_test") if status(_npy(folder, name))]
    return _parts(lambda name: _npy(folder, name), names, folder or ".", lambda name: mapped(_npy(folder, name)))


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


def mapped(path: str) -> Array:
    """Map an .npy file of numbers.

    Raises:
        InputError: none, of objects, empty, too short or too long.
    """
    file, file_bytes = open_file(path, "an .npy file")
    with file:
        header = _header(file, path, file_bytes)
    if not prod(header.shape):
        raise InputError(f"{path}: expected samples, got an empty array of shape {header.shape}")
    return np.memmap(path, header.dtype, "r", header.nbytes, header.shape, "F" if header.fortran_order else "C")


def _header(file: IO[bytes], place: str, file_bytes: int, kinds: str = NUMBERS) -> _Header:
    """Read an array's header, and see that its elements fill the rest of the file exactly."""
    head = io.BytesIO(file.read(HEADER_BYTES_MAX))
    try:
        version = npy.read_magic(head)
        with ONE_AT_A_TIME:
            shape, fortran_order, dtype = HEADERS[version](head)
    except KeyError:
        raise InputError(f"{place}: expected version 1.0 or 2.0 of the .npy format, got {version}") from None
    except Exception as error:
        raise InputError(f"{place}: expected an array in .npy format: {error}") from None
    if dtype.kind not in kinds:
        what = "text" if kinds == TEXT else "numbers"
        raise InputError(f"{place}: expected {what}, got an array of {'objects' if dtype.hasobject else dtype}")
    header = _Header(shape, fortran_order, dtype, head.tell())
    wanted = header.nbytes + dtype.itemsize * prod(shape)
    if wanted != file_bytes:
        raise InputError(f"{place}: expected {wanted} bytes ({header.nbytes} of header and {shape} of {dtype}), "
                         f"got {file_bytes}")
    try:
        np.broadcast_to(np.empty((), dtype), shape)  # takes no memory
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}: no array has the shape {shape}: {error}") from None
    return header
