"""The communication hook of PyTorch's DistributedDataParallel: npdp averages DDP's buckets.

    DDP's bucket 0        gradients of the last layers, complete while backward goes on
        | times 1 / P
    shared memory         summed over the ranks: across hosts on the wire while backward goes on; in a host all buckets
        |                 with the last one, for that is work for the very cores that compute, and ranks meet but once
    DDP's gradients       DDP copies a hook's result anyway

A bucket's memory is DDP's own, which no other process can map. So each bucket has an array in shared memory, made the
first time that it comes, and the copy into it is the pass that divides.

Source: Li et al., PyTorch distributed: experiences on accelerating data parallel training, 2020.
Cost: a copy and an all-reduce of each bucket; as much shared memory a rank as there are gradients.
"""
# No `from __future__ import annotations`: DDP compares the annotations of a hook with its own types

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from npdp.base import environment
from npdp.collectives.communicator import Communicator
from npdp.comm.errors import CommunicationError
from npdp.comm.transport import Buffer
from npdp.parallel.world import init
from npdp.torch.transport import TorchTransport

DTYPES = (torch.float32, torch.float64)


class Place(NamedTuple):
    """Place of a bucket in shared memory: an array, the same as a tensor, and what sums it; across hosts, begins to."""

    array: Buffer
    tensor: torch.Tensor
    sum: Callable[[], object]


class State:
    """State of the hook on one rank: the ranks among which it averages, and the places of buckets."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self._overlaps = communicator.topology.spans_hosts
        self._places: dict[int, Place] = {}
        self._begun: list[tuple[Place, torch.futures.Future[torch.Tensor]]] = []  # buckets of this backward

    def average(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Return what will hold the bucket's mean over the ranks; collective."""
        number, buffer = bucket.index() + 1, _array(bucket.buffer(), self.communicator.rank)
        if number == 1:
            self.communicator.finish()  # what a backward that failed has left
            self._begun.clear()
        place = self._place(number, buffer)
        np.multiply(buffer, buffer.dtype.type(1 / self.communicator.world_size), out=place.array)
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        self._begun.append((place, future))
        if self._overlaps:
            place.sum()
        if bucket.is_last():
            self._finish()
        return future

    def _finish(self) -> None:
        """Sum what is not summed yet, and give all futures of this backward their results."""
        if not self._overlaps:
            for place, _ in self._begun:
                place.sum()
        self.communicator.finish()
        while self._begun:
            place, future = self._begun.pop(0)
            future.set_result(place.tensor)

    def _place(self, number: int, buffer: Buffer) -> Place:
        """Return the place of the bucket of this number, a new one where DDP has laid out its buckets anew."""
        place = self._places.get(number)
        if place is None or place.array.size != buffer.size or place.array.dtype != buffer.dtype:
            place = self._places[number] = self._new_place(number, buffer)
        return place

    def _new_place(self, number: int, buffer: Buffer) -> Place:
        try:
            array = self.communicator.shared_empty(buffer.size, buffer.dtype)
        except ValueError as error:
            raise CommunicationError(f"bucket {number} is not the same on all ranks: {error}") from None
        if self._overlaps:
            sum_it: Callable[[], object] = partial(self.communicator.begin_allreduce, array, number)
        else:
            sum_it = self.communicator.persistent_allreduce(array, number)
        return Place(array, torch.from_numpy(array), sum_it)


def state(process_group: dist.ProcessGroup | None = None) -> State:
    """Return what `allreduce_hook` needs, one for each model; collective over the process group.

    Under mpirun the ranks are npdp's world, as `npdp.init()` makes it, and messages between hosts go by MPI. Else, as
    under torchrun, they go by the process group itself.

    Args:
        process_group: DDP's; the default group where None. Its backend for CPUs must be gloo.

    Raises:
        RuntimeError: there is no process group yet.
        ValueError: its backend is another one, or npdp's world has other ranks.
    """
    group = process_group or dist.group.WORLD
    if group is None:
        raise RuntimeError("npdp.torch.state: call torch.distributed.init_process_group('gloo') before")
    backend = dist.get_backend_config(group)
    if "cpu:gloo" not in backend:
        raise ValueError(f"npdp.torch.state: the process group must use gloo, as npdp is for CPUs; it uses {backend}")
    if environment.is_one_of_several() and not dist.is_torchelastic_launched():
        communicator = init()
        _require_same_ranks(communicator, dist.get_rank(group), dist.get_world_size(group))
    else:
        communicator = Communicator(TorchTransport(group))
    return State(communicator)


def allreduce_hook(state: State, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average DDP's gradients over the ranks, as DDP does without a hook; collective.

    Args:
        state: what `npdp.torch.state()` returned.
        bucket: gradients of float32 or float64, in the memory of the CPU.

    Returns:
        The mean, in shared memory until the bucket comes again; it is there when the last bucket of a backward is.

    Raises:
        TypeError: there is no such state, or the bucket cannot be summed here.
        CommunicationError: a rank has ended, or has another bucket.
    """
    if not isinstance(state, State):
        raise TypeError(f"npdp.torch.allreduce_hook: its state must be npdp.torch.state(), got {state!r}")
    return state.average(bucket)


def _require_same_ranks(communicator: Communicator, rank: int, world_size: int) -> None:
    """Raise ValueError where this process is another rank, or one of more, for npdp than for PyTorch."""
    if (communicator.rank, communicator.world_size) != (rank, world_size):
        raise ValueError(
            f"npdp.torch.state: this process is rank {communicator.rank} of npdp's {communicator.world_size}, "
            f"and rank {rank} of the process group's {world_size}: give init_process_group npdp.rank() and "
            "npdp.world_size()"
        )


def _array(tensor: torch.Tensor, rank: int) -> Buffer:
    """Return the memory of a bucket as a (count,) array, or raise TypeError where it has none that npdp can sum."""
    if tensor.device.type == "cpu" and tensor.layout == torch.strided and tensor.dtype in DTYPES:
        array: Buffer = tensor.numpy()
        return array
    raise TypeError(
        f"npdp.torch.allreduce_hook: rank {rank}'s bucket must be float32 or float64, dense, on the CPU, got "
        f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
    )
