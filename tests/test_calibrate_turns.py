"""What `npdp calibrate` times, in which order and how often, until its time is over."""

import time

import pytest
from worlds import run

import npdp
from npdp.parallel import calibrate as measuring
from npdp.parallel.calibrate import LEAST_BYTES, LONG_S, SIZES, Kind
from npdp.parallel.world import init


class Played:
    """A clock by which a call of each size takes so long, and time is over after so many."""

    def __init__(self, seconds, until):
        self.seconds, self.until, self.taken = seconds, until, []

    def turn(self, world, nbytes, taken, until):
        self.taken.append(nbytes)
        return self.seconds.get(nbytes, 0.001), len(self.taken) >= self.until


def played(monkeypatch, seconds, until, *sizes):
    """Return the times of kinds that have these sizes, and what was timed in which order."""
    clock = Played(seconds, until)
    monkeypatch.setattr(measuring, "_turn", clock.turn)
    kinds = {f"kind {number}": Kind(each, lambda nbytes: nbytes) for number, each in enumerate(sizes)}
    return measuring._times(None, kinds), clock.taken


@pytest.mark.parametrize("until", [1, 4, 5, 7, 10])
def test_all_is_timed_at_least_once_and_nothing_again_when_time_is_over(until, monkeypatch):
    times, taken = played(monkeypatch, {}, until, (1, 2, 3), (4, 5))
    assert times == {"kind 0": dict.fromkeys((1, 2, 3), 0.001), "kind 1": dict.fromkeys((4, 5), 0.001)}
    assert taken == ([1, 2, 3, 4, 5] * 2)[: max(5, until)]


def test_what_takes_long_ends_its_kind_unless_the_fit_needs_more(monkeypatch):
    times, _ = played(monkeypatch, dict.fromkeys(SIZES, LONG_S), 1, SIZES, SIZES)
    assert [max(sizes) for sizes in times.values()] == [LEAST_BYTES] * 2 and min(times["kind 0"]) == SIZES[0]
    _, taken = played(monkeypatch, {SIZES[-2]: LONG_S}, 20, SIZES)
    assert SIZES[-1] not in taken and taken.count(SIZES[-2]) == 3


def test_of_steps_in_a_row_the_time_of_one_counts(monkeypatch):
    monkeypatch.setattr(measuring, "_turn", lambda *_: (1.0, True))
    assert measuring._times(None, {"kind": Kind((8,), lambda nbytes: nbytes, steps=4)}) == {"kind": {8: 1 / 4}}


@pytest.mark.parametrize(("first_s", "taken", "calls"), [
    (measuring.ROUND_S / 5, [], [1, 5]), (LONG_S / 2, [1.0, measuring.ROUND_S / 7], [1, 7]), (1e-9, [], [1, 100]),
    (LONG_S / 2, [], [1, 1]), (LONG_S, [], [1]),
])  # fmt: skip
def test_what_is_quick_is_called_often_after_a_call_that_may_have_been_cold(first_s, taken, calls, monkeypatch):
    made = []
    monkeypatch.setattr(measuring, "_slowest", lambda *of: made.append(of[2]) or (first_s, False))
    assert measuring._turn(None, None, taken, 0.0) == (first_s, False) and made == calls


def test_time_that_is_over_on_one_rank_is_over_on_all():
    def program():
        calls = []
        for ends_s in (1000, 1000 if npdp.rank() != 1 else -1000):
            taken = measuring._slowest(init(), lambda: calls.append(0), 3, time.perf_counter() + ends_s)
            calls.append(taken)
        return calls

    found = run(3, program)
    assert found == [found[0]] * 3
    assert [type(each) for each in found[0]] == [int, int, int, tuple] * 2
    assert [is_over for _, is_over in (found[0][3], found[0][7])] == [False, True]
