"""npdp chaos under mpirun: ranks are killed, and it finds all promises kept."""

import pytest
from launching import is_intel_mpi, needs_mpi, python

pytestmark = needs_mpi
FLAGS = ("--ranks", "3", "--epochs", "2", "--seed", "5", "--soon-s", "20")


@pytest.mark.parametrize("more", [
    ("--runs", "8"),
    ("--runs", "4", "--kinds", "kill,segv,diskfull", "--checkpoint", "x", "--checkpoint-every", "3"),
    ("--runs", "3", "--strategy", "ps"),
    ("--runs", "3", "--strategy", "local-sgd", "--kinds", "kill,raise"),
    ("--runs", "3", "--algorithm", "ring", "--kinds", "kill,mismatch"),
], ids=" ".join)  # fmt: skip
def test_what_cannot_be_survived_ends_all_ranks_with_one_message_and_leaves_nothing(more):
    code, stdout, stderr = python("-m", "npdp", "chaos", *FLAGS, *more, timeout=300)
    assert code == 0, stdout + stderr
    assert "0 with a broken promise" in stdout


@pytest.mark.skipif(is_intel_mpi(), reason="--with-ft is Open MPI's")
def test_so_it_is_under_an_mpirun_that_lets_ranks_live_on():
    code, stdout, stderr = python("-m", "npdp", "chaos", *FLAGS, "--runs", "6", "--mpirun=--with-ft ulfm", timeout=300)
    assert code == 0, stdout + stderr
