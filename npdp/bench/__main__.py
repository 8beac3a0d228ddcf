"""`mpirun -n 2 python -m npdp.bench allreduce` does what `npdp bench allreduce --ranks 2` starts."""

import sys

from npdp.bench.run import main

sys.exit(main())
