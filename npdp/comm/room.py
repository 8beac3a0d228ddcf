"""Memory that this process may still take: what the host has left, and its control groups allow.

    /proc/meminfo           MemTotal, MemAvailable
    /proc/self/cgroup       this process's groups. Version 1:  4:memory:/job/rank   version 2:  0::/job/rank
    /sys/fs/cgroup/...      limit and use of each of them, and of those around it

Linux lets a process reserve more than there is, and then kills one. A container is such a group, whose own files lie at
the root of what it sees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
SPARE = 32  # one part in so many of a limit is left free: page tables alone take one in 512 for each rank


class _Version(NamedTuple):
    """File names of one version of control groups: memory limit, memory use, and cached files in its statistics."""

    root: str
    limit: str
    used: str
    cached: tuple[str, str]  # which the system drops when others need the memory


_FIRST = _Version(
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
_SECOND = _Version("", "memory.max", "memory.current", ("inactive_file", "active_file"))


def room_bytes() -> int:
    """Return how many bytes there is room for; sys.maxsize where the system does not say."""
    return min([sys.maxsize, *(limit - limit // SPARE - used for limit, used in _limits())])


def _limits() -> Iterator[tuple[int, int]]:
    """Return limit and use of the host, and of each group that may have less."""
    host = _numbers(PROC / "meminfo")
    most = 1024 * host.get("MemTotal:", sys.maxsize // 1024)
    if "MemAvailable:" in host:
        yield most, most - 1024 * host["MemAvailable:"]
    for line in _text(PROC / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = _FIRST if "memory" in controllers.split(",") else _SECOND if number == "0" else None
        if version is not None:
            here = PurePosixPath(path.lstrip("/"))
            for group in (here, *here.parents):
                folder = GROUPS / version.root / group
                limit = _text(folder / version.limit).strip()
                if limit.isdigit() and int(limit) < most:  # else there is none; or the group is outside of what is seen
                    yield int(limit), _used(folder, version)


def _used(folder: Path, version: _Version) -> int:
    statistics = _numbers(folder / "memory.stat")
    return int(_text(folder / version.used).strip() or 0) - sum(statistics.get(name, 0) for name in version.cached)


def _numbers(path: Path) -> dict[str, int]:
    """Return the number behind each name."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
