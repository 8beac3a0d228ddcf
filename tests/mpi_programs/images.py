"""Under mpirun: trains the models of images.py with each update, and leaves what each rank has in a folder."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from images import SHAPES, program
from worlds import Parallel

import npdp

for make in SHAPES:
    for update in ("replicated", "fused"):
        arrays = program(Parallel(update=update), make, 12)
        np.savez(f"{sys.argv[1]}/{make.__name__}-{update}-{npdp.rank()}.npz", **arrays)
