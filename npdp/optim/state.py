"""An optimiser's state under PyTorch's names, for `state_dict()` and `load_state_dict()`.

    {"state": {0: {"step": 10, "exp_avg": array, "exp_avg_sq": array}, ...},     of SGD: {"momentum_buffer": array}
     "param_groups": [{"lr": 0.1, ..., "params": [0, 1]}, {...}],
     "iteration": 10}                                                            PyTorch does not have it, nor mind it

Parameters are numbered as they come in the groups. One that was never updated has no state. With tensors made of the
arrays PyTorch loads it; PyTorch's own is loaded here as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from npdp.autograd.tensor import Array
from npdp.nn.parameter import Parameter
from npdp.nn.state import Order

if TYPE_CHECKING:
    from npdp.optim.groups import ParameterGroup
    from npdp.optim.optimizer import Optimizer

_REFUSED = ("amsgrad", "maximize")  # of PyTorch's settings those that are not here and change the update
_PASSED_OVER = ("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay", *_REFUSED)  # the others


def state_dict(optimizer: Optimizer, order: Order = "C") -> dict[str, Any]:
    """Return copies of all state and settings; of a learning rate that is a function, its value now."""
    _require_here(optimizer, "state_dict")
    numbers = {parameter: number for number, parameter in enumerate(optimizer.parameters)}
    found: dict[int, dict[str, Array]] = {}
    for group in optimizer.groups:
        for index, parameter in enumerate(group.parameters):
            if group.state and group.steps[index]:
                found[numbers[parameter]] = _state_of(optimizer, group, index, order)
    return {
        "state": dict(sorted(found.items())),
        "param_groups": [
            {**settings, "lr": optimizer.lr_of(settings), "params": [numbers[p] for p in settings["params"]]}
            for settings in optimizer.param_groups
        ],
        "iteration": optimizer.iteration,
    }


def _state_of(optimizer: Optimizer, group: ParameterGroup, index: int, order: Order) -> dict[str, Array]:
    """Return copies of one parameter's state, by name."""
    views = _views(group, index)
    step = {"step": np.array(group.steps[index], np.float64)} if optimizer.counts_steps else {}  # PyTorch's is a float
    return step | {name: np.array(view, order=order) for name, view in views.items()}


def _views(group: ParameterGroup, index: int) -> dict[str, Array]:
    """Return the parts of a group's state that are one parameter's."""
    return {name: group.flat.view(array, group.numbers[index]) for name, array in group.state.items()}


def load_state_dict(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take settings and state over, copied; nothing is changed where anything does not fit."""
    who = f"load_state_dict of {type(optimizer).__name__}"
    if not (isinstance(state, Mapping) and "state" in state and "param_groups" in state):
        raise TypeError(f'{who}: wanted a dict with "state" and "param_groups", got {_kind(state)}')
    _require_here(optimizer, "load_state_dict")
    faults: list[str] = []
    saved = state["param_groups"]
    here, there = ([len(group["params"]) for group in groups] for groups in (optimizer.param_groups, saved))
    if here != there:
        raise ValueError(f"{who}: wanted parameter groups of {_sizes(here)} parameters, got {_sizes(there)}")
    settings = [_settings_in(optimizer, number, group, faults) for number, group in enumerate(saved)]
    numbers = [number for group in saved for number in group["params"]]
    entries = {p: (number, state["state"].get(number, {})) for p, number in zip(optimizer.parameters, numbers)}
    found = [_found(optimizer, group, entries, faults) for group in optimizer.groups]
    if faults:
        raise ValueError(f"{who}: " + "; ".join(faults))
    for mine, new in zip(optimizer.param_groups, settings):
        lr = mine["lr"] if callable(mine["lr"]) else new["lr"]
        mine.update({**new, "lr": lr})
    for group, values in zip(optimizer.groups, found):
        _put(group, values)
    steps = [step for group in optimizer.groups for step in group.steps if optimizer.counts_steps]
    optimizer.iteration = int(state.get("iteration", max(steps, default=optimizer.iteration)))


def _kind(what: Any) -> str:
    return f"one with {', '.join(map(str, what)) or 'nothing'}" if isinstance(what, Mapping) else type(what).__name__


def _sizes(counts: list[int]) -> str:
    return " and ".join(map(str, counts))


def _require_here(optimizer: Optimizer, what: str) -> None:
    """Raise RuntimeError where the state is not on this rank alone."""
    for group in optimizer.groups:
        if group.flat.state_elsewhere and group.state:
            raise RuntimeError(f"{type(optimizer).__name__}.{what}: {group.flat.state_elsewhere}")


def _settings_in(optimizer: Optimizer, number: int, saved: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return the settings of a saved group, as numbers; note what is wrong with them."""
    found = {name: _plain(value) for name, value in saved.items() if name not in ("params", *_PASSED_OVER)}
    missing = [name for name in optimizer.defaults if name not in found]
    faults += [f"parameter group {number} has no {name}" for name in missing]
    faults += [f"parameter group {number} has {name}, which is not there" for name in _REFUSED if saved.get(name)]
    decoupled = getattr(optimizer, "decoupled", None)
    if saved.get("decoupled_weight_decay", decoupled) != decoupled:
        faults.append(f"parameter group {number} has decoupled_weight_decay {not decoupled}: Adam's is not AdamW's")
    if missing:
        return found
    mine = optimizer.param_groups[number]
    try:
        optimizer.check({**mine, **found})
    except (ValueError, TypeError) as error:
        faults.append(f"parameter group {number}: {error}")
    wanted, got = optimizer.state_names(mine), optimizer.state_names(found)
    if wanted != got:
        faults.append(
            f"parameter group {number}: wanted settings with state {', '.join(wanted) or 'none'}, got some with "
            f"{', '.join(got) or 'none'}: make the optimiser with the same settings"
        )
    return found


def _plain(value: Any) -> Any:
    """Return what may be a tensor or a number of NumPy's as Python's."""
    if isinstance(value, (tuple, list)):
        return tuple(_plain(each) for each in value)
    return value.item() if hasattr(value, "item") else value


def _found(
    optimizer: Optimizer,
    group: ParameterGroup,
    entries: Mapping[Parameter, tuple[Any, Mapping[str, Any]]],
    faults: list[str],
) -> list[tuple[int, dict[str, Array]]]:
    """Return step and arrays of each of a group's parameters, (0, {}) of one without; note what is wrong with them."""
    found = []
    for index, parameter in enumerate(group.parameters):
        number, saved = entries[parameter]
        entry = {name: value for name, value in saved.items() if value is not None}
        where = f"state of parameter {number}"
        views = _views(group, index)
        wanted = [*views, *["step"] * optimizer.counts_steps]
        faults += [f"{where} has no {name}" for name in wanted if entry and name not in entry]
        faults += [f"{where} has {name}, which is not there" for name in entry if name not in wanted]
        values = {name: np.asarray(entry[name]) for name in views if name in entry}
        for name, value in values.items():
            if value.shape != parameter.shape or not np.can_cast(value.dtype, parameter.dtype, "same_kind"):
                got = f"{value.dtype} of shape {value.shape}"
                faults.append(f"{where}: wanted {name} as {parameter.dtype} of shape {parameter.shape}, got {got}")
        found.append((int(entry.get("step", 1)) if entry else 0, values))
    return found


def _put(group: ParameterGroup, found: list[tuple[int, dict[str, Array]]]) -> None:
    for index, (step, values) in enumerate(found):
        group.steps[index] = step
        for name, view in _views(group, index).items():
            view[...] = values.get(name, 0)
