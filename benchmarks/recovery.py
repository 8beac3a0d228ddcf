"""Elastic training under kills, many times: what it promises, and how long a recovery takes.

    python benchmarks/recovery.py --runs 100
    python benchmarks/recovery.py --runs 50 --model gpt --algorithm ring --seed 7

Each run trains 4 ranks under `mpirun --with-ft ulfm` and kills 1 to 3 of them, rank 0 too: from outside after a random
time, or by themselves as they enter a random part of a random iteration. Of each run it is checked that it ended in
time, with code 0; that each sample was used once (the ledger's count and checksum); that the final float64 parameters
are those of one undisturbed rank; and that no process and no shared memory is left. A recovery takes from the death to
the end of the next iteration, on the last rank that ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

MARK = "NPDP_RECOVERY_RUN"
PARTS = ("data", "forward", "backward", "exchange", "update", "recovery")
MOST_OFF = 1e-10
MODELS = {"mlp": (4000, 64, 3), "gpt": (320, 16, 2)}  # samples, batch, epochs
LIMIT_S = 60.0


# A rank
def make(name: str) -> tuple[Any, Any, Any, Any]:
    """Return model, optimiser, loss and data set, float64, the same everywhere."""
    from npdp import nn, optim
    from npdp.data import ArrayDataset

    samples, _, _ = MODELS[name]
    generator = np.random.default_rng(1)
    if name == "mlp":
        x, y = generator.standard_normal((samples, 64)), generator.integers(0, 10, samples)
        model = nn.Sequential(nn.Linear(64, 128, dtype=np.float64), nn.Tanh(), nn.Dropout(0.1),
                              nn.Linear(128, 10, dtype=np.float64))  # fmt: skip
        return model, optim.SGD(model.parameters(), lr=0.05, momentum=0.9), nn.CrossEntropyLoss(), ArrayDataset(x, y)
    from npdp.app.evaluation import EachToken
    from npdp.models.gpt import GPT

    x = generator.integers(0, 40, (samples, 16))
    gpt = GPT(40, 16, layers=2, heads=2, width=32, dropout=0.1)
    for parameter in gpt.parameters():
        parameter.data = parameter.data.astype(np.float64, order="K")
    return gpt, optim.AdamW(gpt.parameters(), lr=1e-3), EachToken(), ArrayDataset(x, (x + 1) % 40)


def rank(name: str, algorithm: str, faults: list[str], folder: Path) -> None:
    """Train, and write what came out."""
    import npdp
    from npdp import nn
    from npdp.data import DataLoader
    from npdp.elastic import State, run
    from npdp.elastic.faults import Faults
    from npdp.elastic.inject import parse
    from npdp.elastic.ledger import expected_checksum

    world = npdp.init(algorithm)
    number, (samples, batch, epochs) = world.rank, MODELS[name]
    (folder / f"pid{number}").write_text(str(os.getpid()))
    (folder / f"maps{number}").write_text(Path("/proc/self/maps").read_text())
    Faults([parse(fault) for fault in faults], world)
    model, optimizer, criterion, dataset = make(name)
    state = State(nn.DataParallel(model), optimizer, DataLoader(dataset, batch, shuffle=True))
    done_s, waiting = [], [True]

    def step(inputs: Any, labels: Any) -> None:
        optimizer.zero_grad()
        criterion(state.model(inputs), labels).backward()
        optimizer.step()

    def after(iteration: int) -> None:
        while waiting:
            waiting.pop()
            done_s.append(time.monotonic())
            (folder / f"begun{number}").touch()

    run(step, state, epochs, after, recovered=lambda recovery: waiting.append(True))
    ledger = state.ledger
    values = {name: np.asarray(value) for name, value in state.model.state_dict().items()}
    np.savez(folder / f"model{number}.npz", **values)
    counted = ledger.samples == samples * epochs and ledger.checksum == expected_checksum(samples, epochs)
    said = {"counted": counted, "done_s": done_s, "recoveries": ledger.recoveries}
    (folder / f"end{number}.json").write_text(json.dumps(said))


# The runs
def draw(generator: random.Random, ranks: int, name: str) -> tuple[list[str], list[tuple[int, float]]]:
    """Return who kills itself where, and who is killed after how many seconds of training."""
    samples, batch, epochs = MODELS[name]
    victims = generator.sample(range(ranks), generator.choice((1, 1, 2, 3)))
    inside, outside = [], []
    for victim in victims:
        if generator.random() < 0.5:
            iteration = generator.randint(1, epochs * -(-samples // batch))
            inside.append(f"kill@rank={victim},iteration={iteration},part={generator.choice(PARTS)}")
        else:
            outside.append((victim, generator.random() * 1.0))
    return inside, outside


def left_over(mark: str) -> list[int]:
    """Return the processes of a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def one(ranks: int, name: str, algorithm: str, inside: list[str], outside: list[tuple[int, float]], folder: Path) -> (
    dict[str, Any]
):
    """Do one run; return what became of it."""
    from npdp.app.launch import find_mpirun, settings
    from npdp.elastic.inject import CAME

    mark, memory, killed_s = folder.name, set(os.listdir("/dev/shm")), []
    command = [find_mpirun(), "--with-ft", "ulfm", "-n", str(ranks), sys.executable, __file__, "rank", name, algorithm,
               json.dumps(inside), str(folder)]  # fmt: skip
    variables = {**os.environ, **settings(ranks), MARK: mark, CAME: str(folder / "came")}
    variables |= {"OPENBLAS_NUM_THREADS": "1", "PRTE_MCA_prte_local_tmpdir_base": str(folder)}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def kill(victim: int, after_s: float) -> None:
        while not (folder / f"begun{victim}").exists():
            if process.poll() is not None:
                return
            time.sleep(0.002)
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            if process.poll() is None and not (folder / f"end{victim}.json").exists():
                os.kill(int((folder / f"pid{victim}").read_text()), signal.SIGKILL)
                killed_s.append(time.monotonic())

    killers = [threading.Thread(target=kill, args=of) for of in outside]
    for killer in killers:
        killer.start()
    wrong = []
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        wrong.append("did not end")
        process.terminate()
        output, _ = process.communicate()
    for killer in killers:
        killer.join()
    time.sleep(0.05)
    if left := left_over(mark):
        wrong.append(f"processes left: {left}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    mapped = "".join(path.read_text() for path in folder.glob("maps*"))
    if files := {name for name in set(os.listdir("/dev/shm")) - memory if name in mapped}:  # not of another job
        wrong.append(f"shared memory left: {files}")
    if process.returncode:
        wrong.append(f"code {process.returncode}")
    if (folder / "came").exists():
        killed_s += [float(line.split()[0]) for line in (folder / "came").read_text().splitlines()]
    ends = {path.stem: json.loads(path.read_text()) for path in folder.glob("end*.json")}
    wrong += [f"{who}: samples are not those of the data" for who, end in ends.items() if not end["counted"]]
    if len(ends) < ranks - len(killed_s):
        wrong.append(f"{len(ends)} ranks came to the end, {len(killed_s)} were killed")
    return {"wrong": wrong, "killed_s": sorted(killed_s), "ends": ends, "output": output}


def recoveries_of(outcome: dict[str, Any]) -> list[float]:
    """Return the seconds from each last death before a recovery to the next iteration's end, on the last rank."""
    taken = []
    ends = [end["done_s"][1:] for end in outcome["ends"].values()]
    times = list(zip(*ends)) if ends and len({len(end) for end in ends}) == 1 else []
    for number, done in enumerate(times):
        before = max(times[number - 1]) if number else 0.0
        deaths = [killed for killed in outcome["killed_s"] if before <= killed < max(done)]
        if deaths:
            taken.append(max(done) - max(deaths))
    return taken


def off(folder: Path, wanted: dict[str, Any]) -> float:
    """Return how far the parameters of any rank are from what is wanted, in relative norm."""
    norm = np.sqrt(sum(np.linalg.norm(value) ** 2 for value in wanted.values()))
    found = [np.load(path) for path in folder.glob("model*.npz")]
    return max((float(np.sqrt(sum(np.linalg.norm(one[name] - wanted[name]) ** 2 for name in wanted)) / norm)
                for one in found), default=0.0)  # fmt: skip


def campaign(flags: argparse.Namespace) -> dict[str, Any]:
    """Do all runs; return the figures."""
    taken, broken, worst_off, deaths = [], [], 0.0, 0
    with tempfile.TemporaryDirectory() as temporary:
        quiet = Path(temporary) / "undisturbed"
        quiet.mkdir()
        if wrong := one(1, flags.model, flags.algorithm, [], [], quiet)["wrong"]:
            raise SystemExit(f"the undisturbed run: {wrong}")
        wanted = dict(np.load(quiet / "model0.npz"))
        for number in range(flags.first, flags.first + flags.runs):
            inside, outside = draw(random.Random(flags.seed * 100_003 + number), flags.ranks, flags.model)
            folder = Path(temporary) / f"run{number}"
            folder.mkdir()
            outcome = one(flags.ranks, flags.model, flags.algorithm, inside, outside, folder)
            if (distance := off(folder, wanted)) > MOST_OFF:
                outcome["wrong"].append(f"parameters are off by {distance:.1e}")
            worst_off, deaths = max(worst_off, distance), deaths + len(outcome["killed_s"])
            taken += recoveries_of(outcome)
            if outcome["wrong"]:
                broken.append(number)
                print(f"run {number}: {inside} {outside}: {outcome['wrong']}\n{outcome['output'][-3000:]}", flush=True)
    taken_ms = sorted(seconds * 1e3 for seconds in taken) or [0.0]
    times = {"median_ms": statistics.median(taken_ms), "p90_ms": taken_ms[len(taken) * 9 // 10],
             "worst_ms": taken_ms[-1]}  # fmt: skip
    return {"model": flags.model, "algorithm": flags.algorithm, "ranks": flags.ranks, "runs": flags.runs,
            "deaths": deaths, "broken": broken, "worst_off": worst_off, "recoveries": len(taken), **times}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how many (20)")
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--ranks", type=int, default=4, help="of each run (4)")
    parser.add_argument("--model", choices=MODELS, default="mlp", help="what is trained (mlp)")
    parser.add_argument("--algorithm", default="auto", help="of the all-reduce (auto)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    return parser


def main() -> int:
    """Run the campaign, or be a rank of one of its runs."""
    if sys.argv[1:2] == ["rank"]:
        rank(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), Path(sys.argv[5]))
        return 0
    figures = campaign(make_parser().parse_args())
    print(json.dumps(figures))
    return int(bool(figures["broken"]))


if __name__ == "__main__":
    sys.exit(main())
