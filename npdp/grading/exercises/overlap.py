"""Buckets that travel while backward goes on: right sums on two ranks, and time by a clock that is only a number.

The clock: each layer's backward takes COMPUTE_S a parameter, an all-reduce ALPHA_S and BETA_S a parameter; the network
carries one at a time, in the order in which they began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from npdp.grading.exercises.arrays import told
from npdp.grading.grading import Check, Grading
from npdp.grading.network import Network
from npdp.grading.process import Asked, Function, SolutionError

RANKS = 2
COMPUTE_S, ALPHA_S, BETA_S = 1e-6, 2e-3, 0.8e-6
MANY, FEW, MIXED = [400] * 60, [8000] * 6, [20, 6000, 20, 20, 3000, 3000, 20, 20, 4000, 20]
SLOWEST = 1.1  # of the best plan of buckets
FUNCTIONS = Function("compute"), Function("begin"), Function("wait")


class Clocked(Network):
    """Ranks that compute layers and begin all-reduces, and what that takes by the clock."""

    def __init__(self, grading: Grading, layers: Sequence[int]) -> None:
        super().__init__(grading.processes(RANKS), ())
        self.layers = layers
        self.own = [[grading.random.integers(-9, 10, count).astype(np.float64) for count in layers]
                    for _ in range(RANKS)]  # fmt: skip
        self.now = [0.0] * RANKS
        self.computed: list[list[int]] = [[] for _ in range(RANKS)]
        self.begun: list[list[tuple[np.ndarray, float]]] = [[] for _ in range(RANKS)]
        self.ends: list[float] = []

    def settle(self, rank: int, asked: Asked) -> bool:
        if asked.name == "compute":
            layer = int(asked.arguments[0])
            wanted = len(self.layers) - 1 - len(self.computed[rank])
            if layer != wanted:
                wrong = f"rank {rank}: compute({layer}) where layer {wanted} is next"
                raise SolutionError(f"{wrong}: backward begins at the last")
            self.computed[rank].append(layer)
            self.now[rank] += COMPUTE_S * self.layers[layer]
            self.reply(rank, self.own[rank][layer])
        elif asked.name == "begin":
            self.begun[rank].append((asked.arguments[0], self.now[rank]))
            self.reply(rank, len(self.begun[rank]) - 1)
        elif asked.name == "wait":
            return self._wait(rank, int(asked.arguments[0]))
        else:
            return super().settle(rank, asked)
        return True

    def _wait(self, rank: int, number: int) -> bool:
        if not 0 <= number < len(self.begun[rank]):
            raise SolutionError(f"rank {rank}: wait({number}), which begin has not returned")
        if any(len(begun) <= number for begun in self.begun):
            return False
        while len(self.ends) <= number:
            self._carry(len(self.ends))
        self.now[rank] = max(self.now[rank], self.ends[number])
        self.reply(rank, sum(begun[number][0] for begun in self.begun))
        return True

    def _carry(self, number: int) -> None:
        sizes = [begun[number][0].size for begun in self.begun]
        if len(set(sizes)) > 1:
            raise SolutionError(f"all-reduce {number} has {sizes[0]} numbers on rank 0 and {sizes[1]} on rank 1: "
                         "ranks must begin them in the same order")  # fmt: skip
        ready = max(begun[number][1] for begun in self.begun)
        self.ends.append(_end(self.ends[-1] if self.ends else 0.0, ready, sizes[0]))


def _end(free: float, ready: float, count: int) -> float:
    return max(free, ready) + ALPHA_S + BETA_S * count


def planned(layers: Sequence[int], bucket: float) -> float:
    """Return the time with buckets that leave as soon as they have `bucket` parameters."""
    now, free, held = 0.0, 0.0, 0
    for layer in range(len(layers) - 1, -1, -1):
        now += COMPUTE_S * layers[layer]
        held += layers[layer]
        if held >= bucket or layer == 0:
            free, held = _end(free, now, held), 0
    return max(now, free)


def best(layers: Sequence[int]) -> float:
    """Return the time with the best size of buckets."""
    return min(planned(layers, size) for size in {*np.cumsum(layers).tolist(), *np.cumsum(layers[::-1]).tolist()})


def _run(grading: Grading, layers: Sequence[int]) -> Clocked:
    ranks = Clocked(grading, layers)
    results = ranks.run("backward", [(list(layers), *FUNCTIONS)] * RANKS)
    for rank, result in enumerate(results):
        if not isinstance(result, list) or len(result) != len(layers):
            raise SolutionError(f"{len(layers)} layers: rank {rank} returns {result!r}, wanted a list of their sums")
        for layer, total in enumerate(result):
            wanted = ranks.own[0][layer] + ranks.own[1][layer]
            told(f"layers {list(layers)[:8]}: rank {rank}, layer {layer} has the sum", total, wanted)
    return ranks


def sums(grading: Grading) -> None:
    for layers in ([1], [2, 3], [3, 1, 2], MIXED):
        _run(grading, layers)


def in_time(grading: Grading, layers: Sequence[int], why: str) -> None:
    """Compare the clock's time with that of the best buckets."""
    took, least = max(_run(grading, layers).now), best(layers)
    if took > SLOWEST * least:
        one = planned(layers, math.inf)
        raise SolutionError(
            f"{1e3 * took:.1f} ms, where the best buckets take {1e3 * least:.1f} and one bucket at the end "
            f"{1e3 * one:.1f}: {why}"
        )


CHECKS = (
    Check("every layer's sum, on both ranks", 1, sums),
    Check("few large layers: they travel while others are computed", 3,
          lambda grading: in_time(grading, FEW, "begin before the last layer is computed, wait at the end")),
    Check("many small layers: they share buckets", 3,
          lambda grading: in_time(grading, MANY, "each all-reduce costs 2 ms, however short: join small gradients")),
    Check("both mixed", 3, lambda grading: in_time(grading, MIXED, "a bucket of a few thousand parameters")),
)  # fmt: skip
