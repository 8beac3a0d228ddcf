"""What this machine costs, as `cost.py` wants to know it: measured once and kept in a file, or built in.

    ~/.cache/npdp/constants-*.json      ($XDG_CACHE_HOME/npdp) one file for each kind of world: processor and its
                                        family, cores, ranks of each host, transport, kernels, npdp's version

Rank 0 reads it and tells the others, so all choose alike. `npdp calibrate` and `npdp bench` write it; nothing else
measures. A file that cannot be read is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npdp import environment, kernels
from npdp.collectives.cost import Hosts, Kernel, Link, Machine, Rate, Way
from npdp.collectives.defaults import built_in
from npdp.collectives.execute import execute, rank_steps
from npdp.comm.transport import Transport
from npdp.whole_file import whole_file


class Constants(NamedTuple):
    """What a machine costs, and the file where that stands; None where it is built in."""

    machine: Machine
    file: str | None


def key(transport: Transport, hosts: Hosts) -> dict[str, Any]:
    """Return what constants depend on."""
    return {
        "npdp": sys.modules["npdp"].__version__,
        "processor": environment.processor(),
        "family": environment.processor_family(),
        "cores": environment.cores_of_job(),
        "ranks of each host": [hosts.count(host) for host in sorted(set(hosts))],
        "transport": transport.name,
        "kernels": kernels.backend(),
    }


def constants(transport: Transport, hosts: Hosts) -> Constants:
    """Return rank 0's constants for this world; collective."""
    if transport.world_size == 1:
        return Constants(built_in(transport.name, 1), None)
    mine = json.dumps(_found(transport, hosts)) if transport.rank == 0 else ""
    return _read(_told(transport, mine))


def keep(transport: Transport, hosts: Hosts, machine: Machine) -> Constants:
    """Keep a machine that was measured, on rank 0; return rank 0's on all ranks; collective."""
    mine = ""
    if transport.rank == 0:
        document = {"key": key(transport, hosts), "machine": as_json(machine)}
        mine = json.dumps({"machine": document["machine"], "file": _write(_path(document["key"]), document)})
    return _read(_told(transport, mine))


def as_json(value: Any) -> Any:
    """Return a machine, or a part of it, as JSON has it."""
    return {name: as_json(part) for name, part in value._asdict().items()} if hasattr(value, "_asdict") else value


def from_json(found: Any) -> Machine:
    """Return the machine that `as_json` wrote.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it is none.
    """
    kernel = found["kernel"]
    return Machine(
        inside=_link(found["inside"]),
        across=_link(found["across"]),
        call_s=_seconds(found["call_s"]),
        add_s=_seconds(found["add_s"]),
        gamma=_rate(found["gamma"]),
        kernel=Kernel(
            _seconds(kernel["first_s"]), _seconds(kernel["post_s"]), _rate(kernel["direct"]), _rate(kernel["staged"])
        ),
        cores=int(found["cores"]),
    )


def _link(found: Any) -> Link:
    return Link(_way(found["one_way"]), _way(found["both_ways"]), _seconds(found["further_s"]))


def _way(found: Any) -> Way:
    return Way(_seconds(found["alpha_s"]), _rate(found["beta"]))


def _rate(found: Any) -> Rate:
    nbytes = tuple(int(size) for size in found["nbytes"])
    seconds = tuple(_seconds(each) for each in found["seconds"])
    if not nbytes or len(nbytes) != len(seconds) or min(nbytes) < 1 or list(nbytes) != sorted(set(nbytes)):
        raise ValueError(f"a rate needs ascending sizes and as many times, got {nbytes} and {seconds}")
    if 0 in seconds and any(seconds):
        raise ValueError(f"a rate is 0 at all sizes or at none, got {seconds}")
    return Rate(nbytes, seconds)


def _seconds(found: Any) -> float:
    seconds = float(found)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"wanted seconds, got {found}")
    return seconds


def _found(transport: Transport, hosts: Hosts) -> dict[str, Any]:
    wanted = key(transport, hosts)
    path = _path(wanted)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        document = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
        if document["key"] == wanted and from_json(document["machine"]).cores >= 1:
            return {"machine": document["machine"], "file": str(path)}
    return {"machine": as_json(built_in(transport.name, max(wanted["ranks of each host"]))), "file": None}


def _path(wanted: dict[str, Any]) -> Path | None:
    """Return where constants of this key are kept; None where there is no home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(folder) if os.path.isabs(folder) else Path.home() / ".cache"
    except RuntimeError:
        return None
    digest = hashlib.blake2b(json.dumps(wanted).encode(), digest_size=8).hexdigest()
    return cache / "npdp" / f"constants-{digest}.json"


def _write(path: Path | None, document: dict[str, Any]) -> str | None:
    """Write the file whole or not at all; return its name, None where it cannot be written."""
    if path is None:
        return None
    try:
        if path.exists() and not path.is_file():  # a pipe, say: one would wait for a reader
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(str(path)) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())
    except OSError:
        return None
    return str(path)


@lru_cache(maxsize=16)
def _read(text: str) -> Constants:
    told = json.loads(text)
    return Constants(from_json(told["machine"]), told["file"])


def _told(transport: Transport, text: str) -> str:
    """Return rank 0's text on all ranks; by messages, for nothing has been chosen yet; collective."""
    words = np.array([-(-len(text) // 8)], np.int64)
    _broadcast(transport, words)
    told = np.zeros(int(words[0]), np.int64)
    told.view(np.uint8)[: len(text)] = np.frombuffer(text.encode("ascii"), np.uint8)
    _broadcast(transport, told)
    return told.tobytes().rstrip(b"\0").decode("ascii")


def _broadcast(transport: Transport, buffer: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    steps = rank_steps("broadcast", "tree", transport.world_size, transport.rank, buffer.size, buffer.itemsize)
    execute(steps, transport, buffer, "sum", f"its first collective by auto (numbers: {buffer.size})")
