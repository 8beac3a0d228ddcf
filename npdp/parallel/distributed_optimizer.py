"""Data parallel training in Horovod's form: the optimiser is wrapped, not the model."""

from __future__ import annotations

from collections.abc import Iterable

from npdp.nn.parameter import Parameter
from npdp.optim import Optimizer
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.replicas import require_alike
from npdp.parallel.world import init


def DistributedOptimizer(  # noqa: N802  (Horovod's name; there, too, it is a function)
    optimizer: Optimizer,
    named_parameters: Iterable[tuple[str, Parameter]] | None = None,
    bucket_cap_mb: float | None = None,
) -> Optimizer:
    """Make every backward exchange the gradients of this optimiser's parameters; return the optimiser. Collective.

    Parameters that a `DataParallel` has already are left to it: together they exchange once. How many samples a rank's
    loss stands for comes from the batch that the loader has given last; without one, every rank counts alike.
    Call `npdp.broadcast_parameters(model.state_dict(), root=0)` or wrap the model for equal first values.

    Args:
        optimizer: changed in place.
        named_parameters: names, for messages; numbers where not given.
        bucket_cap_mb: see `DataParallel`.

    Raises:
        InputError: the ranks' parameters differ.
        TypeError: it is no optimiser of npdp's.
    """
    if not isinstance(optimizer, Optimizer):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise TypeError(f"DistributedOptimizer: wanted an optimiser of npdp.optim, got {kind}")
    world = init()
    mine = [p for p in optimizer.parameters if p.requires_grad and p.reducer is None]
    names = {id(parameter): name for name, parameter in named_parameters or ()}
    require_alike(world, [(names.get(id(p), f"#{i}"), p) for i, p in enumerate(mine)])
    if mine:
        AllReduce(bucket_cap_mb).attach(mine, world)
    return optimizer
