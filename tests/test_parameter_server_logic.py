"""A shard's logic without transport or arithmetic, a message at a time: what is applied, answered and refused."""

import math

import pytest

from npdp.parallel.parameter_server.messages import (
    ALL,
    AS_BEGUN,
    NONE_LEFT,
    Kind,
    Message,
    Reply,
    Request,
    WorkItem,
    decode,
    encode,
    new_header,
)
from npdp.parallel.parameter_server.server import Bounded, Server, Synchronous
from npdp.parallel.parameter_server.work import WorkPool


# One thing at a time
def server(staleness=0, workers=2):
    applied = []
    policy = Bounded(staleness) if staleness else Synchronous()
    return Server(workers, policy, applied.append, WorkPool()), applied


def push(worker, completed, number=0, version=0, request=Request(), loader=-1, collectives=0):  # noqa: B008
    work = {"item": WorkItem(loader, 0, number), "samples": 1, "request": request, "version": version}
    return Message(Kind.PUSH, worker, True, completed, collectives, **work)


def start(worker, request):
    return Message(Kind.START, worker, request=request)


def leave(worker):
    return Message(Kind.LEAVE, worker, False, 0)


def in_collective(worker, collectives):
    return Message(Kind.STATUS, worker, False, 0, collectives)


def test_synchronous_pushes_are_added_in_worker_order_whatever_the_order_in_which_they_come():
    logic, applied = server(workers=3)
    assert list(logic.handle(push(2, 0))) == list(logic.handle(push(0, 0))) == []
    replies = list(logic.handle(push(1, 0)))
    assert [[p.worker for p in update] for update in applied] == [[0, 1, 2]]
    assert sorted(reply.worker for reply in replies) == [0, 1, 2] and {r.version for r in replies} == {1}


@pytest.mark.parametrize("leaves_last", [True, False])
def test_a_worker_that_leaves_while_another_goes_on_is_an_error_that_names_it(leaves_last):
    logic, _ = server()
    messages = [push(0, 0), leave(1)] if leaves_last else [leave(1), push(0, 0)]
    with pytest.raises(RuntimeError, match="worker 1 has left while worker 0 goes on"):
        for message in messages:
            list(logic.handle(message))


@pytest.mark.parametrize("idle_last", [True, False])
def test_a_worker_in_a_collective_that_another_has_not_come_to_is_an_error_that_names_both(idle_last):
    logic, _ = server()
    messages = [push(0, 0, collectives=2), in_collective(1, 3)]
    with pytest.raises(RuntimeError, match="worker 1 is in a collective.* while worker 0 takes a step"):
        for message in messages if idle_last else reversed(messages):
            list(logic.handle(message))


@pytest.mark.parametrize("idle_last", [True, False])
def test_a_worker_that_may_still_be_in_a_collective_that_another_has_left_is_waited_for(idle_last):
    logic, applied = server()
    messages = [push(0, 0, collectives=3), in_collective(1, 3)]
    for message in messages if idle_last else reversed(messages):
        assert not list(logic.handle(message))
    assert len(list(logic.handle(push(1, 1, collectives=3)))) == 2 and len(applied) == 1


def test_with_staleness_1_others_go_on_when_one_leaves():
    logic, applied = server(1)
    for worker in (0, 1):
        list(logic.handle(start(worker, Request(0, 0, 9, 2))))
    list(logic.handle(leave(1)))
    for number in range(5):
        assert len(list(logic.handle(push(0, 1 + number, number, number)))) == 1
    assert len(applied) == 5


@pytest.mark.parametrize("how", ["leaves", "begins the next pass"])
def test_the_item_that_a_worker_had_in_hand_when_it_broke_a_pass_off_is_assigned_again(how):
    logic, _ = server(math.inf)
    request = Request(0, 0, 3, 2)
    for worker in (0, 1):
        list(logic.handle(start(worker, request)))
    (reply,) = logic.handle(push(1, 1, 1, 0, request, 0))  # item 1 is done, and with the answer comes item 2
    assert reply.number == 2
    list(logic.handle(leave(1) if how == "leaves" else start(1, Request(0, 1, 3, 2))))
    (reply,) = logic.handle(push(0, 1, 0, 0, request, 0))
    assert reply.number == 2
    (reply,) = logic.handle(push(0, 2, 2, 0, request, 0))
    assert reply.number == NONE_LEFT


def test_an_item_that_was_pushed_or_gone_past_is_not_assigned_again():
    logic, _ = server(math.inf)
    request = Request(0, 0, 3, 2)
    for worker in (0, 1, 1):  # worker 1 looks at item 1, and asks for the next
        (reply,) = logic.handle(start(worker, request))
    assert reply.number == 2
    list(logic.handle(push(1, 2, 2, 0, Request(), 0)))
    list(logic.handle(leave(1)))
    (reply,) = logic.handle(push(0, 1, 0, 0, request, 0))
    assert reply.number == NONE_LEFT


def test_a_worker_may_be_as_far_ahead_as_the_bound_says_and_no_further():
    for staleness in (1, 2, 5):
        logic, _ = server(staleness)
        for worker in (0, 1):
            list(logic.handle(start(worker, Request(0, 0, 99, 2))))
        answered = [len(list(logic.handle(push(0, 1 + n, n, n)))) for n in range(staleness + 1)]
        assert answered == [1] * staleness + [0]
        assert [reply.worker for reply in logic.handle(push(1, 1, 77))] == [0, 1]


def test_what_has_not_changed_need_not_be_sent_again():
    logic, _ = server(1)
    (reply,) = logic.handle(Message(Kind.PULL, 0, version=0))
    assert not reply.changed
    list(logic.handle(push(0, 1)))
    (reply,) = logic.handle(Message(Kind.PULL, 1, version=0))
    assert reply.changed and reply.version == 1


def test_an_item_that_was_applied_is_not_applied_again_whoever_brings_it():
    logic, applied = server(math.inf)
    list(logic.handle(push(0, 0, 3, loader=0)))
    replies = list(logic.handle(push(1, 0, 3, loader=0)))
    assert len(applied) == 1 and [reply.worker for reply in replies] == [1]
    list(logic.handle(push(0, 1, 8)))
    list(logic.handle(push(1, 1, 8)))  # a worker's own items are its own
    assert len(applied) == 3


def test_a_worker_without_a_start_is_not_staler_than_the_bound():
    """Without npdp's loader nobody announces a start: the first push is the first that a server hears of a worker."""
    logic, _ = server(1)
    pushed = 0
    while list(logic.handle(push(0, 1 + pushed, pushed, pushed))):  # as long as it is answered
        pushed += 1
    list(logic.handle(push(1, 1, 0, 0)))
    assert pushed == 1 and max(logic.record.staleness) <= 3


# As numbers
MESSAGES = [
    Message(Kind.PUSH, 3, True, 10, 4, 2, 11, Request(1, 2, 9, 4), WorkItem(1, 2, 5), 8, 0.1, 131, 6),
    Message(Kind.PUSH, 3, item=WorkItem(-1, 0, 2**40), lr=AS_BEGUN, samples=0),
    Message(Kind.START, 3, request=Request(0, 2, 9, 4)),
    Message(Kind.STATUS, 3, False, 5, 4),
    Message(Kind.PULL, 3, rows=6, training=True),
    Message(Kind.PULL, 3, rows=ALL),
    Message(Kind.LEAVE, 3),
    Reply(3, 12, 11, 4, 10),
    Reply(3, 12, 12),
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_header_brings_a_message_as_it_was_whatever_it_held_before(message):
    header = new_header(type(message))
    header[:] = 5
    header[:] = encode(message)
    got = decode(type(message), header)
    assert got == message and [type(field) for field in got[1:]] == [type(field) for field in message[1:]]
