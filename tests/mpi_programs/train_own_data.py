"""Under mpirun: each rank trains in a directory of its own, where data.csv is another one on the last rank."""

import os
import sys

import npdp
from npdp.app import train

rank, last = npdp.rank(), npdp.world_size() - 1
folder = os.path.join(sys.argv[1], str(rank))
os.mkdir(folder)
os.chdir(folder)
if sys.argv[2] == "differs" or rank != last:
    with open("data.csv", "w") as file:
        file.writelines(f"{i},{i * i},{i % 2 + (rank == last and i == 7)}\n" for i in range(20))
sys.exit(train.main(["--data", "data.csv", *sys.argv[3:]]))
