"""`save` and `load`: tensors, arrays, numbers and texts, in dicts, lists and tuples, in one .npz file, without pickle.

    {"model": {"0.weight": array}, "epoch": 3}
    structure.json   {"dict": [["model", {"dict": [["0.weight", {"array": "a0"}]]}], ["epoch", 3]]}
    a0.npy           the array

A file is written whole or not at all, and nothing that is in one can run when it is read.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array, Tensor, result
from npdp.base.errors import InputError
from npdp.base.parser_lock import ONE_AT_A_TIME
from npdp.base.whole_file import whole_file

STRUCTURE = "structure.json"
PLAIN = (str, bool, int, float, type(None))


def save(obj: Any, f: Any) -> None:
    """Write an object to a file that `load` reads.

    Args:
        obj: tensors, arrays, numbers, texts and None, and dicts, lists and tuples of them: state dicts, say.
        f: a path, or a file that is open to be written as bytes.

    Raises:
        TypeError: something else is in it, which is named; nothing is written then.
    """
    arrays: dict[str, Array] = {}
    structure = json.dumps(_structure(obj, arrays, "the object"))
    if hasattr(f, "write"):
        _write(f, structure, arrays)
        return
    with whole_file(os.fspath(f)) as file:
        _write(file, structure, arrays)


def _write(file: Any, structure: str, arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        archive.writestr(STRUCTURE, structure)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                _write_array(entry, array)


def _write_array(file: Any, array: Array) -> None:
    """Write an array in .npy format from where it lies; NumPy copies what it does not write to a file of the system."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.array(array, order="C")
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    laid = array if array.flags.c_contiguous else array.T
    file.write(laid.reshape(-1).view(np.uint8))


def _structure(obj: Any, arrays: dict[str, Array], place: str) -> Any:
    """Return what stands for an object in JSON; its arrays go into `arrays`, by names that are numbers."""
    if isinstance(obj, PLAIN):
        return obj
    if isinstance(obj, Mapping):
        if strays := [key for key in obj if not isinstance(key, (str, int))]:
            raise TypeError(f"save: wanted keys that are texts or whole numbers in {place}, got {strays[0]!r}")
        return {"dict": [[key, _structure(value, arrays, f"{place}[{key!r}]")] for key, value in obj.items()]}
    if isinstance(obj, (list, tuple)):
        kind = "list" if isinstance(obj, list) else "tuple"
        return {kind: [_structure(value, arrays, f"{place}[{number}]") for number, value in enumerate(obj)]}
    if isinstance(obj, (Tensor, np.ndarray, np.generic)) and np.asarray(obj).dtype.kind in "biuf":
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(obj)
        return {"tensor" if isinstance(obj, Tensor) else "array": name}
    hint = ": save model.state_dict()" if hasattr(obj, "state_dict") else ""
    raise TypeError(f"save: wanted tensors, arrays, numbers, texts, dicts and lists, got {type(obj).__name__} as "
                    f"{place}{hint}")  # fmt: skip


def load(f: Any, map_location: Any = None, weights_only: bool = True, **ignored: Any) -> Any:
    """Read what `save` wrote; arrays and tensors have memory of their own.

    Args:
        f: a path, or a file that is open to be read as bytes.
        map_location, weights_only: taken, since here all is on the CPU, and nothing but values is read.

    Raises:
        InputError: this is no such file; a PyTorch file holds pickled objects, and is not read.
    """
    name = str(getattr(f, "name", "the file")) if hasattr(f, "read") else os.fspath(f)
    try:
        with zipfile.ZipFile(f) as archive:
            entries = archive.namelist()
            if STRUCTURE in entries:
                return _object(json.loads(archive.read(STRUCTURE)), archive)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{name}: expected a file that npdp.save wrote, got {error}") from None
    if any(entry.endswith("data.pkl") for entry in entries):
        raise InputError(f"{name}: is a PyTorch file, which holds pickled objects; there, write it with "
                         "np.savez(path, **{k: v.numpy() for k, v in model.state_dict().items()}), and np.load it here")
    raise InputError(f"{name}: expected a file that npdp.save wrote, got an archive of {', '.join(entries[:3])}")


def _object(structure: Any, archive: zipfile.ZipFile) -> Any:
    if not isinstance(structure, dict):
        return structure
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: _object(part, archive) for key, part in parts}
    if kind in ("list", "tuple"):
        made = [_object(part, archive) for part in parts]
        return made if kind == "list" else tuple(made)
    entry = io.BytesIO(archive.read(f"{parts}.npy"))
    with ONE_AT_A_TIME:
        array = np.lib.format.read_array(entry, allow_pickle=False)
    return result(array) if kind == "tensor" else array


NAMES: dict[str, Any] = {"save": save, "load": load}
