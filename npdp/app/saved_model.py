"""A trained model in one file: .npz, its arrays by name and a description in JSON; no pickle.

    parameter/0.weight   (10, 64) float32        scaling/mean        (64,) float64, where --standardize was used
    parameter/0.bias     (10,)                   scaling/deviation   (64,)
    description          {"format": 1, "model": "softmax", "features": 64, "classes": 10, ...}; "labels": [-1, 1] too
                         where these stood for the classes in the data; "columns": ["age", ...], "target": "price"
                         where the table that it was trained on had such names

`npdp train --save` writes it. A program gets the model back by `saved_model.load("model.npz").model`, in evaluation;
`.scaling` is what its features are to be scaled with. `load_state_dict` is for what `state_dict` gave. Where `--model`
was a file.py:function, the description has its path, and loading runs it: only if told to trust it. Arrays are not
compressed: a file takes no more memory than it has bytes, before and after its model is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from npdp import nn
from npdp.app import models
from npdp.app.model_choices import MODELS, choice_of
from npdp.app.programs import is_program
from npdp.app.train_flags import POSITIONS
from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.base.whole_file import whole_file
from npdp.data.formats import npz
from npdp.data.formats.raw import Columns
from npdp.data.text import from_json

FORMAT = 1
WANTED = f"a model saved by npdp (`npdp train --save`, format {FORMAT})"
PARAMETER, SCALING = "parameter/", ("scaling/mean", "scaling/deviation")
AT_LEAST = {"cnn": (16,), "gru": (128,)}  # an mlp of these hidden widths has fewer parameters
NUMBERS_FREE = 2**20  # a model of more than its file has is made up to this size, to tell by name what is missing


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


REQUIRED: dict[str, Callable[[Any], bool]] = {  # what a description must hold, and which values will do
    "format": lambda value: value == FORMAT,
    "model": lambda value: isinstance(value, str),
    "features": _is_count,
    "classes": lambda value: value is None or _is_count(value),
    "dtype": lambda value: value in ("float32", "float64"),
}
FLAGS: dict[str, Callable[[Any], bool]] = {  # of the model's own those that it has
    "hidden": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "layers": _is_count,
    "heads": _is_count,
    "width": _is_count,
    "dropout": lambda value: isinstance(value, (int, float)) and 0 <= value < 1,
    "positions": lambda value: value in POSITIONS,
}


def _is_one_a_class(labels: Any, classes: int | None) -> bool:
    return isinstance(labels, list) and len(labels) == classes and all(type(label) is int for label in labels)


def _are_names(columns: Any, target: Any, features: int) -> bool:
    names = [*columns, target] if isinstance(columns, list) else []
    return len(names) == features + 1 and all(type(n) is str for n in names) and len(set(names)) == len(names)


class SavedModel(NamedTuple):
    """A model with its description and the scaling of its features, if they are scaled."""

    model: nn.Module
    description: dict[str, Any]
    scaling: tuple[Array, Array] | None

    @property
    def columns(self) -> Columns | None:
        """The named columns that the model was trained on; None where they had no names."""
        names = self.description.get("columns")
        return None if names is None else Columns(tuple(names), self.description["target"])


def save(path: str, saved: SavedModel, state: Mapping[str, Array] | None = None) -> None:
    """Write the file, whole or not at all; with another state than the model has now where one is given."""
    state = saved.model.state_dict() if state is None else state
    arrays = {f"parameter/{name}": values for name, values in state.items()}
    if saved.scaling is not None:
        arrays["scaling/mean"], arrays["scaling/deviation"] = saved.scaling
    text = json.dumps({"format": FORMAT, **saved.description})
    with whole_file(path) as file:
        np.savez(file, description=np.array(text), **arrays)  # type: ignore[arg-type]


def load(path: str, trust: bool = False) -> SavedModel:
    """Return a saved model, ready for evaluation.

    Args:
        path: the file.
        trust: run the .py file that it names, where its model is the user's own: it may do anything.

    Raises:
        InputError: no such file, not one of npdp's, one whose parameters do not fit its model, or that names a .py file
            without `trust`.
    """
    description, arrays = _read(path)
    state = {name[len(PARAMETER) :]: values for name, values in arrays.items() if name.startswith(PARAMETER)}
    if is_program(description["model"]) and not trust:
        raise InputError(f"{path}: its model is made by {description['model']!r}, a program that is not run unless you "
                         "say that you trust it: --trust, or trust=True in Python")  # fmt: skip
    _require_numbers(path, description, sum(values.size for values in state.values()))
    try:
        name, features, classes, dtype = (description[key] for key in ("model", "features", "classes", "dtype"))
        model = models.build(name, features, classes, flags_of(description), dtype)
        model.load_state_dict(state)
    except InputError as error:  # which speaks of the flag
        name = description["model"]
        why = str(error).removeprefix("--model").removeprefix(f" {name}").removeprefix(": ")
        raise InputError(f"{path} was trained with {name}: {why}") from None
    except (ValueError, MemoryError) as error:  # sizes that are wrong may be larger than memory
        raise InputError(f"{path}: {error}") from None
    return SavedModel(model.eval(), description, _scaling(path, description["features"], arrays))


def _scaling(path: str, features: int, arrays: dict[str, Array]) -> tuple[Array, Array] | None:
    mean, deviation = arrays.get("scaling/mean"), arrays.get("scaling/deviation")
    if mean is None and deviation is None:
        return None
    for name, array in {"mean": mean, "deviation": deviation}.items():
        if array is None or array.shape != (features,) or array.dtype.kind != "f":
            got = "none" if array is None else f"{array.dtype} of shape {array.shape}"
            raise InputError(f"{path}: expected {WANTED}, with {features} numbers as {name}, got {got}")
    return arrays["scaling/mean"], arrays["scaling/deviation"]


def flags_of(description: dict[str, Any]) -> dict[str, Any]:
    """Return the flags of a described model's own, as the command line has them."""
    flags = {name: description[name] for name in choice_of(description["model"]).flags}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


def _require_numbers(path: str, description: dict[str, Any], found: int) -> None:
    """Raise InputError where a model of the described sizes is much larger than what the file holds of it."""
    name = description["model"]
    needed = _least_numbers(**description)
    if name in MODELS and needed > max(found, NUMBERS_FREE):
        raise InputError(f"{path}: expected a {name} of at least {needed} parameters, got {found}")


def _least_numbers(
    model: str, features: int, classes: int | None, hidden: Sequence[int] = (), width: int = 0,
    layers: int = 0, **_: Any,
) -> int:  # fmt: skip
    """Return how many parameters a described model has at least."""
    if width:
        return ((classes or 1) + features + 12 * layers * width) * width
    inputs = isqrt(features) if model == "gru" else features  # of a row
    widths = [inputs, *(hidden if model == "mlp" else AT_LEAST.get(model, ())), classes or 1]
    return sum((wide + 1) * narrow for wide, narrow in pairwise(widths))


def _read(path: str) -> tuple[dict[str, Any], dict[str, Array]]:
    with npz.arrays_of(path, WANTED, growth=1) as arrays:
        text = arrays.read("description", npz.TEXT) if "description" in arrays.names else None
        try:
            description = _description(None if text is None else str(text))
        except ValueError as error:
            raise InputError(f"{path}: expected {WANTED}, got {error}") from None
        names = [name for name in arrays.names if name.startswith(PARAMETER) or name in SCALING]
        return description, {name: arrays.read(name) for name in names}


def _require(description: dict[str, Any], wanted: dict[str, Callable[[Any], bool]]) -> None:
    for key, accepts in wanted.items():
        if key not in description:
            raise ValueError(f"a description without {key}")
        if not accepts(description[key]):
            raise ValueError(f"a description with {key} {description[key]!r}")


def _description(text: str | None) -> dict[str, Any]:
    """Return what a file says of its model.

    Raises:
        ValueError: what it has instead.
    """
    if text is None:
        raise ValueError("arrays without a description of the model")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise ValueError("a description that is no JSON object")
    _require(description, REQUIRED)
    _require(description, {name: FLAGS[name] for name in choice_of(description["model"]).flags})
    if choice_of(description["model"]).takes == "text" or description.get("tokenizer") is not None:
        try:
            from_json(str(description.get("tokenizer")))
        except InputError as error:
            raise ValueError(f"a description whose tokenizer is none: {error}") from None
    labels = description.get("labels")
    if labels is not None and not _is_one_a_class(labels, description["classes"]):
        raise ValueError(f"a description with labels {labels!r}")
    columns, target = description.get("columns"), description.get("target")
    if (columns, target) != (None, None) and not _are_names(columns, target, description["features"]):
        raise ValueError(f"a description with columns {columns!r} and target {target!r}")
    return description
