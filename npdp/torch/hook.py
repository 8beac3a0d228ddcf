"""The communication hook of PyTorch's DistributedDataParallel: npdp averages DDP's buckets.

    DDP      backward fills bucket 0, hook | bucket 1, hook | ...     waits for all futures
    in a host            summed in shared memory, at once
    across hosts         on the wire while backward goes on, and done with the last bucket

A bucket's memory is DDP's own, so in shared memory it is summed through slots, a segment at a time; a copy each way.

Source: Li et al., PyTorch distributed: experiences on accelerating data parallel training, 2020.
Cost: an all-reduce of each bucket, and a pass that divides it.
"""
# No `from __future__ import annotations`: DDP compares the annotations of a hook with its own types

import torch
import torch.distributed as dist

from npdp.base import environment
from npdp.collectives.communicator import Communicator
from npdp.comm.transport import Buffer
from npdp.parallel.world import init
from npdp.torch.transport import TorchTransport

DTYPES = (torch.float32, torch.float64)


class State:
    """State of the hook on one rank: the ranks among which it averages, and the buckets that are on the wire."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self._overlaps = communicator.topology.spans_hosts
        self._on_the_wire: list[tuple[Buffer, torch.Tensor, torch.futures.Future[torch.Tensor]]] = []

    def average(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Return what will hold the bucket's mean over the ranks, in the bucket's own memory; collective."""
        tensor, number = bucket.buffer(), bucket.index() + 1
        buffer = _array(tensor, self.communicator.rank)
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        if not self._overlaps:
            self.communicator.run("allreduce", buffer, "sum", None, label=f"bucket {number}")
            self._settle(buffer, tensor, future)
            return future
        if bucket.index() == 0:
            self._on_the_wire.clear()  # of a backward that failed
        self.communicator.begin_allreduce(buffer, number)
        self._on_the_wire.append((buffer, tensor, future))
        if bucket.is_last():
            self.communicator.finish()
            while self._on_the_wire:
                self._settle(*self._on_the_wire.pop(0))
        return future

    def _settle(self, buffer: Buffer, tensor: torch.Tensor, future: torch.futures.Future[torch.Tensor]) -> None:
        buffer /= buffer.dtype.type(self.communicator.world_size)
        future.set_result(tensor)


def state(process_group: dist.ProcessGroup | None = None) -> State:
    """Return what `allreduce_hook` needs; collective over the process group.

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
        The bucket's own tensor, in place; across hosts it is complete when the last bucket of a backward is.

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
