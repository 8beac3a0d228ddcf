"""The models of `--model`: built-in ones by name, and the user's own from a file."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import isqrt
from random import getstate, setstate
from typing import Any

import numpy as np

from npdp import nn
from npdp.app.evaluation import blocks, criterion_of
from npdp.app.model_choices import MODELS
from npdp.app.programs import called, function_of, is_program, one_line, place
from npdp.autograd import no_grad
from npdp.base import random
from npdp.base.errors import InputError
from npdp.data import ArrayDataset
from npdp.models.cnn import CNN, SMALLEST
from npdp.models.gru import GRUClassifier


def softmax(features: int, classes: int | None) -> nn.Module:
    """One linear layer whose outputs are the classes' logits."""
    return nn.Linear(features, classes or 1)


def mlp(features: int, classes: int | None, hidden: tuple[int, ...]) -> nn.Module:
    """Linear layers of the given widths with ReLU between them."""
    widths = [features, *hidden, classes or 1]
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sparse_linear(features: int, classes: int | None) -> nn.Module:
    """One linear layer for sparse data."""
    return nn.SparseLinear(features, classes or 1)


def cnn(features: int, classes: int | None) -> nn.Module:
    """LeNet-5's shape, for square images whose pixels are the features."""
    return CNN(_side(features, SMALLEST), classes or 1)


def gru(features: int, classes: int | None) -> nn.Module:
    """A recurrent network for square images, which it reads row by row."""
    return GRUClassifier(_side(features, 1), classes or 1)


def _side(features: int, smallest: int) -> int:
    """Return how many pixels a side square images have."""
    side = isqrt(features)
    if side * side != features or side < smallest:
        raise InputError(f"wanted square images, of {smallest} x {smallest} pixels or more, got {features} features")
    return side


def default_name(classes: int | None, sparse: bool) -> str:
    """Return the model for data with or without classes, sparse or not."""
    if sparse:
        return "sparse_linear"
    return "linear" if classes is None else "softmax"


def build(name: str, features: int, classes: int | None, flags: Mapping[str, Any], dtype: str) -> nn.Module:
    """Return a new model with parameters of `dtype`.

    Args:
        name: a key of MODELS, or file.py:function, a function that returns a Module; it is given those of
            features, classes and flags that it has parameters for.
        features: number of inputs.
        classes: number of outputs; None for one number.
        flags: the model's own, by name.
        dtype: of the parameters, and of what buffers are floats.

    Raises:
        InputError: no such model, or the user's file does not give one.
    """
    if name in MODELS:
        try:
            model = _made_by(MODELS[name].made_by)(features, classes, **flags)
        except InputError as error:
            raise InputError(f"--model {name}: {error}") from None
        except (MemoryError, ValueError) as error:  # the latter of NumPy's, where no memory could be so large
            raise InputError(f"--model {name}: cannot be made: {error}") from None
    else:
        model = _users_own(name, {"features": features, "classes": classes, **flags})
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(dtype, order="K")
    for buffer in model.buffers():
        if buffer.dtype.kind == "f":
            buffer.data = buffer.data.astype(dtype)
    return model


def require_fit(name: str, model: nn.Module, dataset: ArrayDataset, classes: int | None) -> None:
    """Raise InputError where a user's own model cannot be trained on data like this.

    A copy of it is tried, on two samples, so that nothing changes that the training begins with.
    """
    try:
        model = copy.deepcopy(model).eval()  # no random numbers, as a rule
    except Exception:  # it holds what cannot be copied: training will show
        return
    criterion = criterion_of(dataset, classes)
    generator, before, pythons = random.default_generator().bit_generator, np.random.get_state(), getstate()
    state = generator.state
    try:
        with no_grad():
            ((inputs, labels),) = blocks(dataset, 0, min(2, len(dataset)))
            criterion(model(inputs), labels if classes is None else np.full(labels.shape, classes - 1))
    except (Exception, SystemExit) as error:
        why = f"{one_line(error)} ({place(name.rpartition(':')[0], error)})"
        raise InputError(f"--model: {name} does not fit the data: {why}") from error
    finally:
        generator.state = state
        np.random.set_state(before)
        setstate(pythons)


def _made_by(made_by: str) -> Callable[..., nn.Module]:
    module, _, name = made_by.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def name_from_anywhere(name: str) -> str:
    """Return a model's name with the path of the user's file made absolute, for a saved model."""
    return name if name in MODELS else os.path.abspath(name)


def _users_own(name: str, offered: dict[str, Any]) -> nn.Module:
    if not is_program(name):
        raise InputError(f"--model: wanted {', '.join(MODELS)} or file.py:function, got {name!r}")
    make = function_of("--model", name)
    model = called("--model", name, lambda: make(**_asked_for(name, make, offered)))
    if not isinstance(model, nn.Module):
        raise InputError(f"--model: {name} must return an npdp.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"--model: {name} has no parameters to train")
    return model


def _asked_for(name: str, make: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return those of what is offered that a function has parameters for; one that it cannot do without is refused."""
    wanted = inspect.signature(make).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [key for key, asked in wanted.items() if asked.kind in named and asked.default is asked.empty]
    if unknown := [key for key in needed if key not in offered]:
        raise InputError(f"--model: {name} asks for {', '.join(unknown)}: it may ask for {', '.join(offered)}")
    return {key: value for key, value in offered.items() if key in wanted}
