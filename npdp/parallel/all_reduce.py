"""The all-reduce of gradients in backward: what makes P ranks leave in `.grad` what one rank would.

A rank's loss is the mean over its n_r of the N samples of a global batch. Backward begins with n_r / N instead
of 1, so that what it leaves in the buckets are this rank's share of the global mean, and the sum over the ranks
is that mean, exactly, however uneven the parts; a part of 0 samples contributes zeros.

    begin    weight n_r / N; what is global already is put aside, or it would be summed over the ranks once more
    ready    a parameter is complete: when its bucket is, the bucket leaves, while backward goes on
    finish   the last buckets leave; what was put aside is added

What `.grad` holds before and after a backward:

    before       finish       finish under no_sync     cancel
    global  →    global       local                    global, as before
    local   →    global       local                    local with what was added; global as before, if a bucket has left

A parameter that this rank did not use contributes zeros, and its flag says so: the sum of flags is the number of
ranks that did not use it, and where that is all of them its gradient stays None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from npdp.autograd import Batch, Tensor
from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter, put_in
from npdp.parallel.aside import Aside
from npdp.parallel.buckets import ACROSS_HOSTS_MB, BUCKET_CAP_MB, FIRST_BUCKET_MB, Bucket, cut_buckets
from npdp.parallel.exchange import Exchange
from npdp.parallel.marks import compare_marks, mark_of, turn_of
from npdp.parallel.sparse import SparseExchange
from npdp.parallel.weight import loss_weight


class GradientExchange(Exchange):
    """All-reduces the gradients of some parameters during every backward that reaches them.

    Args:
        parameters: to be exchanged; each must belong to no other exchange.
        world: the ranks.
        bucket_cap_mb: size at which a bucket leaves, in MB of 2^20 bytes; None: 25 in a host, 0.25 across hosts.
        first_bucket_mb: the same for the first one; None: 1 in a host, 0.25 across hosts.
        overlap: whether, across hosts, backward goes on while a bucket is on the wire.

    Attributes:
        buckets: in the order in which they leave.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        world: Communicator,
        bucket_cap_mb: float | None = None,
        first_bucket_mb: float | None = None,
        overlap: bool = True,
    ) -> None:
        sizes = _sizes_mb(world, bucket_cap_mb, first_bucket_mb)
        super().__init__(parameters, world)
        self._share_gradients()
        self._sparse = SparseExchange(self.sparse_parameters, world)
        self.buckets: list[Bucket] = []
        for flat in self.flats:
            numbers = sorted(p.number for p in self.parameters if p.flat is flat)
            self.buckets += cut_buckets(flat, numbers, *sizes)
        self._bucket_of: dict[Tensor, int] = {p: i for i, bucket in enumerate(self.buckets) for p in bucket.parameters}
        self._counts = [len(bucket.numbers) for bucket in self.buckets]  # of parameters
        self._overlaps = overlap and world.topology.spans_hosts
        self._may_leave_early = len(self.buckets) > 1 or self._overlaps
        first_number = world.number_buckets(len(self.buckets))
        self._sends = [self._sending(bucket.buffer, number) for number, bucket in enumerate(self.buckets, first_number)]
        self._waits_for: list[int] = []  # per bucket: parameters that are not complete yet
        self._next = 0  # the bucket that leaves next
        self._turn = turn_of(self._exchanges)  # of the marks in the next exchange
        self._aside = Aside()  # what was global before this backward, or those since it that were under `no_sync`

    def _sending(self, buffer: Array, number: int) -> Callable[[], None]:
        """Return what sums the bucket of this number; across hosts it only begins to, and backward goes on."""
        if self._overlaps:
            return partial(self.world.begin_allreduce, buffer, number)
        return self.world.persistent_allreduce(buffer, number)

    # What the engine calls
    def begin(self, batch: Batch | None, alone: bool) -> float:
        weight = loss_weight(batch, self.world.world_size)  # refuses what it must before any gradient is put aside
        self._batch = batch
        if self.world.world_size > 1:
            if self._overlaps:
                self.world.finish()  # what a backward that failed has begun
            if not self.local:
                self._aside.put(self.parameters)
            elif self._aside.held:
                self._aside.forget_zeroed()
            self._next = 0
            # Two exchanges behind one loss would mix their buckets in an order that depends on what a rank used: each
            # then waits for the end of backward. So does a single one inside a host: it is not complete much before
            self.leaves_early = self._may_leave_early and alone and self.syncing
            if self.leaves_early:
                self._waits_for = self._counts.copy()
        return weight

    def ready(self, parameter: Tensor) -> None:
        bucket = self._bucket_of.get(parameter)  # None: sparse, which leaves when backward has ended
        if bucket is None:
            return
        self._waits_for[bucket] -= 1
        while self._next < len(self.buckets) and self._waits_for[self._next] == 0:
            self._leave()

    def finish(self) -> None:
        if self.world.world_size == 1:
            return
        if self.syncing:
            self._exchange_the_rest()
            if self._aside.held:
                self._aside.put_back()
        else:
            self._aside.zeros_where_none()
        if self.local or not self.syncing:
            self._set_local(not self.syncing)

    def cancel(self) -> None:
        if self.world.world_size == 1 or (self.local and not self._next):
            return
        try:
            if self._overlaps:
                with suppress(Exception):  # what has made backward fail is told, and this by the next collective
                    self.world.finish()  # what has left is still being written to these very places
        finally:
            for bucket in self.buckets[: self._next]:
                bucket.clear()
            for parameter in self.parameters:
                parameter.grad = None
            self._aside.put_back()
            self._set_local(False)

    # How it does it
    def _exchange_the_rest(self) -> None:
        while self._next < len(self.buckets):
            self._leave()
        if self._overlaps:
            self.world.finish()
        for bucket in self.buckets:
            if bucket.flat.grad.item(bucket.unused):
                _take_in(bucket, self.world.world_size)
        if self._turn is not None:
            compare_marks(self.buckets, self._turn, self.world.rank, self.world.world_size)
        self._count_exchange()
        if self.sparse_parameters:
            self.exchanged_bytes += self._sparse.sum(self._turn)
        self._turn = turn_of(self._exchanges)

    def _leave(self) -> None:
        """Send the next bucket."""
        bucket, send = self.buckets[self._next], self._sends[self._next]
        self._next += 1
        flat = bucket.flat
        for parameter in bucket.parameters:
            gradient = parameter.grad
            if gradient is None:
                flag = flat.flags[parameter.number]  # behind its values
                flat.grad[flat.starts[parameter.number] : flag] = 0
                flat.grad[flag] = flat.grad[bucket.unused] = 1
            elif gradient is not parameter.grad_buffer:
                parameter.grad = put_in(parameter.grad_buffer, gradient, "grad")
        if self._turn is not None:
            flat.grad[bucket.mark] = mark_of(bucket, self._turn)
        send()
        self.exchanged_bytes += bucket.buffer.nbytes

    # What metrics say
    @property
    def algorithm(self) -> str:
        return self.world.chosen("allreduce", max(self.bucket_bytes, default=0))

    @property
    def bucket_bytes(self) -> list[int]:
        return [bucket.buffer.nbytes for bucket in self.buckets]


def _sizes_mb(world: Communicator, bucket_cap_mb: float | None, first_bucket_mb: float | None) -> tuple[float, float]:
    """Return the sizes at which buckets leave, filled in; raise ValueError where one could hold nothing."""
    if bucket_cap_mb is None:
        bucket_cap_mb = ACROSS_HOSTS_MB if world.topology.spans_hosts else BUCKET_CAP_MB
    if first_bucket_mb is None:
        first_bucket_mb = ACROSS_HOSTS_MB if world.topology.spans_hosts else FIRST_BUCKET_MB
    if bucket_cap_mb <= 0 or first_bucket_mb <= 0:
        raise ValueError(f"a bucket must hold something, got {bucket_cap_mb} and {first_bucket_mb} MB")
    return bucket_cap_mb, first_bucket_mb


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
