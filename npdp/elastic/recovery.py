"""Recovery: after deaths the ranks that are left agree on where they are, and train on from there.

    training ──RankDied──► meet ──► narrow ──► catch up ──► attach ──► training
                            ▲                     │            │
                            └──────RankDied───────┴────────────┘

    meet        all that live make a new transport, and say how far they are (done, ended, looked)
    narrow      the communicator goes on with that transport, in place, and so do all that hold it
    catch up    where some have done the last update and some have not, the first that has broadcasts its state;
                the others take it over when it is complete. One update is the most that ranks differ by
                Spares, which wait until they are among the first ranks that live, do so as well
    attach      a new strategy, with new memory for gradients; the loader stands behind the last batch that is done

Parameters were changed by whole updates only, so nothing is rolled back: the iteration in flight is done again, from
the same parameters, with the same global batch, cut for the ranks there are.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from npdp.collectives.communicator import Communicator
from npdp.comm.errors import RankDied
from npdp.comm.survival import LEFT, NOT_BEGUN
from npdp.elastic import checkpoint
from npdp.elastic.strategy import ElasticAllReduce, train_by_anew
from npdp.parallel.world import become
from npdp.torch_names import files

if TYPE_CHECKING:
    from npdp.elastic.state import State

T = TypeVar("T")

SPARE = (-1, 0, 0)  # what a rank says that has no part in what was trained
SPARES_LOOK_EVERY_S = 0.01


class BeginAgain(Exception):  # noqa: N818 - what is to be done
    """Unwinds this rank to where all begin, as some had not begun yet when another died."""


class Recovery(NamedTuple):
    """A recovery that is done.

    Attributes:
        lost: ranks that died, by their numbers at launch.
        began_s: when this rank saw the first death, by `time.monotonic()`.
        seconds: how long it took from there.
    """

    lost: list[int]
    began_s: float
    seconds: float


def recover(state: State) -> Recovery | None:
    """Go on with the ranks that live, after RankDied; collective over them. Recovers again where one more dies.

    Returns None where there is nothing left to do: a rank has left its program, which all have to complete first.

    Raises:
        BeginAgain: some have not begun.
    """
    began_s, launched = time.monotonic(), state.launched
    state.settle()
    while True:
        try:
            transport: Any = state.world.transport
            met = transport.survivors(state.words)
            state.world.place.part = "recovery"
            narrow(state, met)
            if LEFT in met.said:
                return None
            if NOT_BEGUN in met.said:
                raise BeginAgain
            if not state.is_spare:
                regroup(state, met.said[: state.workers])
        except RankDied:
            continue
        state.ledger.recoveries += 1
        return Recovery(sorted(launched - state.launched), began_s, time.monotonic() - began_s)


def regroup(state: State, said: Sequence[tuple[int, ...]]) -> None:
    """Train on among the ranks of the communicator, each of which has said how far it is; collective.

    Raises:
        RuntimeError: only spares are left.
    """
    state.before.put_back()
    done = [words[0] for words in said]
    if max(done) < 0:
        raise RuntimeError("elastic: all ranks that trained have died, spares know nothing: go on from a checkpoint")
    if min(done) != max(done):
        _catch_up(state, done.index(max(done)), is_behind=state.words[0] < max(done))
    state.ended, state.looked = (min(words[place] for words in said if words != SPARE) for place in (1, 2))
    train_by_anew(state.model, ElasticAllReduce(state.all_reduce, state.ledger))
    state.place_loader()


def narrow(state: State, transport: Any) -> None:
    """Have the communicator go on with the workers of a new transport; a spare's with all of its ranks."""
    several = transport.world_size > state.workers
    state.is_spare = transport.rank >= state.workers
    narrow_world(state.world, transport.subworld(range(state.workers)) if several and not state.is_spare else transport)


def narrow_world(world: Communicator, transport: Any) -> None:
    """Have a communicator go on with another transport, and its clock with the time that was spent."""
    wait_s = world.clock.wait_s
    spent_s = max(wait_s, world.clock.collective_s)  # a collective that was interrupted is not in the second
    world.narrow(transport)
    world.clock.count(spent_s, wait_s)
    become(world)


def _catch_up(state: State, root: int, is_behind: bool) -> None:
    """Take over the root's state where this rank is behind; collective."""
    world, guard, file = state.world, state.model.strategy.guard, io.BytesIO()
    if world.rank == root:
        said = {"ledger": state.ledger.state_dict(), "skipped": guard.skipped if guard else 0}
        content = checkpoint.capture(state.model, state.optimizer, None, said)
        files.save(content, file)
    size = np.array([len(file.getbuffer())], np.int64)
    world.broadcast(size, root)
    words = np.zeros(-(-int(size[0]) // 8), np.int64)
    words.view(np.uint8)[: len(file.getbuffer())] = file.getbuffer()
    world.broadcast(words, root)
    if is_behind:
        content = files.load(io.BytesIO(words.tobytes()))
        more = checkpoint.restore(content, state.model, state.optimizer)
        state.ledger.load_state_dict(more["ledger"])
        if guard is not None:
            guard.skipped = more["skipped"]
        state.caught_up()


def through_deaths(
    state: State, program: Callable[[], object], recovered: Callable[[Recovery], object]
) -> None:
    """Do `program()`, again after each recovery: it goes on from wherever the state is. Collective.

    Its end has to be a collective, so that no rank leaves before all have done its part.
    """
    while True:
        try:
            if state.is_spare:
                _wait(state.world)
            program()
            return
        except RankDied:  # what it was in is left behind: no frame of it is kept
            pass
        recovery = recover(state)
        if recovery is None:
            if state.is_spare:
                sys.exit()
            return
        recovered(recovery)


def _wait(world: Communicator) -> NoReturn:
    """Wait, as a spare: raise RankDied when a rank dies, and leave the program when others do."""
    others = [rank for rank in range(world.world_size) if rank != world.rank]
    while (ended := world.transport.ended(others)) is None:
        time.sleep(SPARES_LOOK_EVERY_S)
    if isinstance(ended, RankDied):
        raise ended
    sys.exit()


def from_the_start(world: Communicator, program: Callable[[], T]) -> T:
    """Return `program()`, which makes a state; begun anew where a rank dies before all have one. Collective."""
    while True:
        try:
            return program()
        except BeginAgain:
            continue
        except RankDied:
            pass
        transport: Any = world.transport
        narrow_world(world, transport.survivors(NOT_BEGUN))
