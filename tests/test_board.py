"""Boards of processes: where a rank is, what it waits for and where its program stands, without asking it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from npdp.comm.failures import board
from npdp.comm.failures.board import ELSEWHERE, ENDED, RUNNING, STOPPED, ProcessBoard, Wait

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="boards are files in memory, as Linux has them")

OTHER = """
import sys, time
from npdp.comm.failures.board import ProcessBoard, Wait

def in_a_function():
    print("ready", flush=True)
    while True:
        board.tell(Wait(5.0, [0, 2], False, "allreduce of 3 float32 (sum), bucket 1"), False)
        time.sleep(0.05)

def everyones(mine):
    print(*mine, sep="\\t", flush=True)
    return [mine]

board = ProcessBoard(0, everyones)
board.place.iteration, board.place.part = 16, "backward"
in_a_function()
"""


@contextmanager
def another(change=lambda process: process) -> Iterator[tuple[ProcessBoard, subprocess.Popen[str]]]:
    """Give the board of this process, as rank 0, and another process, as rank 1, known by what it says of itself."""
    with subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            machine, host, *numbers = other.stdout.readline().rstrip("\n").split("\t")
            assert other.stdout.readline() == "ready\n"
            theirs = change((machine, host, *map(int, numbers)))
            yield ProcessBoard(0, lambda mine: [mine, theirs]), other
        finally:
            other.kill()


def seen_until(mine, is_so):
    until = time.monotonic() + 10
    while not is_so(seen := mine.look(1)) and time.monotonic() < until:
        time.sleep(0.01)
    return seen


def test_where_a_rank_is_and_for_whom_it_waits_is_seen_until_it_ends_and_stopped_or_not():
    with another() as (mine, other):
        for _ in range(2):
            seen = seen_until(mine, lambda seen: seen.waits[0] is not None)
            assert (seen.state, seen.place) == (RUNNING, "backward of iteration 17")
            assert seen.process == f"process {other.pid} on {os.uname().nodename}"
            assert seen.waits == (Wait(5.0, [0, 2], False, "allreduce of 3 float32 (sum), bucket 1"), None)
            other.send_signal(signal.SIGSTOP)
            seen = seen_until(mine, lambda seen: seen.state == STOPPED)
            assert (seen.state, seen.place) == (STOPPED, "backward of iteration 17")
            time.sleep(board.FRESH_S)
            assert mine.look(1).waits == (None, None)
            other.send_signal(signal.SIGCONT)
        other.kill()
        assert seen_until(mine, lambda seen: seen.state == ENDED).state == ENDED


def test_the_stack_is_the_programs_each_time():
    with another() as (mine, other):
        for _ in range(3):
            first, *_ = (line for line in mine.stack(1) if "<string>" in line)
            assert first.endswith("in in_a_function")
        assert other.poll() is None


def test_the_board_of_another_process_of_that_number_is_not_taken_for_the_ranks():
    with another(lambda process: (*process[:4], process[4] + 1)) as (mine, other):
        assert mine.look(1).place == "" and mine.stack(1) == []
        assert other.poll() is None


def test_a_process_of_another_machine_is_elsewhere_whatever_has_its_number_here():
    with another(lambda process: ("another", "node7", *process[2:])) as (mine, other):
        assert mine.look(1) == (ELSEWHERE, "node7", "", (None, None))
        assert mine.stack(1) == [] or other.poll() is None


def test_without_files_in_memory_a_rank_is_seen_to_run_and_no_more(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    alone = ProcessBoard(0, lambda mine: [mine])
    alone.place.part = "forward"
    alone.tell(Wait(1.0, [1], False, "x" * 1000), False)
    assert alone.look(0).state == RUNNING and alone.look(0).place == "" and alone.stack(0) == []
