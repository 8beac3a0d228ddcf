"""`mpirun -n 2 python -m npdp.bench allreduce` does what `npdp bench allreduce --ranks 2` starts."""

import sys

from npdp.app import address_layout
from npdp.bench.run import main

address_layout.begin_again_at_same()
sys.exit(main())
