"""What room for memory the host and its control groups leave: read from files that stand in for the system's."""

import sys

import numpy as np
import pytest
from needs import needs_shared_memory
from worlds import run

import npdp
from npdp.collectives import arena
from npdp.comm import room
from npdp.comm import shared_memory as memory
from npdp.comm.shared_memory import SharedMemory
from npdp.parallel.world import init

MB = 1 << 20
NO_LIMIT = 9223372036854771712  # as version 1 says it


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return what writes files of /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(room, "PROC", tmp_path / "proc")
    monkeypatch.setattr(room, "GROUPS", tmp_path / "groups")

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")

    return write


def host(system, total, available):
    system("proc/meminfo", f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB")


def first(system, group, limit, used, cached=0):
    system(f"groups/memory/{group}/memory.limit_in_bytes", limit)
    system(f"groups/memory/{group}/memory.usage_in_bytes", used)
    system(f"groups/memory/{group}/memory.stat",
           f"cache 5\ninactive_file 7\ntotal_inactive_file {cached}\ntotal_active_file {cached}")  # fmt: skip


def second(system, group, limit, used, cached=0):
    system(f"groups/{group}/memory.max", limit)
    system(f"groups/{group}/memory.current", used)
    system(f"groups/{group}/memory.stat", f"file 5\ninactive_file {cached}\nactive_file {cached}")


def left(limit, used):
    return limit - limit // room.SPARE - used


def test_where_the_system_says_nothing_there_is_room_for_all(system):
    assert room.room_bytes() == sys.maxsize
    system("proc/self/cgroup", "4:memory:/job\n0::/job")
    system("proc/meminfo", "Buffers: 1 kB")
    assert room.room_bytes() == sys.maxsize


def test_the_host_has_what_it_says_is_available(system):
    host(system, 1000 * MB, 300 * MB)
    assert room.room_bytes() == left(1000 * MB, 700 * MB)


def test_a_group_of_version_1_has_its_limit_and_those_around_it(system):
    host(system, 1000 * MB, 900 * MB)
    system("proc/self/cgroup", "9:name=systemd:/\n4:memory:/job/step\n3:cpuset:/x\n0::/")
    first(system, "job/step", 600 * MB, 100 * MB)
    first(system, "", NO_LIMIT, 900 * MB)
    assert room.room_bytes() == left(600 * MB, 100 * MB)
    first(system, "job", 500 * MB, 400 * MB)
    assert room.room_bytes() == left(500 * MB, 400 * MB)


def test_a_group_of_version_2_has_its_limit_and_those_around_it(system):
    host(system, 1000 * MB, 900 * MB)
    system("proc/self/cgroup", "0::/job/step")
    second(system, "job/step", "max", 100 * MB)
    assert room.room_bytes() == left(1000 * MB, 100 * MB)
    second(system, "job", 300 * MB, 200 * MB)
    assert room.room_bytes() == left(300 * MB, 200 * MB)


@pytest.mark.parametrize(("line", "write"), [("4:cpu,memory:/docker/c0ffee", first), ("0::/", second)])
def test_a_container_has_the_limit_at_the_root_of_what_it_sees(line, write, system):
    system("proc/self/cgroup", line)
    write(system, "", 300 * MB, 200 * MB)
    assert room.room_bytes() == left(300 * MB, 200 * MB)


@pytest.mark.parametrize(("line", "write"), [("4:memory:/job", first), ("0::/job", second)])
def test_files_that_the_system_keeps_in_memory_make_room(line, write, system):
    system("proc/self/cgroup", line)
    write(system, "job", 300 * MB, 290 * MB, cached=100 * MB)
    assert room.room_bytes() == left(300 * MB, 90 * MB)


@needs_shared_memory
def test_an_array_for_which_there_is_no_room_for_all_ranks_is_an_ordinary_one(monkeypatch):
    """And nothing of it is reserved: the system would end the process."""
    reserved, rooms = [], {}
    reserve = SharedMemory.reserve
    monkeypatch.setattr(SharedMemory, "reserve", lambda *place: reserved.append(place[2]) or reserve(*place))
    monkeypatch.setattr(arena, "room_bytes", lambda: rooms.get(npdp.rank(), sys.maxsize))

    def program():
        world = init()
        npdp.shared_empty(10)
        npdp.barrier()
        if world.rank == 1:
            rooms[1] = 3 * MB
        everyones, counts = world.memory.everyones, (MB // 8, MB // 8 + 1)
        shared = [everyones(npdp.shared_empty(count, np.int64)) is not None for count in counts]
        npdp.barrier()
        return shared, world.shared_once(3 * MB // 8, np.dtype(np.int64)) is not None

    assert run(3, program) == [([True, False], True)] * 3
    assert MB + 4096 not in reserved and 3 * MB in reserved


@needs_shared_memory
def test_ranks_do_without_shared_memory_where_there_is_no_room_for_its_header(monkeypatch):
    monkeypatch.setattr(memory, "room_bytes", lambda: MB)
    assert run(2, lambda: init().memory.is_of_all) == [False, False]
