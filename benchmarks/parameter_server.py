"""One training step with a parameter server, 1 server and 2 workers on this machine: npdp and TensorFlow, in turn.

    python benchmarks/parameter_server.py --tensorflow-python tf/bin/python

TensorFlow's own environment keeps it apart from npdp's; without one, npdp is timed alone. Also: what an idle server
uses.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from machine import clean_environment, keep
from step import seconds_a_step

RANKS = 3
IDLE_S = 5.0
IDLE = f"""
import math, time
import npdp
from npdp import nn, optim

npdp.init()
model = nn.Linear(10, 1)
optimizer = optim.SGD(model.parameters(), lr=0.1)
is_server = npdp.rank() == npdp.world_size() - 1
before = time.process_time()
try:
    model = nn.DataParallel(model, strategy=npdp.ParameterServer(1, math.inf))
    time.sleep({IDLE_S})
finally:
    if is_server:
        print("idle", time.process_time() - before, flush=True)
"""


def tensorflow_step(python: str, model: str, seconds: float) -> float:
    """Return the seconds that a worker's step takes under TensorFlow's ParameterServerStrategy."""
    script = str(Path(__file__).with_name("tensorflow_server.py"))
    environment = {**clean_environment(), "PYTHONPATH": str(Path(__file__).parent.parent)}
    run = subprocess.run([python, script, model, str(seconds)], env=environment, stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=180)  # fmt: skip
    found = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("round ")]
    if not found:
        raise SystemExit(f"TensorFlow failed on {model}:\n{run.stderr[-2000:]}")
    return float(found[0])


def idle_server_s() -> float:
    """Return how much processor time a server uses in five seconds in which nobody wants anything."""
    from npdp import launch

    environment = {**clean_environment(), **launch.settings(RANKS)}
    command = [launch.find_mpirun(), "-n", str(RANKS), sys.executable, "-c", IDLE]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return next(float(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("idle "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round (1)")
    parser.add_argument("--models", default="lin10,softmax,mlp,mlpbig")
    parser.add_argument("--tensorflow-python", metavar="PATH", help="of an environment with TensorFlow")
    arguments = parser.parse_args()
    python = os.path.abspath(arguments.tensorflow_python or "")
    figures = {}
    for model in arguments.models.split(","):
        contenders = {who: lambda who=who, model=model: seconds_a_step(who, model, RANKS, arguments.seconds)
                      for who in ("server", "server-sync")}  # fmt: skip
        if arguments.tensorflow_python:
            contenders["tensorflow"] = lambda model=model: tensorflow_step(python, model, arguments.seconds)
        taken: dict[str, list[float]] = {who: [] for who in contenders}
        for _ in range(arguments.rounds):
            for who, measure in contenders.items():
                taken[who].append(measure())
        times = {who: statistics.median(values) for who, values in taken.items()}
        figures[model] = {who: round(value * 1e6, 1) for who, value in times.items()}
        ratios = ", ".join(f"{times['server'] / value:.3f} of {who}" for who, value in times.items() if who != "server")
        absolute = ", ".join(f"{who} {value} us" for who, value in figures[model].items())
        print(f"{model:8} {absolute} | {ratios}", flush=True)
    idle_s = idle_server_s()
    print(f"an idle server used {idle_s:.3f} s of processor time in {IDLE_S:g} s")
    if not arguments.tensorflow_python or arguments.models != parser.get_default("models"):
        print("not kept: only some models or contenders")
        return
    figures["idle server, s of processor time in 5 s"] = round(idle_s, 3)
    command = "python benchmarks/parameter_server.py --tensorflow-python ..."
    print("kept in", keep("parameter-server", command, {"microseconds a step, medians": figures}))


if __name__ == "__main__":
    main()
