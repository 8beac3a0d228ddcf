"""All benchmarks, one after the other; results are kept in benchmarks/results. Nothing else should run meanwhile.

    python benchmarks/run.py
"""

import subprocess
import sys
from pathlib import Path

from machine import clean_environment

from npdp import launch

HERE = Path(__file__).parent
ALL = (["step.py"], ["step.py", "--ranks", "2"], ["command.py"], ["epoch.py"])

for script, *arguments in ALL:
    print(f"== {script} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)
for ranks in (2, 4):
    print(f"== allreduce.py on {ranks} ranks", flush=True)
    command = [launch.find_mpirun(), "-n", str(ranks), sys.executable, str(HERE / "allreduce.py")]
    subprocess.run(command, env={**clean_environment(), **launch.settings(ranks)}, check=True)
