"""An all-reduce that is settled beforehand does, each time, what the world would do at that time."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs_shared_memory
from worlds import record, run

import npdp
from npdp.comm.errors import CommunicationError
from npdp.parallel.world import init


def arrays(count, shared):
    """Return two arrays of this rank, and what fills them anew."""
    made = [npdp.shared_empty(count, np.float32) if shared else np.empty(count, np.float32) for _ in range(2)]

    def fill(salt):
        for number, array in enumerate(made):
            array[:] = np.arange(count) % 97 + npdp.rank() * (salt + number + 1)

    return made, fill


@given(
    st.integers(1, 5),
    st.integers(0, 5000),
    st.booleans(),
    st.lists(st.sampled_from(["persistent", "plain", "ring", "barrier", "other", "algorithm"]), max_size=8),
)
@settings(max_examples=40, deadline=None)
def test_it_gives_what_a_plain_one_gives_in_any_mix_of_calls(world_size, count, shared, calls):
    def program():
        world = init()
        (array, other), fill = arrays(count, shared)
        allreduce = world.persistent_allreduce(array)
        for salt, call in enumerate([*calls, "persistent"]):
            fill(salt)
            wanted = sum(np.arange(count) % 97 + rank * (salt + 1) for rank in range(world_size))
            if call == "barrier":
                world.barrier()
            elif call == "algorithm":
                world.algorithm = ("naive", "auto", "ring")[salt % 3]
            elif call == "other":
                world.allreduce(other)
            elif call == "persistent":
                allreduce()
                np.testing.assert_array_equal(array, wanted)
            else:
                world.allreduce(array, algorithm=None if call == "plain" else call)
                np.testing.assert_array_equal(array, wanted)
        return world.clock.collective_s

    assert all(seconds > 0 for seconds in run(world_size, program)) or world_size == 1


@needs_shared_memory
def test_it_goes_another_way_when_the_world_does():
    """What a world is told after the call was settled holds for it too."""

    def program():
        world, seen = init(), []
        world.algorithm = "shared_memory"
        array = np.ones(8, np.float32)
        allreduce = world.persistent_allreduce(array)

        @contextmanager
        def context():
            seen.append("around")
            yield

        world.around.append(context)
        allreduce()
        world.around.clear()
        recorder = record()
        allreduce()
        assert recorder.sent == []
        world.algorithm = "ring"
        allreduce()
        return seen, len(recorder.sent), array.tolist()

    assert run(2, program) == [(["around"], 2, [8.0] * 8)] * 2


@needs_shared_memory
def test_it_is_chosen_anew_when_other_constants_are_used():
    def program():
        world = init()
        allreduce = world.persistent_allreduce(np.ones(8, np.float32))
        machine = world.chooser.constants.machine
        recorder = record()
        allreduce()
        before = len(recorder.sent)
        dear = replace(machine, kernel=replace(machine.kernel, first_s=1e3))
        world.chooser.use(world.chooser.constants._replace(machine=dear))
        allreduce()
        return before, world.chosen("allreduce", 32) != "shared_memory", len(recorder.sent) > 0

    assert run(2, program) == [(0, True, True)] * 2


@needs_shared_memory
def test_a_rank_that_calls_something_else_is_told_so():
    def program():
        world = init()
        array = npdp.shared_empty(1000, np.float32)
        array[:] = 1
        allreduce = world.persistent_allreduce(array)
        allreduce()
        if world.rank == 1:
            world.allreduce(array, "max")
        else:
            allreduce()

    with pytest.raises(CommunicationError, match=r"rank \d calls allreduce of 1000 float32 \((sum|max)\), rank \d "):
        run(3, program)
