"""An asynchronous run is repeated to the same bits from a record of its arrivals; a damaged record is refused."""

import math
import os
import pickle
import random
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_play import Play, play
from training import fit

from npdp import train
from npdp.errors import InputError
from npdp.parallel.parameter_server import arrivals
from npdp.parallel.parameter_server.arrivals import Replayed
from npdp.parallel.parameter_server.messages import Push, Start, Unit
from npdp.parallel.parameter_server.server import Arrival, Server

RUN = {"ranks": 4, "seed": 0, "staleness": "inf", "data_fingerprint": "abc", "hidden": [5, 5]}


# The order is repeated
def records(game):
    return [list(server.arrivals) for server in game.servers]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_another_order_of_arrival_is_brought_back_to_the_recorded_one(
    seed, workers, shards, passes, units, barrier, breaks_off
):
    dice = random.Random(seed)
    breaks = {(w, p): dice.randint(1, 3) for w in range(workers) for p in range(passes) if dice.random() < 0.4}
    options = dict(passes=passes, units=units, barrier=barrier, breaks=breaks if breaks_off else {})
    first = play((math.inf, 0), workers, shards, **options)
    pace = [dice.choice([1, 1, 20]) for _ in range(workers)]
    weigh = lambda moves: [10 if isinstance(what, tuple) else pace[what] for _, what in moves]  # noqa: E731
    first.run(lambda moves: dice.choices(moves, weigh(moves))[0])
    for _ in range(2):
        again = Play(workers, shards, lambda k: Replayed(first.servers[k].arrivals, workers), True,
                     staleness=math.inf, **options)  # fmt: skip
        again.in_step = True  # who was late then is waited for now
        pace = [dice.choice([1, 1, 20]) for _ in range(workers)]
        while moves := again.moves():
            move, what = dice.choices(moves, weigh(moves))[0]
            move(what)
            again.check_progress()
        assert records(again) == records(first)
        assert all(worker.state == "left" for worker in again.workers)


@pytest.mark.parametrize(
    ("unit", "version"), [(Unit(0, 0, 1), 0), (Unit(0, 1, 0), 0), (Unit(0, 0, 0), 1), (Unit(-1, 0, 0), 0)]
)
def test_what_the_record_does_not_have_is_an_error_and_no_hang(unit, version):
    logic = Server(1, Replayed([Arrival(0, Unit(0, 0, 0), 0)], 1), [].append)
    with pytest.raises(RuntimeError, match="replay: worker 0 brings .* the record has .*not the run that was recorded"):
        list(logic.handle(Push(0, 1, unit, version, 1, 1)))


def test_more_than_was_recorded_is_an_error():
    logic = Server(1, Replayed([], 1), [].append)
    assert [reply.version for reply in logic.handle(Start(0, 1, 0))] == [0]
    with pytest.raises(RuntimeError, match="the record has nothing more"):
        list(logic.handle(Push(0, 2, Unit(-1, 0, 0), 0, 1, 1)))


# The file
units = st.builds(Unit, *[st.integers(-1, 10**6)] * 3)
shards_of_arrivals = st.lists(
    st.lists(st.builds(Arrival, st.integers(0, 9), units, st.integers(0, 10**6))), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(shards_of_arrivals)
def test_a_record_is_read_as_it_was_written(tmp_path_factory, shards):
    path = str(tmp_path_factory.mktemp("record") / "arrivals")
    arrivals.save(path, shards, RUN)
    assert arrivals.load(path, RUN) == shards


def test_a_record_that_cannot_be_written_leaves_the_old_one_and_nothing_else(record, monkeypatch):
    before = record.read_bytes()
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        arrivals.save(str(record), [[]], RUN)
    assert record.read_bytes() == before
    assert list(record.parent.iterdir()) == [record]


def test_a_push_takes_a_few_bytes_in_the_file(tmp_path):
    dice = random.Random(0)
    shard = [Arrival(dice.randrange(3), Unit(0, n // 69, n % 69), max(0, n - dice.randrange(4))) for n in range(10000)]
    arrivals.save(f"{tmp_path}/a", [shard], RUN)
    assert Path(f"{tmp_path}/a").stat().st_size < 8 * len(shard)


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "arrivals.npz"
    shards = [[Arrival(n % 3, Unit(0, 0, n), n // 2) for n in range(12)], [Arrival(1, Unit(0, 0, 3), 0)]]
    arrivals.save(str(path), shards, RUN)
    return path


def refused(path, run=RUN):
    """Assert that a record is refused in one line that names the file; return the line."""
    with pytest.raises(InputError) as caught:
        arrivals.load(str(path), run)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and line.startswith("--replay-arrivals: ")
    return line


def test_any_changed_byte_is_refused_or_changes_nothing(record):
    """The archive checks what is in its files; of its own headers a byte may be one that nobody reads."""
    whole, wanted = record.read_bytes(), arrivals.load(str(record), RUN)
    faults = {}
    for place in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            record.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                if arrivals.load(str(record), RUN) != wanted:
                    faults[place] = "another record was read"
            except InputError as error:
                if str(record) not in str(error) or "\n" in str(error):
                    faults[place] = f"refused with {error}"
            except Exception as error:
                faults[place] = repr(error)
    assert not faults, f"{len(faults)} of {len(whole)} places: {dict(list(faults.items())[:8])}"


def test_a_record_cut_anywhere_is_refused(record):
    whole = record.read_bytes()
    for length in range(len(whole)):
        record.write_bytes(whole[:length])
        refused(record)
    record.write_bytes(whole + b"more")
    assert arrivals.load(str(record), RUN)  # what comes behind an archive is not part of it


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


OTHERS = {
    "text": lambda path: path.write_text("worker,unit\n0,1\n"),
    "a single array": lambda path: np.save(path.open("wb"), np.arange(5)),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"run": 1})),
    "a data set": lambda path: np.savez(path.open("wb"), x=np.zeros(3), y=np.zeros(3)),
    "an archive of something": lambda path: zipped(path, run=b"no array", shard0=b"x"),
    "objects": lambda path: np.savez(path.open("wb"), run=np.array([{}], object)),
    "a run that is no text": lambda path: np.savez(path.open("wb"), run=np.array([200, 201], np.uint8)),
    "a run that is a list": lambda path: np.savez(path.open("wb"), run=np.frombuffer(b"[1]", np.uint8)),
    "a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_that_is_something_else_is_refused(other, tmp_path):
    OTHERS[other](tmp_path / "file")
    refused(tmp_path / "file")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no file" in refused(tmp_path / "missing")


def test_a_record_whose_shards_are_not_tables_of_arrivals_is_refused(record):
    with np.load(record) as file:
        arrays = dict(file)
    for bad in (np.zeros((4, 3), np.int32), np.zeros((5, 2)), np.zeros(5, np.int32), np.array(1)):
        np.savez(record.open("wb"), **{**arrays, "shard0": bad})
        refused(record)


@pytest.mark.parametrize("change", [{"seed": 1}, {"ranks": 3}, {"hidden": [5]}, {"data_fingerprint": "x"}], ids=str)
def test_another_runs_record_is_refused_with_what_differs(record, change):
    line = refused(record, {**RUN, **change})
    (name,) = change
    assert f"was recorded with {name} " in line


# From flags to bits
FLAGS = ("--quiet", "--strategy", "ps", "--staleness", "inf", "--epochs", "2", "--inject", "slow@rank=1,factor=4",
         "--inject", "delay@ms=0.5")  # fmt: skip


@pytest.mark.parametrize("servers", [2, 1, 0])
@pytest.mark.parametrize("staleness", ["inf", "1"])
def test_a_recorded_run_is_replayed_twice_to_the_same_bits(servers, staleness, tmp_path):
    flags = (*FLAGS, "--staleness", staleness, "--servers", servers)
    first = fit(*flags, "--record-arrivals", tmp_path / "a", ranks=3 + servers)
    others = ("--inject", "slow@rank=0,factor=6"), ("--record-arrivals", tmp_path / "b")
    again = [fit(*flags, *other, "--replay-arrivals", tmp_path / "a", ranks=3 + servers) for other in others]
    assert {run.end["parameters_sha256"] for run in again} == {first.end["parameters_sha256"]}
    assert {str(run.end["staleness_histogram"]) for run in again} == {str(first.end["staleness_histogram"])}
    with np.load(tmp_path / "a") as one, np.load(tmp_path / "b") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files if name != "run")


@pytest.mark.parametrize("more", [("--accumulate", "3"), ("--optimizer", "adam", "--learning-rate", "0.01"),
                                  ("--staleness-lr", "1/(1+s)"), ("--global-batch-size", "2")], ids=str)  # fmt: skip
def test_a_replay_repeats_whatever_is_trained(more, tmp_path):
    flags = (*FLAGS, "--epochs", "1", "--inject", "delay@ms=0", *more)
    first = fit(*flags, "--record-arrivals", tmp_path / "a", ranks=4)
    again = fit(*flags, "--replay-arrivals", tmp_path / "a", ranks=4)
    assert again.end["parameters_sha256"] == first.end["parameters_sha256"]


def test_flags_that_differ_from_the_recorded_ones_are_refused(tmp_path, capsys):
    flags = ("--quiet", "--strategy", "ps", "--staleness", "inf", "--epochs", "1")
    fit(*flags, "--record-arrivals", tmp_path / "a", ranks=4)
    for other, said in {("--seed", "1"): "seed 0", ("--servers", "2"): "servers 1", ("--epochs", "2"): "epochs 1",
                        ("--staleness", "2"): "staleness inf", ("--ranks", "5"): "ranks 4"}.items():  # fmt: skip
        again = (*flags, "--transport", "threads", "--ranks", "4", *other, "--replay-arrivals", str(tmp_path / "a"))
        assert train.main(again) == 2
        line = capsys.readouterr().err
        assert f"was recorded with {said}" in line and str(tmp_path / "a") in line
