"""Data parallel training: every rank has the model, a part of each batch, and the gradient of the whole.

    for inputs, labels in loader:              the loader's tensors say which part of which batch they are
        outputs = model(inputs)                DataParallel.forward remembers it: n_r of N samples
        loss = criterion(outputs, labels)      a mean over n_r samples
        loss.backward()                        begins with n_r / N, ends with the sum over the ranks (all_reduce.py)
        optimizer.step()                       the same everywhere

That is the strategy all-reduce; a parameter server (parameter_server/) and local SGD (local_sgd.py) are others, behind
the same loop.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import numpy as np

from npdp.autograd import is_grad_enabled
from npdp.data.batch import Batch, batch_of
from npdp.data.sampler import this_rank
from npdp.nn.forward import Forward, samples_of
from npdp.nn.module import Module
from npdp.nn.parameter import Parameter
from npdp.nn.state import Order, StateDict
from npdp.parallel.agreement import require_equal
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.fused import Fused
from npdp.parallel.not_finite import ON_NAN, Guard
from npdp.parallel.replicas import broadcast_parameters
from npdp.parallel.strategy import REDUCED, Strategy, require_strategy
from npdp.parallel.world import init

UPDATES = ("replicated", "fused")


class DataParallel(Module):
    """Data parallel model: `backward` leaves the mean gradient over the global batch, the same on every rank.

    Making one is collective: names, shapes, dtypes and orders in memory are compared over the ranks, then rank 0's
    values are taken by all. Parameters keep their names: `state_dict` has no `module.` before each.

    How many samples a rank's loss weighs: those of the first of forward's inputs that is the loader's. Where none is,
    the rows of the first input that has some, an array or a tensor, which ranks tell each other (a small collective).
    A forward in evaluation, or under `no_grad()`, counts nothing.

    All ranks run the same wrapped models in the same order; parts of a model may be used on some ranks only. A
    criterion that has parameters of its own is a model too, to be wrapped as well.

    Args:
        module: the model; the same program must build it on every rank.
        bucket_cap_mb, first_bucket_mb, overlap: see `AllReduce`.
        update: "replicated", every rank updates its own copy; or "fused" (fused.py): gradients are summed in the pass
            that updates, ranks of a host share one copy. Parameters are read-only then, and reading `.grad` raises.
        on_nan: what becomes of gradients with NaN or infinity in them (not_finite.py). None: nobody looks.
            "raise": `backward` raises NotFiniteError on all ranks, before a parameter changes; with update="fused", and
            where servers or each rank update, `step` does. "skip": the step is left out on all ranks, as by PyTorch's
            GradScaler: parameters, optimiser and its `iteration` stay; not with update="fused".
        strategy: another way to train together, `npdp.ParameterServer(...)` or `npdp.LocalSGD(...)`; the arguments
            above are for all-reduce.

    Raises:
        InputError: the ranks' models or arguments differ; the first difference is named.
    """

    module: Module

    def __init__(
        self,
        module: Module,
        bucket_cap_mb: float | None = None,
        first_bucket_mb: float | None = None,
        update: str = "replicated",
        overlap: bool = True,
        strategy: Strategy | None = None,
        on_nan: str | None = None,
    ) -> None:
        if not isinstance(module, Module):
            kind = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
            raise TypeError(f"DataParallel: wanted a Module, got {kind}")
        if update not in UPDATES:
            raise ValueError(f"DataParallel: no update {update!r}; there are {', '.join(UPDATES)}")
        if on_nan not in (None, *ON_NAN):
            raise ValueError(f"DataParallel: no on_nan {on_nan!r}; there are {', '.join(ON_NAN)}, or None")
        self.module, world = module, init()
        if strategy is None:
            all_reduce = AllReduce(bucket_cap_mb, first_bucket_mb, overlap)  # says what is wrong with them
            strategy = Fused() if update == "fused" and world.world_size > 1 else all_reduce
        require_strategy(strategy)
        if on_nan == "skip" and strategy.cannot_skip:
            raise ValueError(f'DataParallel: on_nan="skip": {strategy.cannot_skip}')
        strategy = copy.copy(strategy)  # it is made live, and others may have been given the same
        named = list(module.named_parameters())
        trained = {name: parameter for name, parameter in named if parameter.requires_grad}
        self._frozen = [parameter for _, parameter in named if not parameter.requires_grad]
        if not world.rank and (wide := _wide(named)):
            warnings.warn(wide, stacklevel=2)
        found = _distributed_optimizers(strategy, trained)
        if world.world_size > 1:
            broadcast_parameters([*named, *module.named_buffers()])
            require_equal(world, "strategies and trained parameters", [f"{strategy!r}, on_nan {on_nan}", *trained])
        if found is None:
            strategy.attach(list(trained.values()), world)
        self._on_nan, self._trained = on_nan, trained
        self.train_by(found or strategy)
        self._forwards: Forward = Forward()  # begun by `forward`, and, where the module is called by itself, by that
        if self.strategy.synchronous and self.world.world_size > 1:
            self._forwards.sum_over_ranks = self.world.allreduce
        self._drops = module.join_forwards(self._forwards) > 0
        module._forwards = self._forwards if self._drops else None

    def train_by(self, strategy: Strategy) -> None:
        """Train by a strategy that has been attached to the parameters."""
        self.strategy, self.world, strategy.wrapped = strategy, strategy.communicator, True
        if self._on_nan is not None:
            strategy.guard_by(Guard(self._on_nan, self._trained, strategy.communicator))
        self._counts = np.zeros(self.world.world_size, np.int64)  # of all ranks' rows, where no loader says them

    @property
    def training(self) -> bool:  # type: ignore[override]
        return self.module.training

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self._frozen and any(parameter.requires_grad for parameter in self._frozen):
            raise RuntimeError(
                "DataParallel: a parameter was unfrozen after the model was wrapped; wrap it unfrozen, then freeze"
            )
        self.world.place.part = "forward"
        batch = batch_of(inputs[0]) if inputs else None
        if batch is None or batch.parts != self.strategy.parts:
            batch = self._batch_of(inputs, named)
        self._note(batch)
        return self.module.forward(*inputs, **named)

    __call__ = forward

    def _note(self, batch: Batch | None) -> None:
        """Tell dropout, and the backward to come, what this forward is about; None: nobody knows."""
        if self._drops:
            self._forwards.begin(samples_of(batch))
        weight = self.strategy.loss_weight
        if not is_grad_enabled():
            return
        if batch is not None and (self.training or not weight.pending):
            weight.note(batch)
        elif batch is None:
            weight.note_uncounted()

    def _batch_of(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Batch | None:
        """Return the batch of one of the inputs, or else what the first input has of one; None in evaluation.

        Raises:
            ValueError: it is a part of a batch that was cut for other ranks; or one of several micro-batches.
            TypeError: none of the inputs is an array.
        """
        world_size = self.strategy.parts
        values = (*inputs, *named.values()) if named else inputs
        parts = {batch.parts: batch for value in values if (batch := batch_of(value)) is not None}
        if world_size in parts:
            return parts[world_size]
        if parts and max(parts) > 1:
            raise ValueError(
                f"DataParallel: wanted a part of a batch that was cut for {world_size} ranks, got one of {max(parts)}: "
                "a loader with rank and world_size of its own must have those of the ranks that train"
            )
        if not self.training or not is_grad_enabled():
            return None
        if this_rank.micro_batches > 1:
            raise ValueError(
                "DataParallel: of micro-batches (accumulate) only the loader's tensors say how much each weighs: pass "
                "them to the model, and change their shape or dtype in its forward"
            )
        self._forwards.counted_arrays += 1
        return self._counted(_row_count(values), self._forwards.counted_arrays - 1)

    def _counted(self, count: int, iteration: int) -> Batch:
        """Return the batch of which this rank has so many rows; collective where ranks make each step together."""
        rank, world_size = self.world.rank, self.world.world_size
        if world_size == 1 or not self.strategy.synchronous:  # nobody knows what others bring: as much, say
            return Batch(count, rank * count, world_size * count, iteration, world_size)
        counts = self._counts
        counts.fill(0)
        counts[rank] = count
        self.world.run("allreduce", counts, "sum", "auto")
        rows = counts.tolist()
        return Batch(count, sum(rows[:rank]), sum(rows), iteration, world_size)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "DataParallel cannot be copied or pickled, as ranks meet in it: copy or pickle model.module, and wrap that"
        )

    def synchronize(self) -> None:
        """Give every rank the newest parameters, the same; collective.

        Needed before they are looked at or saved where ranks do not update in step: under local SGD, and a parameter
        server with a staleness or sparse parameters. Elsewhere it does nothing.
        """
        self.strategy.synchronize()

    def state_dict(self, order: Order = "C") -> StateDict:
        """Return a copy of every parameter, by name, in C order, or as it lies ("K").

        Raises:
            RuntimeError: this rank does not have the newest: call `synchronize()` first, on all ranks.
        """
        if not self.strategy.is_current:
            raise RuntimeError(
                "state_dict: ranks have not the same parameters now; call model.synchronize() first, on all of them"
            )
        return super().state_dict(order)

    def no_sync(self) -> AbstractContextManager[None]:
        """Add up local gradients, within; the first backward after it sums them all over the ranks."""
        return self.syncing(False)

    @contextmanager
    def syncing(self, syncing: bool) -> Iterator[None]:
        """Sum gradients over the ranks, within, in every backward, or only add them up."""
        before, self.strategy.syncing = self.strategy.syncing, syncing
        try:
            yield
        finally:
            self.strategy.syncing = before

    def join_forwards(self, forwards: Forward, first: int = 0) -> int:
        """Leave the dropouts as they were numbered at wrapping: their forwards are this wrapper's."""
        return first

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield from self.module.named_modules(prefix)


def _row_count(inputs: Iterable[Any]) -> int:
    """Return the rows of the first input that has some, a sample each; raise TypeError where none has."""
    for value in inputs:
        shape = getattr(value, "shape", ())
        if shape:
            return int(shape[0])
    raise TypeError(
        "DataParallel: nothing says how many samples a rank has: one of the inputs must be an array or tensor whose "
        "rows are samples, or the loader's tensor itself, and not within a list, dict or object; got "
        + ", ".join(type(value).__name__ for value in inputs)
    )


def _wide(named: list[tuple[str, Parameter]]) -> str:
    """Return which parameters make float64 of a model that is float32 otherwise; empty where none does."""
    wide = [name for name, parameter in named if parameter.dtype == np.float64 and parameter.ndim]
    narrow = [name for name, parameter in named if parameter.dtype == np.float32]
    if not 0 < len(wide) <= len(narrow):
        return ""
    return (
        f"DataParallel: in a model of float32 {', '.join(wide[:3])}{', ...' if wide[3:] else ''} is float64, and makes "
        "float64 of what it meets, at half the speed: wanted nn.Parameter(array.astype(np.float32))"
    )


def _distributed_optimizers(strategy: Strategy, trained: dict[str, Any]) -> AllReduce | None:
    """Return the all-reduce that a DistributedOptimizer has made for these parameters, to be used instead of another.

    Raises:
        ValueError: they have another strategy already, or this one excludes it.
    """
    parameters = list(trained.values())
    found: Any = next((parameter.reducer for parameter in parameters if parameter.reducer is not None), None)
    if found is None:
        return None
    theirs = isinstance(found, AllReduce) and not found.wrapped and set(found.parameters) == set(parameters)
    if theirs and isinstance(strategy, Fused):
        raise ValueError('DataParallel: update="fused" and DistributedOptimizer exclude each other')
    if not (theirs and isinstance(strategy, AllReduce)):
        raise ValueError(REDUCED)
    return found  # type: ignore[no-any-return]


DistributedDataParallel = DataParallel
