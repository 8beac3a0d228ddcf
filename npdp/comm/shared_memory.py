"""Shared memory between processes of a host: made by one, found by the others through its process.

It is a memfd: a file in memory without a name, so that nothing is left behind however a job ends, and not bound by the
size of /dev/shm. The mapping is as large as all memory of the host; what has not been reserved takes none. A page that
was not reserved first would be a SIGBUS on a host whose memory is used up, so all is reserved before it is used; and
since Linux ends a process that reserves more than there is, or than its container may have, room is looked for before
(room.py).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from typing import NamedTuple

from npdp.comm.room import room_bytes

SMALLEST_BYTES = 1 << 26  # a mapping below this is of no use
TOKEN_BYTES = 8


class MemoryHandle(NamedTuple):
    """Handle by which another process of this host finds the memory: numbers, to be sent as int64."""

    pid: int
    fd: int
    nbytes: int
    token: int


class SharedMemory:
    """Mapped shared memory; `memory` is what cffi and NumPy take."""

    def __init__(self, fd: int, nbytes: int) -> None:
        """Map `nbytes` of the open file `fd`, which is closed with this object.

        Raises:
            OSError, ValueError: this cannot be mapped here.
        """
        self._fd = fd
        weakref.finalize(self, os.close, fd)
        self.memory = mmap.mmap(fd, nbytes)
        if hasattr(mmap, "MADV_DONTDUMP"):
            self.memory.madvise(mmap.MADV_DONTDUMP)  # a core file would hold all of it

    def reserve(self, start: int, nbytes: int) -> bool:
        """Return whether these bytes could be had for sure; those not written before are zeros."""
        try:
            if nbytes:
                os.posix_fallocate(self._fd, start, nbytes)
        except OSError:
            return False
        return True

    def give_back(self, start: int, nbytes: int) -> None:
        """Return whole pages to the system, if it takes them; reserve them again before the next use."""
        if nbytes and hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):  # locked pages, and some systems
                self.memory.madvise(mmap.MADV_REMOVE, start, nbytes)


def _most_bytes() -> int:
    """Return as many as the host's memory has; at most half of the addresses that this process may use."""
    import resource  # not everywhere: a world of threads by messages does without

    memory, (limit, _) = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE, resource.getrlimit(resource.RLIMIT_AS)
    return memory if limit == resource.RLIM_INFINITY else min(memory, limit // 2)


def make(header_bytes: int) -> tuple[SharedMemory, MemoryHandle] | None:
    """Make memory whose first bytes are reserved, and the handle to it; None where this cannot be had."""
    nbytes = _most_bytes()
    while nbytes >= max(SMALLEST_BYTES, 2 * header_bytes):
        try:
            fd = os.memfd_create("npdp")
        except OSError:  # refused by the system's policy, or too many files are open
            return None
        try:
            os.ftruncate(fd, nbytes)
        except OSError:  # a limit on the size of files
            os.close(fd)
            nbytes //= 4
            continue
        try:
            made = SharedMemory(fd, nbytes)
        except (OSError, ValueError):  # a limit on address space
            nbytes //= 4
            continue
        if room_bytes() < header_bytes + TOKEN_BYTES or not made.reserve(0, header_bytes + TOKEN_BYTES):
            return None
        token = os.urandom(TOKEN_BYTES)
        made.memory[header_bytes : header_bytes + TOKEN_BYTES] = token
        return made, MemoryHandle(os.getpid(), fd, nbytes, int.from_bytes(token, "little", signed=True))
    return None


def find(handle: MemoryHandle, header_bytes: int) -> SharedMemory | None:
    """Map what the handle names; None where this process cannot, or finds other memory there."""
    try:
        found = SharedMemory(os.open(f"/proc/{handle.pid}/fd/{handle.fd}", os.O_RDWR), handle.nbytes)
    except (OSError, ValueError):
        return None
    token = handle.token.to_bytes(TOKEN_BYTES, "little", signed=True)
    return found if found.memory[header_bytes : header_bytes + TOKEN_BYTES] == token else None
