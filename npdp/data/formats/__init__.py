"""Readers of data files, chosen by path.

    folder with MNIST's file names    idx.py         .csv             csv.py
    folder with x.npy, or x.npy       npz.py         .svm, .libsvm    svmlight.py
    .npz                              npz.py
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from npdp.base.errors import InputError
from npdp.base.text_files import TEXT_SUFFIXES
from npdp.data.formats import csv, idx, npz, svmlight
from npdp.data.formats.raw import Columns, RawData, status

FILES: dict[str, Callable[[str], RawData]] = {
    ".csv": csv.read, ".npz": npz.read_npz, ".npy": npz.read_npy, ".svm": svmlight.read, ".libsvm": svmlight.read}
SPARSE: dict[str, Callable[[str], RawData]] = {".svm": svmlight.read_sparse, ".libsvm": svmlight.read_sparse}


def is_folder(path: str) -> bool:
    """Return whether a folder has files that a reader knows by their names."""
    return os.path.isdir(path) and (idx.is_folder(path) or npz.is_pair(path))


def read(path: str, target: str | None = None, sparse: bool = False, trained: Columns | None = None) -> RawData:
    """Read a file or folder with the reader that its name asks for.

    Args:
        path: a folder (IDX or a pair of .npy) or a file of a known suffix.
        target: the target's column, for CSV only.
        sparse: whether a format that can be read either way is to be read as compressed rows.
        trained: columns that a model was trained on, by whose names those of a CSV file are found.

    Raises:
        InputError: no reader for it, or the reader refuses it.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".csv":
        return csv.read(path, target, trained)
    if target is not None:
        raise InputError(f"{path}: a target column ({target}) can be chosen in .csv files only")
    readers = FILES | SPARSE if sparse else FILES
    if suffix in readers:
        return readers[suffix](path)
    found = status(path)
    if found is None:
        raise InputError(f"{path}: expected a file or folder with data, found nothing of that name")
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: expected a folder (IDX, or x.npy and y.npy) or a file ending in {', '.join(FILES)}, "
                         f"got a file ending in {suffix or 'no suffix'}; of texts, {', '.join(TEXT_SUFFIXES)}")
    if idx.is_folder(path):
        return idx.read_folder(path)
    if npz.is_pair(path):
        return npz.read_pair(path)
    raise InputError(f"{path}: expected an IDX folder (train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz]) "
                     f"or x.npy and y.npy, or texts ({', '.join(TEXT_SUFFIXES)}), found none of these")
