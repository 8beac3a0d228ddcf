"""Where the C kernels are not compiled, tests and the programs they start use NumPy's by choice.

The warning that comes without a choice is what a test of its own expects (test_kernels_border.py); everywhere else it
would stand in output that tests read.
"""

import atexit
import os
import shutil
import signal
import tempfile

import pytest

from npdp import kernels, random

if kernels.compiled is None:
    os.environ.setdefault("NPDP_KERNELS", "numpy")

# What was measured here decides what `auto` takes: tests, and the programs they start, have a cache of their own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="npdp-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# In the background of a shell Ctrl-C is ignored, and would be by what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_seed():
    """Orders and masks are those of a program that has just begun, whatever the test before has set."""
    random.manual_seed(0)
