"""Base class of the training strategies, by which ranks train together.

    Naive             naive.py              one all-reduce a parameter after backward: read this one first
    AllReduce         all_reduce.py         the same in buckets, while backward goes on
    Fused             fused.py              the optimiser's step sums gradients and updates in one pass
    LocalSGD          local_sgd.py          parameters are averaged now and then
    ParameterServer   parameter_server/     servers own the parameters

A rank's loss is the mean over its n_r of the N samples of a global batch. Backward begins with n_r / N instead of 1, so
that its gradients are this rank's share of the global mean, and the sum over the ranks is that mean, exactly, however
uneven the parts; a part of 0 samples contributes zeros.

    backward    begin (returns n_r / N) | ready: a parameter's gradient is complete | finish: `exchange`, or cancel
    step        of the strategies that update by themselves, instead of the optimiser's own
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from npdp.autograd import Tensor
from npdp.nn.parameter import Parameter, lay_flat
from npdp.nn.sparse_parameter import SparseParameter
from npdp.parallel.consistency import Consistency
from npdp.parallel.replicas import require_apart
from npdp.parallel.samples import LossWeight

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator
    from npdp.optim import Optimizer
    from npdp.optim.groups import ParameterGroup
    from npdp.parallel.not_finite import Guard

REDUCED = "DataParallel: this model, or a part of it, is wrapped already, or has a DistributedOptimizer; wrap it once"
SETTINGS = (int, float, str, type(None))
WHOLE_PARAMETERS = (
    "DataParallel: this strategy passes over whole parameters, and the model has sparse ones: use all-reduce with "
    'update="replicated", or make its layers with sparse=False'
)
UNSYNCED = (
    "step: these gradients were accumulated under no_sync() and have not been summed over the ranks; "
    "run the last backward before step() outside no_sync()"
)


class Strategy:
    """Base class of training strategies, for the parameters of one model; most write `exchange` alone.

    Attributes:
        communicator: the ranks that train.
        parameters: those that are trained; `flats` are the arrays in which they lie, but for the sparse ones.
        sparse_parameters: those.
        number: among this rank's strategies, which all ranks make in the same order.
        loss_weight: the part of the global batch that a loss is the mean over.
        consistency: checks, now and then, that replicas and batches are alike.
        syncing: False under `no_sync`, where gradients only add up.
        wrapped: whether a DataParallel has it; a DistributedOptimizer's may still be taken by one.
        local: whether gradients are sums of this rank alone, as `no_sync` leaves them.
        exchanged_bytes: of gradients and parameters that this rank has given to others, or got from servers.
    """

    update = "replicated"  # how parameters are updated, for metrics
    synchronous = True  # whether all ranks make each backward together, so that it may be collective
    overlaps_backward = False  # whether `ready` is to be called while backward goes on
    steps = False  # whether `step` replaces the optimiser's own
    takes_rows = False  # whether it knows sparse parameters, of which a gradient is rows
    cannot_skip = ""  # why updates cannot be left out, where they cannot
    looks = False  # whether it looks itself, as it sums, whether gradients are finite
    guard: Guard | None = None  # against gradients that are not finite, where these are looked at

    def __repr__(self) -> str:  # by which ranks compare their strategies, before they are attached
        settings = (f"{name}={value!r}" for name, value in vars(self).items() if isinstance(value, SETTINGS))
        return f"{type(self).__name__}({', '.join(settings)})"

    def workers(self, ranks: int) -> int:
        """Return how many of so many ranks train: the first ones."""
        return ranks

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        """Take these parameters, which no other strategy has; collective.

        Raises:
            ValueError: another has one of them, or they are sparse, which it does not know.
        """
        if any(parameter.reducer is not None for parameter in parameters):
            raise ValueError(REDUCED)
        sparse = [parameter for parameter in parameters if isinstance(parameter, SparseParameter)]
        if sparse and not self.takes_rows:
            raise ValueError(WHOLE_PARAMETERS)
        if hasattr(self, "parameters"):
            raise ValueError(f"{type(self).__name__}: one strategy trains one model; make a new one for each")
        self.communicator, self.parameters, self.sparse_parameters = communicator, parameters, sparse
        require_apart(communicator, parameters)  # before any rank changes them
        self.number = communicator.number_reducer()
        self.flats = lay_flat(parameters)
        for parameter in parameters:
            parameter.reduce_by(self)
        for flat in self.flats:
            flat.reduce_by(self)
        self.loss_weight = LossWeight(communicator, self.synchronous)
        self.consistency = Consistency(communicator, self.synchronous)
        self.syncing, self.local, self.wrapped, self._warned = True, False, False, False
        self.exchanged_bytes = 0

    def guard_by(self, guard: Guard) -> None:
        """Have gradients looked at."""
        self.guard = guard

    @property
    def parts(self) -> int:
        """Number of parts that each batch is cut into."""
        return self.communicator.world_size

    # In backward
    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        """Return the weight of this rank's loss; see `npdp.autograd.engine.Reducer`."""
        weight = self.loss_weight.of_backward(counted)
        if self.communicator.rank and not self.local:  # what is global already stays on rank 0: the sum has it once
            for parameter in self.parameters:
                parameter.raw_grad = None
        return weight

    def ready(self, parameter: Tensor) -> None:
        """Note that a parameter's gradient is complete, while backward goes on."""

    def finish(self) -> None:
        """End a backward: make the gradients those of all ranks, but under `no_sync`."""
        place = self.communicator.place
        if self.communicator.world_size > 1:
            place.part = "exchange"
            if self.syncing and self.guard is not None and not self.looks:
                self.guard.look_around(self.parameters, self.exchange)
            elif self.syncing:
                self.exchange()
            self.local = not self.syncing
        if self.guard is not None:
            self.guard.end_backward(self)
        place.part = "update"

    def exchange(self) -> None:
        """Leave in each parameter's `raw_grad` the sum over the ranks, None where no rank has one; collective."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Cancel a backward that has failed: there are no gradients."""
        for parameter in self.parameters:
            parameter.raw_grad = None
        if self.guard is not None:
            self.guard.forget()

    def note_outsiders(self, leaves: list[Tensor]) -> None:
        """Warn, once, of parameters that no strategy has: a criterion's, say, or what was unfrozen or added late."""
        shapes = [leaf.shape for leaf in leaves if isinstance(leaf, Parameter)]
        if shapes and not self._warned and self.communicator.world_size > 1 and not self.communicator.rank:
            self._warned = True
            warnings.warn(
                f"backward reaches parameters that are in no DataParallel ({len(shapes)}, the first of shape "
                f"{shapes[0]}): each rank has its own gradient of them. Make them a part of the model before it is "
                "wrapped, or wrap their module too, as in nn.DataParallel(criterion)",
                stacklevel=4,
            )

    # In the optimiser's step
    def holds_back(self, parameters: list[Parameter]) -> bool:
        """Return whether a step on these is to be left out, as their gradients are not finite.

        Raises:
            RuntimeError: gradients are this rank's own: a step would make replicas differ.
        """
        if self.local and any(p.reducer is self and p.raw_grad is not None for p in parameters):
            raise RuntimeError(UNSYNCED)
        return self.guard is not None and self.guard.skips

    def step(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        """Update these parameters instead of the optimiser; of strategies that have `steps`."""
        raise NotImplementedError

    # What the program asks for
    def synchronize(self) -> None:
        """Give every rank the newest parameters, where it does not have them anyway; collective."""

    @property
    def is_current(self) -> bool:
        """True if this rank has the newest parameters, the same as all others."""
        return True

    def updates(self, optimizer: Optimizer) -> int:
        """Return how often the parameters that this rank has were updated."""
        return optimizer.iteration

    def end_training(self) -> dict[str, Any]:
        """End what spans beside the program; return what metrics say of it. Collective."""
        return {}

    def save_arrivals(self, path: str, run: dict[str, Any]) -> None:
        """Write the order in which gradients were applied, where that is not always the same."""
        raise NotImplementedError

    @property
    def algorithm(self) -> str:
        """Algorithm of the largest message."""
        return self.communicator.chosen("allreduce", max(self.bucket_bytes, default=0))

    @property
    def bucket_bytes(self) -> list[int]:
        """Bytes of each buffer that travels by itself."""
        return [parameter.array.nbytes for parameter in self.parameters if parameter.lies_flat]


def share_gradients(strategy: Strategy) -> None:
    """Lay a strategy's gradients where the ranks of a host share memory; collective."""
    for flat in strategy.flats:
        if strategy.communicator.world_size > 1 and not flat.grad_shared:
            flat.share_grad(strategy.communicator.shared_empty(flat.grad.size, flat.dtype))


def require_strategy(strategy: Any) -> None:
    """Raise TypeError where this is no strategy, but the name of one, or the class."""
    if not isinstance(strategy, Strategy):
        got = strategy.__name__ if isinstance(strategy, type) else repr(strategy)
        raise TypeError(f"DataParallel: strategy must be npdp.ParameterServer(...) or npdp.LocalSGD(...), got {got}")
