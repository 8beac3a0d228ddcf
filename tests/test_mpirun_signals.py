"""Signals to who waits for an mpirun: ranks that listen are asked to stop, and all else ends at once."""

import os
import signal
import threading
import time

import pytest

from npdp.app import mpirun_signals
from npdp.app.mpirun_signals import Ended, MpirunSignals
from npdp.base import stop_files


def wait(process, folder):
    """Wait for an mpirun; return the exit code."""
    return ended(process, folder).code


def ended(process, folder):
    with MpirunSignals() as signals:
        return signals.wait(process, str(folder))


class Signalled:
    """A process that ends when it is told to; while it is waited for, a signal reaches the one who waits."""

    def __init__(self, number: int, code: int = 1, stubborn: bool = False) -> None:
        self.number, self.code, self.stubborn = number, code, stubborn
        self.told, self.killed = False, threading.Event()

    def terminate(self) -> None:
        self.told = True

    def kill(self) -> None:
        self.killed.set()

    def wait(self) -> int:
        os.kill(os.getpid(), self.number)
        if self.stubborn:
            return -signal.SIGKILL if self.killed.wait(10) else 0
        return self.code * self.told


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(("before", "ended"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)], ids=["", "ignored"])
def test_a_signal_ends_mpirun_except_where_it_is_to_be_ignored(number, before, ended, tmp_path):
    """As SIGHUP under nohup, and SIGINT of what a script has put in the background."""
    handler = signal.signal(number, before)
    process = Signalled(number)
    try:
        assert wait(process, tmp_path) == (128 + number if ended else 0)
        assert process.told == ended
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, handler)


def test_who_ended_mpirun_is_said_and_is_in_the_exit_code(capsys, tmp_path):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        assert wait(Signalled(number), tmp_path) == code
        assert capsys.readouterr() == ("", f"npdp: error: ended by {number.name}\n")
    assert wait(Signalled(signal.SIGINT, code=0), tmp_path) == 0  # it was done just then
    assert capsys.readouterr() == ("", "")


def test_an_mpirun_that_another_one_killed_is_told_of(capsys, tmp_path):
    class Killed(Signalled):
        def wait(self) -> int:
            return -signal.SIGKILL

    assert wait(Killed(signal.SIGTERM), tmp_path) == 137
    assert capsys.readouterr() == ("", "npdp: error: mpirun was ended by SIGKILL\n")


def test_an_mpirun_that_does_not_end_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(mpirun_signals, "ENDING_S", 0)
    process = Signalled(signal.SIGTERM, stubborn=True)
    assert wait(process, tmp_path) == 143
    assert process.told and process.killed.is_set()


def test_a_signal_before_there_is_an_mpirun_ends_it_when_there_is(tmp_path, capsys):
    """What has been made for it by then is taken away again."""
    process = Training(tmp_path, code=None)
    with MpirunSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(process, str(tmp_path)) == Ended(143, failed=False)
    assert capsys.readouterr().err == "npdp: error: ended by SIGTERM\n"


@pytest.mark.parametrize(("code", "outcome"), [(0, (0, False)), (1, (1, True)), (137, (137, True)), (-9, (137, True))])
def test_without_a_signal_another_code_than_0_is_a_failure(code, outcome, tmp_path):
    assert ended(Training(tmp_path, code=code), tmp_path) == outcome


# Ranks that listen
class Training:
    """Ranks that listen, which signals reach one after the other; at last they stop, or mpirun is ended.

    Attributes:
        signals: (seconds before it, its number), ...
        code: mpirun's where its ranks stop by themselves; None where they do not.
    """

    def __init__(self, folder, *signals, code):
        self.folder, self.signals, self.code, self.told = folder, signals, code, threading.Event()
        (folder / stop_files.LISTENING).touch()

    def terminate(self):
        self.told.set()

    def kill(self):
        raise AssertionError("it had ended")

    def wait(self):
        for seconds, number in self.signals:
            time.sleep(seconds)
            os.kill(os.getpid(), number)
        if self.code is None:
            assert self.told.wait(10)
            return 1
        return self.code


SAID = "npdp: note: {}: stopping after this iteration; another one ends all ranks at once\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_ranks_that_listen_are_asked_and_their_code_is_handed_on(number, tmp_path, capsys):
    process = Training(tmp_path, (0, number), code=0)
    assert wait(process, tmp_path) == 0
    assert not process.told.is_set()
    assert (tmp_path / stop_files.STOP).read_text() == str(int(number))
    assert capsys.readouterr().err == SAID.format(number.name)


def test_another_signal_ends_all_ranks_at_once_by_the_first_ones_name(tmp_path, capsys):
    apart_s = mpirun_signals.SAME_STOP_S + 0.05
    process = Training(tmp_path, (0, signal.SIGINT), (apart_s, signal.SIGTERM), code=None)
    assert wait(process, tmp_path) == 130
    assert capsys.readouterr().err == SAID.format("SIGINT") + "npdp: error: ended by SIGINT\n"


def test_signals_that_come_together_are_one(tmp_path, monkeypatch):
    """As `timeout` sends them, to the process and to its group; or a terminal, and who has started npdp there."""
    monkeypatch.setattr(mpirun_signals, "SAME_STOP_S", 60)
    process = Training(tmp_path, (0, signal.SIGTERM), (0, signal.SIGTERM), (0, signal.SIGINT), code=0)
    assert wait(process, tmp_path) == 0
    assert not process.told.is_set()


def test_ranks_that_do_not_stop_are_ended_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(mpirun_signals, "STOPPING_S", 0.1)
    assert wait(Training(tmp_path, (0, signal.SIGTERM), code=None), tmp_path) == 143
