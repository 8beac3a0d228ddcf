"""Checkpoints as .safetensors files, by the package `safetensors` (`npdp[safetensors]`).

    metadata   "structure": as in structure.json of an .npz (torch_names/files.py)
               "sha256": of it, and of each array's name, dtype, shape and CRC-32
    arrays     "a0", "a1", ...

    from safetensors.numpy import load_file         to read the arrays without npdp
    from safetensors import safe_open               safe_open(path, "numpy").metadata()

The package makes the file in memory: beside the copy of the state it takes as much again while it is written.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.torch_names import files

SUFFIX = ".safetensors"
MISSING = "checkpoints as .safetensors need the package safetensors: pip install 'npdp[safetensors]'"


def require_package() -> None:
    """Raise InputError where the package is missing."""
    try:
        import safetensors  # noqa: F401
    except ImportError:
        raise InputError(MISSING) from None


def write(file: BinaryIO, content: Mapping[str, Any]) -> None:
    """Write what `files.save` takes; InputError where the package is missing."""
    require_package()
    from safetensors.numpy import save

    arrays: dict[str, Array] = {}
    structure = json.dumps(files.structure_of(content, arrays, "the object"))
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    file.write(save(arrays, {"structure": structure, "sha256": _sha256(structure, arrays)}))


def read(path: str) -> Any:
    """Return what was written.

    Raises:
        InputError: the package is missing.
        ValueError: the file is no such one, or was altered.
    """
    require_package()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            told = file.metadata() or {}
            arrays: dict[str, Array] = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        if told["sha256"] != _sha256(told["structure"], arrays):
            raise ValueError("another hash than it has written in it")
        return files.object_of(json.loads(told["structure"]), arrays.pop)
    except (SafetensorError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _sha256(structure: str, arrays: Mapping[str, Array]) -> str:
    of_arrays = [[name, each.dtype.str, each.shape, zlib.crc32(each.data)] for name, each in sorted(arrays.items())]
    return hashlib.sha256((structure + json.dumps(of_arrays)).encode()).hexdigest()
