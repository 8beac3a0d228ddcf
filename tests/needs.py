"""What a test needs of the machine, as marks: it is skipped elsewhere, with the reason."""

import pytest

from npdp import kernels

needs_shared_memory = pytest.mark.skipif(kernels.backend() != "c", reason="shared memory needs the C kernels")
through_shared_memory = pytest.param("shared_memory", marks=needs_shared_memory)  # among the names of algorithms
