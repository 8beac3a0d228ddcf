"""Local SGD: every rank trains by itself, and every H iterations the parameters are averaged over the ranks.

    rank 0   step step step step ┐                 ┌ step step step step ┐
    rank 1   step step step step ┼─ mean of the  ──┼ step step step step ┼─ ...
    rank 2   step step step step ┘  parameters     └ step step step step ┘

Each rank weighs by the samples it has used since the last time. With H = 1 and plain SGD that is synchronous SGD. With
outer momentum the mean does not become the new parameters at once: how far it is from the last ones is taken as a
gradient, and an outer SGD with Nesterov momentum makes the step.

Source: Stich, Local SGD converges fast and communicates little, 2019; Douillard et al., DiLoCo, 2023 (outer momentum).
Cost: an all-reduce of S bytes every H iterations, 1/H of what synchronous SGD sends.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from npdp import kernels
from npdp.autograd.tensor import Array, Tensor
from npdp.base.arguments import at_least_one, require_number
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import FlatParameters, Parameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.at_step import require_own_arrays
from npdp.parallel.samples import SampleCount, weight_within_part
from npdp.parallel.strategy import Strategy


@dataclass(eq=False)
class LocalSGD(Strategy):
    """Local SGD, averaging parameters now and then: `nn.DataParallel(model, strategy=LocalSGD(local_iterations=8))`.

    Args:
        local_iterations: optimiser steps between two averagings.
        outer_momentum: of the outer SGD, in [0, 1).
        outer_lr: its learning rate; 1 takes the mean as it is.
    """

    local_iterations: int = 8
    outer_momentum: float = 0.0
    outer_lr: float = 1.0

    update = "local"
    synchronous = False
    steps = True

    def __post_init__(self) -> None:
        at_least_one(self.local_iterations, "LocalSGD: local_iterations")
        require_number(self.outer_momentum, "LocalSGD: outer_momentum must be a number in [0, 1)")
        require_number(self.outer_lr, "LocalSGD: outer_lr must be a number above 0")
        if not (0 <= self.outer_momentum < 1 and 0 < self.outer_lr < math.inf):
            raise ValueError(
                f"LocalSGD: wanted outer_momentum in [0, 1) and outer_lr above 0, got {self.outer_momentum} and "
                f"{self.outer_lr}"
            )

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        require_own_arrays(parameters)
        super().attach(parameters, communicator)
        self._steps: Counter[ParameterGroup] = Counter()  # since the last averaging
        self._outer: dict[FlatParameters, tuple[Array, Array]] = {}  # parameters after the last one; velocity
        self._averaged: set[ParameterGroup] = set()  # at least once
        self._samples = SampleCount()
        self._used: Counter[ParameterGroup] = Counter()  # samples of this rank since the last averaging
        for flat in self.flats:
            if communicator.world_size > 1:
                flat.move_data(communicator.shared_empty(flat.data.size, flat.dtype))
            if self._has_outer:
                self._outer[flat] = flat.data.copy(), np.zeros_like(flat.data)

    @property
    def _has_outer(self) -> bool:
        return self.outer_momentum > 0 or self.outer_lr != 1

    # In backward
    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        self.loss_weight.of_backward(counted)  # refuses what cannot be weighed
        batch = self._samples.begin(self.parameters, self.loss_weight.batch, self.communicator.world_size)
        return weight_within_part(batch, self.communicator.rank) if batch is not None else 1.0

    def finish(self) -> None:
        """End a backward: gradients stay on this rank."""
        self.communicator.place.part = "update"

    # In the optimiser's step
    def step(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        if self._has_outer and not self._steps[group]:
            for start, stop in _spans(group):  # the user may have set other values since
                self._outer[group.flat][0][start:stop] = group.flat.data[start:stop]
        for span in group.next_spans():
            optimizer.update(group, span)
        self._samples.mark_used()
        self._steps[group] += 1
        self._used[group] += self._samples.mine
        if self._steps[group] == self.local_iterations:
            self._average(group)
        group.mark_changed()

    def synchronize(self) -> None:
        """Average what has been trained since the last time; collective."""
        for group, steps in self._steps.items():
            if steps:
                self._average(group)

    @property
    def is_current(self) -> bool:
        return self.communicator.world_size == 1 or not any(self._steps.values())

    def _average(self, group: ParameterGroup) -> None:
        flat, samples = group.flat, self._used[group]
        self._steps[group] = self._used[group] = 0
        weight = flat.dtype.type(self._share(samples))
        for start, stop in _spans(group):
            mine = flat.data[start:stop]
            mine *= weight
            self.communicator.allreduce(mine)
            self.exchanged_bytes += mine.nbytes
            if self._has_outer:
                self._outer_step(flat, start, stop, first=group not in self._averaged)
        self._averaged.add(group)
        self.consistency.count_exchange(self.loss_weight.batch)

    def _share(self, samples: int) -> float:
        """Return this rank's part of all ranks' samples, or, where nothing says how many, one in P; collective."""
        total = self.communicator.sum(samples)
        return samples / total if total else 1 / self.communicator.world_size

    def _outer_step(self, flat: FlatParameters, start: int, stop: int, first: bool) -> None:
        """Step from the last parameters along their distance to the mean, and leave the result everywhere."""
        before, velocity = (array[start:stop] for array in self._outer[flat])
        mean = flat.data[start:stop]
        lr, momentum = self.outer_lr, self.outer_momentum
        kernels.sgd_updater(before, before - mean, velocity)(lr, momentum, 1.0, 0.0, momentum > 0, first)
        mean[:] = before


def _spans(group: ParameterGroup) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of the group's parameters in its flat arrays, neighbours together."""
    starts = group.flat.starts
    first = group.numbers[0]
    for number, following in zip(group.numbers, [*group.numbers[1:], -1]):
        if following != number + 1:
            yield starts[first], starts[number + 1]
            first = following
