"""Verdicts that all ranks share: what one rank cannot use no rank uses, and all leave together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from npdp.autograd import Batch
from npdp.errors import InputError
from npdp.optim import Optimizer
from npdp.parallel.world import World

T = TypeVar("T")
PLAIN = (bool, int, float, str, tuple, type(None))  # an optimiser's settings are; what else it has is state
BATCHES_COMPARED_EVERY = 64  # exchanges: it is a collective of its own; as a rule they differ from the first on
_DRAWN = "batch {}", "{} samples", "batch_size {}", "seed {}", "epoch {}"  # what the loader's numbers say


def agree(world: World, prepare: Callable[[], T], kind: type[Exception] = InputError) -> T:
    """Return `prepare()`, or raise the first rank's InputError, or `kind`, on every rank; collective."""
    made, fault = None, ""
    try:
        made = prepare()
    except kind as error:
        fault = str(error)
    if world.world_size > 1:
        faults = world.gather_texts(fault)
        first = next((rank for rank, text in enumerate(faults) if text), None)
        fault = "" if first is None else faults[first] if all(faults) else f"rank {first}: {faults[first]}"
    if fault:
        raise kind(fault)
    return made  # type: ignore[return-value]


def require_equal(world: World, what: str, mine: list[str], kind: type[Exception] = InputError) -> None:
    """Raise on every rank where the ranks' lists of descriptions differ; collective.

    Raises:
        InputError, or `kind`: names the first rank and the first entry that differ from rank 0's.
    """
    texts = world.gather_texts("\n".join(mine))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            theirs, ours = text.split("\n"), texts[0].split("\n")
            place = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
            got, wanted = ("nothing" if place >= len(lines) else lines[place] for lines in (theirs, ours))
            raise kind(f"{what} differ between ranks: rank {rank} has {got}, rank 0 has {wanted}")


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return what an optimiser updates by, but for its learning rate, which may change."""
    plain = {name: value for name, value in vars(optimizer).items() if isinstance(value, PLAIN)}
    return {name: value for name, value in plain.items() if name not in ("iteration", "lr")}


def require_same_optimizers(world: World, optimizers: Iterable[Optimizer], kind: type[Exception] = InputError) -> None:
    """Raise on every rank where another has optimisers of another class or with other settings; collective.

    Of a learning rate that is a function its value now is compared, as functions cannot be.

    Raises:
        InputError, or `kind`: names the first rank and the first setting that differ from rank 0's.
    """
    mine = [
        f"{type(optimizer).__name__} with {name} {value}"
        for optimizer in optimizers
        for name, value in {**settings_of(optimizer), "lr": float(optimizer.current_lr)}.items()
    ]
    require_equal(world, "optimisers", mine, kind)


def require_same_batch(world: World, batch: Batch | None) -> None:
    """Raise on every rank where they have parts of different global batches; collective.

    Raises:
        RuntimeError: names the first rank whose loader differs from rank 0's, and in what.
    """
    drawn = batch.drawn if batch is not None else ()
    number = hash(drawn)  # of numbers: the same on all ranks
    extremes = np.array([number, -number])
    world.allreduce(extremes, "max", "auto")
    if extremes[0] != -extremes[1]:
        mine = [text.format(number) for text, number in zip(_DRAWN, drawn)] or ["arrays of its own"]
        what = "loaders, of whose batches each rank trains on its part,"
        require_equal(world, what, mine, RuntimeError)
