"""Backward with all-reduces beside it: the same gradients, no bit changed, no time counted twice, no error lost."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from worlds import Parallel, Plain, assert_close, criterion, gradients, loader, mlp, record, run, train

import npdp
from npdp import nn
from npdp.collectives.clock import Clock
from npdp.data import ArrayDataset, DataLoader
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


def clock(wait_s=1.0, kernel_wait_s=2.0, kernel_s=3.0, other_s=5.0):
    """Return a clock, its transport, and the kernel of its host, with these seconds counted already."""
    transport, kernel = SimpleNamespace(wait_s=wait_s), SimpleNamespace(wait_s=kernel_wait_s, collective_s=kernel_s)
    kernel.clear_times = lambda: vars(kernel).update(wait_s=0.0, collective_s=0.0)
    made = Clock(transport, SimpleNamespace(opened=SimpleNamespace(kernel=kernel)))
    made.other_s = other_s
    return made, transport, kernel


def wait_beside_the_program(clock, transport, kernel):
    transport.wait_s += 0.25
    kernel.wait_s += 0.5
    kernel.collective_s += 0.5
    clock.other_s += 2.0


def test_the_time_that_backward_hides_does_not_count_as_waiting():
    it, transport, kernel = clock()
    it.begin_overlap()
    wait_beside_the_program(it, transport, kernel)
    it.count_program(0.125)  # in which it was begun, by the program itself
    it.end_overlap(blocked_s=0.0625)
    assert (it.wait_s, it.collective_s) == (3.0 + 0.0625, 8.0 + 0.125 + 0.0625)


def test_times_that_are_cleared_beside_a_collective_do_not_come_back():
    it, transport, kernel = clock()
    it.begin_overlap()
    wait_beside_the_program(it, transport, kernel)
    it.clear()
    wait_beside_the_program(it, transport, kernel)
    it.end_overlap(blocked_s=0.0625)
    assert (it.wait_s, it.collective_s) == (0.0625, 0.0625)


def test_a_rank_counts_what_it_does_beside_the_program():
    """Nothing of what was begun is counted twice, however long it takes."""

    def times():
        world = init()
        world.barrier()
        world.clock.clear()
        begun = time.perf_counter()
        world.begin_allreduce(np.zeros(4))
        world.finish()
        return world.clock.wait_s, world.clock.collective_s, time.perf_counter() - begun

    for wait_s, collective_s, spent_s in across_hosts(2, times):
        assert 0 <= wait_s <= collective_s + 1e-6 <= spent_s + 2e-6


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
def test_a_backward_that_fails_while_buckets_are_on_the_wire_leaves_no_gradients_and_waits_for_them(hosts):
    """In the first layer, on all ranks."""

    def fail(gradient):
        raise ArithmeticError

    def program():
        npdp.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(3)))
        wrapped = nn.DataParallel(model)
        x = np.arange(1200.0 * len(hosts), dtype=np.float32).reshape(-1, 300) / 1200
        inputs, _ = next(iter(DataLoader(ArrayDataset(x, x), len(x))))  # of which no forward has to speak
        (wrapped(inputs) ** 2).mean().backward()
        before = gradients(model)
        model.zero_grad()
        record(delay_s=0.02)
        remove = model[0].weight.register_hook(fail)
        with pytest.raises(ArithmeticError):
            (wrapped(inputs) ** 2).mean().backward()
        assert not any(gradients(model).values())
        remove()
        (wrapped(inputs) ** 2).mean().backward()
        return before, gradients(model)

    for before, after in run(len(hosts), program, hosts=hosts):
        assert all(np.array_equal(after[name], before[name]) for name in before)


def test_gradients_that_are_not_zeroed_add_up_across_hosts():
    def program(way):
        model = way.wrap(mlp())
        for inputs, labels in loader(6):
            criterion(model(inputs), labels).backward()
        return gradients(model)

    assert_as_on_one_rank_across_hosts(program, [2], Parallel())
