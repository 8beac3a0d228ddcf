"""How ranks train together, behind one wrapper: a training loop cannot tell strategies apart.

    AllReduce          every gradient is the mean over the global batch     all_reduce.py, fused.py
    ParameterServer    servers own the parameters                           parameter_server/
    LocalSGD           parameters are averaged now and then                 local_sgd.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from npdp.arguments import require_number
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter
from npdp.parallel.all_reduce import GradientExchange
from npdp.parallel.exchange import Exchange
from npdp.parallel.fused import FusedExchange, require_reduce_scatter

UPDATES = ("replicated", "fused")
EXCHANGED = "DataParallel: this model, or a part of it, is exchanged already; wrap it once"


class Strategy(Protocol):
    """What a wrapped model trains by.

    Attributes:
        update: how parameters are updated, for metrics.
    """

    @property
    def update(self) -> str: ...

    def workers(self, ranks: int) -> int:
        """Return how many of so many ranks train: the first ones."""

    def require_free(self, parameters: Sequence[Parameter]) -> None:
        """Raise ValueError where these parameters are trained in another way already."""

    def exchange(self, parameters: list[Parameter], world: Communicator) -> Exchange:
        """Return what exchanges their gradients; collective. Its `world` is that of the ranks that train."""


@dataclass(frozen=True)
class AllReduce:
    """Every rank has the model, and the mean gradient over the global batch; see `DataParallel` for the arguments."""

    update: str = "replicated"
    bucket_cap_mb: float | None = None
    first_bucket_mb: float | None = None
    overlap: bool = True

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise ValueError(f"DataParallel: no update {self.update!r}; there are {', '.join(UPDATES)}")
        for name, size in {"bucket_cap_mb": self.bucket_cap_mb, "first_bucket_mb": self.first_bucket_mb}.items():
            hint = "; PyTorch's device_ids have no place here, as there are CPUs only" if isinstance(size, list) else ""
            if size is not None:
                require_number(size, f"DataParallel: {name} must be a number of MB, or None{hint}")

    def workers(self, ranks: int) -> int:
        return ranks

    def require_free(self, parameters: Sequence[Parameter]) -> None:
        if _exchange_of(parameters) is not None and self.update == "fused":
            raise ValueError('DataParallel: update="fused" and DistributedOptimizer exclude each other')

    def exchange(self, parameters: list[Parameter], world: Communicator) -> Exchange:
        if self.update == "fused" and world.world_size > 1:
            require_reduce_scatter(world.algorithm)
            return FusedExchange(parameters, world)
        sizes = self.bucket_cap_mb, self.first_bucket_mb
        return _exchange_of(parameters) or GradientExchange(parameters, world, *sizes, self.overlap)


def require_strategy(strategy: Any) -> None:
    """Raise TypeError where this is no strategy, but the name of one, or the class."""
    if isinstance(strategy, type) or not hasattr(strategy, "exchange"):
        got = strategy.__name__ if isinstance(strategy, type) else repr(strategy)
        raise TypeError(f"DataParallel: strategy must be npdp.ParameterServer(...) or npdp.LocalSGD(...), got {got}")


def require_not_exchanged(parameters: Sequence[Parameter]) -> None:
    """Raise ValueError where anything exchanges one of these parameters."""
    if any(parameter.exchange is not None for parameter in parameters):
        raise ValueError(EXCHANGED)


def _exchange_of(parameters: Sequence[Parameter]) -> GradientExchange | None:
    """Return the exchange that a DistributedOptimizer has made for these parameters, None where there is none.

    Raises:
        ValueError: they are exchanged already, in another way.
    """
    found = next((parameter.exchange for parameter in parameters if parameter.exchange is not None), None)
    if found is None:
        return None
    if not isinstance(found, GradientExchange) or found.wrapped or set(found.parameters) != set(parameters):
        raise ValueError(EXCHANGED)
    return found
