"""Recovery of a parameter server: after deaths the ranks that are left give what they have, and begin anew from it.

    program ──RankDied──► stop ──► meet ──► gather ──► program
                                    ▲         │
                                    └─RankDied┘

    stop      the threads beside: replicas, and a server's where it is a worker too
    meet      all that live make a new transport, and say how far they are
    gather    each tells which shards it holds, of which versions; all get each shard from one that has it
    program   everything is made anew on the narrowed communicator, and takes over what was gathered

With staleness 0 all shards are taken at the greatest version that every one of them is to be had at; who is ahead of it
has it too, undone. Else each shard is taken from who is furthest, with its set of applied work items.

Where a server and the rank with its replicas die before a recovery has ended, their shards are lost: the job ends.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from npdp.base.errors import DivergedError, InputError, OutputError, StoppedError
from npdp.collectives.communicator import Communicator
from npdp.comm.errors import CommunicationError, RankDied
from npdp.comm.survival import LEFT
from npdp.comm.transport import Transport
from npdp.data import DataLoader
from npdp.data.sampler import this_rank
from npdp.elastic.recovery import Recovery, narrow_world
from npdp.elastic.servers.replicas import Replicated
from npdp.elastic.servers.shards import Kept, Place, Snapshot, described
from npdp.nn.module import Module
from npdp.optim import Optimizer
from npdp.optim.groups import ParameterGroup, Span, within
from npdp.parallel.data_parallel import DataParallel
from npdp.parallel.parameter_server.messages import Request

T = TypeVar("T")
BUFFERS = (
    "elastic training under a parameter server: wanted a model without buffers, got {}: servers have none of them, and "
    "the worker whose they are may die; use --strategy allreduce"
)
ALIKE = SystemExit, StoppedError, DivergedError, InputError, OutputError  # what is raised on all workers
LOST = (
    "parameter server: shards of the parameters are lost ({}): their server and the rank with their replicas died "
    "before a recovery had ended. There is no checkpoint under a parameter server: train from the start"
)


class Survival:
    """What of a parameter server on one rank outlives a communicator.

    Args:
        world: of all ranks, before any model is wrapped.
        synchronous: whether staleness is 0.

    Attributes:
        transport: of all ranks, workers and servers.
        ranges: into how many the parameters are cut, for good, however many servers there are.
        parts: into how many work items a batch is cut, for good, where they are assigned.
        iterations_per_epoch: of the training data's loader.
        begun_with: every shard, as it was when training went on; empty where it began.
        ended: epochs whose end this rank has seen.
        works: whether it was a worker last.
        recovery: the last one.
        recoveries: how many there were.
    """

    def __init__(self, world: Communicator, synchronous: bool) -> None:
        self.transport: Any = world.transport
        self.synchronous = synchronous
        self.ranges = self.parts = self.recoveries = self.ended = 0
        self.iterations_per_epoch, self.works = 1, False
        self.begun_with: dict[Place, Snapshot] = {}
        self.recovery: Recovery | None = None
        self._replicated: list[Replicated] = []
        self._kept: list[Kept] = []
        self._begun = False  # whether this communicator's shards are all made, on this rank
        self._beside: dict[str, threading.Thread] = {}

    # What the strategy calls
    def left(self) -> dict[tuple[int, int], tuple[Request, list[int]]]:
        """Return the work items that some shard has not applied, of each pass that has begun."""
        sets = [snapshot.record.applied.passes for snapshot in self.begun_with.values()]
        begun = {of: request for passes in sets for of, (request, _) in passes.items()}
        return {of: (request, _missing(of, request, sets)) for of, request in begun.items()}

    def begin(self, replicated: list[Replicated], replicas: Mapping[Place, Kept], world: Communicator) -> None:
        """Take these for the shards that this rank keeps; collective. Who returns knows that all ranks have theirs."""
        self._replicated, self._kept = replicated, [*(shard.kept for shard in replicated), *replicas.values()]
        self._begun, self.works = True, False
        world.barrier()
        self.begun_with = {of: snapshot._replace(arrays={}) for of, snapshot in self.begun_with.items()}

    def beside(self, run: Callable[[], None], fail: Callable[[BaseException], None], name: str) -> threading.Thread:
        """Run on a thread, which ends where a rank has died, and hands other errors to `fail`."""

        def until_a_death() -> None:
            try:
                run()
            except RankDied:
                pass  # the program hears of it, too
            except BaseException as error:
                fail(error)

        thread = self._beside[name] = threading.Thread(target=until_a_death, name=name, daemon=True)
        thread.start()
        return thread

    # What the program calls
    def take_over(self, model: Module, optimizer: Optimizer, loader: DataLoader) -> None:
        """Give a model that was made anew, its optimiser and loader the state that was gathered, before it is wrapped.

        Raises:
            InputError: the model has buffers, which nobody would keep.
        """
        if names := [name for name, _ in model.named_buffers()]:
            raise InputError(BUFFERS.format(names[0]))
        self.iterations_per_epoch = loader.iterations_per_epoch
        if not self.begun_with:
            return
        flats = dict.fromkeys(parameter.flat for parameter in model.parameters() if parameter.requires_grad)
        groups = [group for flat in flats for group in optimizer.groups if group.flat is flat]
        for (number, server), snapshot in self.begun_with.items():
            group = groups[number]
            start, stop = group.flat.part_in_lines(self.ranges, server)
            for span in within(_spans_of(group), start, stop):
                for name, array in snapshot.arrays.items():
                    whole = group.flat.data if name == "data" else group.state[name]
                    whole[span.start : span.stop] = array[span.start - start : span.stop - start]
        batches = self.version - self.ended * self.iterations_per_epoch if self.synchronous else 0
        place = {"epoch": self.ended, "batches": batches, "passes": self.ended}
        loader.load_state_dict({**loader.state_dict(), **place})

    def count_on(self, model: DataParallel, optimizer: Optimizer, loader: DataLoader) -> None:
        """Have a model that is wrapped, and its optimiser, count on from where training was."""
        optimizer.iteration = self.version if self.synchronous else self.version // self.parts
        if self.synchronous and (forwards := model.own_forwards()) is not None:
            forwards.number += self.version * loader.accumulate

    @property
    def version(self) -> int:
        """Version of the first shard when training went on."""
        return self.begun_with[0, 0].record.version if self.begun_with else 0

    def end_epoch(self) -> None:
        """Note that all is done that is to be done after an epoch."""
        self.ended += 1

    def close(self) -> None:
        """End the threads beside, after all workers have left the servers."""
        if "server" in self._beside:
            self._beside["server"].join()
        for shard in self._replicated:
            shard.end()
        if "replicas" in self._beside:
            self._beside["replicas"].join()

    # Recovery
    def recover(self, world: Communicator) -> bool:
        """Gather what is left, after RankDied; collective over the ranks that live. Again where one more dies.

        Returns whether there is something left to do: False where a rank has left its program, after all had done all.

        Raises:
            CommunicationError: a shard is lost.
        """
        began_s, launched = time.monotonic(), set(self.transport.launched)
        for thread in self._beside.values():
            thread.join()
        this_rank.assign, this_rank.loaders = None, 0  # the program makes all anew
        while True:
            try:
                met = self.transport.survivors((self.ended, int(self.works), self.recoveries))
                world.place.part = "recovery"
                narrow_world(world, met)
                self.transport = met
                if LEFT in met.said:
                    return False
                self._gather(world, met.said)
            except RankDied:
                continue
            self.recoveries = max(self.recoveries, *(words[2] for words in met.said)) + 1
            self.recovery = Recovery(sorted(launched - set(met.launched)), began_s, time.monotonic() - began_s)
            return True

    def _gather(self, world: Communicator, said: list[tuple[int, ...]]) -> None:
        """Get every shard from a rank that has it; collective."""
        held = self._held()
        mine = {"begun": self._begun, "held": [{"place": place, **state.describe()} for place, state in held]}
        everyones = [json.loads(text) for text in world.gather_texts(json.dumps(mine))]
        chosen = self._choose(everyones)
        gathered = {}
        for place, (rank, index) in sorted(chosen.items()):
            what = everyones[rank]["held"][index]
            arrays = {}
            for name, dtype, count in what["arrays"]:
                arrays[name] = held[index][1].arrays[name].copy() if rank == world.rank else np.empty(count, dtype)
                world.broadcast(arrays[name], rank)
            gathered[place] = described(what, arrays)
        self.begun_with, self._begun, self._beside = gathered, False, {}
        workers = [words[0] for words in said if words[1]]
        self.ended = workers[0] if workers else self._complete_epochs()

    def _held(self) -> list[tuple[Place, Snapshot]]:
        """Return the shards that this rank has: those of this communicator, once all have theirs; else of before."""
        if self._begun or not self.begun_with:
            return [(kept.place, snapshot) for kept in self._kept for snapshot in kept.snapshots()]
        return list(self.begun_with.items())

    def _choose(self, everyones: list[dict[str, Any]]) -> dict[Place, tuple[int, int]]:
        """Return for each shard who has it, rank and index among what that one holds; the same on all ranks."""
        found: dict[Place, dict[int, tuple[int, int]]] = {}
        for rank, theirs in enumerate(everyones):
            for index, what in enumerate(theirs["held"]):
                found.setdefault(tuple(what["place"]), {}).setdefault(what["version"], (rank, index))
        groups = max((number for number, _ in found), default=-1) + 1
        missing = [of for of in np.ndindex(groups, self.ranges) if of not in found]
        if missing and all(theirs["begun"] for theirs in everyones):
            raise CommunicationError(LOST.format(len(missing)))
        if missing:  # some had none yet, so nobody has updated any
            return {}
        common = min((max(versions) for versions in found.values()), default=0)
        return {of: versions[common if self.synchronous else max(versions)] for of, versions in found.items()}

    def _complete_epochs(self) -> int:
        if self.synchronous:
            return self.version // self.iterations_per_epoch
        return sum(not numbers for (loader, _), (_, numbers) in self.left().items() if loader % 2 == 0)


def _spans_of(group: ParameterGroup) -> list[Span]:
    starts = group.flat.starts
    return [Span(starts[number], starts[number + 1], 0) for number in group.numbers]


def _missing(of: tuple[int, int], request: Request, sets: list[Any]) -> list[int]:
    """Return the numbers of a pass that are missing from any of the sets; all where one knows nothing of it."""
    everything = request, set(range(request.items))
    return sorted(set().union(*(passes.get(of, everything)[1] for passes in sets)))


def through_deaths(world: Communicator, survival: Survival, program: Callable[[], T]) -> T:
    """Return `program()`, begun anew after each recovery, in which it takes over what survived; collective.

    A rank that serves leaves by SystemExit, as ever, when all have done all; workers that end alike, as where training
    is to stop, leave together with it.
    """
    while True:
        ended: BaseException | None = None
        try:
            try:
                result = program()
            except ALIKE as end:
                ended = end
            survival.close()
            meet(survival.transport)
        except RankDied:  # what it was in is left behind: no frame of it is kept
            pass
        else:
            break
        if not survival.recover(world):
            break
    if ended is not None:
        raise ended
    return result


def meet(transport: Transport) -> None:
    """Return when all ranks have come here: servers while workers have still to score the model, say."""
    transport = copy.copy(transport)
    transport.stalls = transport.stalls.on_a_line(serves=True)  # it may take as long as it takes
    number, others = np.zeros(1, np.int64), range(1, transport.world_size)
    if transport.rank:
        transport.wait(transport.send(number, 0))
        transport.wait(transport.receive(number, 0))
        return
    for peer in others:
        transport.wait(transport.receive(number, peer))
    for handle in [transport.send(number, peer) for peer in others]:
        transport.wait(handle)
