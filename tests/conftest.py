"""What holds for all tests, and fixtures that several files need.

Where the C kernels are not compiled, tests and the programs they start use NumPy's by choice.
The warning that comes without a choice is what a test of its own expects (test_kernels_border.py); everywhere else it
would stand in output that tests read.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from launching import exit_code

from npdp import kernels
from npdp.app import launch
from npdp.base import environment, random

if kernels.compiled is None:
    os.environ.setdefault("NPDP_KERNELS", "numpy")

# What was measured here decides what `auto` takes: tests, and the programs they start, have a cache of their own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="npdp-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# In the background of a shell Ctrl-C is ignored, and would be by what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Many launches, hosts or cases of a kind, whose law a quicker file looks at too: `make test-all` has these as well.
EXTENSIVE = {
    "test_address_layout", "test_arrivals", "test_bench", "test_bench_checks", "test_bench_predictions",
    "test_benchmarks", "test_claimed_sizes", "test_cli", "test_console", "test_different_calls", "test_examples",
    "test_checkpoint_mpi", "test_examples_of_models", "test_memory_kept", "test_models", "test_torch_hook",
    "test_fused_hosts", "test_fused_memory", "test_hierarchical", "test_hosts", "test_parameter_server_failures",
    "test_parameter_server_flags", "test_parameter_server_mpi", "test_parameter_server_work", "test_readme",
    "test_shared_empty_room", "test_shared_memory_mpi", "test_stalls_mpi", "test_streams", "test_subreaper",
    "test_train_mpi", "test_chaos_mpi", "test_elastic_mpi", "test_elastic_servers_mpi",
}  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in EXTENSIVE:
            item.add_marker("extensive")


@pytest.fixture(autouse=True)
def _one_seed():
    """Orders and masks are those of a program that has just begun, whatever the test before has set."""
    random.manual_seed(0)


@pytest.fixture
def bare():
    """Within, the environment says nothing about ranks, threads or MPI."""
    of_launchers = {name for names in environment.LAUNCHERS for name in names}
    ours = of_launchers | set(environment.BLAS_THREADS) | set(launch.settings())
    ours |= {"PRTE_MCA_rmaps_default_mapping_policy", environment.JOB_FOLDER}
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("OMPI_")}
    with mock.patch.dict(os.environ, kept, clear=True):
        os.environ["HOME"] = "/home/somebody"
        yield


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """What is measured in this file, beside other tests, is not to choose in others."""
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache"))):
        yield


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory) -> Path:
    """A model of the digits, saved."""
    from npdp.app import cli

    path = tmp_path_factory.mktemp("model") / "model.npz"
    assert exit_code(cli.main, "train", "--quiet", "--epochs", "2", "--save", str(path)) == 0
    return path
