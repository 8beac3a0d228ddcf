"""The exchange of gradients: what makes P ranks leave in `.grad` what one rank would.

A rank's loss is the mean over its n_r of the N samples of a global batch. Backward begins with n_r / N instead
of 1, so that what it leaves in the buckets are this rank's share of the global mean, and the sum over the ranks
is that mean, exactly, however uneven the parts; a part of 0 samples contributes zeros.

    begin    weight n_r / N; what `.grad` held from an exchange before is put aside
    ready    a parameter is complete: when its bucket is, the bucket leaves, while backward goes on
    finish   the last buckets leave; what was put aside is added

A parameter that this rank did not use contributes zeros, and its flag says so: the sum of flags is the number of
ranks that did not use it, and where that is all of them its gradient stays None.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from npdp.autograd import Batch, Tensor
from npdp.autograd.tensor import Array
from npdp.nn.parameter import Parameter, lay_flat, put_in
from npdp.optim import Optimizer
from npdp.parallel.agreement import BATCHES_COMPARED_EVERY, require_same_batch
from npdp.parallel.aside import Aside
from npdp.parallel.buckets import (
    ACROSS_HOSTS_MB,
    BUCKET_CAP_MB,
    FIRST_BUCKET_MB,
    MARKED_EVERY,
    Bucket,
    compare_marks,
    cut_buckets,
)
from npdp.parallel.replicas import require_apart
from npdp.parallel.sparse import SparseExchange
from npdp.parallel.weight import loss_weight
from npdp.parallel.world import World

UNSYNCED = (
    "these gradients were accumulated under no_sync() and have not been exchanged; "
    "run the last backward before step() outside no_sync()"
)


class GradientExchange:
    """All-reduces the gradients of some parameters during every backward that reaches them.

    Args:
        parameters: to be exchanged; each must belong to no other exchange.
        world: the ranks.
        bucket_cap_mb: size at which a bucket leaves, in MB of 2^20 bytes; None: 25 in a host, 0.25 across hosts.
        first_bucket_mb: the same for the first one; None: 1 in a host, 0.25 across hosts.
        overlap: whether, across hosts, backward goes on while a bucket is on the wire.

    Attributes:
        number: among this world's exchanges, which all ranks make in the same order.
        in_step: whether all ranks make each backward together, so that it may be collective.
        syncing: False under `no_sync`.
        leaves_early: whether buckets leave while backward goes on.
        wrapped: whether a DataParallel has it; a DistributedOptimizer's own may still be taken by one.
        exchanged_bytes: of gradients and parameters that this rank has given to exchanges, or got from servers.
    """

    in_step = True

    def __init__(
        self,
        parameters: Iterable[Parameter],
        world: World,
        bucket_cap_mb: float | None = None,
        first_bucket_mb: float | None = None,
        overlap: bool = True,
    ) -> None:
        sizes = _sizes_mb(world, bucket_cap_mb, first_bucket_mb)
        self.world = world
        world.exchanges += 1
        self.number = world.exchanges
        self.parameters = list(parameters)
        require_apart(world, self.parameters)  # before any rank changes them
        self.flats = lay_flat(self.parameters)
        self.sparse = SparseExchange(self.parameters, world)
        for parameter in self.parameters:
            parameter.exchange = self
        for flat in self.flats:
            if world.world_size > 1 and not flat.grad_shared:
                flat.move_grad(world.shared_empty(flat.grad.size, flat.dtype))
                flat.grad_shared = True  # another exchange may have some of these parameters, and views of this array
        self.syncing, self.leaves_early, self.wrapped = True, False, False
        self.exchanged_bytes = 0
        self.buckets: list[Bucket] = []
        for flat in self.flats:
            numbers = sorted(p.place[1] for p in self.parameters if p.place and p.place[0] is flat)
            self.buckets += cut_buckets(flat, numbers, *sizes)
        self._first_number = world.buckets + 1  # others' may be as large: ranks must not take them for these
        world.buckets += len(self.buckets)
        self._overlaps = overlap and world.spans_hosts
        self._may_leave_early = len(self.buckets) > 1 or self._overlaps
        self._bucket_of = {id(p): i for i, bucket in enumerate(self.buckets) for p in bucket.parameters}
        self._counts = [len(bucket.numbers) for bucket in self.buckets]  # of parameters
        # Each bucket, and what sums it; made when the first leaves, for some strategies never send any
        self._sends: list[tuple[Bucket, Callable[[], None]]] = []
        self._waits_for: list[int] = []  # per bucket: parameters that are not complete yet
        self._exchanges = 0  # that all ranks have made
        self._batch: Batch | None = None  # behind the last backward
        self._next = 0  # the bucket that leaves next
        self._local = False  # whether the gradients are sums of this rank alone, as `no_sync` leaves them
        self._warned = False  # of parameters that nobody exchanges
        self._aside = Aside()  # what an earlier exchange left in gradients that are local now

    # What the engine calls
    def begin(self, batch: Batch | None, alone: bool) -> float:
        weight = loss_weight(batch, self.world.world_size)  # refuses what it must before any gradient is put aside
        self._batch = batch
        if self.world.world_size > 1:
            if self._overlaps:
                self.world.finish()  # what a backward that failed has begun
            if self._aside.held:
                self._aside.forget_zeroed()
            if not self._local:
                self._aside.put(self.parameters)
            self._next = 0
            # Two exchanges behind one loss would mix their buckets in an order that depends on what a rank used: each
            # then waits for the end of backward. So does a single one inside a host: it is not complete much before
            self.leaves_early = self._may_leave_early and alone and self.syncing
            if self.leaves_early:
                self._waits_for = self._counts.copy()
        return weight

    def ready(self, parameter: Tensor) -> None:
        bucket = self._bucket_of.get(id(parameter))  # None: sparse, which leaves when backward has ended
        if bucket is None:
            return
        self._waits_for[bucket] -= 1
        while self._next < len(self.buckets) and self._waits_for[self._next] == 0:
            self._leave()

    def finish(self) -> None:
        if self.world.world_size == 1:
            return
        was_local, self._local = self._local, not self.syncing
        if self.syncing:
            self._exchange_the_rest()
        else:
            self._aside.keep()
        if was_local or self._local:
            self._tell_the_optimizers()

    def cancel(self) -> None:
        """Backward has failed: global gradients are as before; local ones keep, as on one rank, what it has added."""
        if self.world.world_size == 1 or self._local:
            return
        for parameter in self.parameters:
            parameter.grad = None
        self._aside.put_back()

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

    def synchronize(self) -> None:
        """Give every rank the newest parameters, where it does not have them anyway; collective."""

    @property
    def algorithm(self) -> str:
        """How the largest piece travels, for metrics."""
        return self.world.chosen("allreduce", max((bucket.buffer.nbytes for bucket in self.buckets), default=0))

    def updates(self, optimizer: Optimizer) -> int:
        """Return how often the parameters that this rank has were updated."""
        return optimizer.iteration

    @property
    def is_current(self) -> bool:
        """Whether this rank has the newest parameters, the same as all others."""
        return True

    def save_arrivals(self, path: str, run: dict[str, Any]) -> None:
        """Write the order in which gradients were applied, where that is not always the same."""
        raise NotImplementedError

    def end_training(self) -> dict[str, Any]:
        """End what this strategy has running beside the program; return what metrics say of it. Collective."""
        return {}

    # How it does it
    def _exchange_the_rest(self) -> None:
        while self._next < len(self.buckets):
            self._leave()
        if self._overlaps:
            self.world.finish()
        for bucket in self.buckets:
            if bucket.flat.grad.item(bucket.unused):
                _take_in(bucket, self.world.world_size)
        if not self._exchanges % MARKED_EVERY:
            compare_marks(self.buckets, self._exchanges // MARKED_EVERY, self.world.rank, self.world.world_size)
        self._count_exchange()
        if self.sparse.parameters:
            self.exchanged_bytes += self.sparse.sum()
        if self._aside.held:
            self._aside.put_back()

    def _count_exchange(self) -> None:
        """Count it, and now and then make sure that all ranks train on parts of the same batches; collective."""
        made = self._exchanges
        # After 0, 1, 2, 4, 8, ... too: a loop may leave out empty parts, the first of them in an epoch's end
        if not made & (made - 1) or not made % BATCHES_COMPARED_EVERY:
            require_same_batch(self.world, self._batch, self.in_step)
        self._exchanges += 1

    def _tell_the_optimizers(self) -> None:
        """Say in flat arrays, which others may share, and in sparse parameters, whether anything is still local."""
        for flat in self.flats:
            flat.unsynced = partial(_unsynced, flat.parameters) if _unsynced(flat.parameters) else None
        for parameter in self.sparse.parameters:
            parameter.unsynced = partial(_unsynced, [parameter]) if _unsynced([parameter]) else None

    def _sending(self, buffer: Array, number: int) -> Callable[[], None]:
        """Return what sums the bucket of this number; across hosts it only begins to, and backward goes on."""
        if self._overlaps:
            return partial(self.world.begin_allreduce, buffer, number)
        return self.world.persistent_allreduce(buffer, number)

    def _leave(self) -> None:
        """Send the next bucket."""
        self._sends = self._sends or [
            (bucket, self._sending(bucket.buffer, n)) for n, bucket in enumerate(self.buckets, self._first_number)
        ]
        bucket, send = self._sends[self._next]
        self._next += 1
        flat = bucket.flat
        for parameter in bucket.parameters:
            gradient = parameter.grad
            if gradient is None:
                number = parameter.place[1]  # type: ignore[index]
                flat.grad[flat.starts[number] : flat.flags[number]] = 0
                flat.grad[flat.flags[number]] = flat.grad[bucket.unused] = 1
            elif gradient is not parameter.grad_buffer:
                parameter.grad = put_in(parameter.grad_buffer, gradient, "grad")
        if not self._exchanges % MARKED_EVERY:
            flat.grad[bucket.mark] = bucket.marked(self._exchanges // MARKED_EVERY)
        send()
        self.exchanged_bytes += bucket.buffer.nbytes


def _sizes_mb(world: World, bucket_cap_mb: float | None, first_bucket_mb: float | None) -> tuple[float, float]:
    """Return the sizes at which buckets leave, filled in; raise ValueError where one could hold nothing."""
    if bucket_cap_mb is None:
        bucket_cap_mb = ACROSS_HOSTS_MB if world.spans_hosts else BUCKET_CAP_MB
    if first_bucket_mb is None:
        first_bucket_mb = ACROSS_HOSTS_MB if world.spans_hosts else FIRST_BUCKET_MB
    if bucket_cap_mb <= 0 or first_bucket_mb <= 0:
        raise ValueError(f"a bucket must hold something, got {bucket_cap_mb} and {first_bucket_mb} MB")
    return bucket_cap_mb, first_bucket_mb


def _unsynced(parameters: list[Parameter]) -> str | None:
    """Return why these gradients are not ready for an update, where any has not been exchanged."""
    exchanged = (p for p in parameters if isinstance(p.exchange, GradientExchange) and p.exchange._local)
    return UNSYNCED if any(vars(p).get("grad") is not None for p in exchanged) else None  # not through what hides it


def _take_in(bucket: Bucket, world_size: int) -> None:
    """After the exchange: a parameter that any rank used has a gradient; flags are put back to 0."""
    grad, flags = bucket.flat.grad, bucket.flat.flags
    grad[bucket.unused] = 0
    for number, parameter in zip(bucket.numbers, bucket.parameters):
        unused_on = grad.item(flags[number])
        if unused_on:
            grad[flags[number]] = 0
            if parameter.grad is None and unused_on < world_size:
                parameter.grad = parameter.grad_buffer
