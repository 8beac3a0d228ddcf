"""What npdp's hook does with a bucket, by worlds of threads on one host and several; what it refuses, in one line."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs_shared_memory
from test_import import loaded_after
from worlds import run, values

import npdp
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.exits import Exits

torch = pytest.importorskip("torch", reason="npdp.torch needs PyTorch: pip install npdp[torch]")

import torch.distributed as dist  # noqa: E402

import npdp.torch  # noqa: E402
from npdp.torch import State, allreduce_hook  # noqa: E402

HOSTS = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)


def bucket(tensor, index=0, last=True):
    """Return what DDP gives a hook."""
    return SimpleNamespace(buffer=lambda: tensor, index=lambda: index, is_last=lambda: last)


def backward(state, arrays):
    """Give these to the hook as the buckets of one backward; return what its futures hold at the end."""
    last = len(arrays) - 1
    buckets = [bucket(torch.from_numpy(array), index, index == last) for index, array in enumerate(arrays)]
    return [future.value().numpy() for future in [allreduce_hook(state, each) for each in buckets]]


@given(HOSTS, st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.sampled_from(["float32", "float64"]))
@settings(max_examples=30, deadline=None)
def test_the_hook_gives_the_mean_over_the_ranks_of_each_bucket(hosts, counts, dtype):
    def program():
        state, world_size = State(npdp.init()), npdp.world_size()
        for salt, laid_out in enumerate((counts, counts, [sum(counts)])):  # as DDP does anew after the first backward
            mine = [values(npdp.rank(), count, dtype, salt + index) for index, count in enumerate(laid_out)]
            for index, got in enumerate(backward(state, mine)):
                everyones = [values(rank, got.size, dtype, salt + index) for rank in range(world_size)]
                np.testing.assert_allclose(got, sum(everyones) / world_size, rtol=1e-6)
                assert got.dtype == dtype and (mine[index] == everyones[npdp.rank()]).all()

    run(len(hosts), program, hosts=hosts)


@needs_shared_memory
def test_a_bucket_is_summed_in_memory_that_the_ranks_share_and_keeps_its_place():
    def program():
        state = State(npdp.init())
        (first,), (second,) = (backward(state, [np.ones(count, np.float32)]) for count in (10, 10))
        assert first.ctypes.data == second.ctypes.data and npdp.init().memory.everyones(second) is not None

    run(2, program)


@pytest.mark.parametrize("hosts", [(0, 0), (0, 1)])
def test_a_backward_that_failed_leaves_no_bucket_to_the_next(hosts):
    def program():
        state = State(npdp.init())
        lost = allreduce_hook(state, bucket(torch.ones(5), 0, last=False))  # and then backward fails, on all ranks
        means = backward(state, [np.full(5, npdp.rank() + number, np.float32) for number in range(2)])
        assert [mean.tolist() for mean in means] == [[0.5] * 5, [1.5] * 5] and not lost.done()

    run(2, program, hosts=hosts)


@pytest.mark.parametrize(("hosts", "said"), [
    pytest.param((0, 0), "bucket 1 is not the same on all ranks: rank . asks for 4. bytes of shared memory, others",
                 marks=needs_shared_memory),
    ((0, 1), r"calls allreduce of 1[01] float32 \(sum\), bucket 1.*, rank [01]"),
])  # fmt: skip
def test_ranks_with_different_buckets_are_told_so(hosts, said):
    def program():
        allreduce_hook(State(npdp.init()), bucket(torch.ones(10 + npdp.rank())))

    with pytest.raises(CommunicationError, match=said):
        run(2, program, hosts=hosts)


@pytest.mark.parametrize(("tensor", "said"), [
    (torch.ones(3, dtype=torch.bfloat16), "torch.bfloat16, torch.strided, on cpu"),
    (torch.ones(3, dtype=torch.float16), "torch.float16, torch.strided, on cpu"),
    (torch.ones(3, device="meta"), "torch.float32, torch.strided, on meta"),  # as cuda is
    (torch.ones(3).to_sparse(), "torch.float32, torch.sparse_coo, on cpu"),
])  # fmt: skip
def test_a_bucket_that_cannot_be_summed_is_refused(tensor, said):
    with pytest.raises(TypeError) as refused:
        allreduce_hook(State(npdp.init()), bucket(tensor))
    wanted = "npdp.torch.allreduce_hook: rank 0's bucket must be float32 or float64, dense, on the CPU, got "
    assert str(refused.value) == wanted + said


def test_another_state_is_refused():
    with pytest.raises(TypeError, match=r"its state must be npdp.torch.state\(\), got None$"):
        allreduce_hook(None, bucket(torch.ones(3)))


def test_a_state_before_there_is_a_process_group_is_refused():
    with pytest.raises(RuntimeError, match=r"call torch.distributed.init_process_group\('gloo'\) before$"):
        npdp.torch.state()


@pytest.fixture
def alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_rank_keeps_its_gradients_and_needs_no_launcher(alone):
    tensor = torch.arange(4.0)
    assert allreduce_hook(npdp.torch.state(), bucket(tensor)).value().tolist() == [0, 1, 2, 3]


def test_a_process_group_on_another_backend_is_refused(alone, monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
    with pytest.raises(ValueError, match="must use gloo, as npdp is for CPUs; it uses cuda:nccl$"):
        npdp.torch.state()


def test_torch_is_loaded_only_by_npdp_torch_and_no_star_import_hides_it():
    assert "torch" not in loaded_after("import npdp, npdp.nn, npdp.parallel.data_parallel")
    assert "torch" not in loaded_after("from npdp import *")
    assert "torch" in loaded_after("import npdp; npdp.torch.state")


def test_the_end_of_a_process_is_seen_before_its_parent_has_been_told():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    exits = Exits({0: os.getpid(), 3: child.pid})
    assert exits.among([0, 3]) is None
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert exits.among([0, 3]) == 3 and exits.among([0]) is None
    child.communicate()
    assert Exits({3: child.pid}).among([3]) == 3  # it ended before it could be watched
