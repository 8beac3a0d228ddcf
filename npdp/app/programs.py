"""Programs of the user's that flags name, `file.py:function`: run as Python runs a script, and asked for a function.

It imports neither NumPy nor MPI, as flags are read before these are loaded.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from npdp.base.errors import InputError
from npdp.base.parser_lock import ONE_AT_A_TIME
from npdp.comm.errors import CommunicationError


def is_program(name: str) -> bool:
    """Return whether a name is that of a function in a program of the user's, which is run to have it."""
    path, colon, _ = name.rpartition(":")
    return bool(colon) and path.endswith(".py")


def function_of(flag: str, name: str) -> Callable[..., Any]:
    """Return the function of `file.py:function`.

    Raises:
        InputError: there is no such file, it has no such function, or it fails.
    """
    path, _, function = name.rpartition(":")
    if not os.path.isfile(path):
        raise InputError(f"{flag}: no file {path}")
    found = getattr(_import(flag, path), function, None)
    if not callable(found):
        raise InputError(f"{flag}: {path} has no function {function}")
    return found  # type: ignore[no-any-return]


def called(flag: str, name: str, call: Callable[[], Any]) -> Any:
    """Return what a call of the user's function returns; InputError with the place where it fails."""
    try:
        return call()
    except (InputError, CommunicationError):  # another rank's death is no mistake of the function's
        raise
    except (Exception, SystemExit) as error:  # a rank that exits alone would leave the others waiting
        where = place(name.rpartition(":")[0], error)
        raise InputError(f"{flag}: {name} failed: {one_line(error)} ({where})") from error


def _import(flag: str, path: str) -> Any:
    """Return the module in a file, run as Python runs a script: what lies beside it can be imported."""
    spec = importlib.util.spec_from_file_location(f"npdp_users_{flag.strip('-')}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses, and pickle, look for what a class was made in
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with ONE_AT_A_TIME:
            code = spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise InputError(f"{flag}: {place(path, error)}: {one_line(error)}") from error
    return module


def place(path: str, error: BaseException) -> str:
    """Return the user's file, with the last line of it that led to an error, if one did."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == os.path.abspath(path)]
    return f"{path}, line {lines[-1]}" if lines else path


def one_line(error: BaseException) -> str:
    """Return an error's kind and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
