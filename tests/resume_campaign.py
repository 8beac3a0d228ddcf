"""Kills of trainings under mpirun at random moments, also while a checkpoint is written: `make resume`.

    undisturbed on 2 ranks ─────────────────────────────────────────> the oracle
    the same, a checkpoint each iteration ──x kill -9 of a rank
                                            └── --resume on 2 ranks > the same sha256, and the rest of the samples
                                            └── --resume on 1 or 3  > within 1e-10, and the rest of the samples

A kill that does not hold is shown with its seed, and its directory stays.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from launching import mpirun, on_ranks, pid_of, started
from training import Run, off, read_run

from npdp.elastic import checkpoint

RANKS, EPOCHS = 2, 2
OFF_MAX = 1e-10
LIMIT_S = 600
FLAGS = ("-m", "npdp.train", "--quiet", "--dtype", "float64", "--epochs", str(EPOCHS))
MODEL = """
from npdp import nn

def make(features, classes):
    middle = nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3)
    return nn.Sequential(nn.Linear(features, 16, bias=False), *middle, nn.Linear(16, classes))

def without_buffers(features, classes):
    return nn.Sequential(nn.Linear(features, 200), nn.Tanh(), nn.Dropout(0.3), nn.Linear(200, classes))
"""
ADAM = ("--optimizer", "adam", "--learning-rate", "0.01")
SETTINGS = {  # what is trained, on how many samples
    "buffers, dropout, Adam": ("--model", "{folder}/own.py:make", *ADAM, "--global-batch-size", "30"),
    "accumulation, dropout, Adam": ("--model", "{folder}/own.py:without_buffers", *ADAM, "--accumulate", "3",
                                    "--global-batch-size", "30"),
    "sparse, momentum": ("--model", "sparse_linear", "--data", "{folder}/d.svm", "--sparse",
                         "--global-batch-size", "20"),
    "a language model, dropout, AdamW": ("--data", "{folder}/book.txt", "--layers", "1", "--heads", "2", "--width",
                                         "8", "--context", "16", "--dropout", "0.2", "--global-batch-size", "4"),
}  # fmt: skip


def prepared(folder: Path) -> None:
    """Write a model's file and two data sets."""
    generator = np.random.default_rng(0)
    (folder / "own.py").write_text(MODEL)
    (folder / "book.txt").write_text("".join(chr(97 + (i * i + i // 7) % 26) for i in range(3000)))
    columns = [np.sort(generator.choice(300, 6, replace=False)) + 1 for _ in range(1000)]
    lines = [f"{row[0] % 3} " + " ".join(f"{column}:{column / 100}" for column in row) for row in columns]
    (folder / "d.svm").write_text("\n".join(lines) + "\n")


def trained(ranks: int, folder: Path, *flags: str) -> Run:
    folder.mkdir()
    said = ("--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz")
    outcome = mpirun(ranks, *FLAGS, *said, *flags, timeout=LIMIT_S)
    assert outcome.code == 0, outcome.stderr
    return read_run(outcome.code, folder)


def killed(rng: random.Random, kept: Path, *flags: str) -> str:
    """Train, and kill a rank at a random moment after the first checkpoint; return when that was."""
    delay = f"delay@ms={rng.choice((0, 2, 6))}"
    kept_flags = ("--checkpoint", str(kept), "--checkpoint-every", "1", "--inject", delay)
    with started(*FLAGS, *flags, *kept_flags, before=on_ranks(RANKS)) as (process, mark):
        until = time.monotonic() + LIMIT_S
        while not (kept.exists() and checkpoint.numbers(str(kept))):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
            time.sleep(0.0005)
        time.sleep(rng.random() ** 2 * 2)
        try:
            os.kill(pid_of(mark, rng.randrange(RANKS)), signal.SIGKILL)
        except ValueError:
            return "after its end"
        process.communicate(timeout=LIMIT_S)
    return "while one was written" if list(kept.glob("npdp-*.part")) else "between two"


def one_kill(seed: int, folder: Path, oracles: dict[str, Run]) -> tuple[str, str, list[str]]:
    """Kill and go on twice; return what was trained, when it was killed, and what does not hold."""
    rng = random.Random(seed)
    name = list(SETTINGS)[seed % len(SETTINGS)]
    flags = [flag.format(folder=folder) for flag in SETTINGS[name]]
    if name not in oracles:
        oracles[name] = trained(RANKS, folder / f"oracle-{seed}", *flags)
    wanted, kept = oracles[name], folder / f"kept-{seed}"
    when = killed(rng, kept, *flags)
    at, faults = checkpoint.numbers(str(kept))[0], []
    shutil.copytree(kept, folder / f"also-kept-{seed}")
    resume = ("--resume", "--checkpoint")
    same = trained(RANKS, folder / f"same-{seed}", *flags, *resume, str(kept))
    other = trained(rng.choice((1, 3)), folder / f"other-{seed}", *flags, *resume, f"{folder}/also-kept-{seed}")
    if same.end["parameters_sha256"] != wanted.end["parameters_sha256"]:
        faults.append(f"other bits, off by {off(same, wanted)}")
    if not off(other, wanted) < OFF_MAX:
        faults.append(f"on another number of ranks off by {off(other, wanted)}")
    for run in (same, other):
        if run.end["samples_seen"] != left(wanted, at):
            faults.append(f"{run.end['samples_seen']} samples seen, wanted {left(wanted, at)}")
    strays = [path.name for path in kept.iterdir() if not checkpoint.NAME.fullmatch(path.name)]
    faults += [f"left behind: {strays}"] * bool(strays)
    return name, f"{when}, at iteration {at} of {wanted.end['iterations']}", faults


def left(run: Run, iteration: int) -> int:
    """Return how many samples of a run come after an iteration."""
    (start,) = (event for event in run.events if event["event"] == "start")
    iterations, batch = run.end["iterations"] // EPOCHS, start["global_batch_size"]
    epoch, batches = divmod(iteration, iterations)
    return int(run.end["samples_seen"] // EPOCHS * (EPOCHS - epoch) - batches * batch)


def main() -> int:
    """Run the campaign; 1 where a kill did not hold."""
    parser = argparse.ArgumentParser(description="Kills of trainings at random moments, which go on from checkpoints.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="npdp-resume-"))
    prepared(folder)
    oracles: dict[str, Run] = {}
    moments, failed = Counter[str](), 0
    for seed in range(asked.seed, asked.seed + asked.kills):
        name, when, faults = one_kill(seed, folder, oracles)
        moments[when.partition(",")[0]] += 1
        failed += bool(faults)
        print(f"{seed:4} {name:34} killed {when:52} {'; '.join(faults) or 'holds'}", flush=True)
        if not faults:
            for path in folder.glob(f"*-{seed}"):
                shutil.rmtree(path)
    print(f"{asked.kills - failed} of {asked.kills} hold; killed {dict(moments)}")
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
