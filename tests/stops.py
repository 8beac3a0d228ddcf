"""Stops a rank of a training under mpirun at a random moment (SIGSTOP), and sees what is said of it.

    PYTHONPATH=tests .venv/bin/python tests/stops.py --runs 20        a line each; 1 where a promise was broken

Each time: it is said within the flag's time and a second that this rank is stopped, and in which part it was; after
SIGCONT training goes on to what it gives undisturbed, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from launching import TRAINS_WITHIN_S, on_ranks, pid_of, started, wait_for_an_epoch

RANKS, WARNING_S = 3, 1.0
TRAINING = ("-m", "npdp.train", "--quiet", "--dtype", "float64", "--epochs", "12", "--inject", "delay@ms=5",
            "--stall-warning-s", str(WARNING_S))  # fmt: skip
WAYS = {
    "shared memory": ("--algorithm", "shared_memory"),
    "ring": ("--algorithm", "ring"),
    "ps": ("--strategy", "ps", "--servers", "1"),
}


class Lines:
    """Lines of a stream as they come, and when."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append((time.monotonic(), line.rstrip("\n")))

    def wait_for(self, *words: str, limit_s: float) -> float | None:
        """Return when a line with all of these words came; None where none has."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            for when, line in list(self.lines):
                if all(word in line for word in words):
                    return when
            time.sleep(0.01)
        return None


def sha256_of(metrics: Path) -> str:
    return str(json.loads(metrics.read_text().splitlines()[-1])["parameters_sha256"])


def trained(way: str, *flags: str) -> str:
    """Train undisturbed; return the hash of the parameters."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "run.jsonl")
        with started(*TRAINING, *WAYS[way], *flags, "--metrics", str(metrics), before=on_ranks(RANKS)) as (process, _):
            process.communicate(timeout=2 * TRAINS_WITHIN_S)
        return sha256_of(metrics)


def stop(way: str, rank: int, moment_s: float) -> tuple[str, float, list[str], str]:
    """Train, and stop a rank at a moment after the first epoch until it is said, then let it go on.

    Returns:
        What went wrong; after how many seconds it was said; all that was said; the hash of the parameters.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder, "run.jsonl")
        flags = (*TRAINING, *WAYS[way], "--metrics", str(metrics))
        with started(*flags, before=on_ranks(RANKS)) as (process, mark):
            assert process.stderr is not None
            lines = Lines(process.stderr)
            wait_for_an_epoch(process, metrics)
            pid = pid_of(mark, rank)
            time.sleep(moment_s)
            before = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            when = lines.wait_for(f"npdp: rank {rank} (process {pid}", "is stopped (SIGSTOP)", limit_s=WARNING_S + 5)
            os.kill(pid, signal.SIGCONT)
            code = process.wait(2 * TRAINS_WITHIN_S)
        said = [line for _, line in lines.lines]
        if when is None:
            return "nothing was said", 0.0, said, sha256_of(metrics)
        return f"exit code {code}" if code else "", when - before, said, sha256_of(metrics)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    draw, broken = random.Random(flags.seed), 0
    wanted = {way: trained(way) for way in WAYS}
    for number in range(flags.runs):
        way, rank, moment_s = list(WAYS)[number % len(WAYS)], draw.randrange(RANKS), draw.uniform(0, 0.6)
        wrong, after_s, said, sha256 = stop(way, rank, moment_s)
        warnings = [line for line in said if "waited for" in line]
        wrong = wrong or ("" if sha256 == wanted[way] else "other parameters")
        wrong = wrong or ("" if len(warnings) == 1 else f"said {len(warnings)} times")
        wrong = wrong or ("" if after_s < WARNING_S + 1 else "late")
        broken += bool(wrong)
        where = next((line for line in said if "is stopped" in line), "")
        print(f"{number:3} {way:13} rank {rank}  said after {after_s:.2f} s  {wrong or 'right'}  {where}", flush=True)
        if wrong:
            print("\n".join(said))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
