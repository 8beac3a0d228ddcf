"""Estimate of the memory that a run takes, for `npdp train ... --estimate`: nothing is trained.

    parameters     N numbers                        replicated: on every rank      fused: once a host
    gradients      N                                on every rank                  on every rank
    optimizer      0 to 2 N (state_names)           on every rank                  once a host
    activations    what a forward keeps for backward, of this rank's part of a batch; measured on one forward

Source: Rajbhandari et al., ZeRO: memory optimizations toward training trillion parameter models, 2020.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np

from npdp import manual_seed
from npdp.app.config import TrainConfig
from npdp.app.evaluation import blocks, criterion_of
from npdp.app.making import load_data, make_model, make_optimizer, sparse_part, with_momentum

LARGE = 7e9  # parameters of a large model, to compare with
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def estimate(config: TrainConfig) -> str:
    """Return what a run of these flags would hold in memory, as a table.

    Raises:
        InputError: data or model cannot be used.
    """
    manual_seed(config.seed)
    data = load_data(config)
    name, model = make_model(config, data)
    config = with_momentum(config, sparse_part(data, model))
    optimizer = make_optimizer(config, model, 1)
    itemsize, numbers = np.dtype(config.dtype).itemsize, sum(p.data.size for p in model.parameters())
    trained = sum(p.data.size for p in optimizer.parameters)
    state = sum(len(group.state) * sum(p.data.size for p in group.parameters) for group in optimizer.groups)
    ranks = config.ranks or 1
    samples = -(-config.global_batch_size // ranks // config.accumulate)
    criterion = criterion_of(data.train, data.classes)
    held = _held_by_forward(model, criterion, data.train, samples)
    parts = {
        "parameters": numbers * itemsize, "gradients": trained * itemsize, "optimizer": state * itemsize,
        f"activations of {samples} samples": held,
    }  # fmt: skip
    of = "1 rank; its memory" if ranks == 1 else f"{ranks} ranks; memory of each"
    lines = [f"{name} with {numbers:,} parameters, {config.optimizer}, {config.dtype}, {of}:"]
    lines += [f"  {part:<28}{_text(nbytes)}" for part, nbytes in parts.items()]
    shared = (parts["parameters"] + parts["optimizer"]) * (1 - 1 / ranks)
    lines += _together("on a rank", sum(parts.values()), shared)
    per_number = itemsize * (2 + state / max(1, trained))
    once = itemsize * (1 + state / max(1, trained)) * (1 - 1 / ranks)
    large = f"a model of {LARGE / 1e9:g} G parameters, without activations"
    lines += _together(large, LARGE * per_number, LARGE * once)
    return "\n".join(lines)


def _together(what: str, replicated: float, shared: float) -> list[str]:
    return [f"{what}: replicated {_text(replicated)}; fused, with all ranks on one host, {_text(replicated - shared)}"]


def _held_by_forward(model: Any, criterion: Any, dataset: Any, samples: int) -> int:
    """Return the bytes that a forward of so many samples keeps for backward."""
    x, y = next(blocks(dataset, 0, min(samples, len(dataset))))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        loss = criterion(model(x), y)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del loss
    return (after - before) * samples // max(1, len(x))


def _text(nbytes: float) -> str:
    size, unit = next(((size, unit) for size, unit in UNITS if nbytes >= size), UNITS[-1])
    return f"{nbytes / size:.3g} {unit}"
