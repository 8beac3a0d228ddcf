"""All that is measured on one host, in turn, kept in benchmarks/results; nothing else should run.

    python benchmarks/run.py
"""

import argparse
import subprocess
import sys
from pathlib import Path

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

argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
for script, *arguments in ALL:
    print(f"== {script} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)
