"""PyTorch's further arguments of a DataLoader: those that change no result are taken, the others refused by name."""

from __future__ import annotations

from typing import Any

IDLE = ("num_workers", "pin_memory", "pin_memory_device", "prefetch_factor", "persistent_workers", "timeout",
        "worker_init_fn", "multiprocessing_context", "in_order")  # fmt: skip
REFUSED = {
    "drop_last": "every sample is used, exactly once: the last batch is smaller",
    "sampler": "shuffle=True draws an order for each epoch, and each rank has its part of every batch",
    "batch_sampler": "shuffle=True draws an order for each epoch, and each rank has its part of every batch",
    "collate_fn": "samples are stacked: change them in the dataset's __getitem__, or give batches by its take(rows)",
}


def accept(arguments: dict[str, Any], seed: int | None) -> int | None:
    """Check arguments that are not npdp's; return the seed, a generator's where one is given.

    Raises:
        ValueError: one would change which samples come, or how.
        TypeError: the name is not known.
    """
    for name, value in arguments.items():
        if name == "generator":
            seed = value.initial_seed() if value is not None and seed is None else seed
        elif name in REFUSED:
            if value is not None and value is not False:
                raise ValueError(f"DataLoader: {name} is not to be had; {REFUSED[name]}")
        elif name not in IDLE:
            raise TypeError(f"DataLoader: unexpected argument {name!r}")
    return seed
