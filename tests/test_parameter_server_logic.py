"""A shard's logic without transport or arithmetic, a message at a time: what is applied, answered and refused."""

import math

import numpy as np
import pytest

from npdp.parallel.parameter_server import wire
from npdp.parallel.parameter_server.messages import (
    NONE_LEFT,
    Fetch,
    Idle,
    Leave,
    Pull,
    Push,
    Request,
    Resume,
    Start,
    Unit,
)
from npdp.parallel.parameter_server.policies import policy_for
from npdp.parallel.parameter_server.server import Server


# One thing at a time
def server(staleness=0, workers=2, backups=0, **options):
    applied = []
    return Server(workers, policy_for(workers, staleness, backups), applied.append, **options), applied


def push(worker, sequence, number=0, version=0, request=None, loader=-1):
    """A push whose worker has sent one message before its first."""
    return Push(worker, sequence, Unit(loader, 0, number), version, 1, 2, request=request, completed=sequence - 1)


def test_synchronous_pushes_are_added_in_worker_order_whatever_the_order_in_which_they_come():
    logic, applied = server(workers=3)
    assert list(logic.handle(push(2, 1))) == list(logic.handle(push(0, 1))) == []
    replies = list(logic.handle(push(1, 1)))
    assert [[p.worker for p in update] for update in applied] == [[0, 1, 2]]
    assert sorted(reply.worker for reply in replies) == [0, 1, 2] and {r.version for r in replies} == {1}


@pytest.mark.parametrize("leaves_last", [True, False])
def test_a_worker_that_leaves_while_another_goes_on_is_an_error_that_names_it(leaves_last):
    logic, _ = server()
    messages = [push(0, 1), Leave(1, 1)] if leaves_last else [Leave(1, 1), push(0, 1)]
    with pytest.raises(RuntimeError, match="worker 1 has left while worker 0 goes on"):
        for message in messages:
            list(logic.handle(message))


@pytest.mark.parametrize("idle_last", [True, False])
def test_a_worker_in_a_collective_that_another_has_not_come_to_is_an_error_that_names_both(idle_last):
    logic, _ = server()
    messages = [push(0, 1)._replace(collectives=2), Idle(1, 1, 3)]
    with pytest.raises(RuntimeError, match="worker 1 is in a collective.* while worker 0 takes a step"):
        for message in messages if idle_last else reversed(messages):
            list(logic.handle(message))


@pytest.mark.parametrize("idle_last", [True, False])
def test_a_worker_that_may_still_be_in_a_collective_that_another_has_left_is_waited_for(idle_last):
    logic, applied = server()
    messages = [push(0, 1)._replace(collectives=3), Idle(1, 1, 3)]
    for message in messages if idle_last else reversed(messages):
        assert not list(logic.handle(message))
    assert len(list(logic.handle(push(1, 2)._replace(collectives=3)))) == 2 and len(applied) == 1


TRAIN, LOOK = Request(0, 0, 8, 2), Request(1, 0, 6, 2)  # four batches to train, three to look at


def test_with_backups_a_pass_to_look_within_one_to_train_is_handed_out_whole_though_another_trains_on():
    logic, _ = server(backups=1)
    for worker in (0, 1):
        list(logic.handle(Start(worker, 1, 0, TRAIN)))
    list(logic.handle(push(0, 2, loader=0, request=TRAIN)))
    list(logic.handle(Start(1, 2, 0, LOOK)))  # waits: the other is at work
    looked_at = [reply.unit for reply in logic.handle(Start(0, 3, 1, LOOK))]
    for sequence in (4, 5):
        looked_at += [reply.unit for reply in logic.handle(Start(0, sequence, 1, LOOK))]
    (trains_on,) = logic.handle(push(0, 6, 2, 1, loader=0, request=TRAIN))
    assert trains_on.unit == 4
    for sequence in (3, 4):
        looked_at += [reply.unit for reply in logic.handle(Start(1, sequence, 1, LOOK))]
    assert sorted(looked_at) == [0, 1, 2, 3, 4, 5]
    (comes_back,) = logic.handle(push(1, 5, 1, 0, loader=0, request=TRAIN))
    assert comes_back.unit == 5  # its part of the batch of now


@pytest.mark.parametrize("loaders", [(0, 1), (1, 0)])
def test_with_backups_the_passes_of_several_loaders_follow_each_other_in_any_order(loaders):
    logic, _ = server(backups=1)
    passes = [Request(loader, epoch, 2, 2) for epoch in range(3) for loader in loaders]
    for sequence, request in enumerate(passes):
        replies = [reply for worker in (0, 1) for reply in logic.handle(Start(worker, 2 * sequence + 1, 0, request))]
        assert sorted(reply.unit for reply in replies) == [0, 1], request
        left = [reply for worker in (0, 1) for reply in logic.handle(Start(worker, 2 * sequence + 2, 0, request))]
        assert [reply.unit for reply in left] == [NONE_LEFT, NONE_LEFT]


def test_with_staleness_1_others_go_on_when_one_leaves():
    logic, applied = server(1)
    for worker in (0, 1):
        list(logic.handle(Start(worker, 1, 0, Request(0, 0, 9, 2))))
    list(logic.handle(Leave(1, 2)))
    for number in range(5):
        assert len(list(logic.handle(push(0, 2 + number, number, number)))) == 1
    assert len(applied) == 5


@pytest.mark.parametrize("how", ["leaves", "begins the next pass"])
def test_the_unit_that_a_worker_had_in_hand_when_it_broke_a_pass_off_is_handed_out_again(how):
    logic, _ = server(math.inf)
    request = Request(0, 0, 3, 2)
    for worker in (0, 1):
        list(logic.handle(Start(worker, 1, 0, request)))
    (reply,) = logic.handle(push(1, 2, 1, 0, request, 0))  # unit 1 is done, and with the answer comes unit 2
    assert reply.unit == 2
    list(logic.handle(Leave(1, 3) if how == "leaves" else Start(1, 3, 0, Request(0, 1, 3, 2))))
    (reply,) = logic.handle(push(0, 2, 0, 0, request, 0))
    assert reply.unit == 2
    (reply,) = logic.handle(push(0, 3, 2, 0, request, 0))
    assert reply.unit == NONE_LEFT


def test_a_unit_that_was_pushed_or_gone_past_is_not_handed_out_again():
    logic, _ = server(math.inf)
    request = Request(0, 0, 3, 2)
    for sequence, worker in ((1, 0), (1, 1), (2, 1)):  # worker 1 looks at unit 1, and asks for the next
        (reply,) = logic.handle(Start(worker, sequence, 0, request))
    assert reply.unit == 2
    list(logic.handle(push(1, 3, 2, 0, None, 0)))
    list(logic.handle(Leave(1, 4)))
    (reply,) = logic.handle(push(0, 2, 0, 0, request, 0))
    assert reply.unit == NONE_LEFT


def test_a_worker_may_be_as_far_ahead_as_the_bound_says_and_no_further():
    for staleness in (1, 2, 5):
        logic, _ = server(staleness)
        for worker in (0, 1):
            list(logic.handle(Start(worker, 1, 0, Request(0, 0, 99, 2))))
        answered = [len(list(logic.handle(push(0, 2 + n, n, n)))) for n in range(staleness + 1)]
        assert answered == [1] * staleness + [0]
        assert [reply.worker for reply in logic.handle(push(1, 2, 77))] == [0, 1]


def test_what_has_not_changed_need_not_be_sent_again():
    logic, _ = server(1)
    (reply,) = logic.handle(Pull(0, 1, 0))
    assert not reply.changed
    list(logic.handle(push(0, 2)))
    (reply,) = logic.handle(Pull(1, 1, 0))
    assert reply.changed and reply.version == 1


def test_a_unit_that_was_applied_is_not_applied_again_whoever_brings_it():
    logic, applied = server(math.inf)
    list(logic.handle(push(0, 1, 3, loader=0)))
    replies = list(logic.handle(push(1, 1, 3, loader=0)))
    assert len(applied) == 1 and [reply.worker for reply in replies] == [1]
    list(logic.handle(push(0, 2, 8)))
    list(logic.handle(push(1, 2, 8)))  # a worker's own units are its own
    assert len(applied) == 3


def test_a_worker_without_a_start_is_not_staler_than_the_bound():
    """Without npdp's loader nobody announces a start: the first push is the first that a server hears of a worker."""
    logic, _ = server(1)
    pushed = 0
    while list(logic.handle(push(0, 2 + pushed, pushed, pushed))):  # as long as it is answered
        pushed += 1
    list(logic.handle(push(1, 2, 0, 0)))
    assert pushed == 1 and max(logic.statistics.staleness) <= 3


# As numbers
MESSAGES = [
    Push(3, 7, Unit(1, 2, 5), 11, 8, 13, 0.1, (0, 61, 62, 130), Request(1, 2, 9, 4), 6, 10, 4),
    Push(3, 7, Unit(-1, 0, 5), 11, 0, 13, None, (), None, 0, 10),
    Start(3, 7, 11, Request(0, 2, 9, 4), None),
    Start(3, 7, 11, None, 0),
    Idle(3, 7, 4),
    Resume(3, 7, 10),
    Pull(3, 7, 11),
    Fetch(3, 7, 11, 6, True),
    Fetch(3, 7, 11, 0, False),
    Leave(3, 7),
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_header_brings_a_message_as_it_was_whatever_it_held_before(message):
    header = np.full(wire.header_length(131), 5)
    wire.encode(message, 2, header)
    got, shard = wire.decode(3, header)
    assert (repr(got), shard) == (repr(message), 2)
