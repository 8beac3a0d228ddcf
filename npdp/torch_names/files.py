"""`save` and `load`: tensors, arrays, numbers and texts, in dicts, lists and tuples, in one .npz file, without pickle.

    {"model": {"0.weight": array}, "epoch": 3}
    structure.json   {"dict": [["model", {"dict": [["0.weight", {"array": "a0"}]]}], ["epoch", 3]]}
    a0.npy           the array

A file is written whole or not at all, and nothing that is in one can run when it is read. It is read as an .npz file of
data is (data/formats/npz.py): what its headers declare is checked against its size, and each array is read once.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from npdp.autograd.tensor import Array, Tensor, result
from npdp.base.errors import InputError
from npdp.base.whole_file import whole_file
from npdp.data.formats.npz import Arrays, arrays_in

STRUCTURE = "structure.json"
WANTED = "a file that npdp.save wrote"
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
    structure = json.dumps(structure_of(obj, arrays, "the object"))
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


def structure_of(obj: Any, arrays: dict[str, Array], place: str) -> Any:
    """Return what stands for an object in JSON; its arrays go into `arrays`, by names that are numbers."""
    if isinstance(obj, PLAIN):
        return obj
    if isinstance(obj, Mapping):
        if strays := [key for key in obj if not isinstance(key, (str, int))]:
            raise TypeError(f"save: wanted keys that are texts or whole numbers in {place}, got {strays[0]!r}")
        return {"dict": [[key, structure_of(value, arrays, f"{place}[{key!r}]")] for key, value in obj.items()]}
    if isinstance(obj, (list, tuple)):
        kind = "list" if isinstance(obj, list) else "tuple"
        return {kind: [structure_of(value, arrays, f"{place}[{number}]") for number, value in enumerate(obj)]}
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
    with _opened(f) as file, arrays_in(file, name, WANTED, growth=1) as arrays:  # they are not compressed
        if STRUCTURE in arrays.entries:
            try:
                return object_of(json.loads(arrays.content(STRUCTURE)), _each_once(arrays))
            except InputError:
                raise
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{name}: expected {WANTED}, got a structure that is none: {error}") from None
        if any(entry.endswith("data.pkl") for entry in arrays.entries):
            raise InputError(
                f"{name}: is a PyTorch file, which holds pickled objects; there, write it with np.savez(path, "
                "**{k: v.numpy() for k, v in model.state_dict().items()}), and np.load it here"
            )
        raise InputError(f"{name}: expected {WANTED}, got an archive of {', '.join(arrays.entries[:3])}")


def _opened(f: Any) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(f) if hasattr(f, "read") else open(f, "rb")


def _each_once(arrays: Arrays) -> Callable[[str], Array]:
    """Return what reads an array the first time that it is named, so that a small file stays small."""
    left = set(arrays.names)

    def take(name: str) -> Array:
        left.remove(name)
        return np.array(arrays.read(name))

    return take


def object_of(structure: Any, take: Callable[[str], Array]) -> Any:
    """Return the object that JSON stands for; `take` gives its arrays by name."""
    if not isinstance(structure, dict):
        return structure
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: object_of(part, take) for key, part in parts}
    if kind in ("list", "tuple"):
        made = [object_of(part, take) for part in parts]
        return made if kind == "list" else tuple(made)
    return result(take(parts)) if kind == "tensor" else take(parts)


NAMES: dict[str, Any] = {"save": save, "load": load}
