"""Files of a machine's constants: one for each kind of world, read by rank 0, which tells the others.

    ~/.cache/npdp/constants-*.json      ($XDG_CACHE_HOME/npdp) named by processor and its family, cores, ranks of each
                                        host, transport, kernels, npdp's version

`npdp calibrate` and `npdp bench` measure and write it; nothing else does. Where there is none, or none that can be
read, the built-in constants hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npdp import kernels
from npdp.base import environment
from npdp.base.whole_file import whole_file
from npdp.collectives.cost import Hosts
from npdp.collectives.host import gather
from npdp.collectives.machine import Machine, built_in, from_json
from npdp.comm.transport import Transport

UNREADABLE = (OSError, ValueError, TypeError, KeyError, OverflowError, RuntimeError)  # the last: no home, or too deep


class Constants(NamedTuple):
    """The constants of a machine, and the file where they stand; None where they are built in."""

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
    return _told(transport, _found(transport, hosts) if transport.rank == 0 else None)


def keep(transport: Transport, hosts: Hosts, machine: Machine) -> Constants:
    """Keep a machine that was measured, on rank 0; return rank 0's on all ranks; collective."""
    mine = Constants(machine, _write(key(transport, hosts), machine)) if transport.rank == 0 else None
    return _told(transport, mine)


def _found(transport: Transport, hosts: Hosts) -> Constants:
    wanted = key(transport, hosts)
    with contextlib.suppress(*UNREADABLE):
        path = _path(wanted)
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if document["key"] == wanted:
            return Constants(from_json(document["machine"]), str(path))
    return Constants(built_in(transport.name, max(wanted["ranks of each host"])), None)


def _write(wanted: dict[str, Any], machine: Machine) -> str | None:
    """Write the file whole or not at all; return its name, None where it cannot be written."""
    with contextlib.suppress(OSError, RuntimeError):  # no room, or no home
        path = _path(wanted)
        if path.exists() and not path.is_file():  # a pipe, say: one would wait for a reader
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(str(path)) as file:
            file.write((json.dumps({"key": wanted, "machine": asdict(machine)}, indent=1) + "\n").encode())
        return str(path)
    return None


def _path(wanted: dict[str, Any]) -> Path:
    digest = hashlib.blake2b(json.dumps(wanted).encode(), digest_size=8).hexdigest()
    return environment.cache_folder() / f"constants-{digest}.json"


def _told(transport: Transport, mine: Constants | None) -> Constants:
    """Return rank 0's constants on all ranks; by messages, since nothing has been chosen yet; collective."""
    text = json.dumps([asdict(mine.machine), mine.file]).encode() if mine else b""
    words = int(gather(transport, [-(-len(text) // 8)])[0, 0])
    told = gather(transport, np.frombuffer(text.ljust(8 * words), np.int64).tolist())[0]
    machine, file = json.loads(told.tobytes())
    return Constants(from_json(machine), file)
