"""Where memory cannot be shared all ranks go back to messages alike, and who insists on sharing is refused."""

import json
import threading

import numpy as np
import pytest
from launching import python
from needs import needs_shared_memory
from worlds import run

import npdp
from npdp import kernels
from npdp.base.partition import part
from npdp.collectives import host as host_module
from npdp.parallel.world import init

pytestmark = needs_shared_memory


def this_rank():
    """Return the number of the rank whose thread asks."""
    return int(threading.current_thread().name.removeprefix("rank "))


def on_rank(number, original, instead):
    """Return `original`, but `instead` on one rank."""
    return lambda *arguments: (instead if this_rank() == number else original)(*arguments)


NOT_SHARED = "allreduce: shared_memory needs all ranks on one host, and npdp's C kernels"
FAULTS = {
    "make": lambda patch: patch.setattr(host_module, "make", lambda *_: None),
    "find": lambda patch: patch.setattr(host_module, "find", on_rank(2, host_module.find, lambda *_: None)),
    "numpy": lambda patch: patch.setattr(kernels, "backend", on_rank(1, kernels.backend, lambda: "numpy")),
    "hosts": lambda patch: None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_all_ranks_go_back_to_messages_alike_where_one_cannot_share_memory(fault, monkeypatch):
    """Ranks of several hosts: those of each share memory, but not all of them."""
    FAULTS[fault](monkeypatch)

    def program():
        world = init()
        array = npdp.shared_empty((40, 30), np.float64)
        array[...] = npdp.rank() + np.arange(1200.0).reshape(40, 30)
        npdp.allreduce(array)
        out = npdp.shared_empty(7, np.int32)
        npdp.allgather(np.full(len(range(*part(7, 3, npdp.rank()))), npdp.rank(), np.int32), out)
        with pytest.raises(ValueError, match=NOT_SHARED):
            npdp.allreduce(array, algorithm="shared_memory")
        shared = (world.memory.is_of_all, world.memory.everyones(array), world.shared_once(10, array.dtype))
        return array.tolist(), out.tolist(), shared, world.chosen("allreduce", 100) != "shared_memory"

    wanted = (3 + 3 * np.arange(1200.0).reshape(40, 30)).tolist()
    hosts = (0, 0, 1) if fault == "hosts" else (0, 0, 0)
    assert run(3, program, hosts=hosts) == [(wanted, [0, 0, 0, 1, 1, 2, 2], (False, None, None), True)] * 3


WITH_NUMPY = """
import json
import numpy as np
import npdp
from npdp.parallel.world import init

def program():
    array = npdp.shared_empty(5000)
    array[:] = npdp.rank() + 1
    npdp.allreduce(array)
    try:
        npdp.allreduce(array, algorithm="shared_memory")
    except ValueError as error:
        return init().chosen("allreduce", 100) == "shared_memory", float(array.sum()), str(error)

print(json.dumps(npdp.run_ranks(2, program)))
"""


def test_with_numpys_kernels_auto_takes_messages_and_shared_memory_is_refused():
    code, stdout, stderr = python("-c", WITH_NUMPY, NPDP_KERNELS="numpy")
    assert code == 0, stderr
    assert json.loads(stdout) == [[False, 15000.0, NOT_SHARED]] * 2


def test_the_flag_is_refused_in_one_line_where_there_is_none():
    flags = ("--transport", "threads", "--ranks", "2", "--algorithm", "shared_memory", "--epochs", "0")
    code, _, stderr = python("-m", "npdp.train", *flags, NPDP_KERNELS="numpy")
    assert code == 2, stderr
    assert len(stderr.splitlines()) == 1 and "--algorithm shared_memory: " + NOT_SHARED in stderr
