"""What the user says: how many servers, and how stale a gradient may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from npdp.arguments import require_number, whole
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter
from npdp.parallel.exchange import Exchange
from npdp.parallel.parameter_server.arrivals import Replayed
from npdp.parallel.parameter_server.assembly import take_up
from npdp.parallel.parameter_server.policies import Policy, policy_for
from npdp.parallel.parameter_server.server import Arrival
from npdp.parallel.strategy import require_not_exchanged


@dataclass(frozen=True)
class ParameterServer:
    """Servers own the parameters: `nn.DataParallel(model, strategy=ParameterServer(servers=1, staleness=2))`.

    Ranks in order are workers, then servers. On a server rank making the wrapped model serves the workers until they
    have left, and then leaves the program (SystemExit). The optimiser must have been made before: it is found through
    the parameters. `npdp.rank()` and `npdp.world_size()` count workers from then on.

    Args:
        servers: how many ranks are servers; 0: every rank is worker and server of a shard.
        staleness: 0: synchronous, the same update as all-reduce. s >= 1: a worker may be s iterations ahead of the
            slowest. math.inf: asynchronous.
        backup_workers: with staleness 0 and one server, so many workers of each batch are not waited for; their
            gradients are dropped.
        damped: divide an update's learning rate by 1 + its staleness.
        record: keep the order of arrivals, for a replay.
        replay: arrivals of a recorded run, a list a shard, to be repeated.
    """

    servers: int = 1
    staleness: float = 0
    backup_workers: int = 0
    damped: bool = False
    record: bool = False
    replay: tuple[tuple[Arrival, ...], ...] = field(default=(), repr=False)  # long

    update = "server"

    def __post_init__(self) -> None:
        whole(self.servers, "ParameterServer: servers must be 0, 1, 2, ...", 0)
        whole(self.backup_workers, "ParameterServer: backup_workers must be 0, 1, 2, ...", 0)
        require_number(self.staleness, "ParameterServer: staleness must be 0, 1, 2, ... or inf")
        if not (self.staleness >= 0 and (self.staleness == math.inf or self.staleness == int(self.staleness))):
            raise ValueError(f"ParameterServer: staleness must be 0, 1, 2, ... or inf, got {self.staleness}")
        if self.backup_workers and self.staleness:
            raise ValueError(f"ParameterServer: backup_workers go with staleness 0, got staleness {self.staleness}")
        if self.backup_workers and self.servers != 1:
            others = f"got {self.servers} servers, of which each would drop other gradients"
            raise ValueError(f"ParameterServer: backup_workers go with one server, {others}")

    def workers(self, ranks: int) -> int:
        """Return how many of so many ranks are workers.

        Raises:
            ValueError: fewer than one, or not more than backup workers.
        """
        workers = ranks - self.servers
        if workers < 1:
            raise ValueError(
                f"a parameter server with {self.servers} server{'s' * (self.servers != 1)} on {ranks} "
                f"rank{'s' * (ranks != 1)} leaves {max(0, workers)} workers: wanted at least 1"
            )
        if self.backup_workers >= workers:
            backups = self.backup_workers
            raise ValueError(
                f"{backups} backup worker{'s' * (backups != 1)} of {workers} worker{'s' * (workers != 1)} "
                f"leave{'s' * (backups == 1)} nobody to wait for"
            )
        return workers

    def require_free(self, parameters: Sequence[Parameter]) -> None:
        require_not_exchanged(parameters)

    def exchange(self, parameters: list[Parameter], world: Communicator) -> Exchange:
        """Take up this rank's role; on a server rank it ends in SystemExit; collective."""
        return take_up(self, parameters, world)

    @property
    def whole_batches(self) -> bool:
        """Whether an update is one of a whole batch, of which each worker has a part."""
        return self.staleness == 0

    @property
    def in_step(self) -> bool:
        """Whether all workers make each update together, and wait for it; else work is handed out on demand."""
        return self.whole_batches and not self.backup_workers

    def policy(self, workers: int, shard: int, fetched: bool) -> Policy:
        """Return what a shard goes by.

        Args:
            shard: its number: all servers' shards of the first group come first, then those of the second, ...
            fetched: whether it is one of a sparse parameter.
        """
        if self.replay:
            return Replayed(self.replay[shard], workers, fetched)
        return policy_for(workers, self.staleness, self.backup_workers)
