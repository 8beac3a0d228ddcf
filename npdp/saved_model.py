"""A trained model in one file: .npz, its arrays by name and a description in JSON; no pickle.

    parameter/0.weight   (10, 64) float32        scaling/mean        (64,) float64, where --standardize was used
    parameter/0.bias     (10,)                   scaling/deviation   (64,)
    description          {"format": 1, "model": "softmax", "features": 64, "classes": 10, ...}
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from typing import Any, NamedTuple

import numpy as np

from npdp import models, nn
from npdp.autograd.tensor import Array
from npdp.errors import InputError

FORMAT = 1
REQUIRED = ("format", "model", "features", "classes", "hidden", "dtype")


class SavedModel(NamedTuple):
    """A model with what is needed to use it: its description, and how its features are scaled, if they are."""

    model: nn.Module
    description: dict[str, Any]
    scaling: tuple[Array, Array] | None


def save(path: str, saved: SavedModel) -> None:
    """Write the file whole or not at all: to a new file beside it that then takes its name."""
    arrays = {f"parameter/{name}": values for name, values in saved.model.state_dict().items()}
    if saved.scaling is not None:
        arrays["scaling/mean"], arrays["scaling/deviation"] = saved.scaling
    text = json.dumps({"format": FORMAT, **saved.description})
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, description=np.array(text), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str) -> SavedModel:
    """Return a saved model, ready for evaluation.

    Raises:
        InputError: no such file, not one of npdp's, or one whose parameters do not fit its model.
    """
    description, arrays = _read(path)
    model = models.build(
        description["model"], description["features"], description["classes"], tuple(description["hidden"]),
        description["dtype"],
    )  # fmt: skip
    prefix = "parameter/"
    state = {name[len(prefix) :]: values for name, values in arrays.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(state)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    scaling = (arrays["scaling/mean"], arrays["scaling/deviation"]) if "scaling/mean" in arrays else None
    return SavedModel(model.eval(), description, scaling)


def _read(path: str) -> tuple[dict[str, Any], dict[str, Array]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays.pop("description")))
        missing = [key for key in REQUIRED if key not in description]
        if missing or description["format"] != FORMAT:
            raise ValueError(f"description lacks {missing}" if missing else f"format {description['format']}")
    except OSError as error:
        raise InputError(f"{path}: wanted a model saved by npdp: {error.strerror or error}") from None
    except (ValueError, KeyError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: wanted a model saved by npdp (format {FORMAT}), got {error}") from None
    return description, arrays
