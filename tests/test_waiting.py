"""How ranks that are processes wait: with a look now and then at who has left, and asleep in between."""

import time

import pytest

from npdp.comm import waiting
from npdp.comm.errors import CommunicationError
from npdp.comm.waiting import SpinPolicy, wait_until


# Waiting, as ranks that are processes do it
def test_waiting_in_vain_ends_with_the_error(monkeypatch):
    monkeypatch.setattr(waiting, "CHECK_AFTER_S", 0.01)
    with pytest.raises(CommunicationError, match="it has left"):
        wait_until(lambda: False, SpinPolicy(3, 1), lambda: CommunicationError("it has left"))


def test_a_message_that_came_just_before_its_sender_left_still_counts(monkeypatch):
    """The last message and the notice of leaving may both come between two looks."""
    monkeypatch.setattr(waiting, "CHECK_AFTER_S", 0.01)
    come = []

    def who_left():
        come.append("message")
        return CommunicationError("it has left")

    looks = []

    def done():
        looks.append(bool(come))
        return bool(come)

    wait_until(done, SpinPolicy(3, 0), who_left)
    assert looks.count(True) == 1  # a request that is done must not be asked again: MPI has forgotten it


def test_a_long_wait_sleeps_between_looks():
    """Where ranks outnumber cores, looking all the time would keep the awaited rank from running."""
    start, looks = time.monotonic(), []

    def done():
        looks.append(None)
        return time.monotonic() - start > 0.1

    wait_until(done, SpinPolicy(3, 2), lambda: None)
    assert len(looks) < 5 + 0.1 / waiting.SHORTEST_SLEEP_S / 2
