"""The fused update: one pass over memory sums the gradients over the ranks and updates the parameters.

    backward       each rank writes its share of the gradient, n_r / N, into its own array in shared memory
    step           all are there? | sum my chunk over the ranks, update my chunk of the parameters | all have?
    across hosts   all are there? | sum my slice over the host's ranks, reduce-scatter it over hosts | update my
                   chunk of it | allgather the slice over hosts | all have?

Ranks of a host have one copy of the parameters and of the optimiser's state between them, and nobody stores the sum. So
parameters are read-only to the user, and there is no `.grad` to be read. Where a host's ranks share no memory, or hosts
have different numbers of ranks, it is reduce-scatter, update, allgather over all; each rank keeps its own parameters.

With `on_nan="raise"` the pass that sums looks too: a gradient that is not finite is told in the same step, but then
parameters have changed by it.

The same bits as the exchange (all_reduce.py) followed by the optimiser's step, where both add in the same order: in
shared memory, and on two hosts.
Source: Rajbhandari et al., ZeRO, 2020 (stage 1: optimiser state once, not once a rank).
Cost: of S bytes on P ranks of a host, S read and S / P written a rank; apart from the state's share. Across H hosts 2
(H-1)/H S over each link, as the all-reduce; with several parameter groups so much for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from npdp.autograd.tensor import Array
from npdp.base.partition import part
from npdp.collectives.algorithms import HIERARCHICAL, SHARED_MEMORY, Algorithm, algorithms_of, name_of
from npdp.collectives.communicator import Communicator
from npdp.kernels import Sum, combine, first_not_finite
from npdp.nn.parameter import FlatParameters, Parameter
from npdp.optim.groups import ParameterGroup, Span, within
from npdp.optim.optimizer import Optimizer
from npdp.parallel.agreement import require_same_optimizers, settings_of
from npdp.parallel.at_step import AtStep, move_in

NO_GRAD = (
    'with update="fused" the gradient is summed while the parameters are updated, and stored nowhere: '
    'use update="replicated" to look at .grad or to clip it'
)
STATE_IN_PARTS = (
    'with update="fused" across hosts, or without shared memory, a rank has a part of the state: load it before the '
    'model is wrapped, and use update="replicated" to save it'
)
_MARK = 2**32  # in one sum of whole numbers: marks times this, and how many parameters have no gradient


class Fused(AtStep):
    """Fused strategy: sums gradients in the pass that updates."""

    update = "fused"
    why_hidden = NO_GRAD
    cannot_skip = 'update="fused" sees a gradient that is not finite as it updates, too late: use update="replicated"'

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        require_reduce_scatter(communicator.algorithm)
        super().attach(parameters, communicator)
        # The gradients of this host's ranks, where a host's ranks share parameters
        self._everyones: dict[FlatParameters, list[Array] | None] = {}
        self._sums: dict[tuple[FlatParameters, int, int], Sum] = {}
        self._totals: dict[FlatParameters, Array] = {}  # of this host's ranks, before they cross to others
        self._all_finite = True  # what this rank has updated by in this step
        # Groups whose state is where it is held once: which it is, and what reads by which settings it is updated
        self._ready: WeakKeyDictionary[ParameterGroup, tuple[int, Callable[[Any], Any]]] = WeakKeyDictionary()
        for flat in self.flats:
            self._share(flat)

    def _share(self, flat: FlatParameters) -> None:
        """Lay the parameters where all ranks of the host see them, once; collective."""
        host = self.communicator.memory.host if _shares_parameters(self.communicator) else None
        everyones = host.arena.everyones(flat.grad) if host else None
        shared = self._once(flat.data) if everyones else None
        if self.communicator.sum(shared is None):  # on any host
            everyones = shared = None
        self._everyones[flat] = everyones
        if self.communicator.world_size > 1 and (everyones is None or self.communicator.topology.spans_hosts):
            flat.state_elsewhere = STATE_IN_PARTS
        flat.move_data(flat.data if shared is None else shared, writeable=False)  # the same values on all ranks
        self.communicator.barrier()

    def _once(self, values: Array) -> Array | None:
        """Return a copy that this host's ranks have in common, None where there is no room; collective in the host."""
        shared = self.communicator.host_empty(values.size, values.dtype, one_for_all=True)
        if shared is not None:
            shared[:] = values  # the same on all ranks
        return shared

    def step_on(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        ready = self._ready.get(group)
        if ready is None:
            # Each updates a part of the parameters
            require_same_optimizers(self.communicator, [optimizer], RuntimeError)
            self._share_state([each for each in optimizer.groups if each.flat is group.flat])
            for each in optimizer.groups:
                if each.flat is group.flat:
                    key = hash((self.number, self.flats.index(group.flat), each.numbers[0]))
                    names = settings_of(optimizer, each.settings)
                    self._ready[each] = key, itemgetter(*names) if names else lambda _: ()
            ready = self._ready[group]
        key, settings = ready
        if self._meet(optimizer, group, (key, settings(group.settings))):
            self._zeros_for_unused(group)
        self.consistency.count_exchange(self.loss_weight.batch)
        spans = group.next_spans()  # the same on all ranks
        self.exchanged_bytes += group.flat.grad.nbytes
        grads = self._everyones[group.flat]
        if grads is None:
            self._update_own(optimizer, group, spans)
        elif self.communicator.topology.spans_hosts:
            self._update_across(optimizer, group, spans, grads)
        else:
            self._update_shared(optimizer, group, spans, grads)

    def _meet(self, optimizer: Optimizer, group: ParameterGroup, settings: Any) -> int:
        """Wait until every rank's gradients are there; return how many there lack, over all ranks.

        Raises:
            RuntimeError: the learning rate, or another setting, or what they update, is not the same on all ranks.
        """
        lr = float(optimizer.lr_of(group.settings))
        mark = hash((lr, settings)) & 0xFFFF  # of numbers, not of texts: the same in all processes
        marks, unused = divmod(self.communicator.sum(mark * _MARK + len(move_in(group))), _MARK)
        if marks != self.communicator.world_size * mark:
            values = {"lr": lr, **settings_of(optimizer, group.settings)}
            mine = ", ".join(f"{name} {value}" for name, value in values.items())
            raise RuntimeError(
                f"{type(optimizer).__name__}.step: rank {self.communicator.rank} has {mine}, and another rank has "
                "other values, or steps another optimiser; each updates a part of the parameters"
            )
        return unused

    def _zeros_for_unused(self, group: ParameterGroup) -> None:
        """Make zeros of the gradients that only other ranks have; collective."""
        used = np.array([parameter.raw_grad is not None for parameter in group.parameters], np.int32)
        self.communicator.allreduce(used, algorithm="auto")
        for parameter, ranks in zip(group.parameters, used):
            if parameter.raw_grad is None and ranks:
                parameter.grad_buffer[...] = 0  # type: ignore[index]
                parameter.raw_grad = parameter.grad_buffer
        self.communicator.barrier()  # the zeros are there

    def _update_shared(
        self, optimizer: Optimizer, group: ParameterGroup, spans: list[Span], grads: list[Array]
    ) -> None:
        """Update this rank's chunk of the parameters that all have in common."""
        for mine in within(spans, *group.flat.part_in_lines(self.communicator.world_size, self.communicator.rank)):
            total = self._sum(group.flat, grads, mine.start, mine.stop)
            optimizer.update(group, mine, total)
            if not total.was_finite:
                total.was_finite, self._all_finite = True, False
        self._end(group)

    def _update_across(
        self, optimizer: Optimizer, group: ParameterGroup, spans: list[Span], grads: list[Array]
    ) -> None:
        """Update this rank's chunk of its slice, and bring the others' of it to this host, which has all once."""
        flat, ranks = group.flat, self.communicator.topology.cross_host_group
        first, last = flat.part_in_lines(len(grads), self.communicator.memory.host.rank)  # type: ignore[union-attr]
        if flat not in self._totals:
            self._totals[flat] = np.empty(last - first, flat.dtype)
        total = self._totals[flat]
        if spans:
            combine([total], [grad[first:last] for grad in grads])
            self.communicator.run_across_hosts("reduce_scatter", total, flat.data.size)
            start, stop = part(total.size, len(ranks), ranks.index(self.communicator.rank))
            for mine in within(spans, first + start, first + stop):
                self._update_looking(optimizer, group, mine, total[mine.start - first : mine.stop - first])
            self.communicator.run_across_hosts("allgather", flat.data[first:last], flat.data.size)
        self._end(group)

    def _update_own(self, optimizer: Optimizer, group: ParameterGroup, spans: list[Span]) -> None:
        """Reduce-scatter, update this rank's chunk, allgather: every rank has its own parameters."""
        if not spans:
            return
        flat = group.flat
        total = flat.grad.copy()  # what is not zeroed is added to
        self.communicator.reduce_scatter(total)
        start, stop = part(total.size, self.communicator.world_size, self.communicator.rank)
        for mine in within(spans, start, stop):
            self._update_looking(optimizer, group, mine, total[mine.start : mine.stop])
        self.communicator.allgather(flat.data[start:stop], flat.data)
        if self.guard is not None:
            self._end(group)

    def _update_looking(self, optimizer: Optimizer, group: ParameterGroup, span: Span, total: Array) -> None:
        """Update a span of the parameters by the sum of all ranks' gradients."""
        if self.guard is not None and first_not_finite(total) < total.size:
            self._all_finite = False
        optimizer.update(group, span, total)

    def _end(self, group: ParameterGroup) -> None:
        """Return when all ranks have updated; raise NotFiniteError where a gradient was not finite; collective."""
        if self.guard is None:
            self.communicator.barrier()
            return
        mine, self._all_finite = self._all_finite, True
        self.guard.after_update(self, group.parameters, was_finite=not self.communicator.sum(not mine))

    def _sum(self, flat: FlatParameters, grads: list[Array], start: int, stop: int) -> Sum:
        """Return all ranks' gradients there, to be summed."""
        found = self._sums.get((flat, start, stop))
        if found is None:
            found = self._sums[flat, start, stop] = Sum([grad[start:stop] for grad in grads])
        return found

    def _share_state(self, groups: list[ParameterGroup]) -> None:
        """Move the state of an optimiser's groups where it is held once; collective."""
        if self._everyones[groups[0].flat] is None:
            return
        moved: dict[int, Array] = {}  # groups have parts of the same arrays
        for group in groups:
            for values in group.state.values():
                if id(values) not in moved:
                    shared = self._once(values)
                    moved[id(values)] = values if shared is None else shared
        for group in groups:
            group.move_state({name: moved[id(values)] for name, values in group.state.items()})
        self.communicator.barrier()

    @property
    def algorithm(self) -> str:
        if all(grads is not None for grads in self._everyones.values()):
            return HIERARCHICAL if self.communicator.topology.spans_hosts else SHARED_MEMORY
        return self.communicator.chosen("reduce_scatter", max((flat.grad.nbytes for flat in self.flats), default=0))


def require_reduce_scatter(algorithm: Algorithm) -> None:
    """Raise ValueError where an algorithm has no reduce-scatter: `fused` could not sum in its order."""
    usable = ("auto", HIERARCHICAL, *algorithms_of("reduce_scatter"))
    if algorithm not in usable:
        got = name_of(algorithm)
        raise ValueError(f"fused needs an algorithm that has a reduce-scatter, {', '.join(usable)}; got {got}")


def _shares_parameters(world: Communicator) -> bool:
    """Return whether the ranks of each host are to have parameters in common; collective the first time."""
    if not world.topology.spans_hosts:
        return world.algorithm in ("auto", SHARED_MEMORY, HIERARCHICAL)
    return world.algorithm in ("auto", HIERARCHICAL) and bool(world.topology.cross_host_group)
