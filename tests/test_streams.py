"""Standard streams that are closed, full or cannot say a name, and Ctrl-C: one line, and the work is done."""

import os
import signal
import subprocess
import sys
from unittest import mock

import pytest
from launching import exit_code, needs_mpi, wait_for_an_epoch

from npdp.app import cli, on_ranks


def test_a_reader_that_has_seen_enough_gets_no_traceback(digits_model):
    line = f'"{sys.executable}" -m npdp predict "{digits_model}" digits --probabilities | head -1'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stdout.count(",") == 9
    assert done.stderr == ""


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=needs_mpi)])
def test_without_standard_output_a_run_is_silent_and_does_its_work(ranks, tmp_path):
    line = f'exec "{sys.executable}" -m npdp train --ranks {ranks} --epochs 1 --save "{tmp_path}/m.npz" >&-'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("command", ["train", "predict model.npz digits", "bench broadcast"])
def test_ctrl_c_is_one_line_and_the_exit_code_that_a_shell_gives_it(command, capsys, monkeypatch):
    for work in ("npdp.app.train._train", "npdp.app.inference.predict", "npdp.bench.run.measure"):
        monkeypatch.setattr(work, mock.Mock(side_effect=KeyboardInterrupt))
    assert exit_code(cli.main, *command.split()) == 130
    assert capsys.readouterr() == ("", "npdp: error: ended by SIGINT\n")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(KeyboardInterrupt):  # a rank that left with a code would leave the others waiting
        on_ranks.interrupted(KeyboardInterrupt())


def test_ctrl_c_stops_a_world_of_threads(tmp_path):
    metrics = tmp_path / "m"
    flags = ("--transport", "threads", "--ranks", "2", "--epochs", "1000000", "--quiet", "--metrics", str(metrics))
    process = subprocess.Popen([sys.executable, "-m", "npdp.train", *flags], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_an_epoch(process, metrics)
        process.send_signal(signal.SIGINT)
        assert "npdp: note: stopped by SIGINT after iteration" in process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert process.returncode == 130


def test_without_standard_error_nothing_takes_its_place():
    done = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -m npdp predict missing.npz digits 2>&-'],
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_a_name_that_standard_output_cannot_encode_is_escaped(encoding, tmp_path):
    data = os.fsencode(tmp_path) + "/sch\u00f6n-".encode() + b"\xff.csv"
    with open(data, "w") as file:
        file.write("1,2,0\n3,4,1\n")
    command = [sys.executable, "-m", "npdp", "train", "--data", data, "--epochs", "1"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True)
    name = {"ascii": rb"sch\xf6n-\udcff.csv", "utf-8:strict": "sch\u00f6n-".encode() + rb"\udcff.csv"}[encoding]
    assert (done.returncode, done.stderr) == (0, b"") and name in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_behind_standard_output_is_told_of_in_one_line_and_costs_no_model(digits_model, tmp_path):
    without_home = {name: value for name, value in os.environ.items() if name != "HOME"}  # so that env prints it
    for command in (f"train --epochs 1 --save {tmp_path}/m.npz", f"predict {digits_model} digits",
                    f"evaluate {digits_model}", "env", "bench broadcast --sizes 64 --rounds 1",
                    "bench iteration --models lin10 --rounds 1",
                    "calibrate --show --ranks 2 --transport threads"):  # fmt: skip
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", "npdp", *command.split()], stdout=full,
                                  stderr=subprocess.PIPE, text=True, env=without_home)  # fmt: skip
        wanted = "npdp: error: standard output could not be written: No space left on device\n"
        assert (done.returncode, done.stderr.replace("rank 0: ", "")) == (1, wanted), command
    assert (tmp_path / "m.npz").exists()
