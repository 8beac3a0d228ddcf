"""The data loader: yields a rank's part of each global batch, in the order of the epoch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from npdp.autograd import is_grad_enabled
from npdp.autograd.sparse_rows import SparseRows
from npdp.base import random
from npdp.base.arguments import at_least_one, seed_of, whole
from npdp.data.batch import UNSHUFFLED, Batch, with_batch
from npdp.data.datasets import ArrayDataset
from npdp.data.loader_arguments import accept
from npdp.data.rows import gives_batches, take_rows
from npdp.data.sampler import Rows, Shard, count_work_items, epoch_order, local_rows, number_loader, shard, this_rank


class Dataset(Protocol):
    """Anything with a length and rows; one that has `take(rows)` too gives a whole batch at once.

    It is known by the name of its argument: a `take(n)`, as Hugging Face's datasets have, means something else. Where
    a class has `take` from one above it and rows of its own, these are read one by one. One that has
    `of_epoch(seed, epoch)` gives by it what a pass that shuffles is taken from, as many rows: a pure function.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> Any: ...


class _Passes:
    """Count of a rank's passes.

    Attributes:
        epoch: the number of the next one.
        first: the batch that the next one begins with.
        under_way: (epoch, batches done) of the pass that is under way, None between passes.
        assigned: how many there were in which it was assigned work.
    """

    def __init__(self, epoch: int, first: int = 0) -> None:
        self.epoch, self.first = epoch, first
        self.under_way: tuple[int, int] | None = None
        self.assigned = {True: 0, False: 0}  # to train, and to look


class DataLoader:
    """Iterates over (inputs, labels) of this rank, an epoch at a time; each sample exactly once over all ranks.

    Each pass moves on to the order of the next epoch by itself. Every rank gives its loader the whole dataset, not its
    shard of it. To evaluate on one rank alone, say rank=0, world_size=1. Ranks on threads may have one loader between
    them, made before they began: each counts its own passes. A loader that a rank on threads has made gives that rank's
    part in threads beside it too; one that was made before, all samples: there say rank and world_size.

    Args:
        dataset: samples, whose rows are (features, label); the same on every rank.
        batch_size: of the global batch, over all ranks together.
        shuffle: whether each epoch has an order of its own.
        seed: of the orders; the same on every rank. This rank's (`npdp.manual_seed`) where None.
        accumulate: each global batch comes in so many micro-batches, one after the other; their gradients, added
            up over all of them and all ranks, are those of the whole batch. Under DataParallel or DistributedOptimizer,
            on one rank too, each weighs as many samples as it has, so its loss is not to be divided. Its
            tensors say so; arrays made of them do not.
        rank, world_size: whose part; this rank's where not given.
        others: PyTorch's, which are taken where they change no result (loader_arguments.py).

    Attributes:
        epoch: the number of this rank's next pass.

    Raises:
        TypeError: this is no dataset, but arrays, say, of which one is to be made.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        seed: int | None = None,
        *,
        accumulate: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        **others: Any,
    ) -> None:
        _require_dataset(dataset)
        seed = accept(others, seed)
        seed = random.current_seed() if seed is None else seed
        self.dataset, self.shuffle = dataset, shuffle
        self._whole_batches = gives_batches(dataset)
        self._labels = dataset.labels_checksum() if isinstance(dataset, ArrayDataset) else 0
        self.seed = seed_of(seed, "DataLoader: seed")
        self.global_batch_size = at_least_one(batch_size, "DataLoader: batch_size")
        self.accumulate = at_least_one(accumulate, "DataLoader: accumulate")
        if (rank is None) != (world_size is None):
            raise ValueError(f"DataLoader: rank and world_size go together, got {rank} and {world_size}")
        self._shard = Shard(rank, world_size) if rank is not None and world_size is not None else None
        self._maker = self._shard or shard()
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"DataLoader: rank must be in 0 .. {self.world_size - 1}, got {self.rank}")
        self._passes = {self._maker.begun: _Passes(0)}
        self._number = number_loader() if self._shard is None else -1  # for who assigns work: the same on all ranks

    def __getstate__(self) -> dict[str, Any]:  # a copy counts for itself
        return {**vars(self), "_passes": copy.deepcopy(self._passes)}

    @property
    def rank(self) -> int:
        """Number of the rank whose part it is, among the workers where there are servers too."""
        return self._part.rank

    @property
    def world_size(self) -> int:
        """Number of parts that each batch is cut into."""
        return self._part.world_size

    @property
    def iterations_per_epoch(self) -> int:
        """The number of global batches; the last one may be smaller. Where work is assigned, `len` is about right."""
        return -(-len(self.dataset) // self.global_batch_size)

    def __len__(self) -> int:
        return self.iterations_per_epoch * self.accumulate

    @property
    def epoch(self) -> int:
        return self._of_this_rank.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        passes = self._of_this_rank
        passes.epoch, passes.first = epoch, passes.first if epoch == passes.epoch else 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's order this rank's next pass takes; passes count on from there by themselves."""
        self.epoch = epoch

    @property
    def _of_this_rank(self) -> _Passes:
        """This rank's passes; who has made none, a thread or a worker among servers, begins where the maker is."""
        makers = self._passes[self._maker.begun]
        return self._passes.setdefault(self._part.begun, _Passes(makers.epoch, makers.first))

    @property
    def _part(self) -> Shard:
        """Whose part: what was said, else this rank's; in a thread that a rank on threads started, its maker's."""
        is_rank = this_rank.shard is not None and this_rank.shard.on_thread
        return self._shard or (self._maker if self._maker.on_thread and not is_rank else shard())

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        passes = self._of_this_rank
        epoch, first = passes.epoch, passes.first
        passes.epoch, passes.first = epoch + 1, 0
        dataset = self._of_epoch(epoch)
        order = epoch_order(len(self.dataset), self.seed, epoch, self.shuffle)
        of_order = (self.seed, epoch) if self.shuffle else (UNSHUFFLED, UNSHUFFLED)
        drawn, place = (len(order), self._labels, self.global_batch_size, *of_order), self._part.place
        try:
            for number, part in self._parts(first):
                rows = order[number * self.global_batch_size : (number + 1) * self.global_batch_size]
                iteration = epoch * self.iterations_per_epoch + number
                for piece in range(self.accumulate):
                    place.iteration, place.part = iteration, "data"
                    start, stop = local_rows(len(rows), self.world_size, part, self.accumulate, piece)
                    x, y = take_rows(dataset, rows[start:stop], self._whole_batches)
                    where = stop - start, start, len(rows), iteration
                    batch = Batch(*where, self.world_size, (*drawn, number))
                    # Each time: other loaders may have passes within this one
                    this_rank.batch, this_rank.micro_batches = batch, self.accumulate
                    this_rank.rows = rows[start:stop]
                    passes.under_way = epoch, number + (piece == self.accumulate - 1)
                    yield with_batch(x, batch), with_batch(y, batch)
        finally:
            this_rank.micro_batches, passes.under_way = 1, None

    def samples(self, rows: Rows, epoch: int) -> tuple[Any, Any]:
        """Return (inputs, labels) of rows of the dataset, in any order, as this epoch's pass has them."""
        return take_rows(self._of_epoch(epoch), rows, self._whole_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return how far this rank's passes are: what has come is done, but for a batch whose micro-batches are due.

        It is the same on all ranks, and does not depend on their number: "epoch", and "batches" of it that are done;
        beside them what says which samples these had.

        Raises:
            RuntimeError: servers assign the work.
        """
        if self._shard is None and this_rank.assign is not None:
            raise RuntimeError("DataLoader.state_dict: servers assign the work, in an order that no rank knows")
        passes = self._of_this_rank
        epoch, batches = passes.under_way or (passes.epoch, passes.first)
        return {"epoch": epoch, "batches": batches, **self._drawn_from()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batch after those that are done, at any number of ranks; the next pass has what is left.

        After the last batch that is nothing: what a program does at the end of an epoch is still to be done. "passes",
        where it is there, counts those in which work was assigned.

        Raises:
            ValueError: it was of other samples, or another order of them; the first difference is named.
        """
        for name, mine in self._drawn_from().items():
            if state.get(name) != mine:
                raise ValueError(f"DataLoader.load_state_dict: wanted {name} {mine}, got {state.get(name)}")
        who, most = "DataLoader.load_state_dict: wanted a", self.iterations_per_epoch
        epoch = whole(state["epoch"], f"{who}n epoch, from 0 to below 2^63", 0, 2**63)
        batches = whole(state["batches"], f"{who} number of batches that are done, from 0 to {most}", 0, most + 1)
        passes = self._of_this_rank
        passes.epoch, passes.first, passes.under_way = epoch, batches, None
        passes.assigned = dict.fromkeys((True, False), int(state["passes"])) if "passes" in state else passes.assigned

    def _drawn_from(self) -> dict[str, Any]:
        """Return what says which samples a batch of this number has, in any epoch."""
        order = {"seed": self.seed} if self.shuffle else {}
        return {"samples": len(self.dataset), "labels_checksum": self._labels, "batch_size": self.global_batch_size,
                "shuffle": self.shuffle, **order}

    def _parts(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield (number of the batch, number of the part of it) for this rank: its own of each, or what it is given.

        Args:
            first: the batch to begin with, where nobody assigns them.
        """
        assign = this_rank.assign if self._shard is None else None
        if assign is None:
            yield from ((number, self.rank) for number in range(first, self.iterations_per_epoch))
            return
        training = is_grad_enabled()
        loader = 2 * self._number + (not training)  # passes to train and to look count apart, as those of two loaders
        passes = self._of_this_rank.assigned
        pass_number = passes[training]  # an epoch may come twice, a pass does not
        passes[training] += 1
        items = count_work_items(len(self.dataset), self.global_batch_size, self.world_size)
        parts = min(self.world_size, self.global_batch_size)
        for item in assign(loader, pass_number, items, parts):
            yield divmod(item, parts)

    def _of_epoch(self, epoch: int) -> Dataset:
        """Return what the samples of a pass are taken from."""
        of_epoch = getattr(self.dataset, "of_epoch", None)
        return of_epoch(self.seed, epoch) if self.shuffle and of_epoch is not None else self.dataset


def _require_dataset(dataset: Any) -> None:
    """Raise TypeError where this has no rows of two, as far as can be told without reading one."""
    has_rows = hasattr(dataset, "take") or hasattr(dataset, "__getitem__")
    is_array = hasattr(dataset, "__array__") or isinstance(dataset, SparseRows)  # the first is a table of pandas's too
    first = dataset[:1] if isinstance(dataset, (tuple, list)) else ()
    are_pairs = all(isinstance(row, (tuple, list)) and len(row) == 2 for row in first)
    if not hasattr(dataset, "__len__") or not has_rows or is_array or not are_pairs:
        of = f" of {type(first[0]).__name__}" if first else ""
        raise TypeError(
            "DataLoader: wanted a dataset, whose rows are (features, label), got "
            f"{type(dataset).__name__}{of}; ArrayDataset(x, y) makes one of arrays"
        )
