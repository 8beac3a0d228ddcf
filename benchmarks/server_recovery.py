"""A parameter server under kills, many times: what elastic training promises of it.

    python benchmarks/server_recovery.py --staleness 0 --runs 100
    python benchmarks/server_recovery.py --staleness inf --runs 50 --seed 7

Each run trains the digits on workers and servers under `mpirun --with-ft ulfm`, by `npdp train`, and kills one of the
ranks from outside after a random time. Of each run it is checked that it ended in time, with code 0; that the first
shard has applied each sample once (count and checksum); with staleness 0 that the float64 parameters are those of the
undisturbed run; and that no process is left. A recovery takes from where rank 0 saw the death to where all have all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, SAMPLES, MOST_OFF, LIMIT_S = 12, 1437, 1e-10, 120.0


def ranks_of(launcher: int) -> dict[int, int]:
    """Return the process of each rank that lives."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            words = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((word.partition(b"=")[2] for word in words if word.startswith(b"OMPI_COMM_WORLD_RANK=")), b"")
        if int(parent) == launcher and rank:
            found[int(rank)] = int(process.name)
    return found


def train(flags: argparse.Namespace, folder: Path, death: tuple[int, float] | None) -> dict[str, Any]:
    """Train once, and kill a rank some seconds after training has begun; return what became of it."""
    from npdp.app.launch import find_mpirun, settings

    ranks, metrics = flags.servers + flags.workers, folder / "run.jsonl"
    command = [
        find_mpirun(), "--with-ft", "ulfm", "-n", str(ranks), sys.executable, "-m", "npdp.train", "--elastic",
        "--strategy", "ps", "--servers", str(flags.servers), "--staleness", flags.staleness, "--dtype", "float64",
        "--epochs", str(EPOCHS), "--quiet", "--metrics", str(metrics), "--save", str(folder / "model.npz"),
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, **settings(ranks)}, stderr=subprocess.PIPE, text=True)
    processes, died = {}, False
    if death is not None:
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.005)
        time.sleep(death[1])
        processes = ranks_of(process.pid)
        died = death[0] in processes
        if died:
            os.kill(processes[death[0]], signal.SIGKILL)
    try:
        _, said = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        for left in ranks_of(process.pid).values():
            os.kill(left, signal.SIGKILL)
        process.kill()
        return {"died": died, "wrong": [f"not ended within {LIMIT_S:g} s"], "recoveries": []}
    wrong = [] if process.returncode == 0 else [f"code {process.returncode}: {said[-300:]}"]
    wrong += [f"process {left} is left" for left in processes.values() if Path(f"/proc/{left}").exists()]
    events = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    recoveries = [event["seconds"] for event in events if event["event"] == "recovery"]
    return {"died": died, "wrong": wrong, "end": events[-1] if events else {}, "recoveries": recoveries}


def look(run: dict[str, Any], folder: Path, wanted: np.ndarray | None) -> np.ndarray | None:
    """Look whether a run has kept the promises; return its parameters."""
    from npdp.elastic.ledger import expected_checksum

    once = SAMPLES * EPOCHS, expected_checksum(SAMPLES, EPOCHS)
    if (run["end"].get("samples_seen"), run["end"].get("samples_checksum")) != once:
        run["wrong"].append("samples were lost, or used twice")
        return None
    with np.load(folder / "model.npz") as file:
        got = np.concatenate([file[name].ravel() for name in sorted(file) if name.startswith("param")])
    if wanted is not None and (off := float(np.linalg.norm(got - wanted))) > MOST_OFF:
        run["wrong"].append(f"parameters are off by {off:.1e}")
    return got


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--staleness", default="0", help="0, 1, ... or inf (0)")
    parser.add_argument("--servers", type=int, default=2, help="of each run (2)")
    parser.add_argument("--workers", type=int, default=2, help="of each run (2)")
    parser.add_argument("--runs", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    return parser


def main() -> int:
    """Run the campaign."""
    flags = make_parser().parse_args()
    dice, broken, deaths, seconds = random.Random(flags.seed), 0, 0, []
    wanted: np.ndarray | None = None
    within_s = 0.0
    for number in range(flags.runs + 1):  # the first is undisturbed
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            death = (dice.randrange(flags.servers + flags.workers), dice.uniform(0, within_s)) if number else None
            run = train(flags, folder, death)
            got = look(run, folder, wanted) if not run["wrong"] else None
            if not number:
                wanted, within_s = got if flags.staleness == "0" else None, run["end"]["wall_s"]
        deaths, broken = deaths + run["died"], broken + bool(run["wrong"])
        seconds += run["recoveries"]
        if run["wrong"]:
            print(f"run {number}, {death}: {'; '.join(run['wrong'])}", flush=True)
    if seconds:
        print(f"recovery {statistics.median(seconds) * 1e3:.0f} ms, at most {max(seconds) * 1e3:.0f}")
    print(f"staleness {flags.staleness}: {flags.runs} runs, {deaths} deaths, {broken} broken promises")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
