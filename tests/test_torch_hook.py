"""npdp's hook in PyTorch's DistributedDataParallel, under mpirun and torchrun: DDP's gradients, and how a job ends."""

import json
import re
import time
from pathlib import Path

import pytest
from launching import mpirun, needs_mpi, python, torchrun
from needs import needs_shared_memory

pytest.importorskip("torch", reason="npdp.torch needs PyTorch: pip install npdp[torch]")

CASES = {"plain", "buckets", "views", "float64", "accumulation", "unused", "static graph", "uneven"}
SOON_S = 3
PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"
LAUNCHERS = {"mpirun": mpirun, "torchrun": torchrun}
under_both = pytest.mark.parametrize("launcher", [pytest.param("mpirun", marks=needs_mpi), "torchrun"])


def launch(launcher, ranks, *arguments):
    return LAUNCHERS[launcher](ranks, "ddp.py", *arguments, timeout=90)


@under_both
@pytest.mark.parametrize(("ranks", "hosts"), [(2, 1), (4, 2), pytest.param(4, 1, marks=pytest.mark.extensive)])
def test_gradients_are_those_of_ddp_without_the_hook(launcher, ranks, hosts):
    code, stdout, stderr = launch(launcher, ranks, "compare", str(hosts))
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found.keys() == CASES
    assert max(found.values()) < 1e-6 and found["float64"] < 1e-14


def test_where_ranks_share_no_memory_the_process_group_carries_all():
    code, stdout, stderr = torchrun(2, "ddp.py", "compare", NPDP_KERNELS="numpy")
    assert code == 0, stderr
    assert max(json.loads(stdout).values()) < 1e-6


@under_both
def test_a_killed_rank_ends_the_others_soon(launcher):
    code, stdout, stderr = launch(launcher, 2, "die")
    assert time.time() - died_at(stdout) < SOON_S
    assert code != 0 and stderr


@needs_shared_memory
@pytest.mark.parametrize("hosts", ["1", "2"])
def test_a_killed_rank_is_told_in_one_line_where_no_launcher_ends_the_others(hosts):
    code, stdout, stderr = python("ddp.py", "pair", "die", hosts, timeout=60)
    assert code == 0, stderr
    first = json.loads(stdout.splitlines()[-1])
    assert first["code"] == 1 and first["at"] - died_at(stdout) < SOON_S
    said = [line for line in first["said"].splitlines() if "CommunicationError: rank 0 waits for " in line]
    assert len(said) == 1 and "rank 1, wh" in said[0] and "has ended" in said[0]


def died_at(stdout):
    return float(next(line.split()[1] for line in stdout.splitlines() if line.startswith("dies")))


@needs_shared_memory
@under_both
def test_ranks_whose_buckets_differ_are_told(launcher):
    code, _, stderr = launch(launcher, 2, "differ")
    assert code != 0
    told = r"bucket 1 is not the same on all ranks: rank [01] asks for \d+ bytes of shared memory, others of its host "
    assert re.search(told + "for 6008 to 374408", stderr)
    assert launcher == "torchrun" or stderr.count("Traceback (most recent call last)") == 1


LEAVES = "import os; dist.barrier(); print(dist.get_rank(), loss.item(), flush=True); os._exit(0)\n"  # see ddp.py


def test_the_program_of_the_page_trains_under_torchrun(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "train.py").write_text(program + LEAVES)
    code, stdout, stderr = torchrun(2, str(tmp_path / "train.py"), PYTHONPATH=str(PAGE.parent.parent))
    assert code == 0, stderr
    assert sorted(line.split()[0] for line in stdout.splitlines()) == ["0", "1"]
    assert all(float(line.split()[1]) < 1 for line in stdout.splitlines())


@needs_mpi
def test_a_process_group_of_other_ranks_than_npdps_is_refused():
    code, _, stderr = mpirun(2, "ddp.py", "sizes", timeout=60)
    assert code != 0
    assert "of npdp's 2, and rank 0 of the process group's 1: give init_process_group npdp.rank()" in stderr
