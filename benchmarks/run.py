"""Steps, strong scaling, commands, epochs and all-reduces on one host, in turn, kept in benchmarks/results.

Nothing else should run meanwhile.

    python benchmarks/run.py
"""

import subprocess
import sys
from pathlib import Path

import flags

HERE = Path(__file__).parent
ALL = (
    ["step.py"],
    ["step.py", "--ranks", "2"],
    ["step.py", "--ranks", "4"],
    ["strong_scaling.py"],
    ["command.py"],
    ["epoch.py"],
    ["allreduce.py", "--ranks", "2"],
    ["allreduce.py", "--ranks", "4"],
)


def make_parser() -> flags.Parser:
    return flags.Parser(__doc__, __file__, keeps=False)


def main() -> None:
    make_parser().parse_args()
    for script, *arguments in ALL:
        print(f"== {script} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    flags.run(main)
