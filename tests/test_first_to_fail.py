"""Which of several ranks that fail together prints its traceback, where the launcher gives the job no directory."""

import io
import os
import socket
import sys
import threading

import pytest

from npdp.comm.failures import ending

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no names but files' here")


@pytest.fixture
def job(monkeypatch):
    """The name of a job of MPICH's that nothing else has."""
    monkeypatch.delenv("PMIX_SERVER_TMPDIR", raising=False)
    monkeypatch.delenv("PMIX_NAMESPACE", raising=False)
    monkeypatch.setenv("PMI_JOBID", f"test of {os.getpid()}")
    monkeypatch.setattr(ending, "_claim", None)
    return f"\0npdp failure of test of {os.getpid()}"


def test_the_first_speaks_and_the_second_is_silent(job, monkeypatch, capfd):
    monkeypatch.setattr(ending, "SECOND_WAITS_S", 0)
    for _ in range(2):
        first = ending._claim
        ending.announce_failure("the first to fail\n")
    assert capfd.readouterr().err == "the first to fail\n"
    first.close()


def test_what_is_said_passes_a_buffer_by_in_which_it_would_be_lost(job, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as PyTorch's own handler of exceptions does
    with open(2, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "__stderr__", stream)
        ending.announce_failure("what failed\n")
    assert capfd.readouterr().err == "what failed\n"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_name_that_another_user_has_taken_silences_nobody(kind, job, monkeypatch, capfd):
    with socket.socket(socket.AF_UNIX, kind) as others:
        others.bind(job)
        if kind == socket.SOCK_STREAM:
            others.listen()
        monkeypatch.setattr(ending, "SECOND_WAITS_S", 0)
        monkeypatch.setattr(os, "geteuid", lambda: 2**31)  # it is this process's, which is another user now
        ending.announce_failure("what failed\n")
    assert capfd.readouterr().err == "what failed\n"


@pytest.mark.parametrize(("where", "said"), [("backward of iteration 17", " in backward of iteration 17"), ("", "")])
def test_the_message_of_an_exception_says_where_the_program_was(where, said, monkeypatch):
    texts = []
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    ending.end_on_exceptions(2, texts.append, lambda: where)
    sys.excepthook(KeyError, KeyError("a fault"), None)
    assert texts == [f"rank 2 failed{said}:\nKeyError: 'a fault'\n"]
