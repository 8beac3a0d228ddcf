"""Data parallel training by all-reduce: gradients are summed over the ranks in buckets, while backward goes on.

    begin    weight n_r / N; what is global already stays on rank 0 alone, so that the sum has it once
    ready    a parameter's gradient is complete: when its bucket is, the bucket leaves
    finish   the last buckets leave, and all are waited for

A parameter that this rank did not use contributes zeros, and the bucket's flag says so. Where a flag is set, ranks ask
each other who used what: a parameter that nobody used keeps None.

Source: Li et al., PyTorch distributed: experiences on accelerating data parallel training, 2020 (buckets, hooks).
Cost: an all-reduce of each bucket; inside a host the time of a memory copy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.tensor import Array
from npdp.base.arguments import require_number
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter
from npdp.parallel.buckets import ACROSS_HOSTS_MB, BUCKET_CAP_MB, FIRST_BUCKET_MB, Bucket, cut_buckets
from npdp.parallel.sparse import SparseExchange
from npdp.parallel.strategy import Strategy, share_gradients


class AllReduce(Strategy):
    """All-reduce strategy: sums gradients over the ranks during backward; every rank updates its own copy of the model.

    Args:
        bucket_cap_mb: size at which a bucket leaves, in MB of 2^20 bytes; None: 25 in a host, 0.25 across hosts.
        first_bucket_mb: the same for the first one; None: 1 in a host, 0.25 across hosts.
        overlap: whether, across hosts, backward goes on while a bucket is on the wire.

    Attributes:
        buckets: in the order in which they leave.
    """

    takes_rows = True

    def __init__(
        self, bucket_cap_mb: float | None = None, first_bucket_mb: float | None = None, overlap: bool = True
    ) -> None:
        for name, size in {"bucket_cap_mb": bucket_cap_mb, "first_bucket_mb": first_bucket_mb}.items():
            hint = "; PyTorch's device_ids have no place here, as there are CPUs only" if isinstance(size, list) else ""
            if size is not None:
                require_number(size, f"DataParallel: {name} must be a number of MB, or None{hint}")
            if size is not None and size <= 0:
                raise ValueError(f"DataParallel: {name} must be above 0, a bucket holds something, got {size}")
        self.bucket_cap_mb, self.first_bucket_mb, self.overlap = bucket_cap_mb, first_bucket_mb, overlap

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        super().attach(parameters, communicator)
        share_gradients(self)
        self._sparse = SparseExchange(self.sparse_parameters, communicator)
        across = communicator.topology.spans_hosts
        defaults = (ACROSS_HOSTS_MB, ACROSS_HOSTS_MB) if across else (BUCKET_CAP_MB, FIRST_BUCKET_MB)
        given = self.bucket_cap_mb, self.first_bucket_mb
        sizes_mb = [default if size is None else size for size, default in zip(given, defaults)]
        self.buckets: list[Bucket] = []
        for flat in self.flats:
            numbers = sorted(p.number for p in parameters if p.flat is flat)
            self.buckets += cut_buckets(flat, numbers, *sizes_mb)
        self._bucket_of: dict[Tensor, int] = {p: i for i, bucket in enumerate(self.buckets) for p in bucket.parameters}
        self._on_the_wire = self.overlap and across  # all-reduces go on beside backward
        first = communicator.number_buckets(len(self.buckets))
        self._sends = [self._sending(bucket.buffer, number) for number, bucket in enumerate(self.buckets, first)]
        self._may_overlap = communicator.world_size > 1 and (len(self.buckets) > 1 or self._on_the_wire)
        self._incomplete: list[int] = []  # per bucket: parameters whose gradients are not complete yet
        self._next = 0  # the bucket that leaves next

    def _sending(self, buffer: Array, number: int) -> Callable[[], None]:
        """Return what sums the bucket of this number; across hosts it only begins to, and backward goes on."""
        if self._on_the_wire:
            return partial(self.communicator.begin_allreduce, buffer, number)
        return self.communicator.persistent_allreduce(buffer, number)

    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        for parameter in self.sparse_parameters:
            parameter.row_gradient()  # on all ranks: an array is refused
        weight = super().begin(loss, counted, alone)
        self._next = 0
        # Two models behind one loss would mix their buckets in an order that depends on what a rank used: each then
        # waits for the end of backward. So does a single bucket inside a host: it is not complete much before
        self.overlaps_backward = alone and self.syncing and self._may_overlap
        if self.overlaps_backward:
            self._incomplete = [len(bucket.numbers) for bucket in self.buckets]
        return weight

    def ready(self, parameter: Tensor) -> None:
        bucket = self._bucket_of.get(parameter)  # None: sparse, which leaves when backward has ended
        if bucket is None:
            return
        self._incomplete[bucket] -= 1
        while self._next < len(self.buckets) and self._incomplete[self._next] == 0:
            self._send()

    def _send(self) -> None:
        """Send the next bucket."""
        bucket, send = self.buckets[self._next], self._sends[self._next]
        self._next += 1
        bucket.fill()
        if (round_number := self.consistency.round) is not None:
            self.consistency.add_checksum(bucket, round_number)
        send()
        self.exchanged_bytes += bucket.buffer.nbytes

    def exchange(self) -> None:
        while self._next < len(self.buckets):
            self._send()
        if self._on_the_wire:
            self.communicator.finish()
        for bucket in self.buckets:
            if bucket.take_flag():
                self._settle_unused(bucket)
        if (round_number := self.consistency.round) is not None:
            self.consistency.compare_checksums(self.buckets, round_number)
        self.consistency.count_exchange(self.loss_weight.batch)
        if self.sparse_parameters:
            self.exchanged_bytes += self._sparse.sum(round_number)

    def _settle_unused(self, bucket: Bucket) -> None:
        """Give a bucket's parameters that other ranks have used their gradient; collective."""
        used = np.array([parameter.raw_grad is not None for parameter in bucket.parameters], np.int32)
        self.communicator.allreduce(used, algorithm="auto")
        for parameter, ranks in zip(bucket.parameters, used):
            if ranks:
                parameter.raw_grad = parameter.grad_buffer

    def cancel(self) -> None:
        if self._on_the_wire:
            with suppress(Exception):  # what has made backward fail is told, and this by the next collective
                self.communicator.finish()  # what has left is still being written to these very places
        for bucket in self.buckets[: self._next]:
            bucket.clear()
        super().cancel()

    @property
    def bucket_bytes(self) -> list[int]:
        return [bucket.buffer.nbytes for bucket in self.buckets]
