"""What a rank trains some parameters by, together with others: what all strategies' exchanges have.

    GradientExchange     all_reduce.py                 backward sums the gradients over the ranks
    FusedExchange        fused.py                      the optimiser's step sums and updates
    ServerExchange       parameter_server/worker.py    the optimiser's step pushes and pulls
    ParameterAveraging   local_sgd.py                  some steps end with a mean of the parameters

The engine calls it in backward (`begin`, `ready`, `finish` or `cancel`, see autograd/engine.py); the optimiser in its
step, where flat arrays have a `stepper`; the program before it looks at the parameters (`synchronize`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

from npdp.autograd import Batch, Tensor
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter, lay_flat
from npdp.optim import Optimizer
from npdp.parallel.agreement import BATCHES_COMPARED_EVERY, require_same_batch
from npdp.parallel.replicas import require_apart

UNSYNCED = (
    "these gradients were accumulated under no_sync() and have not been exchanged; "
    "run the last backward before step() outside no_sync()"
)


class Exchange:
    """Base.

    Args:
        parameters: to be trained; each must belong to no other exchange.
        world: the ranks.

    Attributes:
        number: among this world's exchanges, which all ranks make in the same order.
        parameters: as given.
        flats: the arrays in which they lie, but for the sparse ones.
        sparse_parameters: those.
        world: the ranks that train.
        in_step: whether all ranks make each backward together, so that it may be collective.
        syncing: False under `no_sync`.
        local: whether `.grad` holds sums of this rank alone, as backward under `no_sync` leaves them; the optimiser
            refuses these. Else it is None, or what the optimiser is to use.
        leaves_early: whether `ready` is to be called while backward goes on.
        wrapped: whether a DataParallel has it; a DistributedOptimizer's own may still be taken by one.
        exchanged_bytes: of gradients and parameters that this rank has given to exchanges, or got from servers.
    """

    in_step = True

    def __init__(self, parameters: Iterable[Parameter], world: Communicator) -> None:
        self.world = world
        self.number = world.number_reducer()
        self.parameters = list(parameters)
        require_apart(world, self.parameters)  # before any rank changes them
        self.flats = lay_flat(self.parameters)
        self.sparse_parameters = [parameter for parameter in self.parameters if parameter.sparse]
        for parameter in self.parameters:
            parameter.exchange = self
        self.syncing, self.local, self.leaves_early, self.wrapped = True, False, False, False
        self.exchanged_bytes = 0
        self._batch: Batch | None = None  # behind the last backward
        self._exchanges = 0  # that all ranks have made
        self._warned = False  # of parameters that nobody exchanges

    def _share_gradients(self) -> None:
        """Lay the gradients where the ranks of a host share memory; collective."""
        for flat in self.flats:
            if self.world.world_size > 1 and not flat.grad_shared:
                grad = self.world.shared_empty(flat.grad.size, flat.dtype)
                grad[:] = 0
                flat.move_grad(grad)
                flat.grad_shared = True  # another exchange may have some of these parameters, and views of this array

    # What the engine calls
    def begin(self, batch: Batch | None, alone: bool) -> float:
        raise NotImplementedError

    def ready(self, parameter: Tensor) -> None:
        """Do nothing: only what leaves early is told of each parameter."""

    def finish(self) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    def note_outsiders(self, leaves: list[Tensor]) -> None:
        """Warn, once, of parameters that nobody exchanges: a criterion's, say, or what was unfrozen or added late."""
        shapes = [leaf.shape for leaf in leaves if isinstance(leaf, Parameter)]
        if shapes and not self._warned and self.world.world_size > 1 and not self.world.rank:
            self._warned = True
            warnings.warn(
                f"backward reaches parameters that are in no DataParallel ({len(shapes)}, the first of shape "
                f"{shapes[0]}): each rank has its own gradient of them. Make them a part of the model before it is "
                "wrapped, or wrap their module too, as in nn.DataParallel(criterion)",
                stacklevel=4,
            )

    # What the program calls
    def synchronize(self) -> None:
        """Give every rank the newest parameters, where it does not have them anyway; collective."""

    @property
    def is_current(self) -> bool:
        """Whether this rank has the newest parameters, the same as all others."""
        return True

    def updates(self, optimizer: Optimizer) -> int:
        """Return how often the parameters that this rank has were updated."""
        return optimizer.iteration

    def end_training(self) -> dict[str, Any]:
        """End what this strategy has running beside the program; return what metrics say of it. Collective."""
        return {}

    def save_arrivals(self, path: str, run: dict[str, Any]) -> None:
        """Write the order in which gradients were applied, where that is not always the same."""
        raise NotImplementedError

    # What metrics say
    @property
    def algorithm(self) -> str:
        """How the largest piece travels."""
        return self.world.chosen("allreduce", max((flat.grad.nbytes for flat in self.flats), default=0))

    @property
    def bucket_bytes(self) -> list[int]:
        """Of each bucket, where gradients travel in some."""
        return []

    # What they have in common
    def _count_exchange(self) -> None:
        """Count it, and now and then make sure that all ranks train on parts of the same batches; collective."""
        made = self._exchanges
        # After 0, 1, 2, 4, 8, ... too: a loop may leave out empty parts, the first of them in an epoch's end
        if not made & (made - 1) or not made % BATCHES_COMPARED_EVERY:
            require_same_batch(self.world, self._batch, self.in_step)
        self._exchanges += 1

    def _set_local(self, local: bool) -> None:
        """Note whether gradients are local, and let the optimisers know: in flat arrays and in sparse parameters."""
        self.local = local
        for flat in self.flats:  # which others may share
            flat.unsynced = partial(_unsynced, flat.parameters) if _unsynced(flat.parameters) else None
        for parameter in self.sparse_parameters:
            parameter.unsynced = partial(_unsynced, [parameter]) if _unsynced([parameter]) else None


def _unsynced(parameters: list[Parameter]) -> str | None:
    """Return why these gradients are not ready for an update, where any has not been exchanged."""
    exchanged = (p for p in parameters if isinstance(p.exchange, Exchange) and p.exchange.local)
    return UNSYNCED if any(vars(p).get("grad") is not None for p in exchanged) else None  # not through what hides it
