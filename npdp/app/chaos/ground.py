"""The ground on which faults are drawn: what the flags of a training make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from npdp.app.config import TrainConfig
from npdp.app.strategy_choices import STRATEGIES
from npdp.base.errors import InputError
from npdp.elastic.inject import KINDS, LASTING

LONGEST_STALL_S = 10.0  # that a run is to wait for
OF_RANKS = ("mismatch",)  # which one rank alone cannot do


@dataclass(frozen=True)
class Ground:
    """What faults are drawn from.

    Attributes:
        kinds: which there can be, but for the harmless ones.
        survived: kinds that training survives.
        ranks: how many train.
        iterations: of the undisturbed run.
        parts: that each iteration has.
        checkpoints: whether training goes on from some.
        stall_abort_s: after which time a stopped rank is taken for lost.
    """

    kinds: tuple[str, ...]
    survived: tuple[str, ...]
    ranks: int
    iterations: int
    parts: tuple[str, ...]
    checkpoints: bool
    stall_abort_s: float


def ground_of(config: TrainConfig, iterations: int, only: Sequence[str] | None) -> Ground:
    """Return the ground that flags make.

    Args:
        only: kinds to be drawn, where not all that there can be.

    Raises:
        InputError: there can be no faults of such a kind.
    """
    ranks = config.ranks or 1
    ranks -= config.servers if config.strategy == "ps" else 0
    kinds = tuple(kind for kind in KINDS if kind not in LASTING and _can_be(kind, config, ranks))
    if only is not None and (other := [kind for kind in only if kind not in kinds]):
        raise InputError(f"--kinds: wanted of {', '.join(kinds)}, which these flags make possible, got {other[0]!r}")
    has_exchange = ranks > 1 and config.strategy != "local-sgd"
    parts = ("data", "forward", "backward", *(["exchange"] * has_exchange), "update")
    fenced = ("stop",) if config.fence_stalled else ()
    survived = ("kill", "segv", *fenced) if config.elastic else ()
    checkpoints = config.checkpoint is not None
    return Ground(tuple(only or kinds), survived, ranks, iterations, parts, checkpoints, config.stall_abort_s)


def _can_be(kind: str, config: TrainConfig, ranks: int) -> bool:
    if KINDS[kind].of_process and config.transport == "threads":
        return False
    if kind == "stop":  # which is noticed by who waits too long
        return ranks > 1 and 0 < config.stall_abort_s <= LONGEST_STALL_S
    if kind == "nan":
        return config.on_nan == "raise"
    if kind == "diskfull":
        return config.checkpoint is not None and "checkpoint" not in STRATEGIES[config.strategy].excludes
    return kind not in OF_RANKS or ranks > 1
