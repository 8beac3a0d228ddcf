"""Boards: where the ranks' programs are, and what they wait for, as other ranks see it without asking them.

    rank 2's board   iteration 17 | forward | its program waits for: - | its server: - | stack, when it is asked for

A rank that computes, is stopped or holds Python's lock cannot answer. So each writes on a board of its own, a file in
memory (memfd), which the other ranks of its host open through its process. Nobody reads it but a rank that has waited
for long. What a program's Python stack is the system's signal handler writes there (faulthandler), in C, whatever the
program does meanwhile; the signal is a real-time one, which programs hardly use.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from npdp.base import environment
from npdp.base.place import Place

T = TypeVar("T")
FRESH_S = 1.2  # a rank that waits says so every half second, at least
STACK_S = 0.3  # what a stack may take to be written
LONGEST_TEXT = 160
WORD = "npdp board of rank {}"  # a file in the launcher's folder: its process, and the descriptor there
RUNNING, STOPPED, ENDED, ELSEWHERE = "running", "stopped", "ended", "elsewhere"
STACK_SIGNAL = getattr(signal, "SIGRTMAX", 0) - 4


class Wait(NamedTuple):
    """A rank's wait.

    Attributes:
        since: by time.perf_counter(), which the ranks of a host have in common.
        ranks: for whom; by their numbers at the start.
        of_servers: whether for what these ranks do as servers.
        call: in which collective.
    """

    since: float
    ranks: list[int]
    of_servers: bool
    call: str


class Seen(NamedTuple):
    """What is seen of a rank.

    Attributes:
        state: RUNNING, STOPPED or ENDED; ELSEWHERE where only its host can tell.
        process: its number and host, for people; empty where it is a thread.
        place: of its program, as "backward of iteration 17"; empty before the first.
        waits: its program's wait, and that of its server beside it or instead; None where it has waited for nothing.
    """

    state: str
    process: str = ""
    place: str = ""
    waits: tuple[Wait | None, Wait | None] = (None, None)


class Board:
    """Base class of boards: that of a rank which nobody sees, and which sees nobody.

    Attributes:
        place: of this rank's program.
    """

    def __init__(self) -> None:
        self.place = Place()

    def tell(self, wait: Wait, as_server: bool) -> None:
        """Tell the others that this rank waits, again and again as long as it does."""

    def look(self, rank: int) -> Seen:
        """Return what is seen of a rank."""
        return Seen(ELSEWHERE)

    def stack(self, rank: int) -> list[str]:
        """Return where a rank's program stands, innermost call first; empty where that is not known."""
        return []

    def kill(self, rank: int) -> bool:
        """Kill a rank's process, if it lives; return whether it is within reach."""
        return False


class _Wait(ctypes.Structure):
    _fields_ = (
        ("since", ctypes.c_double),
        ("told", ctypes.c_double),  # when last
        ("of_servers", ctypes.c_bool),
        ("ranks", ctypes.c_wchar * LONGEST_TEXT),
        ("call", ctypes.c_wchar * LONGEST_TEXT),
    )


class _Page(ctypes.Structure, Place):
    """The first page of a board: it is the rank's place itself, so that a program that goes on costs no more."""

    _fields_ = (
        ("iteration", ctypes.c_int64),
        ("part", ctypes.c_wchar * 32),
        ("waits", _Wait * 2),
        ("writes_stack", ctypes.c_bool),  # when it gets STACK_SIGNAL
    )


class _Process(NamedTuple):
    """A rank's process, and how others find its board there."""

    machine: str  # and its view of processes: other ranks of it see the same ones
    host: str
    number: int
    fd: int
    inode: int


class ProcessBoard(Board):
    """Board of a rank that is a process; collective when it is made.

    Args:
        rank: this one's number.
        everyones: gathers what is given, from all ranks in order.
    """

    def __init__(self, rank: int, everyones: Callable[[Any], list[Any]]) -> None:
        self._file, page = _new_file()
        self._page = page
        self.place = page
        inode = os.fstat(self._file).st_ino if self._file >= 0 else 0
        mine = _Process(_machine(), os.uname().nodename, os.getpid(), self._file, inode)
        _tell_launcher(rank, mine)
        self._rank = rank
        self._processes = [_Process(*process) for process in everyones(tuple(mine))]

    def tell(self, wait: Wait, as_server: bool) -> None:
        note = self._page.waits[as_server]
        note.told = 0.0  # what follows is not to be read half
        note.since, note.of_servers, note.call = wait.since, wait.of_servers, wait.call[: LONGEST_TEXT - 1]
        note.ranks = ",".join(map(str, wait.ranks[: LONGEST_TEXT // 8]))
        note.told = time.perf_counter()

    def look(self, rank: int) -> Seen:
        process = self._processes[rank]
        name = f"process {process.number} on {process.host}"
        if process.machine != self._processes[self._rank].machine:
            return Seen(ELSEWHERE, process.host)
        state, page = _state(process.number), self._page_of(process)
        if page is None:
            return Seen(state, name)
        program, server = (_wait_of(note) for note in page.waits)
        return Seen(state, name, str(page), (program, server))

    def stack(self, rank: int) -> list[str]:
        process = self._processes[rank]
        page, length = self._page_of(process), self._length(process)
        if page is None or length is None or not (page.writes_stack and _catches(process.number, STACK_SIGNAL)):
            return []  # the signal would end the process, or is the program's own
        os.kill(process.number, STACK_SIGNAL)
        until, before = time.perf_counter() + STACK_S, length
        while time.perf_counter() < until:
            time.sleep(STACK_S / 10)
            now = self._length(process) or length
            if now == before > length:
                break
            before = now
        text = self._read(process, length, before - length) or b""
        return [line.strip() for line in text.decode(errors="replace").splitlines() if line.startswith("  File")]

    def kill(self, rank: int) -> bool:
        process = self._processes[rank]
        with contextlib.suppress(ProcessLookupError):
            if self._length(process) is not None:
                os.kill(process.number, signal.SIGKILL)
        return process.machine == self._processes[self._rank].machine

    def _page_of(self, process: _Process) -> _Page | None:
        content = self._read(process, 0, ctypes.sizeof(_Page))
        return None if content is None else _Page.from_buffer_copy(content)

    def _length(self, process: _Process) -> int | None:
        return _with_file(process, lambda fd: os.fstat(fd).st_size)

    def _read(self, process: _Process, start: int, nbytes: int) -> bytes | None:
        return _with_file(process, lambda fd: os.pread(fd, nbytes, start))


def _tell_launcher(rank: int, process: _Process) -> None:
    """Leave word of a board for npdp's own launcher on this host, where that has started this rank."""
    folder = os.environ.get(environment.JOB_FOLDER, "")
    with contextlib.suppress(OSError), open(os.path.join(folder, WORD.format(rank)), "x") as file:
        file.write(f"{process.number} {process.fd}\n")


def place_on(file: int) -> Place:
    """Return the place that a board's file shows."""
    return _Page.from_buffer_copy(os.pread(file, ctypes.sizeof(_Page), 0))


def _with_file(process: _Process, use: Callable[[int], T]) -> T | None:
    """Return what `use` makes of a process's board; None where it is out of reach, or that process is another."""
    try:
        fd = os.open(f"/proc/{process.number}/fd/{process.fd}", os.O_RDONLY)
    except OSError:
        return None
    try:
        return use(fd) if os.fstat(fd).st_ino == process.inode else None
    finally:
        os.close(fd)


def _new_file() -> tuple[int, _Page]:
    """Return a board's file, -1 where there can be none, and its first page, mapped."""
    try:
        file = os.memfd_create("npdp board")
        os.write(file, bytes(mmap.PAGESIZE))  # stacks follow
        page = _Page.from_buffer(mmap.mmap(file, mmap.PAGESIZE))
    except (OSError, AttributeError, ValueError):  # not Linux, or a limit
        file, page = -1, _Page()
    page.iteration = -1
    if file >= 0 and signal.getsignal(STACK_SIGNAL) == signal.SIG_DFL:
        faulthandler.register(STACK_SIGNAL, file, all_threads=False)
        page.writes_stack = True
    return file, page


def _wait_of(note: Any) -> Wait | None:
    """Return the wait that a rank is in, by its note; None where it has not said so for long."""
    if time.perf_counter() - note.told > FRESH_S:
        return None
    ranks = [int(rank) for rank in note.ranks.split(",") if rank]
    return Wait(note.since, ranks, note.of_servers, note.call)


def _machine() -> str:
    """Return what ranks have in common that see the same processes by the same numbers."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return f"process {os.getpid()} of {os.uname().nodename}"


def _state(process: int) -> str:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            letter = file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return ENDED
    return STOPPED if letter in b"Tt" else ENDED if letter in b"ZX" else RUNNING


def _catches(process: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    try:
        with open(f"/proc/{process}/status") as file:
            masks = dict(line.split(":", 1) for line in file)
    except OSError:
        return False
    return bool(int(masks.get("SigCgt", "0"), 16) >> (number - 1) & 1)
