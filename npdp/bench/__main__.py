"""`mpirun -n 2 python -m npdp.bench allreduce` does what `npdp bench allreduce --ranks 2` starts."""

import sys

from npdp import addresses
from npdp.bench.run import main

addresses.begin_again_at_same()
sys.exit(main())
