"""What a file of figures says of the machine and the command (npdp/report/machine.py)."""

import json

import pytest

from npdp.report import machine


@pytest.mark.parametrize(("arguments", "said"), [
    (["--sizes", "1K"], "npdp bench --sizes 1K"),
    (["--json", "/a/b c/o.json", "--plot=/a/o.png"], "npdp bench --json o.json --plot=o.png"),
    (["--python", "jax=/opt/jax/bin/python"], "npdp bench --python jax=python"),
    (["--data", "/usr/share/mnist/", "results/o.json", "../o"], "npdp bench --data mnist/ results/o.json ../o"),
    (["a b", "/"], "npdp bench 'a b' /"),
])  # fmt: skip
def test_a_command_is_what_one_types_without_where_this_machine_keeps_its_files(arguments, said, monkeypatch):
    monkeypatch.delenv(machine.STARTED_BY, raising=False)
    assert machine.command_line("npdp bench", arguments) == said
    monkeypatch.setenv(machine.STARTED_BY, "python benchmarks/hosts.py run --hosts 2 --")
    assert machine.command_line("npdp bench", arguments) == f"python benchmarks/hosts.py run --hosts 2 -- {said}"


def test_versions_of_other_processes_stand_beside_those_of_this_one(tmp_path):
    machine.keep(tmp_path / "o.json", "it", {"torch": "1.0", "MPI": "Open MPI v5"}, figures=3)
    kept = json.loads((tmp_path / "o.json").read_text())
    assert kept["machine"]["versions"].items() >= {"torch": "1.0", "MPI": "Open MPI v5"}.items()
    assert {"npdp", "numpy", "python"} <= kept["machine"]["versions"].keys() and kept["figures"] == 3
