"""Under mpirun: memory that the ranks share, between processes. The first argument says what is done."""

import ctypes
import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from memories import MEMORIES, Arrays, do_in
from worlds import DTYPES, criterion, loader, mlp, what_is_wrong

import npdp
from npdp import nn, optim
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.host import SLOT_BYTES
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init

RANK, WORLD_SIZE = npdp.rank(), npdp.world_size()
SEVERAL = 2 * SLOT_BYTES // 8  # float64: all slots full, twice
WAIT_S = 3 if WORLD_SIZE == 2 else 1
AT_MOST_S = WAIT_S / 10  # of processor time
MB = 1 << 20
WIDTH = 1448  # squared, float32: 8 MB


def check_that_memory_is_shared():
    assert init().memory.is_of_all and init().chosen("allreduce", 1) == "shared_memory"


def check_collectives():
    arrays = Arrays(2 * SEVERAL + 2, DTYPES)
    for collective in SCHEDULES:
        for salt, memory in enumerate(MEMORIES):
            for count in (1, WORLD_SIZE + 1, 1024, 1025, SEVERAL - 1, SEVERAL, SEVERAL + 1):
                dtype = DTYPES[(salt + count) % 4]
                wrong = do_in(arrays, memory, collective, "shared_memory", dtype, "sum", count, salt + 1, salt)
                assert wrong is None, wrong


def check_bits_of_naive():
    arrays = Arrays(SEVERAL, ["float32"])
    for memory in MEMORIES:
        bits = []
        for algorithm in ("naive", "shared_memory"):
            array = arrays.lay(memory, np.random.default_rng(RANK).standard_normal(SEVERAL).astype(np.float32))
            npdp.allreduce(array, algorithm=algorithm)
            bits.append(array.tobytes())
        assert bits[0] == bits[1], memory


def check_ten_thousand_small_ones():
    array, wanted = np.empty(3, np.int64), WORLD_SIZE * (WORLD_SIZE - 1) // 2
    for turn in range(10_000):
        array[:] = turn + RANK
        npdp.allreduce(array)
        assert (array == WORLD_SIZE * turn + wanted).all(), (turn, array)


def check_algorithms_in_turn():
    """Messages and shared memory do not get in each other's way."""
    arrays = Arrays(5000, ["float64"])
    for turn in range(60):
        algorithm = ("auto", *SCHEDULES["allreduce"], "mpi", "shared_memory")[turn % 7]
        wrong = do_in(arrays, MEMORIES[turn % 5], "allreduce", algorithm, "float64", "sum", 70 * turn, 0, turn)
        assert wrong is None, wrong


def check_that_waiting_costs_next_to_nothing():
    npdp.barrier()
    before = resource.getrusage(resource.RUSAGE_SELF)
    if RANK == 0:
        time.sleep(WAIT_S)
    npdp.barrier()
    after = resource.getrusage(resource.RUSAGE_SELF)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < AT_MOST_S, f"{used_s} s of processor time in {WAIT_S} s of waiting"


def check_that_the_update_makes_no_difference():
    hashes = set()
    for update in ("replicated", "fused"):
        model = mlp()
        optimizer = optim.Adam(model.parameters(), lr=0.05)
        model = nn.DataParallel(model, update=update)
        for inputs, labels in loader(5):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        hashes |= set(init().gather_texts(parameters_sha256(model.named_parameters())))
    assert len(hashes) == 1, hashes


def pss_bytes():
    """Return this process's memory, shared pages divided by those who have them; without what malloc keeps."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def check_that_parameters_and_state_are_held_once():
    """Of 4 ranks, 4 gradients, and parameters, m and v once, are 7 times the parameters; replicated, it is 16 times."""
    if WORLD_SIZE != 4:
        return
    inputs = np.ones((WORLD_SIZE, WIDTH), np.float32)
    gc.collect()
    npdp.shared_empty(1)  # what was dropped is given back
    npdp.barrier()
    before = pss_bytes()
    model = nn.Linear(WIDTH, WIDTH, bias=False)
    optimizer = optim.Adam(model.parameters())
    model = nn.DataParallel(model, update="fused")
    for _ in range(2):
        optimizer.zero_grad()
        (model(inputs) ** 2).mean().backward()
        optimizer.step()
    npdp.barrier()
    copies = init().sum(pss_bytes() - before) / (WIDTH * WIDTH * 4)
    assert 6.5 < copies < 10, f"{copies:.1f} times the parameters"


def kill():
    """Rank 1 is killed in the midst of collectives; prints when."""
    array = npdp.shared_empty(100_000)
    for turn in range(1_000_000):
        if RANK == 1 and turn == 200:
            print(f"at {time.monotonic()}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        npdp.allreduce(array if turn % 2 else array[:10])


def differ():
    """Rank 1 calls something else."""
    npdp.barrier()
    print(f"at {time.monotonic()}", flush=True)
    npdp.allreduce(np.ones(10 + RANK % 2))


def leave():
    """Rank 1 leaves, others wait for it."""
    npdp.barrier()
    if RANK == 1:
        print(f"at {time.monotonic()}", flush=True)
        return
    npdp.allreduce(np.ones(10))


def checks():
    """All of them."""
    wrong = what_is_wrong(globals())
    if wrong and RANK == 0:
        print(wrong, file=sys.stderr)
    sys.exit(1 if wrong else 0)


globals()[sys.argv[1]]()
