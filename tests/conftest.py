"""Where the C kernels are not compiled, tests and the programs they start use NumPy's by choice.

The warning that comes without a choice is what a test of its own expects (test_kernels_border.py); everywhere else it
would stand in output that tests read.
"""

import os

from npdp import kernels

if kernels.compiled is None:
    os.environ.setdefault("NPDP_KERNELS", "numpy")
