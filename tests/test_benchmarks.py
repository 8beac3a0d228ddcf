"""The scripts of benchmarks/: their help, what they refuse, and which figures they keep."""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from launching import needs_mpi, python

from npdp.bench.models import MODELS

FOLDER = Path(__file__).parent.parent / "benchmarks"
LIBRARIES = ("contenders", "flags", "gpt_in_torch", "machine")
KEEPING = ("allreduce", "choice", "command", "ddp_hook", "epoch", "language_model", "overlap", "own_arrays",
           "parameter_server", "sparse_step", "step", "strong_scaling", "text")  # fmt: skip
SCRIPTS = (*KEEPING, "recovery", "run", "server_recovery", "tensorflow_server", "worker")
GIVEN = {"epoch": ["--data", "."], "text": ["."], "tensorflow_server": ["mlp", "1"], "worker": ["npdp", "mlp", "1"]}


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def load(name):
    return importlib.import_module(name)


def parsed(name, *arguments):
    """Return the parser of a script, and its flags."""
    parser = load(name).make_parser()
    return parser, parser.parse_args([*arguments, *GIVEN.get(name, ())])


@pytest.fixture
def started(monkeypatch, capsys):
    """What runs a script in this process, which measures nothing, and returns its exit code and what it said."""
    def start(name, *arguments):
        script = load(name)
        monkeypatch.setattr(sys, "argv", [str(FOLDER / f"{name}.py"), *arguments])
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
        with pytest.raises(SystemExit) as left:
            load("flags").run(script.main)
        return left.value.code or 0, *capsys.readouterr()

    return start


def test_every_script_is_tested_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SCRIPTS, *LIBRARIES, "hosts"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_an_example_and_says_what_each_flag_is(name, started):
    code, out, error = started(name, "--help")
    assert (code, error) == (0, "") and f"python benchmarks/{name}.py" in out.split("options:")[0]
    actions = load(name).make_parser()._actions
    assert all(action.help for action in actions)
    flags = {flag for action in actions if action.help != argparse.SUPPRESS for flag in action.option_strings}
    assert ("--output" in flags) == (name in KEEPING) and all(flag in out for flag in flags)


def test_help_names_the_contenders(started):
    for name in ("step", "allreduce"):
        said = " ".join(started(name, "--help")[1].split())
        assert all(who in said for who in load(name).WHO)


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_no_program_says_so(name):
    code, stdout, stderr = python(str(FOLDER / f"{name}.py"), PYTHONPATH=str(FOLDER.parent))
    assert (code, stdout) == (1, "") and "No program: " in stderr


WRONG = [
    ("step", "--who foo", "no 'foo'; there are npdp, fused, "),
    ("step", "--models vgg", "no 'vgg'; there are lin10, softmax, mlp, mlpbig"),
    ("step", "--ranks 0", "--ranks: wanted a whole number, at least 1, got '0'"),
    ("step", "--rounds 0", "--rounds: wanted a whole number, at least 1, got '0'"),
    ("step", "--seconds -1", "--seconds: wanted a number above 0, got '-1'"),
    ("step", "--python jax", "wanted WHO=PATH, WHO one of npdp, "),
    ("step", "--python jax=/no/python", "there is no program '/no/python'"),
    ("step", "--who npdp,server", "--who server: a server and its workers are ranks, give --ranks 2 or more"),
    ("step", "--output /no/such/folder/o.json", "--output: wanted a file to write"),
    ("step", "--round 1", "unrecognized arguments: --round 1; did you mean --rounds?"),
    ("allreduce", "--sizes foo", "--sizes: wanted bytes such as 64, 1K, "),
    ("allreduce", "--sizes 1", "--sizes: 1 bytes are less than one float32"),
    ("allreduce", "--who foo", "no 'foo'; there are shared, ordinary, mpi, gloo, copy"),
    ("allreduce", "--ranks 0", "--ranks: wanted a whole number"),
    ("allreduce", "--rounds 0", "--rounds: wanted a whole number"),
    ("choice", "--ranks 0", "--ranks: wanted 2 to 64 ranks, got '0'"),
    ("choice", "--collectives foo", "--collectives: invalid choice: 'foo'"),
    ("command", "--ranks 0", "--ranks: wanted a whole number"),
    ("command", "--rounds 0", "--rounds: wanted a whole number"),
    ("ddp_hook", "--ranks 0", "--ranks: wanted a whole number"),
    ("ddp_hook", "--rounds 0", "--rounds: wanted a whole number"),
    ("epoch", "--data /nope", "--data: there is no file or folder '/nope'"),
    ("epoch", "--data . --rounds 0", "--rounds: wanted a whole number"),
    ("overlap", "", "one rank exchanges nothing: python benchmarks/hosts.py run --hosts 2 "),
    ("own_arrays", "--rounds 0", "--rounds: wanted a whole number"),
    ("parameter_server", "--models foo", "no 'foo'; there are lin10, "),
    ("parameter_server", "--rounds 0", "--rounds: wanted a whole number"),
    ("parameter_server", "--tensorflow-python /nope", "there is no program '/nope'"),
    ("sparse_step", "--rounds 0", "--rounds: wanted a whole number"),
    ("strong_scaling", "--rounds 0", "--rounds: wanted a whole number"),
    ("tensorflow_server", "", "the following arguments are required: model, seconds"),
    ("text", "/nope", "there is no file or folder '/nope'"),
    ("worker", "", "the following arguments are required: who, model, seconds"),
    ("worker", "npdp mlp 1 0", "rows: wanted a whole number, at least 1, got '0'"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), WRONG, ids=[f"{name} {words}" for name, words, _ in WRONG])
def test_what_cannot_be_used_is_one_line_before_anything_is_measured(name, arguments, said, started):
    code, out, error = started(name, *arguments.split())
    assert (code, out) == (2, "")
    assert error.startswith(f"{name}.py: ") and error.count("\n") == 1 and said in error


def test_contenders_that_are_named_must_be_installed_and_others_are_left_out(started, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, error = started("step", "--who", "npdp,horovod")
    assert (code, error) == (2, "step.py: --who horovod: horovod is not installed\n")
    assert load("flags").chosen(None, ["npdp", "horovod"]) == ["npdp"]
    assert capsys.readouterr().err == "horovod is left out: horovod is not installed\n"


# What is kept
@pytest.mark.parametrize("name", KEEPING)
def test_all_is_measured_by_default_and_less_with_fewer_rounds(name):
    parser = load(name).make_parser()
    default = parser.parse_args(GIVEN.get(name, []))
    if name == "epoch":
        default.data = parser.get_default("data")
    assert parser.left_out(default) == ""
    for flag in ("rounds", "seconds"):
        if hasattr(default, flag):
            least = getattr(default, flag)
            for value, said in ((least * 2, ""), (least / 2, f"--{flag}")):
                setattr(default, flag, value)
                assert parser.left_out(default) == said
            setattr(default, flag, least)


@pytest.mark.parametrize(("name", "arguments", "said"), [
    ("step", "--ranks 4 --python jax=sh --rounds 6", ""),
    ("step", "--models mlp", "--models"),
    ("step", f"--models {','.join(MODELS)}", ""),
    ("step", "--who npdp --seconds 0.1", "--seconds, --who"),
    ("allreduce", "--sizes 1K", "--sizes"),
    ("allreduce", "--who copy --ranks 3", "--who"),
    ("choice", "--ranks 2", "--ranks"),
    ("choice", "--places one --collectives broadcast", "--places, --collectives"),
    ("command", "--ranks 2", ""),
    ("ddp_hook", "--ranks 4", ""),
    ("epoch", "", "--data"),
    ("parameter_server", "--tensorflow-python sh", ""),
])  # fmt: skip
def test_what_leaves_something_out_is_known(name, arguments, said):
    parser, flags = parsed(name, *arguments.split())
    assert parser.left_out(flags) == said


def test_figures_of_less_than_all_leave_what_is_kept_as_it_is(monkeypatch, tmp_path, capsys):
    machine = load("machine")
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(machine, "versions", lambda contenders, pythons: {"of": f"{contenders}"})

    def keep(*arguments, why_not=""):
        monkeypatch.setattr(sys, "argv", ["strong_scaling.py", *arguments])
        machine.keep(*parsed("strong_scaling", *arguments), "it", {"figures of": arguments}, ["torch"], why_not=why_not)
        return capsys.readouterr().out

    kept, other = tmp_path / "results" / "it.json", tmp_path / "other.json"
    assert keep() == f"kept in {kept}\n"
    before = kept.read_text()
    assert json.loads(before)["command"] == "python benchmarks/strong_scaling.py"
    assert json.loads(before)["machine"]["versions"]["of"] == "['torch']"
    assert keep("--rounds", "1").startswith("not kept, as less was measured than by default: --rounds; ")
    assert keep(why_not="on other hosts").startswith("not kept, as less was measured than by default: on other hosts; ")
    assert kept.read_text() == before
    assert keep("--rounds", "1", "--output", str(other)) == f"kept in {other}\n"
    command = "python benchmarks/strong_scaling.py --rounds 1 --output other.json"
    assert json.loads(other.read_text())["command"] == command
    assert kept.read_text() == before
    keep("--rounds", "9")
    assert json.loads(kept.read_text())["command"] == "python benchmarks/strong_scaling.py --rounds 9"


@needs_mpi
def test_versions_are_those_of_the_pythons_that_contenders_run_in(tmp_path):
    versions = load("machine").versions
    found = versions(["npdp", "numpy"])
    assert {"numpy", "mpi4py"} <= found.keys() and "." in found["MPI"]
    other = tmp_path / "python"
    other.write_text('#!/bin/sh\necho noise\necho \'{"jax": "9.9"}\'\n')
    other.chmod(0o755)
    assert versions(["npdp", "jax"], {"jax": str(other)}) == {**found, "jax": "9.9"}


@needs_mpi
def test_a_short_run_is_shown_and_kept_where_it_is_said(tmp_path):
    path, home = tmp_path / "o.json", str(FOLDER.parent)
    flags = ("--ranks", "2", "--sizes", "1K", "--who", "mpi,copy", "--rounds", "1", "--output", str(path))
    code, stdout, stderr = python(str(FOLDER / "allreduce.py"), *flags, PYTHONPATH=home)
    assert (code, stderr) == (0, "") and stdout.endswith(f"kept in {path}\n")
    kept = json.loads(path.read_text())
    assert kept["figures"]["microseconds a call, medians"]["1024"].keys() == {"mpi", "copy"}
    assert {"mpi4py", "MPI"} <= kept["machine"]["versions"].keys() and str(tmp_path) not in path.read_text()
    flags = ("--models", "lin10", "--who", "numpy,npdp", "--rounds", "1", "--seconds", "0.01")
    code, stdout, stderr = python(str(FOLDER / "step.py"), *flags, PYTHONPATH=home)
    assert (code, stderr) == (0, "") and "not kept" in stdout
