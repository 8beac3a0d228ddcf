"""Debian's package descriptions: npdp's sparse linear model against scikit-learn's SGDClassifier, on the same features.

    python examples/text_classifier.py make sections.npz
    python benchmarks/text.py sections.npz

Both train on all texts for some epochs, float32, and are asked about the same held-out ones. npdp: one softmax over the
sections, minibatches, one BLAS thread a rank. SGDClassifier: log loss, one section against the rest, text by text, its
penalty the best for this data of 1e-4 ... 1e-6, on one thread and on two. Each runs in its own process, in turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import sys
import time
from pathlib import Path

import flags
from machine import keep, output_of

from npdp.base.errors import InputError

EXAMPLE = str(Path(__file__).parent.parent / "examples" / "text_classifier.py")
SAID = re.compile(r"test accuracy (\d\.\d+), (\d+) samples/s")
PENALTY, EPOCHS = 1e-6, 5  # more epochs: 0.3 points more, at the same samples/s
CONTENDERS = ("npdp, 1 rank", "npdp, 2 ranks", "sklearn, 1 thread", "sklearn, 2 threads")


def sklearn(path: str, threads: int) -> None:
    """Train SGDClassifier and print what the example prints."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import SGDClassifier

    from npdp.data import sources

    data = sources.load(path)
    parts = []
    for part in (data.train, data.test):
        assert part is not None
        x, y = part.take(slice(None))
        parts.append((csr_matrix((x.values, x.indices, x.indptr.astype(np.int32)), shape=x.shape), y))
    model = SGDClassifier(loss="log_loss", alpha=PENALTY, max_iter=EPOCHS, tol=None, random_state=1, n_jobs=threads)
    begun = time.perf_counter()
    model.fit(*parts[0])
    speed = EPOCHS * len(parts[0][1]) / (time.perf_counter() - begun)
    print(f"test accuracy {model.score(*parts[1]):.4f}, {speed:.0f} samples/s")


def run(who: str, path: str) -> tuple[float, float]:
    """Return accuracy and samples per second of one run of a contender."""
    from npdp.app import launch

    count = re.findall(r"\d", who)[0]
    if who.startswith("npdp"):
        command = [launch.find_mpirun(), "-n", count, sys.executable, EXAMPLE, "train", path]
    else:
        command = [sys.executable, __file__, path, "--sklearn", count]
    found = SAID.search(output_of(who, command, int(count), OPENBLAS_NUM_THREADS="1"))
    assert found is not None
    return float(found[1]), float(found[2])


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__)
    parser.add_argument("data", type=flags.there, help="as `text_classifier.py make` writes it")
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--sklearn", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.sklearn:
        sklearn(arguments.data, arguments.sklearn)
        return
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("scikit-learn, which it compares with, is not installed")
    runs: dict[str, list[tuple[float, float]]] = {who: [] for who in CONTENDERS}
    for _ in range(arguments.rounds):
        for who, found in runs.items():
            found.append(run(who, arguments.data))
    figures = {}
    for who, found in runs.items():
        accuracy, speed = found[0][0], statistics.median(speed for _, speed in found)
        figures[who] = {"test accuracy": accuracy, "samples a second, median": round(speed)}
        print(f"{who:20} test accuracy {accuracy:.4f}, {speed:.0f} samples/s", flush=True)
    keep(parser, arguments, "text", figures, ["sklearn"])


if __name__ == "__main__":
    flags.run(main)
