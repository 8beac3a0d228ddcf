"""Under mpirun: what a transport promises, every collective, and short trainings, whose hashes rank 0 prints.

`checks.py threads P` trains the same on a world of threads and prints the same.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from worlds import DTYPES, Parallel, do, folded, loader, mlp, train, values, what_is_wrong

import npdp
from npdp import kernels
from npdp.collectives.algorithms import ALGORITHMS, SCHEDULES
from npdp.collectives.arrays import OPS
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import NOTE_AFTER_S
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init

RANK, WORLD_SIZE = npdp.rank(), npdp.world_size()
PEERS = [peer for peer in range(WORLD_SIZE) if peer != RANK]
SEVERAL_MB = 1_500_001  # float32: 6 MB, several segments of each chunk, and no power of two
HASHED = ("naive", "ring", "halving_doubling", "tree", "auto")


def check_order_of_messages():
    transport = init().transport
    got = {peer: [np.empty(1, np.int64) for _ in range(50)] for peer in PEERS}
    handles = [transport.receive(buffer, peer) for peer in PEERS for buffer in got[peer]]
    sent = [np.array([1000 * RANK + i]) for i in range(50)]
    handles += [transport.send(buffer, peer) for peer in PEERS for buffer in sent]
    for handle in handles:
        transport.wait(handle)
    for peer in PEERS:
        assert [int(buffer[0]) for buffer in got[peer]] == [1000 * peer + i for i in range(50)]


def check_sizes_of_messages():
    transport = init().transport
    for count in (0, 1, 1000, 100_000, SEVERAL_MB):
        for dtype in DTYPES:
            got = {peer: np.zeros(count, dtype) for peer in PEERS}
            mine = values(RANK, count, dtype)
            handles = [transport.receive(got[peer], peer) for peer in PEERS]
            handles += [transport.send(mine, peer) for peer in PEERS]
            for handle in handles:
                transport.wait(handle)
            assert all(np.array_equal(got[peer], values(peer, count, dtype)) for peer in PEERS), (count, dtype)


def check_what_nobody_has_read_yet_is_not_taken_for_what_makes_a_subworld():
    transport = init().transport
    if WORLD_SIZE == 1:
        return
    mine = np.array([True, False, True])  # with the tag 0, as notes
    sent = [transport.send(mine, peer) for peer in PEERS]
    notes = [transport._noting.Isend(b"0 a call that nobody knows any more", peer) for peer in PEERS]
    for ranks in (range(WORLD_SIZE), [*range(WORLD_SIZE)][::-1], range(WORLD_SIZE)):
        subworld = transport.subworld(ranks)
        assert [subworld.rank, subworld.world_size] == [ranks.index(RANK), WORLD_SIZE]
    for handle in sent:
        transport.wait(handle)
    for peer in PEERS:
        got = np.empty_like(mine)
        transport.wait(transport.receive(got, peer))
        assert np.array_equal(got, mine)
    assert transport.compare_calls() is None
    assert all(note.Test() for note in notes)


def check_messages_of_another_size():
    transport = init().transport
    if WORLD_SIZE == 1 or RANK > 1:
        return
    for sent, said in ((3, "got more"), (1, "got 8")):
        if RANK == 0:
            transport.wait(transport.send(np.zeros(sent), 1))
            continue
        try:
            transport.wait(transport.receive(np.zeros(2), 0))
        except CommunicationError as error:
            assert str(error).startswith(f"rank 1: wanted 16 bytes from rank 0, {said}: the two ranks do not"), error
        else:
            raise AssertionError("a message of another size was taken")


def check_messages_of_a_program():
    """To each rank from each other, in its own order, between collectives."""
    for count in (0, 1, SEVERAL_MB):
        for dtype in DTYPES:
            for source in range(WORLD_SIZE):
                for target in range(WORLD_SIZE):
                    if RANK == source != target:
                        npdp.send(values(RANK, count, dtype, target), target)
                    elif RANK == target != source:
                        got = np.zeros(count, dtype)
                        npdp.receive(got, source)
                        assert np.array_equal(got, values(source, count, dtype, target)), (count, dtype, source)
            npdp.barrier()


def check_a_send_ends_only_when_its_receive_is_there():
    if RANK == 0 and WORLD_SIZE > 1:
        before = time.monotonic()
        npdp.send(np.ones(1), 1)
        assert time.monotonic() - before > 0.1
    elif RANK == 1:
        time.sleep(0.2)
        npdp.receive(np.zeros(1), 0)


def check_collectives():
    counts = (0, 1, WORLD_SIZE - 1, WORLD_SIZE, WORLD_SIZE + 1, 1000, 200_003)
    for collective, algorithms in SCHEDULES.items():
        for algorithm in (*algorithms, "auto", *(["mpi"] if collective == "allreduce" else [])):
            for salt, count in enumerate(counts):
                dtype, op = DTYPES[salt % 4], OPS[salt % 5]
                op = "sum" if op == "mean" and dtype.startswith("int") else op
                wrong = do(collective, algorithm, dtype, op, count, salt, salt)
                assert wrong is None, wrong


def check_every_op_of_mpis_own():
    for dtype in DTYPES:
        for op in OPS:
            if op != "mean" or dtype.startswith("float"):
                wrong = do("allreduce", "mpi", dtype, op, 37, 0, 3)
                assert wrong is None, wrong


def check_buffers_of_several_mb():
    wanted = folded(WORLD_SIZE, SEVERAL_MB, "float32", "sum")
    lacking = [] if init().memory.is_of_all or WORLD_SIZE == 1 else ["shared_memory"]
    for algorithm in [algorithm for algorithm in ALGORITHMS if algorithm not in lacking]:
        array = values(RANK, SEVERAL_MB, "float32")
        npdp.allreduce(array, "sum", algorithm)
        assert np.array_equal(array, wanted), algorithm


def check_that_a_slow_rank_is_waited_for():
    if RANK == WORLD_SIZE - 1:
        time.sleep(0.7)  # longer than a rank waits before it asks whether it is in vain
    npdp.barrier()


def check_that_what_a_waiting_rank_notes_is_no_message():
    """Who comes late finds all that it needs in the collective, so it has not read the others' notes after that."""
    transport = init().transport
    if RANK == WORLD_SIZE - 1:
        time.sleep(NOTE_AFTER_S + 0.7)
    for _ in range(2):
        npdp.allreduce(np.ones(2), "sum", "naive")
    got = [np.zeros(2) for _ in PEERS]
    handles = [transport.receive(buffer, peer) for buffer, peer in zip(got, PEERS)]
    handles += [transport.send(np.full(2, RANK + 1.0), peer) for peer in PEERS]
    for handle in handles:
        transport.wait(handle)
    assert [buffer.tolist() for buffer in got] == [[peer + 1, peer + 1] for peer in PEERS]


def check_small_things():
    assert npdp.init() is init()
    assert npdp.global_mean(RANK, 1) == (WORLD_SIZE - 1) / 2
    texts = [f"rank {rank} → ü" * rank for rank in range(WORLD_SIZE)]
    assert init().gather_texts(texts[RANK]) == texts
    assert ("mpi4py" in sys.modules) == (WORLD_SIZE > 1), "one rank needs no MPI, several do"


def hashes():
    """Train once with each algorithm; return each rank's hashes, in rank order."""
    mine = {}
    # By messages `auto` weighs what they cost, which differs between MPI and threads, and so may the order of sums
    everywhere_alike = HASHED if kernels.backend() == "c" else [name for name in HASHED if name != "auto"]
    for algorithm in everywhere_alike:
        npdp.init(algorithm)
        model = mlp(dtype=np.float32, dropout=0.2)
        train(Parallel(bucket_cap_mb=5e-5), model, loader(7, 29), epochs=3)
        mine[algorithm] = parameters_sha256(model.named_parameters())
    npdp.init("auto")
    return [json.loads(text) for text in init().gather_texts(json.dumps(mine))]


def main():
    if sys.argv[1:2] == ["threads"]:
        print(json.dumps(npdp.run_ranks(int(sys.argv[2]), hashes)[0]))
        return
    wrong = what_is_wrong(globals())
    if wrong and RANK == 0:
        print(wrong, file=sys.stderr)
    found = hashes()
    if RANK == 0:
        print(json.dumps(found))
    sys.exit(1 if wrong else 0)


main()
