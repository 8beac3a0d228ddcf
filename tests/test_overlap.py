"""All-reduces beside the program: the same results, in the same order on every rank, and no error lost."""

import threading
import time
import weakref
from unittest import mock

import numpy as np
import pytest
from worlds import Parallel, Plain, assert_close, criterion, gradients, loader, mlp, record, run, train

import npdp
from npdp import nn
from npdp.collectives import overlap as overlap_module
from npdp.collectives.overlap import Overlap
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init


def across_hosts(world_size, program, *arguments, **options):
    """Run a program on ranks of which each has a host to itself."""
    return run(world_size, program, *arguments, hosts=range(world_size), **options)


def assert_as_on_one_rank_across_hosts(program, world_sizes, way):
    (wanted,) = run(1, program, Plain())
    for world_size in world_sizes:
        for got in across_hosts(world_size, program, way):
            assert_close(got, wanted)


def ignore(what):
    """Neither wait for a message nor look at a failure."""


# The thread
def here():
    return threading.current_thread().name


def test_work_goes_on_in_the_order_in_which_it_was_begun_on_another_thread():
    may_go_on, seen = threading.Event(), []

    def wait(message):
        seen.append((message, here()))
        assert may_go_on.wait(20)

    def work(number):
        for part in range(3):
            seen.append((number, part, here()))
            yield f"message {number}.{part}" if part else None

    overlap = Overlap(ignore)
    for number in range(3):
        overlap.begin(work(number), wait)
    assert overlap.busy
    may_go_on.set()
    overlap.finish()
    assert not overlap.busy
    thread = "npdp overlap"
    expected = [
        entry
        for number in range(3)
        for entry in ((number, 0, here() if number == 0 else thread), (number, 1, thread),
                      (f"message {number}.1", thread),
                      (number, 2, thread), (f"message {number}.2", thread))
    ]  # fmt: skip
    assert seen == expected


def test_what_can_be_done_without_waiting_is_done_at_once_where_nothing_is_before_it():
    waited, seen = [], []

    def work(number):
        seen.append((number, here()))
        yield f"message {number}"
        seen.append((number, here()))

    overlap = Overlap(ignore)
    for number in range(3):
        overlap.begin(work(number), waited.append)
        assert seen[-1] == (number, here())
        overlap.finish()
        assert seen[-1] == (number, "npdp overlap")
    overlap.begin(iter(()), waited.append)  # nothing to do
    overlap.finish()
    assert waited == ["message 0", "message 1", "message 2"]


def test_finish_may_be_called_again_where_it_was_interrupted():
    overlap, slow, waited = Overlap(ignore), threading.Event(), []
    wait_for = overlap_module._Done.wait_for

    def interrupted(done, count):
        """Ctrl-C when the first of two is done, and has been seen to be."""
        wait_for(done, 1)
        raise KeyboardInterrupt

    overlap.begin(iter(()), ignore)
    overlap.begin(iter(["message"]), lambda message: waited.append(slow.wait(5)))
    with mock.patch.object(overlap_module._Done, "wait_for", interrupted), pytest.raises(KeyboardInterrupt):
        overlap.finish()
    assert overlap.busy
    threading.Timer(0.1, slow.set).start()
    overlap.finish()
    assert waited == [True] and not overlap.busy
    with mock.patch.object(overlap_module._Done, "wait_for", interrupted), pytest.raises(KeyboardInterrupt):
        overlap.finish()
    overlap.finish()  # there is nothing left to wait for


def test_finish_says_how_long_it_had_to_wait():
    overlap = Overlap(ignore)
    overlap.begin(iter([0.05]), time.sleep)
    assert 0.02 < overlap.finish() < 5
    assert overlap.finish() < 0.02


def test_a_failure_is_raised_where_the_program_waits_nothing_behind_it_is_done_and_the_thread_lives_on():
    failures, done = [], []
    overlap = Overlap(failures.append)

    def fail():
        yield None
        raise ValueError("first")

    def second():
        yield None
        done.append("second")

    overlap.begin(fail(), ignore)
    overlap.begin(second(), ignore)
    with pytest.raises(ValueError, match="first"):
        overlap.finish()
    assert [str(failure) for failure in failures] == ["first"]
    overlap.begin((done.append(number) for number in range(2)), ignore)
    overlap.finish()
    assert done == [0, 1]


def test_a_failure_before_anything_is_waited_for_is_raised_at_once_and_the_thread_lives_on():
    overlap, done = Overlap(ignore), []
    with pytest.raises(ZeroDivisionError):
        overlap.begin((1 / number for number in (0,)), ignore)
    overlap.finish()
    overlap.begin((done.append(number) for number in range(2)), ignore)
    overlap.finish()
    assert done == [0, 1]


def test_its_thread_keeps_nothing_of_what_is_done_and_ends_with_it():
    overlap, message = Overlap(ignore), np.empty(1)
    kept = weakref.ref(message)
    overlap.begin(iter([message]), ignore)
    overlap.finish()
    del message
    assert kept() is None
    thread = overlap._thread
    del overlap
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize(("hosts", "late"), [((0, 0, 1, 1), (2, 3)), ((0, 0, 1, 1), (1,)), ((0, 0, 1), (2,))], ids=str)
@pytest.mark.parametrize("count", [8, 8192, 65536])
def test_nobody_waits_where_an_all_reduce_begins(hosts, late, count):
    def program():
        world = init()
        buffer = npdp.shared_empty(count, np.float32)
        buffer[:] = 1 + world.rank
        world.allreduce(np.zeros(count, np.float32))  # what is made the first time
        world.barrier()
        if world.rank in late:
            time.sleep(0.5)
        before = time.perf_counter()
        world.begin_allreduce(buffer)
        taken = time.perf_counter() - before
        world.finish()
        return taken < 0.25, buffer[0] == buffer[-1] == len(hosts) * (len(hosts) + 1) // 2

    assert run(len(hosts), program, hosts=hosts, algorithm="hierarchical") == [(True, True)] * len(hosts)


# Data parallel over it
@pytest.mark.parametrize("options", [{}, {"bucket_cap_mb": 1e-6, "first_bucket_mb": 1e-6}], ids=["one bucket", "many"])
def test_training_across_hosts_gives_what_one_rank_gets(options):
    def program(way):
        return train(way, mlp(), loader(5))

    assert_as_on_one_rank_across_hosts(program, [2, 3, 4], Parallel(**options))


def test_overlap_changes_no_bit():
    def sha256(overlap):
        model = mlp()
        train(Parallel(overlap=overlap, bucket_cap_mb=1e-6), model, loader(5))
        return parameters_sha256(model.named_parameters())

    for algorithm in ("naive", "ring", "tree"):
        together = across_hosts(3, sha256, True, algorithm=algorithm)
        assert together == across_hosts(3, sha256, False, algorithm=algorithm) and len(set(together)) == 1


def test_a_collective_in_the_midst_of_backward_comes_after_the_buckets_that_have_left():
    def seen():
        model = nn.DataParallel(mlp(), bucket_cap_mb=1e-6)
        means = []
        parameter = dict(model.named_parameters())["0.weight"]
        parameter.register_hook(lambda gradient: means.append(npdp.global_mean(npdp.rank(), 1)))
        inputs, labels = next(iter(loader(6)))
        criterion(model(inputs), labels).backward()
        return means

    assert across_hosts(3, seen, algorithm="ring") == [[1.0]] * 3


@pytest.mark.parametrize("algorithm", ["tree", "hierarchical"])
def test_the_time_that_backward_hides_does_not_count_as_waiting(algorithm):
    def times():
        world = init()
        record(delay_s=0.02)
        world.allreduce(np.zeros(4))
        world.clear_times()
        time.sleep(0.2 * (world.rank % 2))  # where two share a host the other waits for it, inside the kernel
        world.begin_allreduce(np.zeros(4))
        time.sleep(0.3)
        world.finish()
        return world.wait_s, world.collective_s

    for wait_s, collective_s in run(4, times, hosts=(0, 0, 1, 1), algorithm=algorithm):
        assert wait_s < 0.1 and collective_s < 0.1


def test_times_that_are_cleared_beside_a_collective_do_not_come_back():
    def times():
        world = init()
        time.sleep(0.3 * (world.rank % 2))
        world.allreduce(np.zeros(4))
        world.begin_allreduce(np.zeros(4))
        world.clear_times()
        world.finish()
        return world.wait_s, world.collective_s

    for wait_s, collective_s in across_hosts(2, times):
        assert wait_s < 0.2 and collective_s < 0.2


def test_a_rank_that_fails_in_backward_ends_all():
    def fails():
        model = nn.DataParallel(mlp(), bucket_cap_mb=1e-6)
        if npdp.rank() == 1:
            dict(model.named_parameters())["0.weight"].register_hook(lambda gradient: 1 / 0)
        inputs, labels = next(iter(loader(6)))
        criterion(model(inputs), labels).backward()

    with pytest.raises(ZeroDivisionError):
        across_hosts(3, fails, algorithm="ring")


@pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1, 1)], ids=str)
def test_a_backward_that_fails_while_buckets_are_on_the_wire_leaves_gradients_as_they_were(hosts):
    """In the first layer, on all ranks."""

    def fail(gradient):
        raise ArithmeticError

    def program():
        npdp.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(3)))
        wrapped = nn.DataParallel(model)
        inputs = np.full((4, 300), 1.0 + npdp.rank(), np.float32)
        (wrapped(inputs) ** 2).mean().backward()
        before = gradients(model)
        record(delay_s=0.02)
        model[0].weight.register_hook(fail)
        with pytest.raises(ArithmeticError):
            (wrapped(inputs) ** 2).mean().backward()
        init().finish()
        return before, gradients(model)

    for before, after in run(len(hosts), program, hosts=hosts):
        assert all(np.array_equal(after[name], before[name]) for name in before)


def test_gradients_that_are_not_zeroed_add_up_across_hosts():
    def gradients(way):
        model = mlp()
        wrapped = way.wrap(model)
        for inputs, labels in loader(6):
            criterion(wrapped(inputs), labels).backward()
        return {name: np.array(parameter.grad) for name, parameter in model.named_parameters()}

    assert_as_on_one_rank_across_hosts(gradients, [2], Parallel())
