"""The faults of one run, a pure function of the seed, the run's number, and the ground.

Where deaths are survived most runs have one to three of them, some while training recovers from another. Else there is
one fault a run. One run in five has a slow rank, or a delay, beside it, which changes when everything happens.
"""

from __future__ import annotations

from random import Random

from npdp.app.chaos.ground import Ground
from npdp.elastic.inject import KINDS, LASTING, Fault, parse

MOST_DEATHS = 3
DEADLY_SHARE, RECOVERY_SHARE, HARMLESS_SHARE = 0.9, 0.3, 0.2
AFTER_MS = (0, 0, 0, 0.2, 1, 3)  # into a part, or its beginning


def draw(ground: Ground, seed: int, run: int) -> tuple[Fault, ...]:
    """Return what befalls the run of this number."""
    rng = Random(f"{seed} {run}")
    deadly = [kind for kind in ground.kinds if kind in ground.survived]
    others = [kind for kind in ground.kinds if kind not in ground.survived]
    if deadly and ground.ranks > 1 and (not others or rng.random() < DEADLY_SHARE):
        specs = _deaths(ground, deadly, rng)
    else:
        specs = [_one(ground, rng.choice(others or deadly), rng.randrange(ground.ranks), rng)]
    if rng.random() < HARMLESS_SHARE:
        specs.append(rng.choice([f"slow@rank={rng.randrange(ground.ranks)},factor=3", "delay@ms=1"]))
    return tuple(map(parse, specs))


def _deaths(ground: Ground, kinds: list[str], rng: Random) -> list[str]:
    """Return deaths of some ranks, not of all."""
    ranks = rng.sample(range(ground.ranks), rng.randint(1, min(MOST_DEATHS, ground.ranks - 1)))
    specs = [_one(ground, rng.choice(kinds), rank, rng) for rank in ranks]
    for number in range(1, len(specs)):
        if rng.random() < RECOVERY_SHARE:
            specs[number] = f"kill@rank={ranks[number]},part=recovery"
    return specs


def _one(ground: Ground, kind: str, rank: int, rng: Random) -> str:
    """Return a fault of this kind at some place."""
    parts = (*ground.parts, "checkpoint") if ground.checkpoints and rank == 0 else ground.parts  # which rank 0 writes
    values = {
        "rank": str(rank),
        "iteration": str(rng.randint(1, ground.iterations)),
        "part": rng.choice(parts),
        "ms": f"{rng.choice(AFTER_MS):g}",
        "code": str(rng.randint(1, 9)),
    }
    keys = KINDS[kind].wants + KINDS[kind].takes
    if kind == "diskfull":
        values["rank"] = "0"
    given = [key for key in keys if key in values and (key != "ms" or values[key] != "0")]
    return f"{kind}@{','.join(f'{key}={values[key]}' for key in given)}"


def is_harmless(fault: Fault) -> bool:
    """Return whether a fault changes no result."""
    return fault.kind in LASTING
