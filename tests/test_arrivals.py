"""An asynchronous run is repeated to the same bits from a record of its arrivals; a damaged record is refused."""

import json
import math
import os
import random
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_play import Play, play
from training import fit

from npdp.app import train
from npdp.base.errors import InputError
from npdp.parallel.parameter_server import update_log
from npdp.parallel.parameter_server.messages import Kind, Message, WorkItem
from npdp.parallel.parameter_server.server import Server
from npdp.parallel.parameter_server.update_log import Replayed, Update

RUN = {"ranks": 4, "seed": 0, "staleness": "inf", "data_fingerprint": "abc", "hidden": [5, 5]}


# The order is repeated
def save(path, shards, run):
    """Write logs as a worker does, from the reports of shards that kept them."""
    reports = [{"log": [(update.worker, *update.item, update.version) for update in shard]} for shard in shards]
    update_log.save(path, reports, run)


def records(game):
    logs = [server.policy.log for server in game.servers]
    return [[Update(worker, WorkItem(*item), version) for worker, *item, version in log] for log in logs]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_another_order_of_arrival_is_brought_back_to_the_recorded_one(
    seed, workers, shards, passes, items, barrier, breaks_off
):
    dice = random.Random(seed)
    breaks = {(w, p): dice.randint(1, 3) for w in range(workers) for p in range(passes) if dice.random() < 0.4}
    options = dict(passes=passes, items=items, barrier=barrier, breaks=breaks if breaks_off else {})
    first = play(math.inf, workers, shards, **options)
    pace = [dice.choice([1, 1, 20]) for _ in range(workers)]
    weigh = lambda moves: [10 if isinstance(what, tuple) else pace[what] for _, what in moves]  # noqa: E731
    first.run(lambda moves: dice.choices(moves, weigh(moves))[0])
    for _ in range(2):
        replayed = [Replayed(log, workers) for log in records(first)]
        again = Play(workers, shards, lambda k: (replayed[k], replayed[k]), staleness=math.inf, **options)  # noqa: B023
        again.in_step = True  # who was late then is waited for now
        pace = [dice.choice([1, 1, 20]) for _ in range(workers)]
        while moves := again.moves():
            move, what = dice.choices(moves, weigh(moves))[0]
            move(what)
            again.check_progress()
        assert records(again) == records(first)
        assert all(worker.state == "left" for worker in again.workers)


@pytest.mark.parametrize(
    ("item", "version"),
    [(WorkItem(0, 0, 1), 0), (WorkItem(0, 1, 0), 0), (WorkItem(0, 0, 0), 1), (WorkItem(-1, 0, 0), 0)],
)
def test_what_the_record_does_not_have_is_an_error_and_no_hang(item, version):
    logic = Server(1, Replayed([Update(0, WorkItem(0, 0, 0), 0)], 1), [].append)
    with pytest.raises(RuntimeError, match="replay: worker 0 brings .* the record has .*not the run that was recorded"):
        list(logic.handle(Message(Kind.PUSH, 0, version=version, item=item)))


def test_more_than_was_recorded_is_an_error():
    logic = Server(1, Replayed([], 1), [].append)
    assert [reply.version for reply in logic.handle(Message(Kind.START, 0))] == [0]
    with pytest.raises(RuntimeError, match="the record has nothing more"):
        list(logic.handle(Message(Kind.PUSH, 0, item=WorkItem(-1, 0, 0))))


# The file
items = st.builds(WorkItem, *[st.integers(-1, 10**6)] * 3)
shards_of_arrivals = st.lists(
    st.lists(st.builds(Update, st.integers(0, 9), items, st.integers(0, 10**6))), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(shards_of_arrivals)
def test_a_record_is_read_as_it_was_written(tmp_path_factory, shards):
    path = str(tmp_path_factory.mktemp("record") / "arrivals")
    save(path, shards, RUN)
    assert update_log.load(path, RUN) == shards


def test_a_record_that_cannot_be_written_leaves_the_old_one_and_nothing_else(record, monkeypatch):
    before = record.read_bytes()
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save(str(record), [[]], RUN)
    assert record.read_bytes() == before
    assert list(record.parent.iterdir()) == [record]


def test_a_push_takes_a_few_bytes_in_the_file(tmp_path):
    dice = random.Random(0)
    items = [WorkItem(0, n // 69, n % 69) for n in range(10000)]
    shard = [Update(dice.randrange(3), item, max(0, n - dice.randrange(4))) for n, item in enumerate(items)]
    save(f"{tmp_path}/a", [shard], RUN)
    assert Path(f"{tmp_path}/a").stat().st_size < 8 * len(shard)


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "arrivals.npz"
    shards = [[Update(n % 3, WorkItem(0, 0, n), n // 2) for n in range(12)], [Update(1, WorkItem(0, 0, 3), 0)]]
    save(str(path), shards, RUN)
    return path


def refused(path, run=RUN):
    """Assert that a record is refused in one line that names the file; return the line."""
    with pytest.raises(InputError) as caught:
        update_log.load(str(path), run)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and line.startswith("--replay-arrivals: ")
    return line


def test_any_changed_byte_is_refused(record):
    whole = record.read_bytes()
    for place in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            record.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            refused(record)


def test_a_record_cut_anywhere_or_longer_is_refused(record):
    whole = record.read_bytes()
    for length in range(len(whole)):
        record.write_bytes(whole[:length])
        refused(record)
    record.write_bytes(whole + b"more")
    refused(record)


OTHERS = {
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("worker,item\n0,1\n"),
    "a data set": lambda path: np.savez(path.open("wb"), x=np.zeros(3), y=np.zeros(3)),
    "a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_that_is_something_else_is_refused(other, tmp_path):
    OTHERS[other](tmp_path / "file")
    refused(tmp_path / "file")


def test_a_record_that_unpacks_to_much_is_refused_at_once(tmp_path):
    packed = zlib.compress(b'{"run": {"format": 2}, "shards": []}' + b" " * 10**7)
    (tmp_path / "a").write_bytes(update_log._digest(packed) + packed)
    with pytest.raises(InputError, match="is no whole record .* unpacks to over 32 times its bytes"):
        update_log.load(str(tmp_path / "a"), {})


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no file" in refused(tmp_path / "missing")


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
    logs = [json.loads(zlib.decompress((tmp_path / name).read_bytes()[update_log.DIGEST_BYTES :])) for name in "ab"]
    assert logs[0]["shards"] == logs[1]["shards"]


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
