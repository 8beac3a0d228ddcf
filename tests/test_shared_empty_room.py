"""Memory that ranks share is taken back and used again, and where the host has too little they do without."""

import os
import threading
import time

import numpy as np
import pytest
from memories import address, open_memories, reserved_bytes
from needs import needs_shared_memory
from worlds import run

import npdp
from npdp.comm import shared_memory as memory
from npdp.comm.shared_memory import SharedMemory
from npdp.parallel.world import init

pytestmark = needs_shared_memory


# What it takes back
def test_memory_is_used_again_once_all_ranks_have_dropped_it():
    def program():
        places = set()
        for turn in range(100):  # 40 MB in all
            array = npdp.shared_empty(100_000 + turn % 5, np.float32)
            array[-1] = turn
            places.add(address(array))
            del array
        return len(places), reserved_bytes()

    for places, nbytes in run(2, program):
        assert places <= 2 and nbytes < 8 << 20


def test_a_view_keeps_the_memory_and_one_rank_that_keeps_it_keeps_it_for_all():
    def program():
        view = npdp.shared_empty((10, 10), np.int64)[3:5].T
        view[...] = 7 + npdp.rank()
        others = [npdp.shared_empty((10, 10), np.int64) for _ in range(3)]
        for other in others:
            other[...] = -1
        kept = bool((view == 7 + npdp.rank()).all())
        before = address(view)
        if npdp.rank() == 1:
            del view
        del others, other
        places = {address(npdp.shared_empty((10, 10), np.int64)) for _ in range(3)}
        return kept, min(abs(place - before) for place in places) >= 800

    assert run(3, program) == [(True, True)] * 3


def test_neighbours_that_are_free_make_room_for_something_larger():
    def program():
        parts = [npdp.shared_empty(4096, np.int64) for _ in range(5)]
        at = [address(array) for array in parts]
        for number in (3, 1, 2):
            parts[number] = None
        return at[1], address(npdp.shared_empty(3 * 4096, np.int64)), at[4]

    first, again, last = run(2, program)[0]
    assert first == again < last


def test_worlds_leave_no_memory_behind():
    before = open_memories()
    for _ in range(10):
        run(3, lambda: npdp.shared_empty(1000).fill(1))
    assert open_memories() == before


def test_what_is_reserved_stays_reserved_though_it_takes_the_place_of_something_given_back(monkeypatch):
    """Else a page is missing when memory has run out, and the first to touch it is killed (SIGBUS)."""
    give_back = SharedMemory.give_back

    def slowly(self, *place):
        time.sleep(0.05)
        give_back(self, *place)

    monkeypatch.setattr(SharedMemory, "give_back", slowly)

    def program():
        found = []
        for _ in range(2):
            array = npdp.shared_empty(1 << 16)  # for more room is looked for before, which is a meeting as well
            npdp.barrier()
            found.append(reserved_bytes())
            npdp.barrier()
            del array
        return found

    for first, second in run(3, program):
        assert second == first >= 3 << 18


def test_an_array_is_an_ordinary_one_on_all_ranks_where_one_cannot_reserve_it(monkeypatch):
    reserve, short = SharedMemory.reserve, [True]

    def reserve_little(self, start, nbytes):
        if short[0] and threading.current_thread().name == "rank 1" and nbytes > 1 << 20:
            return False
        return reserve(self, start, nbytes)

    monkeypatch.setattr(SharedMemory, "reserve", reserve_little)

    def program():
        world = init()
        small = npdp.shared_empty(1000)  # there is room for this
        npdp.barrier()
        before = reserved_bytes()
        large = npdp.shared_empty(1 << 20)
        large[:] = npdp.rank()
        npdp.allreduce(large)
        npdp.barrier()
        short[0] = False
        npdp.barrier()
        again = npdp.shared_empty(1 << 20)
        shared = [world.memory.everyones(array) is not None for array in (small, large, again)]
        npdp.barrier()
        return shared, bool((large == 3).all()), world.memory.is_of_all, (reserved_bytes() - before) >> 20

    assert run(3, program) == [([True, False, True], True, True, 12)] * 3


def test_more_than_the_host_has_is_an_ordinary_array():
    def program():
        count = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
        return init().shared_once(count, np.dtype(np.float32)) is None, npdp.shared_empty(10).size

    assert run(2, program) == [(True, 10)] * 2


def test_other_memory_than_the_ticket_names_is_not_taken_for_it():
    """Another container's process may have the same number, and a file open under it."""
    before = open_memories()
    ticket = memory.make(4096)[1]
    assert memory.find(ticket, 4096) is None  # that memory is gone
    found, ticket = memory.make(4096)
    other, other_ticket = memory.make(4096)
    assert memory.find(ticket, 4096).memory[:8192] == found.memory[:8192]
    assert memory.find(ticket._replace(fd=other_ticket.fd), 4096) is None
    assert memory.find(ticket._replace(pid=2**22 + 1), 4096) is None
    assert memory.find(ticket._replace(nbytes=ticket.nbytes + 4096), 4096) is None
    del found, other
    assert open_memories() == before


def test_where_address_space_is_short_the_mapping_is_smaller(monkeypatch):
    whole, asked = memory.mmap.mmap, []

    def limited(fd, nbytes):
        asked.append(nbytes)
        if nbytes > 1 << 30:
            raise OSError("Cannot allocate memory")
        return whole(fd, nbytes)

    monkeypatch.setattr(memory.mmap, "mmap", limited)
    before = open_memories()
    assert run(2, lambda: init().memory.is_of_all) == [True, True]
    assert max(asked) > 1 << 30 >= min(asked)
    assert open_memories() == before


def test_a_limit_on_address_space_leaves_half_of_it_to_the_program(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda limit: (1 << 30, 1 << 40))
    assert memory.make(4096)[1].nbytes == 1 << 29


@pytest.mark.parametrize("call", ["memfd_create", "ftruncate", "posix_fallocate"])
def test_ranks_do_without_where_the_system_refuses_and_no_file_stays_open(call, monkeypatch):
    """As in a container that forbids a call, or under `ulimit -f` or `ulimit -n`."""

    def refuse(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(memory.os, call, refuse)
    before = open_memories()
    assert run(2, lambda: init().memory.is_of_all) == [False, False]
    assert open_memories() == before
