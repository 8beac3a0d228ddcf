"""Checks that all ranks have the same model before they train it together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.tensor import Array
from npdp.collectives.arrays import DTYPES
from npdp.collectives.communicator import Communicator
from npdp.comm.threads import ThreadTransport
from npdp.nn.parameter import Parameter
from npdp.nn.state import StateDict
from npdp.parallel.agreement import require_equal
from npdp.parallel.world import init

Named = Iterable[tuple[str, Tensor]]


def require_alike(world: Communicator, named: Named) -> None:
    """Raise InputError on every rank where parameters differ between ranks; collective.

    Their names, shapes and dtypes, and then how and where they lie: gradients are summed as they lie, in the order of
    whoever laid them flat, an optimiser as a rule.
    """
    pairs = sorted(named, key=lambda pair: pair[0])
    require_equal(world, "parameters", [f"{name} {parameter.shape} {parameter.dtype}" for name, parameter in pairs])
    orders = [f"{name} in {'C' if p.array.flags.c_contiguous else 'Fortran'} order" for name, p in pairs]
    require_equal(world, "memory layouts of parameters", orders)
    laid = [(name, p.number) for name, p in pairs if isinstance(p, Parameter) and p.flat is not None]
    numbers = [f"{name} as number {number}" for name, number in laid]
    require_equal(world, "orders of an optimiser's parameters", numbers)


def require_apart(world: Communicator, parameters: Sequence[Tensor]) -> None:
    """Raise ValueError on every rank where ranks on threads have one and the same parameter; collective.

    Args:
        parameters: in the same order on all ranks.
    """
    if world.transport.name != ThreadTransport.name:
        return  # a process for each rank
    numbers = np.empty((world.world_size, len(parameters)), np.int64)
    world.allgather(np.array([id(parameter) for parameter in parameters], np.int64), numbers)
    if len(np.unique(numbers)) < numbers.size:
        raise ValueError(
            "ranks on threads have the same model: each needs one of its own, so make it in the program that they run"
        )


def broadcast_parameters(parameters: Mapping[str, Any] | Named, root: int = 0) -> None:
    """Give every rank the values of `root`; collective, in place. Horovod's name.

    Args:
        parameters: (name, Parameter) pairs as `named_parameters()` gives them, or a dict of them; or a model's
            `state_dict()`, which stands for the model's parameters and buffers themselves. Names, shapes, dtypes and
            orders in memory are compared first.
        root: the rank whose values are taken.

    Raises:
        InputError: the ranks' parameters differ in name, shape, dtype or order in memory.
        TypeError: these are no parameters by name.
        ValueError: they are read-only, as a wrapped model's may be.
    """
    pairs = _pairs(parameters)
    for _, parameter in pairs:
        if isinstance(parameter, Parameter):
            parameter.require_writeable()
    world = init()
    require_alike(world, pairs)
    for _, parameter in sorted(pairs, key=lambda pair: pair[0]):
        if not parameter.array.flags.writeable:  # a memory map's, say
            parameter.array = parameter.array.copy(order="K")
        values = np.array(parameter.array, order="C")
        _broadcast(world, values, root)
        parameter.array[...] = values
        parameter.version[0] += 1


def _broadcast(world: Communicator, values: Array, root: int) -> None:
    """Give every rank the root's values, in place: those of a dtype that collectives do not take, as words."""
    if values.dtype in DTYPES:
        world.broadcast(values, root)
        return
    words = np.zeros(-(-values.nbytes // 8), np.int64)
    mine, sent = values.reshape(-1).view(np.uint8), words.view(np.uint8)[: values.nbytes]
    sent[:] = mine
    world.broadcast(words, root)
    mine[:] = sent


def _pairs(parameters: Any) -> list[tuple[str, Tensor]]:
    """Return the parameters with their names, or say what is wrong with what was given."""
    named = parameters.tensors if isinstance(parameters, StateDict) else parameters
    pairs = list(named.items() if isinstance(named, Mapping) else named) if isinstance(named, Iterable) else [named]
    for pair in pairs:
        name, value = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (None, pair)
        if isinstance(name, str) and isinstance(value, Tensor):
            continue
        kind = type(parameters).__name__ + ("" if value is parameters else f" with {type(value).__name__}")
        why = ", copies of values that the model would not see" if isinstance(value, np.ndarray) else ""
        raise TypeError(
            f"broadcast_parameters: wanted model.state_dict() itself or model.named_parameters(), got {kind}{why}"
        )
    return pairs


def parameters_sha256(named: Named) -> str:
    """Return the hash of all parameters' bytes, in name order, each in the C order of its public shape."""
    digest = hashlib.sha256()
    for _, parameter in sorted(named, key=lambda pair: pair[0]):
        digest.update(np.ascontiguousarray(parameter.array).tobytes())
    return digest.hexdigest()
