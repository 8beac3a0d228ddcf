"""The parameter server and local SGD under mpirun: the bits of a world of threads, and faults that end all ranks."""

import json
import os
import re
import signal
import time

import pytest
from launching import PROGRAMS, end, mpirun, needs_mpi, on_ranks, pid_of, python, started
from test_train_mpi import make, refused, runs
from training import DIGITS_TRAIN, off, on_one_rank

pytestmark = needs_mpi
SOON_S = 3
TRACEBACK = "Traceback (most recent call last)"
PROGRAM = "parameter_server.py"
QUICK = ("--quiet", "--dtype", "float64", "--epochs", "2", "--global-batch-size", "50")


def ps(servers, *more):
    return (*QUICK, "--strategy", "ps", "--servers", str(servers), *more)


def under_mpi(ranks, folder, cases, **settings):
    """Train once for each case: a server leaves its program with the training, so each has a start of its own."""
    done = {}
    for name, case in cases.items():
        start = lambda *program: mpirun(ranks, *program, timeout=60, **settings)  # noqa: E731
        done |= runs(start, make(folder / f"run {name}".replace(" ", "_")), {name: case})
    return done


# Exact
MEMORIES = {"shared memory": {}, "messages": {"NPDP_KERNELS": "numpy"}}


@pytest.mark.parametrize("memory", MEMORIES)
def test_with_staleness_0_it_has_the_bits_of_all_reduce(memory, tmp_path):
    more = {"softmax": ("--accumulate", "3"), "mlp": ("--model", "mlp", "--hidden", "30", "--optimizer", "adam")}
    naive = ("--algorithm", "naive", "--update", "replicated")
    start = lambda *program: mpirun(2, *program, timeout=60, **MEMORIES[memory])  # noqa: E731
    wanted = runs(start, make(tmp_path / "wanted"), {name: (*QUICK, *flags, *naive) for name, flags in more.items()})
    for servers, names in {0: ["softmax"], 1: ["softmax"], 2: ["mlp"]}.items():
        cases = {name: ps(servers, *more[name]) for name in names}
        for name, one in under_mpi(2 + servers, make(tmp_path / str(servers)), cases, **MEMORIES[memory]).items():
            assert one.end["parameters_sha256"] == wanted[name].end["parameters_sha256"], (servers, name)
            assert one.end["samples_seen"] == 2 * DIGITS_TRAIN
            assert set(one.end["staleness_histogram"]) == {"0"}
    assert off(wanted["softmax"], on_one_rank(*QUICK)) <= 1e-10


@pytest.mark.parametrize(("servers", "memory"), [(1, "messages"), (1, "shared memory")])
def test_whatever_the_staleness_each_sample_is_used_once(servers, memory, tmp_path):
    cases = {"1": ps(servers, "--staleness", "1", "--inject", "slow@rank=1,factor=4")}
    for name, one in under_mpi(3 + servers, tmp_path, cases, **MEMORIES[memory]).items():
        assert one.end["samples_seen"] == 2 * DIGITS_TRAIN, name
        assert sum(one.end["staleness_histogram"].values()) == one.end["pushes"]
        assert max(map(int, one.end["staleness_histogram"])) <= 2 * (2 * 1 + 1)


def test_a_recorded_run_is_replayed_twice_to_the_same_bits(tmp_path):
    flags = ps(2, "--staleness", "inf", "--inject", "slow@rank=1,factor=4")
    cases = {"first": (*flags, "--record-arrivals", f"{tmp_path}/a"),
             "second": (*flags, "--replay-arrivals", f"{tmp_path}/a"),
             "third": (*flags, "--replay-arrivals", f"{tmp_path}/a", "--inject", "slow@rank=0,factor=4")}  # fmt: skip
    done = under_mpi(5, tmp_path, cases)
    assert len({one.end["parameters_sha256"] for one in done.values()}) == 1
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "a").read_bytes()[:-30])
    line = refused(mpirun(5, "-m", "npdp.train", *flags, "--replay-arrivals", str(cut)), time.monotonic() + 60)
    assert str(cut) in line


# Flags that only a world can refuse
@pytest.mark.parametrize(
    ("flags", "said"),
    [("--servers 3", "leaves 0 workers"), ("--staleness nan", "got 'nan'")],
)
def test_three_ranks_refuse_together_in_one_line(flags, said):
    before = time.monotonic()
    assert said in refused(mpirun(3, "-m", "npdp.train", "--strategy", "ps", *flags.split()), before)


# The same loop
@pytest.mark.parametrize("strategy", ["none", "ps 2 servers", "ps bounded", "ps colocated asynchronous", "local-sgd"])
def test_the_users_loop_runs_under_each_strategy_with_one_argument_changed(strategy):
    code, stdout, stderr = mpirun(4, PROGRAM, "loop", strategy)
    assert (code, stderr) == (0, "")
    outcome = json.loads(stdout)
    servers = 0 if "colocated" in strategy or "ps" not in strategy else 2 if "2 servers" in strategy else 1
    assert outcome["workers"] == 4 - servers and outcome["error"] < 1


@pytest.mark.parametrize("strategy", ["ps", "ps colocated asynchronous"])
def test_a_program_may_end_within_a_pass(strategy):
    code, stdout, stderr = mpirun(3, PROGRAM, "with_an_iterator", strategy)
    assert (code, stderr) == (0, "")
    assert stdout.count("done") == (3 if "colocated" in strategy else 2)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(("ranks", "strategy"), [(1, "ps colocated"), (3, "ps bounded"), (3, "ps asynchronous")])
def test_a_step_of_what_a_worker_forked_is_refused_and_takes_no_place(ranks, strategy, memory):
    code, stdout, stderr = mpirun(ranks, PROGRAM, "step_in_a_child", strategy, timeout=15, **MEMORIES[memory])
    assert (code, stderr) == (0, "")
    workers = max(1, ranks - 1)
    assert stdout.count("this process was forked from a rank: it is none itself") == stdout.count("done") == workers


# Failure
@pytest.mark.parametrize("strategy", ["ps", "ps --staleness inf", "ps --staleness 1 --servers 0", "local-sgd"])
def test_an_exception_in_a_world_of_threads_has_one_traceback(strategy):
    flags = ("--transport", "threads", "--ranks", "3", "--quiet", "--strategy", *strategy.split())
    code, _, stderr = python("-m", "npdp.train", *flags, "--model", f"{PROGRAMS}/train_faulty.py:in_forward")
    assert code == 1 and "KeyError: 'the fault on purpose'" in stderr
    assert stderr.count(TRACEBACK) == 1, stderr


def assert_one_message(outcome, who):
    code, stdout, stderr = outcome
    since = float(re.search(r"at (\S+)", stdout)[1])
    assert time.monotonic() - since < SOON_S
    assert code != 0
    assert re.search(rf"^rank {who} failed( in \w+ of iteration \d+)?:\n{re.escape(TRACEBACK)}", stderr, re.M), stderr
    assert "KeyError: 'the fault on purpose'" in stderr
    assert (stdout + stderr).count(TRACEBACK) == 1, stderr


@pytest.mark.parametrize(
    ("place", "strategy"),
    [("on_a_server", "ps"), ("on_a_server", "ps colocated"), ("on_a_server", "ps colocated asynchronous"),
     ("on_a_worker", "ps asynchronous"), ("on_a_worker", "ps colocated")],
)  # fmt: skip
def test_an_exception_ends_all_ranks_with_one_message(place, strategy):
    who = 2 if place == "on_a_server" and "colocated" not in strategy else 1
    assert_one_message(mpirun(3, PROGRAM, place, strategy), who)


@pytest.mark.parametrize("strategy", ["ps", "ps colocated"])
def test_with_staleness_0_a_worker_that_leaves_early_ends_all_with_an_error(strategy):
    code, stdout, stderr = mpirun(3, PROGRAM, "one_leaves_early", strategy)
    assert time.monotonic() - float(re.search(r"at (\S+)", stdout)[1]) < SOON_S
    assert code != 0 and "worker 1 has left while worker" in stderr
    assert stderr.count(TRACEBACK) == 1, stderr


@pytest.mark.parametrize("strategy", ["ps bounded", "ps colocated asynchronous"])
def test_with_a_staleness_the_others_go_on_without_a_worker_that_has_left(strategy):
    code, stdout, stderr = mpirun(3, PROGRAM, "one_leaves_early", strategy)
    assert (code, stderr) == (0, "")
    assert "worker 0 has taken" in stdout


@pytest.mark.parametrize(("strategy", "victim"), [("ps", 2), ("ps asynchronous", 0), ("ps colocated", 1)])
def test_a_rank_that_is_killed_ends_all(strategy, victim):
    with started(PROGRAM, "for_ever", strategy, before=on_ranks(3)) as (process, mark):
        assert process.stdout.readline().startswith("begins")
        time.sleep(0.3)
        os.kill(pid_of(mark, victim), signal.SIGKILL)
        before = time.monotonic()
        process.communicate(timeout=15)
        took_s = time.monotonic() - before
        left = end(mark)
    assert took_s < SOON_S and process.returncode != 0
    assert not left
