"""One training step with a parameter server, 1 server and 2 workers on this machine: npdp and TensorFlow, in turn.

    python benchmarks/parameter_server.py --tensorflow-python tf/bin/python

TensorFlow's own environment keeps it apart from npdp's; without one, npdp is timed alone. Also: what an idle server
uses.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import flags
from machine import clean_environment, keep, medians, output_of, versions
from step import SERVED, seconds_a_step

from npdp.base.errors import InputError
from npdp.bench.models import MODELS

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
    from npdp.app import launch

    command = [launch.find_mpirun(), "-n", str(RANKS), sys.executable, "-c", IDLE]
    lines = output_of("the idle server", command, RANKS).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("idle "))


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["tensorflow_python"])
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--seconds", type=flags.SECONDS, default=1.0, metavar="S", help="of a round (1)")
    parser.add_argument("--models", type=flags.names(MODELS), default=tuple(MODELS), metavar="NAME,NAME",
                        help=f"({','.join(MODELS)})")  # fmt: skip
    parser.add_argument("--tensorflow-python", type=flags.program, metavar="PATH",
                        help="of one with TensorFlow (else npdp alone is timed, and nothing kept)")  # fmt: skip
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    python = arguments.tensorflow_python
    if python and not any("tensorflow" in name for name in versions(["tensorflow"], {"tensorflow": python})):
        raise InputError(f"--tensorflow-python: {python} has no TensorFlow")
    figures = {}
    for model in arguments.models:
        measures = {who: partial(seconds_a_step, who, model, RANKS, arguments.seconds) for who in SERVED}
        if python:
            measures["tensorflow"] = partial(tensorflow_step, python, model, arguments.seconds)
        times = medians(arguments.rounds, measures)
        figures[model] = {who: round(value * 1e6, 1) for who, value in times.items()}
        ratios = ", ".join(f"{times['server'] / value:.3f} of {who}" for who, value in times.items() if who != "server")
        absolute = ", ".join(f"{who} {value} us" for who, value in figures[model].items())
        print(f"{model:8} {absolute} | {ratios}", flush=True)
    idle_s = idle_server_s()
    print(f"an idle server used {idle_s:.3f} s of processor time in {IDLE_S:g} s")
    figures["idle server, s of processor time in 5 s"] = round(idle_s, 3)
    keep(parser, arguments, "parameter-server", {"microseconds a step, medians": figures},
         ["tensorflow"] if python else [], {"tensorflow": python}, "" if python else "without TensorFlow")  # fmt: skip


if __name__ == "__main__":
    flags.run(main)
