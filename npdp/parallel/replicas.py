"""Making sure that all ranks have the same model before they train it together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from npdp.nn.module import StateDict
from npdp.nn.parameter import Parameter
from npdp.parallel.agreement import require_equal
from npdp.parallel.world import init

Named = Iterable[tuple[str, Parameter]]


def describe(named: Named) -> list[str]:
    """Return name, shape, dtype and place in the flat arrays of each parameter, in name order.

    Where they lie is compared since gradients are summed as they lie.
    """
    return sorted(f"{name} {parameter.shape} {parameter.dtype}{_place(parameter)}" for name, parameter in named)


def _place(parameter: Parameter) -> str:
    return f", number {parameter.place[1]} in memory" if parameter.place else ""


def broadcast_parameters(parameters: StateDict | Named, root: int = 0) -> None:
    """Give every rank the values of `root`; collective, in place. Horovod's name.

    Args:
        parameters: (name, Parameter) pairs as `named_parameters()` gives them, or a model's `state_dict()`, which
            stands for the model's parameters themselves; names, shapes and dtypes are compared first.
        root: the rank whose values are taken.

    Raises:
        InputError: the ranks' parameters differ in name, shape or dtype.
    """
    pairs = list(parameters.parameters.items() if isinstance(parameters, StateDict) else parameters)
    world = init()
    require_equal(world, "parameters", describe(pairs))
    for _, parameter in sorted(pairs, key=lambda pair: pair[0]):
        values = np.array(parameter.data, order="C")
        world.broadcast(values, root)
        parameter.data[...] = values
        parameter.version[0] += 1


def parameters_sha256(named: Named) -> str:
    """Return the hash of all parameters' bytes, in name order, each in the C order of its public shape."""
    digest = hashlib.sha256()
    for _, parameter in sorted(named, key=lambda pair: pair[0]):
        digest.update(np.ascontiguousarray(parameter.data).tobytes())
    return digest.hexdigest()
