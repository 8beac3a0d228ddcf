"""npdp chaos: which faults it draws, what it takes for a broken promise, and a short one, without MPI."""

import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import refusal

from npdp.app import cli
from npdp.app import config as train_config
from npdp.app.chaos import command, promises, runs
from npdp.app.chaos.draws import draw, is_harmless
from npdp.app.chaos.ground import Ground, ground_of
from npdp.app.chaos.runs import Outcome
from npdp.base.errors import InputError
from npdp.elastic.inject import KINDS, parse

PARTS = ("data", "forward", "backward", "exchange", "update")
FATAL = Ground(("kill", "raise"), (), 4, 40, PARTS, False, 5.0)
ELASTIC = Ground(("kill", "segv", "raise"), ("kill", "segv"), 4, 40, PARTS, False, 5.0)
THREADS = ("--transport", "threads", "--ranks", "3", "--epochs", "1")


# Draws
grounds = st.builds(
    Ground,
    kinds=st.just(tuple(kind for kind in KINDS if kind not in ("slow", "delay"))),
    survived=st.sampled_from([(), ("kill", "segv")]),
    ranks=st.integers(1, 5),
    iterations=st.integers(1, 100),
    parts=st.just(PARTS),
    checkpoints=st.booleans(),
    stall_abort_s=st.just(5.0),
)


@given(grounds, st.integers(0, 5), st.integers(1, 1000))
def test_what_is_drawn_can_come_and_leaves_a_rank_where_deaths_are_survived(ground, seed, run):
    faults = draw(ground, seed, run)
    assert faults == draw(ground, seed, run)
    assert all(fault.rank is None or fault.rank < ground.ranks for fault in faults)
    assert all(fault.iteration <= ground.iterations for fault in faults)
    real = [fault for fault in faults if not is_harmless(fault)]
    deaths = [fault for fault in real if fault.kind in ground.survived]
    assert len({fault.rank for fault in real}) == len(real) >= 1
    assert len(deaths) == len(real) < ground.ranks or len(real) == 1
    assert all(fault.rank == 0 and ground.checkpoints for fault in real if fault.part == "checkpoint")


def test_over_many_runs_each_kind_rank_and_part_comes():
    drawn = [fault for run in range(300) for fault in draw(ELASTIC, 1, run) if not is_harmless(fault)]
    assert {fault.kind for fault in drawn} == {"kill", "segv", "raise"}
    assert {fault.rank for fault in drawn} == {0, 1, 2, 3}
    assert {fault.part for fault in drawn} == {*PARTS, "recovery"}
    assert {fault.ms for fault in drawn} > {0.0, 1.0}


def test_another_seed_draws_others():
    assert [draw(FATAL, 1, run) for run in range(20)] != [draw(FATAL, 2, run) for run in range(20)]


def ground(*flags, only=None):
    return ground_of(train_config.parse(flags), 40, only)


def test_flags_make_faults_possible():
    plain = ground("--ranks", "4")
    assert plain.kinds == ("kill", "segv", "exit", "raise", "nan", "mismatch")
    assert plain.ranks == 4 and not plain.survived
    assert ground("--ranks", "1").kinds == ("kill", "segv", "exit", "raise", "nan") and "exchange" not in ground().parts
    assert ground("--transport", "threads", "--ranks", "2").kinds == ("raise", "nan", "mismatch")
    assert "diskfull" in ground("--ranks", "2", "--checkpoint", "x").kinds
    assert "stop" in ground("--ranks", "2", "--stall-abort-s", "3").kinds
    assert ground("--ranks", "2", "--elastic").survived == ("kill", "segv")
    assert ground("--ranks", "4", "--strategy", "ps").ranks == 3
    with pytest.raises(InputError, match="--kinds: wanted of raise, nan, mismatch, .* got 'kill'"):
        ground("--transport", "threads", "--ranks", "2", only=["raise", "kill"])


# Promises
def outcome(tmp_path, code=0, came=(), stderr="", left=(), values=(1.0, 2.0), after_s=0.1, **end):
    tmp_path.mkdir(exist_ok=True, parents=True)
    np.savez(tmp_path / "model.npz", **{"parameter/weight": np.array(values), "description": np.array("{}")})
    event = {"event": "end", "samples_seen": 10, "iterations": 5, "parameters_sha256": "ab", **end}
    came = [(100.0, parse(spec)) for spec in came]
    return Outcome(tmp_path, code, 1.0, 100.0 + after_s, stderr, [event] if end.get("event") != "none" else [], came,
                   list(left))  # fmt: skip


KILL = "kill@rank=2,iteration=3"
SAID = "npdp: error: rank 2 ended first, in exchange of iteration 3: killed by SIGKILL"
TWICE = "Traceback (most recent call last)\nTraceback (most recent call last)\nrank 2 failed in update of iteration 3:"
BROKEN = {  # ground, what came, how it ended -> what is broken
    "nothing": (FATAL, (), {}, None),
    "other bits": (FATAL, (), {"parameters_sha256": "cd"}, "parameters_sha256 is cd, undisturbed ab"),
    "a code": (FATAL, (), {"code": 1}, "ended with code 1, wanted 0"),
    "late": (FATAL, (), {"code": None}, "did not end within 1 s"),
    "left": (FATAL, (), {"left": ["process 7"]}, "left behind: process 7"),
    "killed": (FATAL, (KILL,), {"code": 137, "stderr": SAID}, None),
    "killed, code 0": (FATAL, (KILL,), {"stderr": SAID}, "ended with code 0, wanted another than 0"),
    "killed, slowly": (FATAL, (KILL,), {"code": 9, "stderr": SAID, "after_s": 2.5}, "ended 2.5 s after it"),
    "killed, silent": (FATAL, (KILL,), {"code": 9, "stderr": "rank 22: data of iteration 3"}, "no message names"),
    "killed, no part": (FATAL, (KILL,), {"code": 9, "stderr": "rank 2 died"}, "no message names the part"),
    "a NaN": (FATAL, ("nan@rank=2",), {"code": 1, "stderr": "iteration 3: the gradient is ...: rank 2's has"}, None),
    "a NaN, silent": (FATAL, ("nan@rank=2",), {"code": 1, "stderr": "a loss of nan, rank 2"}, "no message names the p"),
    "stopped": (FATAL, ("stop@rank=2",), {"code": 1, "stderr": SAID, "after_s": 6.9}, None),
    "stopped, slowly": (FATAL, ("stop@rank=2",), {"code": 1, "stderr": SAID, "after_s": 7.1}, "ended 2.1 s after"),
    "raised, code 3": (FATAL, ("raise@rank=2",), {"code": 3, "stderr": SAID}, "ended with code 3, wanted 1"),
    "raised, said twice": (FATAL, ("raise@rank=2",), {"code": 1, "stderr": TWICE}, "more than one traceback"),
    "survived": (ELASTIC, (KILL,), {"values": (1.0, 2.0 + 1e-12), "parameters_sha256": "cd"}, None),
    "survived, off": (ELASTIC, (KILL,), {"values": (1.0, 2.0 + 1e-6)}, "its parameters are off by 4.5e-07"),
    "survived, lost": (ELASTIC, (KILL,), {"samples_seen": 9}, "samples_seen is 9, undisturbed 10"),
    "survived, twice": (ELASTIC, (KILL,), {"samples_checksum": 8}, "samples_checksum is 8, undisturbed None"),
    "survived, not ended": (ELASTIC, (KILL,), {"event": "none"}, "has no end event"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_told_and_a_kept_one_is_not(case, tmp_path):
    on, came, how, wanted = BROKEN[case]
    got = outcome(tmp_path / "run", came=came, **how)
    found = [*promises.broken([fault for _, fault in got.came], on, got, outcome(tmp_path / "undisturbed"), 2.0)]
    assert found == [] if wanted is None else len(found) == 1 and found[0].startswith(wanted), found


def test_on_a_full_disk_there_is_a_word_and_no_model(tmp_path):
    full, undisturbed = [parse("diskfull@rank=0")], outcome(tmp_path / "undisturbed")
    run = outcome(tmp_path / "run", code=1, stderr=f"--save: {promises.NO_SPACE}")
    assert [*promises.broken(full, FATAL, run, undisturbed, 2.0)] == ["there is a model, though the disk was full"]
    os.unlink(tmp_path / "run" / "model.npz")
    assert [*promises.broken(full, FATAL, run, undisturbed, 2.0)] == []


def test_what_goes_on_from_a_checkpoint_ends_with_the_same_bits_and_no_half_written_file(tmp_path):
    kept = tmp_path / "run" / "checkpoint"
    kept.mkdir(parents=True)
    (kept / "000003.npz").touch()
    undisturbed = outcome(tmp_path / "undisturbed")
    assert [*promises.resumed(outcome(tmp_path / "run", samples_seen=4), undisturbed)] == []
    (kept / "npdp-0123456789abcdef.part").touch()
    found = [*promises.resumed(outcome(tmp_path / "run", parameters_sha256="cd"), undisturbed)]
    assert found == ["resumed: parameters_sha256 is cd, undisturbed ab", "resumed: npdp-0123456789abcdef.part is left"]


# Runs
LEAVES = {
    "process": "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
    "tmp/half": "import tempfile, pathlib; (pathlib.Path(tempfile.gettempdir()) / 'half').touch()",
    "/dev/shm/npdp-left": "open('/dev/shm/npdp-left', 'w')",
}


@pytest.mark.parametrize("what", LEAVES)
def test_what_a_run_leaves_behind_is_found(what, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SETTLE_S", 0.1)
    try:
        got = runs.run([sys.executable, "-c", LEAVES[what]], tmp_path / "run", 30, {})
    finally:
        Path("/dev/shm/npdp-left").unlink(missing_ok=True)
    assert got.code == 0 and len(got.left) == 1 and got.left[0].startswith(what), got.left


def test_a_run_that_does_not_end_is_ended_with_all_that_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "GRACE_S", 0.1)
    monkeypatch.setattr(runs, "SETTLE_S", 0.1)
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {LEAVES['process']}; signal.pause()"
    got = runs.run([sys.executable, "-c", program], tmp_path / "run", 0.5, {})
    assert got.code is None and got.left == []
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(tmp_path).encode() in _environ(pid)]


def _environ(process):
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


# The command
def test_a_short_chaos_keeps_all_promises(capsys, tmp_path):
    flags = ("--runs", "3", "--seed", "3", "--soon-s", "60", "--folder", str(tmp_path), *THREADS)
    assert cli.main(["chaos", *flags, "--checkpoint", "x", "--checkpoint-every", "5"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "3 runs, 0 with a broken promise" and lines[0].startswith("run   1  ")
    assert not [*tmp_path.iterdir()]


def test_a_broken_promise_is_told_with_the_command_that_repeats_it_alone(capsys, tmp_path):
    flags = ("--seed", "3", "--kinds", "raise", "--soon-s", "1e-06", "--folder", str(tmp_path))
    assert cli.main(["chaos", "--runs", "2", *flags, *THREADS]) == 1
    lines = capsys.readouterr().out.splitlines()
    again = next(line.split("again: ")[1].split("    ")[0] for line in lines if line.startswith("         again"))
    assert again.startswith("npdp chaos --seed 3 --run 1")
    assert cli.main(["chaos", "--json", "--folder", str(tmp_path), *shlex.split(again)[2:]]) == 1
    (run,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert run["run"] == 1 and "wanted 1e-06: raise@" in run["broken"][0] and {*run["came"]} <= {*run["inject"]}
    assert len([*tmp_path.glob("*/1/stderr")]) == 2  # their directories stay


@pytest.mark.parametrize(("flags", "said"), [
    (("--inject", "delay@ms=1"), "npdp chaos: --inject is its own: leave it out"),
    (("--save", "model.npz"), "npdp chaos: --save is its own"),
    (("--runs", "0"), "--runs: wanted a whole number, at least 1, got '0'"),
    (("--epochs", "-1"), "--epochs: wanted a whole number, at least 0, got '-1'"),
    (("--kinds", "kill", *THREADS), "--kinds: wanted of raise, nan, mismatch, which these flags make possible"),
    (("--data", "/nothing.csv", "--ranks", "1"), "npdp chaos: undisturbed it ended with code 2: npdp: error: "),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(flags, said, capsys):
    assert said in refusal(capsys, cli.main, "chaos", *flags)


def test_the_seed_is_of_the_faults_and_after_two_dashes_of_the_training():
    flags = command.parse(["--seed", "1", "--epochs", "2", "--", "--seed", "5"])
    assert (flags.seed, flags.training.seed, flags.training.dtype) == (1, 5, "float64")
