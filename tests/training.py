"""Trains as `npdp.train` does, for tests: from flags to metrics and a model, in worlds of threads."""

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from npdp.app import train

DIGITS_TRAIN = 1437  # samples of the digits' training part
BATCHES = (1, 7, 32, 64, 100, DIGITS_TRAIN)  # from each sample alone to all at once; the last batch may be smaller

DROPOUT = """
from npdp import nn

def make(features, classes):
    return nn.Sequential(nn.Linear(features, 24), nn.Tanh(), nn.Dropout(0.3), nn.Linear(24, classes))
"""
UNUSED = """
from npdp import nn

class Model(nn.Module):
    def __init__(self, features, classes):
        self.used, self.unused = nn.Linear(features, classes), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)

def make(features, classes):
    return Model(features, classes)
"""


class Run(NamedTuple):
    """How a training ended: its exit code, the metrics, the saved arrays by name."""

    code: int
    events: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def parameters(self) -> np.ndarray:
        """All parameters in one row, in name order."""
        return np.concatenate([self.arrays[name].ravel() for name in sorted(self.arrays) if name.startswith("param")])


def read_run(code: int, folder: Path) -> Run:
    """Read what `--metrics FOLDER/run.jsonl --save FOLDER/model.npz` left."""
    with np.load(folder / "model.npz") as file:
        arrays = dict(file)
    return Run(code, strict_lines((folder / "run.jsonl").read_text()), arrays)


def strict_lines(text: str) -> list[dict[str, Any]]:
    """Parse a metrics file by JSON's own rules, which know no NaN."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def fit(*flags: Any, ranks: int = 1) -> Run:
    """Train in a world of threads; what it sets in the environment does not outlive it."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        out = ("--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz")
        code = train.main([*map(str, flags), *out, "--transport", "threads", "--ranks", str(ranks)])
        return read_run(code, Path(folder))


def exact_flags(batch: int, dtype: str) -> tuple[str, ...]:
    """Softmax, SGD with momentum; one epoch where a batch is one sample, else three."""
    epochs, rate = ("1", "0.01") if batch == 1 else ("3", "0.1")
    return ("--quiet", "--model", "softmax", "--momentum", "0.9", "--dtype", dtype, "--epochs", epochs,
            "--learning-rate", rate, "--global-batch-size", str(batch))  # fmt: skip


@functools.cache
def on_one_rank(*flags: Any) -> Run:
    """Train once for all tests that compare with it."""
    return fit(*flags)


def off(got: Run, wanted: Run) -> float:
    """Return the relative distance of two models."""
    return float(np.linalg.norm(got.parameters - wanted.parameters) / np.linalg.norm(wanted.parameters))
