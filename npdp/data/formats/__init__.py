"""Files of samples: which reader reads which path.

    folder with MNIST's file names    idx.py         .csv             csv.py
    folder with x.npy, or x.npy       npz.py         .svm, .libsvm    svmlight.py
    .npz                              npz.py

Readers are imported when they are needed: a run on one format should not pay for the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from npdp.data.formats.raw import Part, RawData, is_directory, status
from npdp.errors import InputError

__all__ = ["FILES", "FOLDERS", "Part", "RawData", "read"]


def _csv(path: str, target: str | None) -> RawData:
    from npdp.data.formats import csv

    return csv.read(path, target)


def _npz(path: str, target: str | None) -> RawData:
    from npdp.data.formats import npz

    return npz.read_npz(path)


def _npy(path: str, target: str | None) -> RawData:
    from npdp.data.formats import npz

    if os.path.basename(path) != "x.npy":
        raise InputError(f"{path}: expected x.npy, with y.npy beside it")
    return npz.read_pair(os.path.dirname(path))


def _svmlight(path: str, target: str | None) -> RawData:
    from npdp.data.formats import svmlight

    return svmlight.read(path)


def _sparse_svmlight(path: str) -> RawData:
    from npdp.data.formats import svmlight

    return svmlight.read_sparse(path)


def _idx_folder(folder: str) -> RawData | None:
    from npdp.data.formats import idx

    return idx.read_folder(folder) if idx.is_folder(folder) else None


def _npy_folder(folder: str) -> RawData | None:
    from npdp.data.formats import npz

    return npz.read_pair(folder) if npz.is_pair(folder) else None


FILES: dict[str, Callable[[str, str | None], RawData]] = {
    ".csv": _csv, ".npz": _npz, ".npy": _npy, ".svm": _svmlight, ".libsvm": _svmlight}
SPARSE: dict[str, Callable[[str], RawData]] = {".svm": _sparse_svmlight, ".libsvm": _sparse_svmlight}
FOLDERS: tuple[Callable[[str], RawData | None], ...] = (_idx_folder, _npy_folder)


def read(path: str, target: str | None = None, sparse: bool = False) -> RawData:
    """Read a file or folder with the reader that its name asks for.

    Args:
        path: a folder (IDX or a pair of .npy) or a file of a known suffix.
        target: the target's column, for CSV only.
        sparse: whether a format that can be read either way is to be read as compressed rows.

    Raises:
        InputError: no reader for it, or the reader refuses it.
    """
    suffix = os.path.splitext(path)[1].lower()
    if target is not None and suffix != ".csv":
        raise InputError(f"{path}: a target column ({target}) can be chosen in .csv files only")
    if sparse and suffix in SPARSE:
        return SPARSE[suffix](path)
    if suffix in FILES:
        return FILES[suffix](path, target)
    if is_directory(path):
        return _read_folder(path)
    if status(path) is None:
        raise InputError(f"{path}: expected a file or folder with data, found nothing of that name")
    raise InputError(f"{path}: expected a folder (IDX, or x.npy and y.npy) or a file ending in {', '.join(FILES)}, "
                     f"got a file ending in {suffix or 'no suffix'}")


def _read_folder(folder: str) -> RawData:
    for reader in FOLDERS:
        found = reader(folder)
        if found is not None:
            return found
    raise InputError(f"{folder}: expected an IDX folder (train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz]) "
                     "or x.npy and y.npy, found neither")
