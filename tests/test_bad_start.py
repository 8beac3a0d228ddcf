"""A run that cannot start as it is asked to: one line says why, before ranks are started, or they refuse together."""

import subprocess
import sys
from unittest import mock

import pytest
from launching import refusal

from npdp import kernels
from npdp.app import cli, config, flag_parser, train
from npdp.base.errors import InputError


@pytest.fixture
def no_ranks(monkeypatch):
    """Within, a command that starts ranks fails the test."""
    monkeypatch.setattr("npdp.app.launch.launch", lambda *_: pytest.fail("ranks were started"))


@pytest.mark.usefixtures("no_ranks")
def test_the_command_refuses_wrong_flags_before_it_starts_ranks(capsys):
    assert "got '0'" in refusal(capsys, cli.main, "train", "--ranks", "3", "--global-batch-size", "0")
    assert "--save" in refusal(capsys, cli.main, "train", "--ranks", "3", "--save", "/no/such/directory/model.npz")


@pytest.mark.usefixtures("no_ranks")
def test_flags_of_text_beside_a_folder_that_may_not_be_read_are_not_blamed(tmp_path, capsys, monkeypatch):
    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/closed"))

    monkeypatch.setattr("os.walk", walk)
    said = refusal(capsys, cli.main, "train", "--ranks", "3", "--data", str(tmp_path), "--layers", "1")
    assert f"{tmp_path}/closed: cannot be read: Permission denied" in said


@pytest.mark.parametrize("command", ["train --ranks 3", "train --transport threads --ranks 3", "train",
                                     "bench iteration --ranks 3", "predict m.npz digits"])  # fmt: skip
@pytest.mark.usefixtures("no_ranks")
def test_kernels_that_there_are_not_are_refused_before_ranks_are_started(command, capsys, monkeypatch):
    monkeypatch.setenv("NPDP_KERNELS", "foo")
    assert "error: NPDP_KERNELS is 'foo', wanted c or numpy, or unset" in refusal(capsys, cli.main, *command.split())


def test_kernels_of_c_that_were_not_compiled_are_refused_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(flag_parser, "__file__", str(tmp_path / "flag_parser.py"))
    monkeypatch.setenv("NPDP_KERNELS", "c")
    assert "C kernels are not compiled: install gcc" in refusal(capsys, cli.main, "train", "--ranks", "2")


@pytest.mark.skipif(kernels.compiled is None, reason="the C kernels are not compiled")
def test_kernels_of_c_that_were_compiled_are_found(monkeypatch):
    monkeypatch.setenv("NPDP_KERNELS", "c")
    assert config.parse(["--epochs", "3"]).epochs == 3


def test_commands_know_the_kernels_that_there_are():
    assert set(flag_parser.KERNELS) == set(kernels._CHOICES)


def test_ranks_that_nobody_started_are_refused(capsys):
    line = refusal(capsys, train.main, "--ranks", "3")
    assert "--ranks 3, but this is a world of 1" in line
    assert "npdp train --ranks 3" in line and "mpirun -n 3" in line and "--transport threads" in line


def test_ranks_that_a_launcher_has_started_may_be_more_than_one_machine_holds(monkeypatch):
    with pytest.raises(InputError, match="wanted at most 1024 on this machine, got '1025'"), cores(16):
        config.parse(["--ranks", "1025"])
    with pytest.raises(InputError, match="wanted at most 1088 on this machine, got '1089'"), cores(17):
        config.parse(["--ranks", "1089"])
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1000000")
    assert config.parse(["--ranks", "1000000"]).ranks == 1000000


def cores(number: int) -> mock._patch:
    return mock.patch("os.cpu_count", return_value=number)


def test_a_world_of_threads_on_each_of_several_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"--transport threads .* but the launcher started 3"):
        config.parse(["--transport", "threads", "--ranks", "2"])
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert config.parse(["--transport", "threads", "--ranks", "2"]).ranks == 2


def refused_by_three(capsys, folder, text: str) -> str:
    """Return the line in which three ranks on threads refuse a file of one's own, whose body of `make` this is."""
    (folder / "model.py").write_text(f"import npdp\nfrom npdp import nn\n\ndef make(features, classes):\n{text}")
    return refusal(capsys, train.main, "--transport", "threads", "--ranks", "3", "--model", f"{folder}/model.py:make")


def test_a_fault_of_one_rank_of_a_world_of_threads_is_refused_with_its_rank(tmp_path, capsys):
    line = refused_by_three(
        capsys, tmp_path, "    if npdp.rank() == 1:\n        raise OSError('no space')\n"
                          "    return nn.Linear(features, classes)\n")  # fmt: skip
    assert "error: rank 1: --model: " in line and "OSError: no space" in line


def test_models_that_differ_between_ranks_are_refused_with_the_parameter(tmp_path, capsys):
    line = refused_by_three(
        capsys, tmp_path, "    w = 5 + npdp.rank() // 2\n"
                          "    return nn.Sequential(nn.Linear(features, w), nn.Linear(w, classes))\n")  # fmt: skip
    assert "parameters differ between ranks: rank 2 has 0.bias (6,) float32, rank 0 has 0.bias (5,) float32" in line


def test_a_fault_of_the_program_is_no_refusal(tmp_path):
    """What is no input error ends with 1 and a traceback, once, on one rank and in a world of threads."""
    (tmp_path / "model.py").write_text(
        "from npdp import nn\n\n"
        "class Model(nn.Module):\n"
        "    def __init__(self, features, classes):\n        self.layer = nn.Linear(features, classes)\n\n"
        "    def forward(self, x):\n        return self.layer(x) if len(x) < 3 else self.layer(x)[:, :, 0]\n\n"
        "def make(features, classes):\n    return Model(features, classes)\n"
    )
    for ranks in ([], ["--transport", "threads", "--ranks", "3"]):
        command = [sys.executable, "-m", "npdp.train", *ranks, "--model", f"{tmp_path}/model.py:make"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("Traceback (most recent call last)") == 1 and "IndexError" in done.stderr
