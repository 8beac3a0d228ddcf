"""The command's training on threads, of which some die: what it leaves is as if none had."""

from functools import partial

import mortal
import pytest
from deaths import run_mortal
from training import strict_lines

from npdp.app import train
from npdp.app.checkpoints import Checkpoints
from npdp.app.config import parse
from npdp.app.elastic_servers import ElasticServers
from npdp.app.not_finite import NotFinite
from npdp.app.stopping import Command, Stopping
from npdp.app.training import Training
from npdp.base.errors import DivergedError, StoppedError
from npdp.base.stop_signals import StopSignals
from npdp.comm.thread_deaths import Death
from npdp.data.sampler import shard
from npdp.elastic import State, checkpoint
from npdp.elastic.ledger import expected_checksum
from npdp.parallel.world import init
from npdp.report.progress import Progress

FLAGS = ("--elastic", "--quiet", "--dtype", "float64", "--model", "softmax", "--epochs", "2",
         "--global-batch-size", "300")  # fmt: skip
SAMPLES, EPOCHS = 1437, 2


def trained(folder, deaths, *flags):
    """Train on three ranks of which some die; return what the others returned, or stopped with, and the events."""
    typed = [*FLAGS, *map(str, flags), "--metrics", str(folder / "run.jsonl"), "--save", str(folder / "model.npz")]

    def program():
        try:
            return train.train(parse(typed), Command(typed, 0.0, StopSignals()))
        except StoppedError as stopped:
            return stopped

    found = run_mortal(3, deaths, program)
    return found, strict_lines((folder / "run.jsonl").read_text())


def dies_in(owner, method, number, monkeypatch):
    """Have a rank die where it calls a method."""
    original = getattr(owner, method)

    def dies(self, *arguments):
        if shard().begun[0] == number:
            raise Death
        return original(self, *arguments)

    monkeypatch.setattr(owner, method, dies)


@pytest.mark.parametrize("rank", range(3))
def test_a_death_at_any_event_of_the_start_is_survived(rank, tmp_path):
    for event in range(1, 40, 3):
        _, events = trained(tmp_path, {rank: event})
        assert [said["event"] for said in events if said["event"] not in ("iteration", "recovery")] == [
            "start", "epoch", "epoch", "end"]  # fmt: skip
        assert events[-1]["samples_checksum"] == expected_checksum(SAMPLES, EPOCHS)


@pytest.mark.parametrize("rank", range(3))
def test_a_death_while_files_are_written_is_survived_and_nothing_comes_after_the_end(rank, tmp_path, monkeypatch):
    dies_in(Training, "_write_results", rank, monkeypatch)
    found, events = trained(tmp_path, {})
    assert len(found) == 2 and all(end["train_loss"] for end in found.values())
    assert [said["event"] for said in events if said["event"] != "iteration"] == ["start", "epoch", "epoch", "end"]


@pytest.mark.parametrize("rank", range(3))
def test_a_death_while_all_stop_is_survived_and_they_stop(rank, tmp_path, monkeypatch):
    dies_in(Training, "_write_results", rank, monkeypatch)
    monkeypatch.setattr(Stopping, "_asked", lambda self, asked=Stopping._asked: asked(self) or 143 * (
        self._job.optimizer.iteration == 3 and shard().begun[0] == rank))  # fmt: skip
    found, events = trained(tmp_path, {}, "--inject", "delay@ms=110")  # so that they look after each iteration
    assert [(stopped.code, type(stopped)) for stopped in found.values()] == [(143, StoppedError)] * 2
    assert [said["event"] for said in events if said["event"] != "iteration"] == ["start", "stopped"]


def test_who_takes_over_after_a_resume_tells_of_no_epoch_that_ended_before(tmp_path, monkeypatch):
    kept = ("--checkpoint", tmp_path / "kept", "--lr-schedule", "constant")
    trained(tmp_path, {}, *kept, "--epochs", 1)
    (tmp_path / "run.jsonl").unlink()
    dies_in(NotFinite, "after", 0, monkeypatch)
    _, events = trained(tmp_path, {}, *kept, "--resume")
    told = [(said["event"], said.get("epoch")) for said in events if said["event"] != "iteration"]
    assert told == [("start", None), ("recovery", None), ("epoch", 2), ("end", None)]


def test_updates_that_were_left_out_before_a_recovery_of_servers_are_counted(monkeypatch):
    typed = [*FLAGS, "--strategy", "ps", "--servers", "0", "--staleness", "2", "--on-nan", "skip",
             "--inject", "nan@rank=1,iteration=1"]  # fmt: skip
    dies_in(Progress, "epoch", 2, monkeypatch)
    with StopSignals() as signals:
        config, command = parse(typed), Command(typed, 0.0, signals)

        def program():
            return ElasticServers(config, init()).run(init(), partial(train.train, config, command))

        found, _ = mortal.run_mortal(3, {}, program)
    assert [end["skipped_updates"] for end in found.values()] == [1, 1]


def test_after_a_death_nan_is_told_of_by_the_ranks_number_at_the_start(tmp_path, monkeypatch):
    dies_in(NotFinite, "after", 0, monkeypatch)
    with pytest.raises(DivergedError, match=r"iteration 9: .* rank 1's has NaN .* kept: \S*_000009_rank1.npz"):
        trained(tmp_path, {}, "--inject", "nan@rank=1,iteration=9")
    last = strict_lines((tmp_path / "run.jsonl").read_text())[-1]
    assert (last["event"], last["iteration"], last["ranks"][0]["rank"]) == ("not_finite", 9, 1)
    assert (tmp_path / "not_finite_000009_rank1.npz").exists()


def test_where_rank_0_dies_before_the_last_checkpoint_is_written_the_next_one_writes_it(tmp_path, monkeypatch):
    kept = str(tmp_path / "kept")
    dies_in(Checkpoints, "_begin", 0, monkeypatch)
    dies_in(Checkpoints, "finish", 0, monkeypatch)
    monkeypatch.setattr(State, "look", lambda self, after, look=State.look: (
        setattr(self, "looked", 10) if self.ledger.done == 10 and shard().begun[0] else look(self, after)))  # fmt: skip
    trained(tmp_path, {}, "--checkpoint", kept)
    assert checkpoint.numbers(kept) == [10]
    assert checkpoint.read(checkpoint.path_of(kept, 10))["optimizer"]
