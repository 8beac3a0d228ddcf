"""`import npdp` costs next to nothing and touches neither MPI nor NumPy; one rank trains where there is no MPI."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from npdp.base.environment import BLAS_THREADS, LAUNCHERS

ON_TOP_OF_NUMPY_S = 0.15
OF_LAUNCHERS = {name for names in LAUNCHERS for name in names}


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that no launcher has started, with BLAS threads left open."""
    clean = {name: value for name, value in os.environ.items() if name not in {*BLAS_THREADS, *OF_LAUNCHERS}}
    return subprocess.run([sys.executable, *arguments], env=clean | variables, capture_output=True, text=True)


def loaded_after(statement: str) -> set[str]:
    done = python("-c", f"import sys\n{statement}\nprint(*(name.split('.')[0] for name in sys.modules))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_neither_numpy_nor_mpi():
    assert not loaded_after("import npdp") & {"numpy", "mpi4py", "cffi"}
    assert not loaded_after("import npdp; npdp.__version__; dir(npdp)") & {"numpy", "mpi4py"}


def test_flags_are_read_before_numpy_is_loaded():
    assert not loaded_after("from npdp.app import cli, config, launch, train; config.parse([])") & {"numpy", "mpi4py"}


def test_a_world_of_one_loads_no_mpi():
    assert "mpi4py" not in loaded_after("import npdp; npdp.init(); npdp.nn; npdp.optim; npdp.data; npdp.parallel")


def test_import_is_quick_on_top_of_numpy():
    program = "import time, numpy; t = time.perf_counter(); import npdp; print(time.perf_counter() - t)"
    assert statistics.median(float(python("-c", program).stdout) for _ in range(3)) < ON_TOP_OF_NUMPY_S


def test_every_public_name_is_there():
    import npdp

    assert all(getattr(npdp, name) is not None for name in npdp.__all__)
    assert set(npdp.__all__) <= set(dir(npdp))
    assert npdp.nn.DataParallel is npdp.DistributedDataParallel
    with pytest.raises(AttributeError, match="module 'npdp' has no attribute 'no_such_name'"):
        npdp.no_such_name  # noqa: B018


# BLAS threads: told by the environment that NumPy then reads
TOLD = "import npdp, os; print(os.environ.get('OPENBLAS_NUM_THREADS'), os.environ.get('OMP_NUM_THREADS'))"


@pytest.mark.parametrize("ranks", ["2", "5"])
def test_several_ranks_on_a_host_share_its_cores(ranks):
    launched = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": ranks, "OMPI_COMM_WORLD_LOCAL_SIZE": ranks}
    each = max(1, len(os.sched_getaffinity(0)) // int(ranks))
    assert python("-c", TOLD, **launched).stdout == f"{each} {each}\n"
    assert python("-c", TOLD, **launched, OMP_NUM_THREADS="7").stdout == "None 7\n"


def test_one_rank_takes_what_blas_takes():
    assert python("-c", TOLD).stdout == "None None\n"


def test_a_world_of_threads_shares_the_cores_too():
    done = python("-m", "npdp.train", "--transport", "threads", "--ranks", "64", "--epochs", "0")
    assert "64 on threads of one process, 1 BLAS thread each" in done.stdout, done.stderr


# Without MPI, without the compiled kernels
QUICK = ("--epochs", "2")


def sha256(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.split("sha256")[1].split()[0]


@pytest.fixture
def no_mpi(tmp_path: Path) -> dict[str, str]:
    """Settings with which mpi4py cannot be imported."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('there is no MPI here')\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("world", [(), ("--transport", "threads", "--ranks", "3")])
def test_without_mpi_one_rank_and_a_world_of_threads_train(world, no_mpi):
    assert sha256(python("-m", "npdp.train", *QUICK, *world, **no_mpi))


def test_a_world_of_threads_needs_none_of_what_unix_alone_has():
    lacks = "sys.modules.update(dict.fromkeys(['resource', 'fcntl', 'termios', 'pwd', 'grp']))"
    calls = "for name in ('memfd_create', 'fork', 'register_at_fork', 'sched_getaffinity'): delattr(os, name)"
    world = "import npdp; print(npdp.run_ranks(2, lambda: npdp.barrier() or npdp.rank()))"
    done = python("-c", f"import os, sys\n{lacks}\n{calls}\n{world}")
    assert (done.returncode, done.stdout) == (0, "[0, 1]\n"), done.stderr


def test_without_mpi_the_command_trains_on_one_rank(no_mpi):
    assert sha256(python("-m", "npdp", "train", *QUICK, **no_mpi))


def test_numpy_kernels_train_the_same_model_as_the_compiled_ones():
    kernels = pytest.importorskip("npdp.kernels")
    if kernels.compiled is None:
        pytest.skip("the C kernels are not compiled here")
    for optimizer in ("sgd", "adamw"):
        flags = (*QUICK, "--transport", "threads", "--ranks", "3", "--optimizer", optimizer, "--algorithm", "ring")
        runs = [python("-m", "npdp.train", *flags, NPDP_KERNELS=name) for name in ("c", "numpy")]
        assert sha256(runs[0]) == sha256(runs[1])
        assert "c kernels" in runs[0].stdout and "numpy kernels" in runs[1].stdout
