"""IDX, the format of MNIST: a big-endian header and a plain array behind it, .gz or not.

    byte 0, 1   zero                   byte 4..   one 32-bit extent per dimension
    byte 2      type of the elements   then       the elements, last dimension fastest
    byte 3      number of dimensions

Source: Yann LeCun, Corinna Cortes, "The MNIST database of handwritten digits", 1998 (the page's last section).
"""

from __future__ import annotations

import os
import zlib
from math import prod
from typing import Any, NamedTuple

import numpy as np

from npdp.base.errors import InputError
from npdp.data.formats.raw import DEFLATE_LIMIT, Array, Part, RawData, open_file, status

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
FOLDER = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
GZIP = 31  # zlib's window bits for data with a gzip header and checksum
DIMENSIONS_MAX = 64  # of NumPy's arrays
HEADER_BYTES_MAX = 4 + 4 * DIMENSIONS_MAX
PIXEL_UNIT = 255.0


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return 4 + 4 * len(self.shape)

    @property
    def file_bytes(self) -> int:
        return self.nbytes + self.dtype.itemsize * prod(self.shape)

    def __str__(self) -> str:
        return f"{self.nbytes} of header and {' x '.join(map(str, self.shape))} of {self.dtype.name}"


def read_folder(folder: str) -> RawData:
    """Read a folder with MNIST's file names, each plain or with .gz; the test pair (t10k) may be missing.

    Raises:
        InputError: a file is missing or wrong, or images and labels differ in number.
    """
    train = _pair(folder, *FOLDER["train"])
    test = _pair(folder, *FOLDER["test"]) if any(_found(folder, name) for name in FOLDER["test"]) else None
    if test and test.x.dtype != train.x.dtype:
        raise InputError(f"{folder}: expected test images of {train.x.dtype} as in training, got {test.x.dtype}")
    return RawData(train, test, classes=True, unit=PIXEL_UNIT if train.x.dtype == np.uint8 else 1.0)


def is_folder(folder: str) -> bool:
    """Tell whether any of MNIST's file names is in the folder."""
    names = [name for pair in FOLDER.values() for name in pair]
    return any(_found(folder, name) for name in names)


def read_array(path: str, ndim: int | None = None) -> Array:
    """Read one IDX file, compressed if its name ends in .gz.

    Args:
        path: the file.
        ndim: number of dimensions that it should have; None for any.

    Returns:
        A fresh array of the header's shape, in native byte order.

    Raises:
        InputError: wrong header, truncated, bytes too many, or corrupt compression.
    """
    file, _ = open_file(path, "an IDX file")
    with file:
        content = file.read()
    if path.endswith(".gz"):
        content = _inflate(path, content)
    header = _header(path, content)
    if ndim is not None and len(header.shape) != ndim:
        raise InputError(f"{path}, byte 3: expected {ndim} dimension(s), got {len(header.shape)}")
    if len(content) != header.file_bytes:
        raise _wrong_length(path, header, len(content))
    array = np.frombuffer(content, header.dtype, offset=header.nbytes).reshape(header.shape)
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def _header(path: str, content: bytes) -> _Header:
    magic = content[:4]
    if len(magic) < 4:
        raise InputError(f"{path}, byte {len(magic)}: the file ends inside the 4 bytes that open an IDX file")
    if magic[:2] != b"\0\0" or magic[2] not in DTYPES or not 1 <= magic[3] <= DIMENSIONS_MAX:
        raise InputError(f"{path}, byte 0: expected IDX's 00 00, type and number of dimensions, got {magic.hex(' ')}")
    nbytes = 4 + 4 * magic[3]
    if len(content) < nbytes:
        raise InputError(f"{path}, byte {len(content)}: the file ends inside its header, expected {nbytes} bytes of it")
    extents = np.frombuffer(content, ">u4", count=magic[3], offset=4)
    return _Header(np.dtype(DTYPES[magic[2]]), tuple(int(extent) for extent in extents))


def _inflate(path: str, compressed: bytes) -> bytes:
    """Decompress, but never to more than the array's own header declares and one byte, to see that more comes."""
    try:
        header = _header(path, zlib.decompressobj(GZIP).decompress(compressed, HEADER_BYTES_MAX))
        if header.file_bytes > DEFLATE_LIMIT * len(compressed):
            raise InputError(f"{path}: the header declares {header.file_bytes} bytes ({header}), more than "
                             f"{len(compressed)} bytes of gzip data can hold")
        pieces, missing, stream = [], header.file_bytes + 1, zlib.decompressobj(GZIP)
        while missing and compressed:  # a .gz file may have several members, one behind the other
            stream = zlib.decompressobj(GZIP)
            pieces.append(stream.decompress(compressed, missing))
            missing -= len(pieces[-1])
            compressed = stream.unused_data
    except zlib.error as error:
        raise InputError(f"{path}: corrupt gzip data: {error}") from None
    if missing and not stream.eof:
        raise InputError(f"{path}: the gzip data end early, after {header.file_bytes + 1 - missing} bytes of content; "
                         f"expected {header.file_bytes} ({header})")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _wrong_length(path: str, header: _Header, nbytes: int) -> InputError:
    if nbytes < header.file_bytes:
        return InputError(f"{path}, byte {nbytes}: the file ends, expected {header.file_bytes} bytes ({header})")
    return InputError(f"{path}, byte {header.file_bytes}: expected the end of the file ({header}), got more bytes")


def _pair(folder: str, images_name: str, labels_name: str) -> Part:
    paths = [_found(folder, name) for name in (images_name, labels_name)]
    for path, name in zip(paths, (images_name, labels_name)):
        if path is None:
            raise InputError(f"{os.path.join(folder, name)}[.gz]: expected this file of an IDX folder, "
                             "found nothing of that name")
    images_path, labels_path = map(str, paths)
    images, labels = read_array(images_path), read_array(labels_path, ndim=1)
    if images.ndim < 2:
        raise InputError(f"{images_path}, byte 3: expected 2 or more dimensions, got {images.ndim}")
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: expected {len(images)} labels, one for each image of "
                         f"{images_path}, got {len(labels)}")
    return Part(images, labels, lambda row: f"{labels_path}, byte {8 + row * labels.itemsize}")


def _found(folder: str, name: str) -> str | None:
    paths = [os.path.join(folder, name + end) for end in ("", ".gz")]
    return next((path for path in paths if status(path)), None)
