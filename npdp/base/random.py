"""Random generators: one per rank, from the same seed on every rank.

Layers take an explicit `generator`; without one they use this rank's. Every rank starts from the same
seed, so the same program builds the same weights everywhere. Ranks may be threads: each has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from npdp.base.arguments import seed_of


class _OfThisRank(threading.local):
    def __init__(self) -> None:
        self.seed = 0
        self.generator = np.random.default_rng(0)


_here = _OfThisRank()


def manual_seed(seed: int) -> None:
    """Restart this rank's generator, and dropout's masks, from `seed`; call it alike on all ranks.

    Args:
        seed: in [0, 2^64).
    """
    _here.seed = seed = seed_of(seed, "manual_seed: seed")
    _here.generator = np.random.default_rng(seed)


def default_generator() -> np.random.Generator:
    """Return this rank's generator: the one that layers draw their first weights from."""
    return _here.generator


def get_rng_state() -> dict[str, Any]:
    """Return this rank's seed and the state of its generator, in texts and numbers."""
    return {"seed": _here.seed, "generator": dict(_here.generator.bit_generator.state)}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Go on drawing where `get_rng_state` was called; call it alike on all ranks."""
    manual_seed(state["seed"])
    _here.generator.bit_generator.state = state["generator"]


def current_seed() -> int:
    """Return the seed of this rank, 0 unless `manual_seed` said otherwise."""
    return _here.seed
