"""Guard of updates against gradients with NaN or infinity in them: before parameters change, all ranks decide together.

    exchange   the pass that sums looks (collectives/looking.py)     a sum that is not finite is so on all ranks alike
    decide     all is well, as a rule: nothing is sent. Else ranks tell each other the samples behind it, and
               "raise"  NotFiniteError on all ranks, in backward: it names rank, parameter, samples
               "skip"   the optimiser's step is left out on all ranks: parameters, state and iteration stay as they are

Source: Micikevicius et al., Mixed precision training, 2018 (updates that are left out); PyTorch's GradScaler.
Cost: that of looking.py; of the decision, where all is well, a tenth of a microsecond.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from npdp.autograd.rows import RowGradient
from npdp.base.errors import Contribution, NotFiniteError
from npdp.collectives.looking import Firsts, of_one
from npdp.data.sampler import Rows, shard, this_rank
from npdp.kernels import finder_of_not_finite, first_not_finite
from npdp.nn.parameter import FlatParameters, Parameter

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator
    from npdp.parallel.buckets import Bucket
    from npdp.parallel.strategy import Strategy

ON_NAN = ("raise", "skip")
RANKS_SAID, ROWS_SAID = 3, 8  # in a message


class Guard:
    """Guard of one strategy's updates.

    Args:
        on_nan: "raise" or "skip".
        parameters: those of the strategy, by name.
        world: the ranks that decide together.

    Attributes:
        skips: whether the step to come is to be left out.
        skipped: how many were, or will be.
        alone: whether it was this rank alone that has left them out.
        last: what was found last.
    """

    def __init__(self, on_nan: str, parameters: Mapping[str, Parameter], world: Communicator) -> None:
        self._raises, self._world, self._is_one = on_nan == "raise", world, world.world_size == 1
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._number: dict[Any, int] = {parameter: number for number, parameter in enumerate(self._parameters)}
        self.skips, self.skipped, self.alone = False, 0, False
        self.last: NotFiniteError | None = None
        self._looks: dict[FlatParameters, tuple[int, Callable[[], int]]] = {}
        self.forget()

    def forget(self) -> None:
        """Forget what was noted of a backward."""
        self._firsts: dict[int, int] = {}  # rank -> the first parameter, by number, whose gradient is not finite there
        self._rows: list[Rows | None] = []  # of this rank's samples, a backward each
        self._on_the_wire: list[tuple[Bucket, int]] = []
        self._decided = False  # on the gradients of these

    # What a strategy has seen
    def note(self, bucket: Bucket, firsts: Firsts) -> None:
        """Note a bucket whose sum is not finite; of each rank the first element."""
        if min(firsts) == bucket.buffer.size:  # the sum alone
            firsts = [first_not_finite(bucket.buffer)] * len(firsts)
        starts = bucket.flat.starts
        numbers = [bisect_right(starts, starts[bucket.numbers[0]] + first) - 1 for first in firsts]
        size = bucket.buffer.size
        self._note({r: self._number[bucket.flat.parameters[n]] for r, n in enumerate(numbers) if firsts[r] < size})

    def _note(self, found: Mapping[int, int]) -> None:
        for rank, number in found.items():
            self._firsts[rank] = min(number, self._firsts.get(rank, number))

    def look_before_wire(self, bucket: Bucket) -> None:
        """Look at a bucket that is about to travel beside backward."""
        self._on_the_wire.append((bucket, first_not_finite(bucket.buffer)))

    def look_after_wire(self) -> None:
        """Look at the sums of those that have; collective where one is not finite."""
        for bucket, mine in self._on_the_wire:
            if first_not_finite(bucket.buffer) < bucket.buffer.size:
                self.note(bucket, of_one(self._world, mine, bucket.buffer.size))
        self._on_the_wire = []

    def look_around(self, parameters: list[Parameter], exchange: Callable[[], Any]) -> Any:
        """Exchange these parameters' gradients by what does not look itself; collective."""
        mine = self.first_of(parameters)
        outcome = exchange()
        count = len(self._parameters)
        if (of_sum := self.first_of(parameters)) < count:
            firsts = of_one(self._world, mine, count)
            found = {rank: first for rank, first in enumerate(firsts) if first < count}
            self._note(found or dict.fromkeys(range(len(firsts)), of_sum))
        return outcome

    def first_of(self, parameters: list[Parameter]) -> int:
        """Return the number of the first of these whose gradient here is not finite; of all where there is none."""
        bad = (self._number[parameter] for parameter in parameters if not _is_finite(parameter.raw_grad))
        return min(bad, default=len(self._parameters))

    def after_update(self, strategy: Strategy, parameters: list[Parameter], was_finite: bool) -> None:
        """Raise NotFiniteError where the sum of these gradients was not; each rank still has its own; collective."""

        def add_up() -> None:
            for parameter in parameters:
                if parameter.raw_grad is not None:  # the same on all ranks
                    self._world.allreduce(parameter.raw_grad)

        if not was_finite:
            self.look_around(parameters, add_up)
        self.decide(strategy)

    # What a strategy asks for
    def end_backward(self, strategy: Strategy) -> None:
        """Decide where a backward has left gradients of all ranks, collectively; else note its samples until then."""
        meets = strategy.syncing and not strategy.steps
        if meets and self._is_one and not self._all_finite(strategy):
            self.look_around(self._parameters, lambda: None)
        if self._firsts or not meets:
            self._note_samples(strategy)
        if meets:
            self.decide(strategy)

    def _all_finite(self, strategy: Strategy) -> bool:
        """Return whether all that lies flat is finite, and nothing lies elsewhere: quicker than one by one."""
        for flat in strategy.flats:
            if flat not in self._looks or self._looks[flat][0] != flat.moves:
                self._looks[flat] = flat.moves, finder_of_not_finite(flat.grad)
            if self._looks[flat][1]() < flat.grad.size:  # it may be that of a parameter which has no gradient now
                return False
        for parameter in self._parameters:
            if parameter.raw_grad is not parameter.grad_buffer and parameter.raw_grad is not None:
                return False
        return True

    def _note_samples(self, strategy: Strategy) -> None:
        """Note the samples of the last backward, beside those of others whose gradients it has added up with."""
        if self._decided:
            self._decided, self._rows = False, []
        self._rows.append(this_rank.rows if strategy.loss_weight.batch is this_rank.batch else None)

    def decide(self, strategy: Strategy) -> None:
        """Raise NotFiniteError, or have the step left out, where what was noted is not finite; collective then."""
        firsts, self._decided = self._firsts, True
        self.skips = bool(firsts)
        if firsts:
            self._firsts = {}
            mine = json.dumps((shard().begun[0], self._samples() if self._world.rank in firsts else None))
            said = enumerate(map(json.loads, self._world.gather_texts(mine)))
            named = [(begun_as, self._names[firsts[rank]], rows) for rank, (begun_as, rows) in said if rank in firsts]
            self._found(strategy, [Contribution(*each) for each in named])

    def leaves_out_own(self, strategy: Strategy, parameters: list[Parameter]) -> bool:
        """Return whether this rank, which updates or pushes by itself, is to leave these parameters' gradients out.

        Raises:
            NotFiniteError: on this rank alone.
        """
        first, self._decided, self.alone = self.first_of(parameters), True, True
        if first < len(self._parameters):
            self._found(strategy, [Contribution(shard().begun[0], self._names[first], self._samples())])
        return first < len(self._parameters)

    def _found(self, strategy: Strategy, found: list[Contribution]) -> None:
        batch = strategy.loss_weight.batch
        iteration = 1 + (self._world.place.iteration if batch is None else batch.iteration)
        self.last = NotFiniteError(_in_words(iteration, found), iteration, found, self.alone)
        if self._raises:
            raise self.last
        self.skipped += 1

    def _samples(self) -> list[int] | None:
        """Return the row numbers of all samples behind this rank's gradients, where a loader has said them."""
        known = [rows for rows in self._rows if rows is not None]
        return [int(row) for row in np.concatenate(known)] if len(known) == len(self._rows) else None


def _is_finite(gradient: Any) -> bool:
    if gradient is None:
        return True
    values = (gradient.values if type(gradient) is RowGradient else gradient).ravel(order="K")
    return first_not_finite(values) == values.size


def _in_words(iteration: int, found: list[Contribution]) -> str:
    """Return what was found, in a line."""
    more = f"; and {len(found) - RANKS_SAID} more ranks'" if len(found) > RANKS_SAID else ""
    return f"iteration {iteration}: the gradient is not finite: {'; '.join(map(_of_rank, found[:RANKS_SAID]))}{more}"


def _of_rank(contribution: Contribution) -> str:
    rank, parameter, rows = contribution
    said = f"rank {rank}'s has NaN or infinity, first in {parameter}"
    if rows is None:
        return said
    more = f" and {len(rows) - ROWS_SAID} more" if len(rows) > ROWS_SAID else ""
    return f"{said}, from samples {', '.join(map(str, rows[:ROWS_SAID]))}{more}"
