"""Data in each format that npdp reads: the bytes of a file, and what writes a file or a folder into a folder."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

IDX_TYPES = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array as IDX: two zeros, type, number of dimensions, sizes, values, all big-endian."""
    kind = array.dtype.kind + str(array.dtype.itemsize)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_TYPES[kind], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
LABELS = np.array([0, 2, 1, 2, 0], dtype=np.uint8)


def idx_folder(folder: Path, **replaced: bytes | None) -> str:
    """Write an IDX folder; `images`, `labels`, `images_gz`, ... replace a file, None leaves it out."""
    contents = {"images": idx_bytes(IMAGES), "labels": idx_bytes(LABELS), **replaced}
    for key, content in contents.items():
        if content is not None:
            name = NAMES["labels" in key] + (".gz" if key.endswith("gz") else "")
            (folder / name).write_bytes(content)
    return str(folder)


def in_file(name: str, content: bytes | str) -> Callable[[Path], str]:
    """Return what writes a file into a folder and returns its path."""

    def write(folder: Path) -> str:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def npz_bytes(**named: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **named)
    return file.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(**named: bytes) -> bytes:
    """Return an .npz file whose arrays are these bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in named.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy_pair(**named: bytes) -> Callable[[Path], str]:
    """Return what writes a .npy file for each name into a folder and returns the folder."""

    def write(folder: Path) -> str:
        for name, content in named.items():
            (folder / f"{name}.npy").write_bytes(content)
        return str(folder)

    return write
