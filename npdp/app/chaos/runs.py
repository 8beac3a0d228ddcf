"""One run of chaos: a training in a session of its own, with a time limit, and what it leaves behind.

    FOLDER/tmp         all its temporary files; nothing may be left there
    FOLDER/came        a line for each fault, as it comes
    FOLDER/stdout, stderr, run.jsonl, model.npz, checkpoint/

Its processes are known by a mark in their environment, as ranks are neither children nor of one group.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npdp.comm.failures.ending import signal_when_parent_dies
from npdp.elastic.inject import CAME, Fault, parse

MARK = "NPDP_CHAOS_RUN"
GRACE_S = 3.0  # for an end after SIGTERM; mpirun needs half a second
SETTLE_S = 1.0  # in which the last processes may still end


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        folder: where its files are.
        code: its exit code; None where it had to be ended.
        ended_s: when the last of its processes had ended, by time.monotonic().
        took_s: how long it ran.
        came: (when, fault), of those that came at a place.
        left: what it left behind, in words.
    """

    folder: Path
    code: int | None
    took_s: float
    ended_s: float
    stderr: str
    events: list[dict[str, Any]] = field(default_factory=list)
    came: list[tuple[float, Fault]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def end(self) -> Mapping[str, Any] | None:
        """The `end` event; None where training did not come to its end."""
        return self.events[-1] if self.events and self.events[-1]["event"] == "end" else None

    @property
    def recovered_s(self) -> list[float]:
        """How long each recovery took."""
        return [event["seconds"] for event in self.events if event["event"] == "recovery"]


def run(command: Sequence[str], folder: Path, limit_s: float, variables: Mapping[str, str]) -> Outcome:
    """Run a training whose files are to be in `folder`; what is left of it after the time limit is ended."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    mark, memory, began_s = uuid.uuid4().hex, _shared_memory(), time.monotonic()
    ours = {MARK: mark, CAME: str(folder / "came"), "TMPDIR": str(temporary)}
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as error:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, start_new_session=True,
            env={**os.environ, **variables, **ours}, preexec_fn=signal_when_parent_dies(signal.SIGTERM, os.getpid()),
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            late = _end(process)
            left = _processes(mark, SETTLE_S)
            ended_s = time.monotonic()
            _kill(left)
            _processes(mark, GRACE_S)
    found = [f"process {number} ({what})" for number, what in left.items()] if not late else []
    found += [f"{path}" for path in _unused(_shared_memory() - memory)]
    found += [f"{path.relative_to(folder)}" for path in temporary.iterdir()]
    stderr = (folder / "stderr").read_text(errors="replace")
    return Outcome(folder, code, ended_s - began_s, ended_s, stderr, _events(folder), _came(folder), found)


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End a process that still runs; return whether it did."""
    if process.poll() is not None:
        return False
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    process.kill()
    process.wait()
    return True


def _processes(mark: str, within_s: float) -> dict[int, str]:
    """Return the processes of a run that there still are after a while, and what they are."""
    wanted, until = f"{MARK}={mark}".encode(), time.monotonic() + within_s
    while True:
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


def _kill(processes: Mapping[int, str]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("*"))


def _unused(paths: set[Path]) -> list[Path]:
    """Return files of shared memory that nobody has mapped: who has is another program."""
    maps = ""
    for entry in Path("/proc").glob("[0-9]*/maps") if paths else ():
        with contextlib.suppress(OSError):
            maps += entry.read_text(errors="replace")
    return sorted(path for path in paths if str(path) not in maps and path.exists())


def _events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "run.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _came(folder: Path) -> list[tuple[float, Fault]]:
    path = folder / "came"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(when), parse(spec)) for when, _, spec in (line.split(" ", 2) for line in lines)]
