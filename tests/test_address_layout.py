"""Ranks that outnumber their host's cores have the same addresses, unless the user or the system will not have it."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from launching import mpirun, needs_mpi, python

from npdp.app import address_layout, cli, launch
from npdp.base import environment

CROWD = environment.cores() + 1
TELL = 'print("personality", open("/proc/self/personality").read(), flush=True)'
PROBE = f"""
def make():
    {TELL}
    from npdp import nn
    return nn.Linear(64, 10)
"""
BENCH = """
import runpy, sys
from npdp.app import on_ranks
on_ranks.main = lambda *_: {tell} or 0
sys.argv[1:1] = {argv}
runpy.run_module("{module}", run_name="__main__")
"""
FIX = """
from npdp.app import address_layout; address_layout.fixer()()
import os; os.execvp('cat', ['cat', '/proc/self/personality'])
"""


def is_fixed(personality: str) -> bool:
    return bool(int(personality, 16) & address_layout.ADDR_NO_RANDOMIZE)


def can_be_fixed() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return is_fixed(subprocess.run([sys.executable, "-c", FIX], capture_output=True, text=True, check=True).stdout)


needs_permission = pytest.mark.skipif(not can_be_fixed(), reason="this system does not let addresses be fixed")


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe.py"
    path.write_text(PROBE)
    return ["--model", f"{path}:make", "--epochs", "1"]


def fixed_ranks(stdout: str) -> list[bool]:
    return [is_fixed(line.split()[1]) for line in stdout.splitlines() if line.startswith("personality")]


@needs_permission
@needs_mpi
@pytest.mark.parametrize("ranks", [CROWD, 2])
def test_only_ranks_that_share_cores_have_the_same_addresses(ranks, probe):
    wanted = [ranks > environment.cores()] * ranks
    started = python("-m", "npdp", "train", "--ranks", str(ranks), *probe)
    assert started.code == 0 and fixed_ranks(started.stdout) == wanted
    launched = mpirun(ranks, "-m", "npdp.train", *probe)
    assert launched.code == 0 and fixed_ranks(launched.stdout) == wanted


@needs_permission
@needs_mpi
@pytest.mark.parametrize(("module", "argv"), [("npdp.bench", []), ("npdp", ["bench"])])
def test_every_program_that_mpirun_starts_has_them(module, argv, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(BENCH.format(module=module, argv=argv, tell=TELL))
    outcome = mpirun(CROWD, str(program), "allreduce")
    assert fixed_ranks(outcome.stdout) == [True] * CROWD, outcome.stderr


@needs_permission
@needs_mpi
def test_a_program_of_ones_own_is_started_with_them(tmp_path):
    program = tmp_path / "mine.py"
    program.write_text(f"import sys\n{TELL}\nprint(sys.argv[1:], flush=True)")
    outcome = python("-m", "npdp", "run", "--ranks", str(CROWD), str(program), "--ranks", "x")
    assert outcome.code == 0 and fixed_ranks(outcome.stdout) == [True] * CROWD
    assert outcome.stdout.count("['--ranks', 'x']") == CROWD


@needs_permission
@needs_mpi
def test_a_user_may_keep_them_random(probe):
    outcome = python("-m", "npdp", "train", "--ranks", str(CROWD), *probe, **{address_layout.RANDOM: "1"})
    assert fixed_ranks(outcome.stdout) == [False] * CROWD


@pytest.mark.parametrize(
    "answers", [[-1], [0, -1], [address_layout.ADDR_NO_RANDOMIZE]], ids=["unknown", "refused", "done"]
)
def test_where_nothing_can_change_the_program_goes_on(answers, monkeypatch):
    asked = iter(answers)

    def personality(wanted):
        return next(asked)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(personality=personality))
    monkeypatch.setattr(environment, "launch", lambda: environment.Launch(0, 999, 999))
    monkeypatch.setattr(sys, "argv", [__file__])
    monkeypatch.setattr(os, "execv", lambda *given: pytest.fail("the program began again"))
    address_layout.begin_again_at_same()
    assert next(asked, None) is None


@pytest.mark.parametrize("launched", [None, environment.Launch(0, 9, 1)])
def test_a_rank_with_a_core_of_its_own_does_not_begin_again(launched, monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "launch", lambda: launched)
    monkeypatch.setattr(sys, "argv", [__file__])
    monkeypatch.setattr(address_layout, "fixer", lambda: asked.append("to be fixed"))
    address_layout.begin_again_at_same()
    assert asked == []


@pytest.mark.parametrize(("argv0", "begins"), [(__file__, 1), ("-c", 1), ("-", 0), ("", 0), ("/dev/null", 0)])
def test_a_program_begins_again_once_and_only_where_it_can_be_read_again(argv0, begins, monkeypatch):
    begun = []
    monkeypatch.setattr(environment, "launch", lambda: environment.Launch(0, 999, 999))
    monkeypatch.setattr(address_layout, "fixer", lambda: lambda: True)  # as where the system drops it at each exec
    monkeypatch.setattr(sys, "argv", [argv0])
    monkeypatch.setattr(os, "execv", lambda *given: begun.append(given))
    monkeypatch.setenv(address_layout._BEGUN_AGAIN, "1")  # of another process: this one's parent, say
    for _ in range(3):
        address_layout.begin_again_at_same()
    assert begun == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])] * begins


def test_an_interpreter_that_is_not_there_goes_on(monkeypatch):
    monkeypatch.setattr(environment, "launch", lambda: environment.Launch(0, 999, 999))
    monkeypatch.setattr(address_layout, "fixer", lambda: lambda: True)
    monkeypatch.setattr(sys, "argv", [__file__])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv(address_layout._BEGUN_AGAIN, "")
    address_layout.begin_again_at_same()
    assert os.environ[address_layout._BEGUN_AGAIN] == str(os.getpid())  # it was tried


def test_who_calls_main_of_the_command_is_not_begun_again(monkeypatch):
    again = lambda: pytest.fail("the caller's program would begin again")  # noqa: E731
    monkeypatch.setattr(address_layout, "begin_again_at_same", again)
    monkeypatch.setattr(sys, "argv", ["npdp", "env"])
    assert cli.main() == cli.main(["env"]) == 0


@pytest.mark.parametrize(("said", "keeps"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_only_a_yes_keeps_them_random(said, keeps, monkeypatch):
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    system = SimpleNamespace(personality=lambda wanted: asked.append(wanted) or 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: system)
    monkeypatch.setenv(address_layout.RANDOM, said)
    address_layout.fixer()()
    assert (asked == []) == keeps


def test_before_mpirun_addresses_are_fixed_where_cores_do_not_suffice(monkeypatch):
    asked = []
    monkeypatch.setattr(address_layout, "fixer", lambda: lambda: asked.append("fixed"))
    monkeypatch.setattr(launch, "signal_when_parent_dies", lambda number, parent: lambda: None)
    launch.before_mpirun(environment.cores())()
    assert asked == []
    launch.before_mpirun(CROWD)()
    assert asked == ["fixed"]
