"""What waiting costs: the same training synchronous, bounded, asynchronous and local, with a slow worker and without.

    python examples/sync_vs_async.py                     prints a table, and writes sync_vs_async.png
    python examples/sync_vs_async.py --epochs 2 --delay-ms 2 --out small.png

Four workers train softmax regression on the digits; that each computes for a while is emulated by sleeping (`--inject
delay`), so the picture does not depend on how many cores there are. In the right column worker 1 takes four times as
long. Predict before you look: which curves move to the right, by how much, and where do the histograms spread?

It needs matplotlib (`pip install 'npdp[plot]'`), and no MPI.
"""

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from npdp.report import machine

WORKERS, BATCH, SMOOTHED = 4, 64, 5  # SMOOTHED: losses of single batches are averaged over so many
WAYS = {  # name -> (flags, ranks besides the workers, whether an update is a whole batch)
    "all-reduce": ([], 0, True),
    "ps, staleness 0": (["--strategy", "ps", "--staleness", "0"], 1, True),
    "ps, staleness 3": (["--strategy", "ps", "--staleness", "3"], 1, False),
    "ps, staleness inf": (["--strategy", "ps", "--staleness", "inf"], 1, False),
    "local SGD, H = 8": (["--strategy", "local-sgd", "--local-iterations", "8"], 0, True),
}
COLUMNS = {"four equal workers": [], "worker 1 takes 4 times as long": ["--inject", "slow@rank=1,factor=4"]}


def events(flags: list[str], others: int, epochs: int, delay_ms: float) -> list[dict]:
    """Train on threads, and return the lines of the metrics file."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run.jsonl"
        command = [sys.executable, "-m", "npdp.train", "--transport", "threads", "--ranks", str(WORKERS + others),
                   "--epochs", str(epochs), "--global-batch-size", str(BATCH), "--quiet",
                   "--inject", f"delay@ms={delay_ms}", "--metrics", str(metrics), *flags]  # fmt: skip
        subprocess.run(command, check=True)
        return [json.loads(line) for line in metrics.read_text().splitlines()]


def smooth(losses: list[float]) -> list[float]:
    """Return each loss averaged with those just before it."""
    windows = [losses[max(0, end - SMOOTHED) : end] for end in range(1, len(losses) + 1)]
    return [math.fsum(window) / len(window) for window in windows]


def draw(runs: dict[str, dict[str, list[dict]]], path: str) -> None:
    """Loss against iterations, loss against seconds, and below them how stale the gradients were."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 11), layout="constrained")
    rows = figure.subplots(3, len(runs), sharey="row")
    for column, (title, ways) in enumerate(runs.items()):
        by_iteration, by_time, histogram = (row[column] for row in rows)
        for number, (name, lines) in enumerate(ways.items()):
            iterations = [line for line in lines if line["event"] == "iteration"]
            losses = smooth([line["local_loss"] for line in iterations])
            updates_a_batch = 1 if WAYS[name][2] else WORKERS
            by_iteration.plot([line["iteration"] / updates_a_batch for line in iterations], losses, label=name)
            by_time.plot([line["elapsed_s"] for line in iterations], losses, label=name)
            counts = lines[-1].get("staleness_histogram", {})
            if counts:
                places = [int(staleness) + 0.2 * (number - 2.5) for staleness in counts]
                histogram.bar(places, list(counts.values()), width=0.2, color=f"C{number}", label=name)
        by_iteration.set(title=title, xlabel=f"iterations (batches of {BATCH})", ylabel="loss of worker 0")
        by_time.set(xlabel="seconds", ylabel="loss of worker 0")
        histogram.set(xlabel="staleness", ylabel="gradients applied", yscale="log")
        for axes in (by_iteration, by_time, histogram):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of each run (20)")
    parser.add_argument("--delay-ms", type=float, default=5, help="of computing an iteration, emulated (5)")
    parser.add_argument("--out", default="sync_vs_async.png", help="the picture (sync_vs_async.png)")
    parser.add_argument("--json", metavar="FILE", help="keep the table, with the machine's description")
    arguments = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("matplotlib is not installed; pip install 'npdp[plot]' brings it")
    figures = {}
    runs: dict[str, dict[str, list[dict]]] = {}
    for title, slow in COLUMNS.items():
        print(title)
        runs[title] = {}
        for name, (flags, others, _) in WAYS.items():
            lines = runs[title][name] = events([*flags, *slow], others, arguments.epochs, arguments.delay_ms)
            end = lines[-1]
            figures[f"{name}, {title}"] = {key: end[key] for key in ("wall_s", "samples_per_s", "test_accuracy")}
            stale = max(map(int, end.get("staleness_histogram", {"0": 0})))
            print(f"  {name:20} {end['wall_s']:6.2f} s  {end['samples_per_s']:8,.0f} samples/s  "
                  f"test accuracy {end['test_accuracy']:.4f}  largest staleness {stale}", flush=True)  # fmt: skip
    if arguments.json:
        command = machine.command_line("python examples/sync_vs_async.py", sys.argv[1:])
        machine.keep(Path(arguments.json), command, figures=figures)
    draw(runs, arguments.out)
    print("drawn in", arguments.out)


if __name__ == "__main__":
    main()
