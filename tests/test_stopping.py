"""All ranks stop after the same iteration, whichever was asked, when, and however fast each finds itself."""

import itertools
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import run

import npdp
from npdp.base.stop_signals import StopSignals
from npdp.elastic import stopping
from npdp.elastic.stopping import LOOK_EVERY_S, MOST_ITERATIONS, Looks, iterations_until_next

SECONDS = st.sampled_from([1e-6, 1e-5, 0.003, 0.05, 0.11, 0.4, 30.0])


def until_stopped(world_size, begun, asked, durations):
    """Iterate on ranks until they stop; return for each its last iteration, the number, and after which it looked.

    Args:
        asked: rank -> (the first iteration in which it is asked, the number).
        durations: of each rank's iterations in turn, in seconds, as its clock shows them.
    """

    def program():
        rank, now = npdp.rank(), [0.0]
        first, number = asked.get(rank, (0, 0))
        at, looked = [begun], []
        looks = Looks(npdp.init(), lambda: looked.append(at[0]) or (number if at[0] >= first else 0), begun,
                      lambda: now[0])  # fmt: skip
        for iteration, seconds in zip(range(begun + 1, begun + 3000), itertools.cycle(durations[rank])):
            at[0] = iteration
            now[0] += seconds
            if got := looks.after(iteration):
                return iteration, got, looked
        raise AssertionError("iterations do not end")

    return run(world_size, program)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), world_size=st.integers(1, 5), begun=st.integers(0, 3000))
def test_all_ranks_stop_after_the_same_iteration_whichever_was_asked(data, world_size, begun):
    when = st.tuples(st.integers(begun + 1, begun + 200), st.sampled_from([124, 130, 143]))
    asked = data.draw(st.dictionaries(st.integers(0, world_size - 1), when, min_size=1))
    each = st.lists(SECONDS, min_size=1, max_size=4)
    durations = data.draw(st.lists(each, min_size=world_size, max_size=world_size))
    ended = until_stopped(world_size, begun, asked, durations)
    last, number, looked = ended[0]
    assert all(rank == (last, number, looked) for rank in ended)
    assert looked == sorted(set(looked)) and looked[-1] == last
    before = looked[-2] if len(looked) > 1 else begun
    known = [code for first, code in asked.values() if first <= last]
    assert number == max(known)  # of those that had been asked
    assert all(first > before for first, _ in asked.values())  # so nobody was at the look before


@given(seconds=st.floats(1e-9, 100))
def test_the_next_look_comes_in_the_time_of_one_or_after_one_iteration(seconds):
    count = iterations_until_next(seconds)
    assert 1 <= count <= MOST_ITERATIONS
    assert count == 1 or count * seconds <= LOOK_EVERY_S * 1.0001
    assert count == MOST_ITERATIONS or (count + 1) * seconds > LOOK_EVERY_S * 0.5


def test_ranks_that_are_fewer_look_at_once():
    """As after a rank has died: the others may have been on either side of a look."""

    def program():
        world = npdp.init()
        looks = Looks(world, lambda: 0 if world.rank else 7, clock=lambda: 0.0)
        assert looks.now(1 if world.rank == 1 else 4) == 7
        world.narrow(world.transport.subworld(range(2))) if world.rank < 2 else None
        return looks.after(5) if world.rank < 2 else 0

    assert run(3, program) == [7, 7, 0]


# Signals to one process
@pytest.fixture
def handlers():
    """Handlers of signals are as they were afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_is_noted_and_one_at_once_after_it_is_the_same(number):
    with StopSignals() as signals:
        signals.looking = True
        send(number)
        send(number)
        assert signals.number == number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
def test_a_second_one_and_one_before_anybody_looks_do_what_they_did(monkeypatch):
    monkeypatch.setattr("npdp.base.stop_signals.SAME_STOP_S", 0)
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        signals.looking = True
        send(signal.SIGINT)
        assert signals.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_what_is_to_be_ignored_asks_for_nothing():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        signals.looking = True
        send(signal.SIGINT)
        assert not signals.number


@pytest.mark.usefixtures("handlers")
def test_a_rank_notes_sigusr1_alone_for_mpirun_ends_by_sigterm(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with StopSignals() as signals:
        send(signal.SIGUSR1)  # whoever looks, or not yet
        assert signals.number == signal.SIGUSR1
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
def test_a_program_of_ones_own_is_told_once_and_from_then_on():
    assert [stopping.stop_requested() for _ in range(3)] == [False] * 3
    send(signal.SIGTERM)
    assert stopping.stop_requested() in (False, True)
    while not stopping.stop_requested():
        pass
    assert npdp.stop_requested()
