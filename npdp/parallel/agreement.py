"""Agreement of ranks on errors: what one rank cannot use no rank uses, and all leave together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from npdp.base.errors import InputError
from npdp.collectives.communicator import Communicator
from npdp.optim import Optimizer

T = TypeVar("T")


def agree(world: Communicator, prepare: Callable[[], T], kind: type[Exception] = InputError) -> T:
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


def require_equal(
    world: Communicator, what: str, mine: list[str], kind: type[Exception] = InputError, abstain: bool = False
) -> None:
    """Raise on every rank where the ranks' lists of descriptions differ; collective.

    Args:
        abstain: whether ranks with an empty list do not count.

    Raises:
        InputError, or `kind`: names the first rank and the first entry that differ from the first rank's.
    """
    texts = [(rank, text) for rank, text in enumerate(world.gather_texts("\n".join(mine))) if text or not abstain]
    (first, firsts), *others = texts
    for rank, text in others:
        if text != firsts:
            theirs, ours = text.split("\n"), firsts.split("\n")
            index = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
            got, wanted = ("nothing" if index >= len(lines) else lines[index] for lines in (theirs, ours))
            raise kind(f"{what} differ between ranks: rank {rank} has {got}, rank {first} has {wanted}")


def settings_of(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Return what an optimiser updates a parameter group by, but for its learning rate, which may change."""
    return {name: group[name] for name in optimizer.defaults if name != "lr"}


def require_same_optimizers(
    world: Communicator, optimizers: Iterable[Optimizer], kind: type[Exception] = InputError
) -> None:
    """Raise on every rank where another has optimisers of another class or with other settings; collective.

    Of a learning rate that is a function its value now is compared, as functions cannot be.

    Raises:
        InputError, or `kind`: names the first rank and the first setting that differ from rank 0's.
    """
    mine = [
        f"{type(optimizer).__name__} with {name} {value}"
        + f" in parameter group {number}, of {len(group['params'])}" * (len(optimizer.param_groups) > 1)
        for optimizer in optimizers
        for number, group in enumerate(optimizer.param_groups)
        for name, value in {**settings_of(optimizer, group), "lr": float(optimizer.lr_of(group))}.items()
    ]
    require_equal(world, "optimisers", mine, kind)
