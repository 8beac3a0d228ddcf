"""One training step on one rank with one BLAS thread: npdp, NumPy by hand, PyTorch eager, in turn in one process.

    python benchmarks/step.py [--rounds 7] [--models lin10,mlp]
"""

from __future__ import annotations

import argparse
import os
import sys

from machine import SLOWED_BY, keep, medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default="lin10,softmax,mlp,mlpbig")
    parser.add_argument("--no-torch", action="store_true")
    arguments = parser.parse_args()
    if any(name in os.environ for name in SLOWED_BY) or os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        for name in SLOWED_BY:
            os.environ.pop(name, None)
        os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, *sys.argv])  # BLAS reads these once, when it is loaded
    import contenders

    if not arguments.no_torch:
        import torch

        torch.set_num_threads(1)
    figures = {}
    for name in arguments.models.split(","):
        steps = {"npdp": contenders.npdp_step(name), "numpy": contenders.numpy_step(name)}
        if not arguments.no_torch:
            steps["torch"] = contenders.torch_step(name)
        seconds = medians(steps, arguments.rounds, 0.3)
        figures[name] = {who: round(value * 1e6, 2) for who, value in seconds.items()}
        ratios = ", ".join(f"{seconds['npdp'] / value:.2f} of {who}" for who, value in seconds.items() if who != "npdp")
        print(f"{name:8}", {who: f"{value:.1f} us" for who, value in figures[name].items()}, ratios, flush=True)
    print("kept in", keep("step", "python benchmarks/step.py", {"microseconds a step": figures}))


if __name__ == "__main__":
    main()
