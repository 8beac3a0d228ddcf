"""The command's training on threads, of which some die: what it leaves is as if none had."""

import pytest
from deaths import run_mortal
from training import strict_lines

from npdp.app import train
from npdp.app.config import parse
from npdp.app.stopping import Command
from npdp.base.errors import StoppedError
from npdp.base.stop_signals import StopSignals
from npdp.elastic.ledger import expected_checksum

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


@pytest.mark.parametrize("rank", range(3))
def test_a_death_at_any_event_of_the_start_is_survived(rank, tmp_path):
    for event in range(1, 40, 3):
        _, events = trained(tmp_path, {rank: event})
        assert [said["event"] for said in events if said["event"] not in ("iteration", "recovery")] == [
            "start", "epoch", "epoch", "end"]  # fmt: skip
        assert events[-1]["samples_checksum"] == expected_checksum(SAMPLES, EPOCHS)
