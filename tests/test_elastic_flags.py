"""What --elastic and --spares go together with, and what mpirun is told."""

import subprocess
from unittest import mock

import pytest
from launching import needs_mpi, refusal, why_no_ulfm

from npdp.app import cli, launch
from npdp.app.mpirun_signals import Ended
from npdp.base.errors import InputError


@pytest.mark.parametrize(("flags", "why"), [
    (("--strategy", "ps", "--spares", "1"), "has replicas of its shards, and no spares"),
    (("--strategy", "ps", "--staleness", "1", "--record-arrivals", "x"), "cannot be repeated"),
    (("--strategy", "local-sgd"), "is not elastic"),
    (("--strategy", "naive"), "is not elastic"),
    (("--update", "fused"), "ranks share parameters there"),
    (("--transport", "threads"), "die together"),
    (("--algorithm", "mpi"), "does not survive a death"),
])  # fmt: skip
def test_elastic_refuses_what_does_not_survive(flags, why, capsys, bare):
    assert why in refusal(capsys, cli.main, "train", "--elastic", "--ranks", "2", *flags)


def test_spares_are_for_elastic_training(capsys, bare):
    assert "wanted --elastic too" in refusal(capsys, cli.main, "train", "--ranks", "2", "--spares", "1")


@pytest.mark.parametrize("version", ["mpirun (Open MPI) 4.1.6\n", "HYDRA build details:\n    Version: 4.2.0\n", ""])
def test_an_mpirun_that_cannot_let_ranks_survive_is_refused_with_the_way_on(version):
    said = subprocess.CompletedProcess([], 0, version, "")
    with (
        mock.patch.object(launch, "find_mpirun", return_value="mpirun"),
        mock.patch("subprocess.run", return_value=said),
        pytest.raises(InputError, match="wanted the mpirun of Open MPI 5.*--checkpoint"),
    ):
        launch.surviving()


@needs_mpi
@pytest.mark.skipif(bool(why_no_ulfm()), reason=why_no_ulfm())
def test_elastic_training_starts_spares_too_and_tells_mpirun(bare):
    with mock.patch.object(launch, "launch", return_value=Ended(0, False)) as run:
        assert cli.main(["train", "--ranks", "3", "--elastic", "--spares", "2"]) == 0
        assert run.call_args.args[0] == 5
        assert run.call_args.kwargs == {"flags_of_mpirun": ("--with-ft", "ulfm"), "restarts": 0}
