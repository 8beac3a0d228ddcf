"""Data parallel training: every rank has the model, a part of each batch, and the gradient of the whole.

    rank 0   part 0 of the batch → loss → gradient ┐
    rank 1   part 1              → loss → gradient ┼ all-reduce (all_reduce.py) → the same step everywhere
    rank 2   part 2              → loss → gradient ┘

That is the strategy all-reduce; a parameter server (parameter_server/) and local SGD (local_sgd.py) are others, behind
the same loop.

Source: Li et al., PyTorch distributed: experiences on accelerating data parallel training, 2020 (buckets, hooks).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import numpy as np

from npdp.autograd import Batch, Tensor, is_grad_enabled
from npdp.autograd.batch import MIXED, forward_under_way
from npdp.autograd.sparse_rows import SparseRows
from npdp.data.sampler import this_rank
from npdp.nn.module import Module
from npdp.nn.parameter import Parameter
from npdp.nn.state import StateDict
from npdp.parallel.agreement import require_equal
from npdp.parallel.inputs import (
    as_rows,
    as_rows_of,
    batch_of,
    hiding_place,
    is_counted,
    rows_in,
    tag,
    with_batch,
    with_rows,
)
from npdp.parallel.replicas import broadcast_parameters
from npdp.parallel.strategy import AllReduce, Strategy, require_strategy
from npdp.parallel.world import init


class DataParallel(Module):
    """A model whose `backward` leaves the mean gradient over the global batch, the same on every rank.

    Making one is collective: names, shapes, dtypes and orders in memory are compared over the ranks, then rank 0's
    values are taken by all. Parameters keep their names: `state_dict` has no `module.` before each.

    How many samples a rank's loss weighs, though the model may leave some of them out:

        one of the loader's tensors, wherever it is   those of this rank's part of the batch
        arrays, in tuples, lists and dicts too        the rows of the first (a list of arrays is several inputs)
        arrays in an object of another kind           refused: they are not found

    A further input, or an array that forward itself brings in, with as many rows is taken for rows of the same batch:
    dropout then masks them as one rank would.

    All ranks run the same wrapped models in the same order; parts of a model may be used on some ranks only. A
    criterion that has parameters of its own is a model too, to be wrapped as well.

    Args:
        module: the model; the same program must build it on every rank.
        bucket_cap_mb: gradients leave in buckets of about this size, in MB of 2^20 bytes; None: 25 in a host, 0.25
            across hosts.
        first_bucket_mb: the same for the first bucket; None: 1 in a host, 0.25 across hosts.
        overlap: whether, across hosts, backward goes on while a bucket is on the wire.
        update: "replicated", every rank updates its own copy; or "fused" (fused.py): gradients are summed in the pass
            that updates, ranks of a host share one copy. Parameters are read-only then, and reading `.grad` raises.
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
    ) -> None:
        if not isinstance(module, Module):
            kind = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
            raise TypeError(f"DataParallel: wanted a Module, got {kind}")
        vars(self)["module"] = module  # not set as an attribute is: its dropouts keep their numbers
        module._note_holder(self)
        if strategy is None:
            strategy = AllReduce(update, bucket_cap_mb, first_bucket_mb, overlap)
        require_strategy(strategy)
        self.strategy = strategy
        world = init()
        named = list(module.named_parameters())
        trained = [parameter for _, parameter in named if parameter.requires_grad]
        self._frozen = [parameter for _, parameter in named if not parameter.requires_grad]
        self.strategy.require_free(trained)
        if not world.rank and (wide := _wide(named)):
            warnings.warn(wide, stacklevel=2)
        if world.world_size > 1:
            broadcast_parameters([*named, *module.named_buffers()])
            names = [name for name, parameter in named if parameter.requires_grad]
            require_equal(world, "strategies and trained parameters", [repr(self.strategy), *names])
        self.exchange = self.strategy.exchange(trained, world)
        self.exchange.wrapped = True
        self.world = self.exchange.world
        self._untagged = 0

    @property
    def training(self) -> bool:  # type: ignore[override]
        return self.module.training

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self._frozen and any(parameter.requires_grad for parameter in self._frozen):
            raise RuntimeError(
                "DataParallel: a parameter was unfrozen after the model was wrapped; wrap it unfrozen, then freeze"
            )
        batch = getattr(inputs[0], "batch", None) if inputs else None
        if batch is None or batch.parts != self.world.world_size:  # not the loader's
            inputs, named, batch = self._with_batch(inputs, named)
        elif len(inputs) > 1 or named:
            inputs, named = with_batch((inputs, named), batch)
        before, forward_under_way.batch = forward_under_way.batch, batch
        try:
            outputs = self.module(*inputs, **named)
        finally:
            forward_under_way.batch = before
        if batch is not None and (type(outputs) is not Tensor or outputs.batch is None):
            tag(outputs, batch)
        elif batch is None and self.world.world_size > 1 and is_grad_enabled():
            _require_counted((inputs, named), outputs)
        return outputs

    __call__ = forward

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "DataParallel cannot be copied or pickled, as ranks meet in it: copy or pickle model.module, and wrap that"
        )

    def synchronize(self) -> None:
        """Give every rank the newest parameters, the same; collective.

        Needed before they are looked at or saved where ranks do not update in step: under local SGD, and a parameter
        server with a staleness or sparse parameters. Elsewhere it does nothing.
        """
        self.exchange.synchronize()

    def state_dict(self) -> StateDict:
        """Return a copy of every parameter, by name, in C order.

        Raises:
            RuntimeError: this rank does not have the newest: call `synchronize()` first, on all ranks.
        """
        if not self.exchange.is_current:
            raise RuntimeError(
                "state_dict: ranks have not the same parameters now; call model.synchronize() first, on all of them"
            )
        return super().state_dict()

    def no_sync(self) -> AbstractContextManager[None]:
        """Within, backward adds up local gradients; the first backward after it exchanges them all."""
        return self.syncing(False)

    @contextmanager
    def syncing(self, syncing: bool) -> Iterator[None]:
        """Within, backward exchanges gradients, or only adds them up."""
        before, self.exchange.syncing = self.exchange.syncing, syncing
        try:
            yield
        finally:
            self.exchange.syncing = before

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield from self.module.named_modules(prefix)

    def _with_batch(
        self, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Batch | None]:
        """Return the inputs, of which some are rows of a global batch, the loader's or the first with rows; and it."""
        rows = list(rows_in((inputs, named)))
        batches = {batch.parts: batch for batch in map(batch_of, rows) if batch is not None}
        if self.world.world_size in batches:
            batch = batches[self.world.world_size]
            return *with_batch((inputs, named), batch), batch
        if MIXED.parts in batches:
            raise ValueError("DataParallel: an input was made of batches of different sizes; give each its own forward")
        if batches.keys() - {1}:
            raise ValueError(
                f"DataParallel: wanted a part of a batch that was cut for {self.world.world_size} ranks, got one of "
                f"{max(batches)}: a loader with rank and world_size of its own must have those of the ranks that train"
            )
        if not rows and inputs and isinstance(inputs[0], (list, tuple)) and hiding_place(inputs[0]) is None:
            rows = [inputs[0]]  # of numbers
        if not rows or not is_grad_enabled():
            return inputs, named, None
        tagged = self._tagged(as_rows(rows[0]))
        inputs, named = with_rows((inputs, named), rows[0], tagged)
        assert tagged.batch is not None
        return *with_batch((inputs, named), tagged.batch), tagged.batch

    def _tagged(self, x: Tensor | SparseRows) -> Tensor | SparseRows:
        """Return `x` as rows of a global batch that is put together from what each rank brings."""
        self._untagged += self.training
        batch = Batch(len(x), self._untagged, self._position, self.world.world_size)
        return as_rows_of(x, batch)

    def _position(self, count: int) -> tuple[int, int]:
        """Return (first row of this rank, number of samples) of such a batch; collective where ranks keep step."""
        if this_rank.pieces > 1:
            raise ValueError(
                "DataParallel: of a batch that the loader gives in pieces (accumulate) only the loader's tensors say "
                "how much each piece weighs: pass them, or what is computed from them, and not arrays"
            )
        if not self.exchange.in_step:  # nobody knows what the others bring: as much, say
            return self.world.rank * count, self.world.world_size * count
        counts = np.zeros(self.world.world_size, np.int64)
        self.world.allgather(np.array([count], np.int64), counts, "halving_doubling")
        return int(counts[: self.world.rank].sum()), int(counts.sum())


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


def _require_counted(inputs: Any, outputs: Any) -> None:
    """Raise ValueError where samples are in an object that nobody looks into, so that no batch is known."""
    hidden = hiding_place(inputs)
    if hidden is not None and not is_counted(outputs):
        raise ValueError(
            f"DataParallel: nothing says how many samples a rank has: of forward's inputs, {type(hidden).__name__} is "
            "not looked into; pass arrays or tensors, also in tuples, lists and dicts, or the loader's tensors in it"
        )


DistributedDataParallel = DataParallel
