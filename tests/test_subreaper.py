"""Children of ranks: none outlives its rank for long, or `npdp run` at all."""

import os
import signal
import sys

import pytest
from launching import end, needs_mpi, python, started

from npdp.app import subreaper

pytestmark = [
    needs_mpi,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has subreapers"),
]
RUN = ("-m", "npdp", "run", "--ranks", "2")
PROGRAM = os.path.join(os.path.dirname(__file__), "mpi_programs", "orphans.py")
CHILDREN = ("program", "program_in_a_session_of_its_own", "worker", "program_of_a_thread")


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("ending", ["is_killed", "crashes", "raises", "leaves"])
def test_a_child_that_holds_a_ranks_output_keeps_nothing_waiting_when_the_rank(ending, child):
    """`python` fails where a process is left over."""
    code, stdout, _ = python(*RUN, PROGRAM, ending, child, timeout=15)
    assert stdout.startswith("started\n") and (code == 0) == (ending == "leaves")


@pytest.mark.parametrize("child", CHILDREN)
def test_ctrl_c_leaves_no_child_of_a_rank(child):
    with started(*RUN, PROGRAM, "stays", child) as (process, mark):
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=15)
        assert not end(mark)
    assert process.returncode == 130 and stderr.endswith("npdp: error: ended by SIGINT\n")


def test_what_a_living_rank_leaves_to_itself_lives_on(tmp_path):
    """As a shell does with what it starts in the background, and a program that becomes a daemon."""
    program, made = tmp_path / "background.py", [tmp_path / "of_the_group", tmp_path / "of_its_own"]
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo >"
    program.write_text(
        "import pathlib, subprocess, sys, time\n"
        f"subprocess.run('( {wait} {made[0]} ) &', shell=True)\n"
        f"subprocess.run('setsid sh -c \"{wait} {made[1]}\" &', shell=True)\n"
        f"time.sleep({3 * subreaper.LOOK_EVERY_S})\n"
        f"pathlib.Path('{tmp_path}/go').touch()\n"
        f"while not all(map(pathlib.Path.exists, map(pathlib.Path, {list(map(str, made))}))): time.sleep(0.05)\n"
    )
    assert python("-m", "npdp", "run", "--ranks", "1", str(program)).code == 0


def test_a_child_of_a_rank_that_left_early_is_ended(tmp_path):
    """Rank 0 waits for the end of rank 1's child, which nothing else ends."""
    program, child = tmp_path / "early.py", tmp_path / "child"
    program.write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "if any(os.environ.get(name) == '1' for name in ('OMPI_COMM_WORLD_RANK', 'PMI_RANK')):\n"
        f"    started = subprocess.Popen({[sys.executable, '-S', '-c', 'import time; time.sleep(1000)']})\n"
        f"    pathlib.Path('{child}.new').write_text(str(started.pid))\n"
        f"    os.rename('{child}.new', '{child}')\n"
        "    os._exit(0)\n"
        f"while not os.path.exists('{child}'): time.sleep(0.05)\n"
        f"while os.path.exists('/proc/' + pathlib.Path('{child}').read_text()): time.sleep(0.05)\n"
    )
    assert python(*RUN, str(program), timeout=15).code == 0


def test_afterwards_it_is_no_subreaper():
    with subreaper.orphans_ended(0):
        assert is_subreaper()
    assert not is_subreaper()


def is_subreaper() -> bool:
    import ctypes

    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    return bool(found.value)
