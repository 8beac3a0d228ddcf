"""Algorithms of your own: functions that make a schedule, proven for this world before they are used the first time.

    def my_ring(world_size):                      # of a broadcast: (world_size, root)
        for step in range(world_size - 1):
            yield [add(rank, (rank + 1) % world_size, (rank - step - 1) % world_size) for rank in range(world_size)]
        ...
    npdp.allreduce(array, algorithm=my_ring)

What was proven is kept, and carried out, under a name that has a hash of it, `my_ring#1f3a2b`. Ranks compare what they
call by such names, as they do with all others: ranks that have made different schedules get an error, not a hang.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from hashlib import sha256

from npdp.collectives.algorithms import OWN, Maker, name_of
from npdp.collectives.schedule import Schedule, as_schedule
from npdp.collectives.wrong import WrongSchedule

_proving = threading.Lock()
_wrong: dict[str, tuple[str, str, int | None, Schedule | None]] = {}  # the last one that was refused, by its name


@lru_cache(maxsize=1024)
def proven(collective: str, maker: Maker, world_size: int, root: int = 0) -> str:
    """Return the name by which a function's schedule is known from now on.

    Raises:
        WrongSchedule: on all ranks, where it is wrong: all prove the same one.
        TypeError: the function returns no schedule.
    """
    schedule = as_schedule(maker(world_size, root) if collective == "broadcast" else maker(world_size))
    what = repr((collective, world_size, root, [[tuple(move) for move in step] for step in schedule]))
    name = f"{name_of(maker)}#{sha256(what.encode()).hexdigest()[:8]}"
    with _proving:  # ranks may be threads: one proves, and the others learn what came of it
        if name not in OWN and name not in _wrong:
            _prove(name, schedule, collective, world_size, root)
        if name in _wrong:
            raise WrongSchedule(*_wrong[name])
    return name


def _prove(name: str, schedule: Schedule, collective: str, world_size: int, root: int) -> None:
    from npdp.collectives.verify import prove  # who uses npdp's own schedules does without

    try:
        prove(schedule, collective, world_size, root)
    except WrongSchedule as error:
        _wrong.clear()
        _wrong[name] = error.sentence, error.picture, error.step, error.mended
    else:
        OWN[name] = schedule
