"""Under mpirun: something goes wrong on rank 1; prints when (on the clock that all processes share)."""

import atexit
import os
import subprocess
import sys
import threading
import time

import numpy as np

import npdp
from npdp.app import launch
from npdp.comm.errors import CommunicationError


def now():
    print(f"at {time.monotonic()}\n", end="", flush=True)  # in one piece: other ranks say so too


def fail(*_):
    now()
    raise KeyError("the fault on purpose")


def allreduce_for_ever():
    while True:
        npdp.allreduce(np.ones(1000))


def in_main():
    """Rank 1 raises; rank 0 waits for it in an all-reduce, rank 2 does something else."""
    if npdp.rank() == 1:
        time.sleep(0.3)
        fail()
    elif npdp.rank() == 0:
        npdp.allreduce(np.ones(1000))
    time.sleep(60)


def in_a_thread():
    """A helper thread of rank 1 raises, while all ranks are busy with one all-reduce after the other."""
    if npdp.rank() == 1:
        threading.Timer(0.3, fail).start()
    allreduce_for_ever()


def in_backward():
    """Rank 1 raises in backward, others are in the exchange."""
    model = npdp.nn.DataParallel(npdp.nn.Linear(4, 4))
    if npdp.rank() == 1:
        model.module.bias.register_hook(fail)
    (model(np.ones((2, 4))) ** 2).mean().backward()
    time.sleep(60)


def everywhere():
    """All ranks raise at once."""
    npdp.barrier()
    fail()


def both_send():
    """Two ranks send to each other, and neither receives first."""
    if npdp.rank() < 2:
        now()
        npdp.send(np.ones(3), 1 - npdp.rank())
    npdp.barrier()


def sends_another_count():
    """Rank 0 sends three numbers where rank 1 wants four of another dtype."""
    if npdp.rank() == 0:
        now()
        npdp.send(np.ones(3), 1)
    elif npdp.rank() == 1:
        npdp.receive(np.ones(4, np.float32), 0)
    npdp.barrier()


def sends_to_one_that_sums():
    """Rank 0 sends to a rank that has gone on to an all-reduce."""
    npdp.init(stall_abort_s=1)
    if npdp.rank() == 0:
        now()
        npdp.send(np.ones(3), 1)
    npdp.allreduce(np.ones(3))


def sends_to_one_that_leaves():
    """Rank 0 sends what rank 1 never receives."""
    if npdp.rank() == 0:
        now()
        npdp.send(np.ones(3), 1)


def after_others_have_ended():
    """Rank 1 raises when the others have come to the end of the program and wait for it there."""
    if npdp.rank() == 1:
        time.sleep(0.7)
        fail()


def exit_everywhere():
    """All ranks leave together with a code."""
    npdp.barrier()
    sys.exit(3)


def exit_on_one():
    """Rank 1 leaves, the others wait for it in an all-reduce."""
    if npdp.rank() == 1:
        now()
        sys.exit(5)
    npdp.allreduce(np.ones(10))


def fork():
    """A child of each rank ends by an exception, by an exit, in a thread's exception; the ranks go on."""
    world = npdp.init()
    world.closing.append(lambda: print(f"closed {os.getpid() == rank}", flush=True))
    rank = os.getpid()
    npdp.allreduce(np.ones(1000))
    for end in (fail, sys.exit, in_a_thread_of_the_child):
        child = os.fork()
        if child == 0:
            end(7)
            sys.exit(8)
        print(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)
        npdp.allreduce(np.ones(1000))


def in_a_thread_of_the_child(_):
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def collective_in_a_child():
    """A child of each rank calls one, as if it were the rank; then the ranks do."""
    npdp.allreduce(np.ones(1000))
    in_a_child(lambda: npdp.allreduce(np.ones(1000)))


def buckets_in_a_child():
    """A child of each rank begins a sum beside the program, as backward does across hosts."""
    npdp.allreduce(np.ones(1000))
    in_a_child(lambda: npdp.init().begin_allreduce(np.ones(1000)))


def looks_around_in_a_child():
    """A child of each rank finds out on which hosts the ranks are, which is collective, before any rank has."""
    in_a_child(lambda: npdp.init().topology.spans_hosts)


def in_a_child(calls):
    if os.fork() == 0:
        try:
            calls()
        except CommunicationError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
    total = np.ones(1000)
    npdp.allreduce(total)
    print("sum", total[0], flush=True)


def starts_programs():
    """Rank 1 starts programs that use npdp too: by themselves, on ranks of their own, with a flag that is wrong."""
    world = "import npdp; npdp.init(); npdp.barrier(); print(f'world {npdp.world_size()}\\n', end='', flush=True)"
    train, quick = ("-m", "npdp", "train"), ("--epochs", "1", "--quiet")
    npdp.barrier()
    if npdp.rank() == 1:
        os.environ.update(launch.settings())
        for launcher in ([], [sys.argv[2], "-n", "3"]):
            subprocess.run([*launcher, sys.executable, "-c", world], check=True)
        codes = [subprocess.run([sys.executable, *train, *quick, *more], stderr=subprocess.DEVNULL).returncode
                 for more in ([], ["--ranks", "2"], ["--data", "/nowhere"])]  # fmt: skip
        print("codes", codes, flush=True)
    npdp.barrier()


def threads_at_once():
    """Several threads of each rank ask for the world at once, before anything has made it."""
    threads = 4
    together, worlds = threading.Barrier(threads), []

    def ask():
        together.wait()
        worlds.append(npdp.init())

    started = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    total = np.ones(10)
    npdp.allreduce(total)
    print("worlds", len(set(map(id, worlds))), "sum", total[0], flush=True)


def wrong_count():
    """Rank 1 brings another number of elements."""
    now()
    npdp.allreduce(np.ones(10 + npdp.rank() % 2), algorithm="naive")


def other_algorithm():
    """Rank 0 takes another algorithm: the ranks wait for each other in a circle."""
    npdp.barrier()
    now()
    npdp.allreduce(np.ones(10), algorithm="ring" if npdp.rank() else "tree")


def far_ahead():
    """Rank 0 sends to the others, and goes on at once, while rank 1 waits in vain for the first of that."""
    npdp.barrier()
    now()
    for _ in range(1000 if npdp.rank() != 1 else 1):
        npdp.broadcast(np.ones(9 if npdp.rank() == 1 else 8), 0, "tree")
    npdp.allreduce(np.ones(10), algorithm="ring")


def other_root():
    """Each waits for the other's array, and nothing is on its way."""
    npdp.barrier()
    now()
    npdp.broadcast(np.ones(200_000), npdp.rank() % 2, "naive")


def mpi_on_one():
    """In the first collective of all, before shared memory has been found."""
    now()
    npdp.allreduce(np.ones(10), algorithm="mpi" if npdp.rank() == 0 else "shared_memory")


def own_roots():
    """Each rank broadcasts what leaves before anybody wants it, by an algorithm: all send, nobody receives."""
    npdp.broadcast(np.ones(8), npdp.rank(), sys.argv[2])
    print("numbers", flush=True)


def last_extra_call():
    """A rank does a collective more than the others, by an algorithm, and waits for nobody there if it can."""
    npdp.barrier()
    if npdp.rank() == int(sys.argv[3]):
        npdp.broadcast(np.ones(8), npdp.rank(), sys.argv[2])


def last_extra_call_of_workers():
    """The same among the workers of a parameter server, who are a world of their own."""
    model = npdp.nn.Linear(2, 1)
    optimizer = npdp.optim.SGD(model.parameters(), 0.1)
    npdp.nn.DataParallel(model, strategy=npdp.ParameterServer()), optimizer  # the server leaves here
    if npdp.rank() == 0:
        npdp.broadcast(np.ones(8), 0, "naive")


def mpi_unlike():
    """Rank 1 calls MPI's all-reduce otherwise than the others, with as many elements: MPI would sum what comes."""
    array, op = np.ones((4, 2)), "sum"
    if npdp.rank() == 1:
        array, op = {
            "dtype": (np.ones((4, 2), np.int64), "sum"),
            "op": (array, "max"),
            "order": (np.ones((4, 2), order="F"), "sum"),
        }[sys.argv[2]]
    npdp.allreduce(array, op, "mpi")
    print("numbers", flush=True)


def larger_than_wanted():
    """Rank 0 sends more than rank 1 has room for."""
    memory, room = np.zeros(300_000), 100
    try:
        npdp.broadcast(memory[:room] if npdp.rank() else np.ones(memory.size), 0, "tree")
    except CommunicationError:
        overwritten = np.count_nonzero(memory[room:])
        print(f"rank {npdp.rank()} is told so and has {overwritten} elements overwritten", flush=True)


def waited_for():
    """Rank 1 comes late to one all-reduce, and goes on without ever waiting for long."""
    npdp.barrier()
    if npdp.rank() == 1:
        time.sleep(2.2)
    for _ in range(130):
        npdp.allreduce(np.ones(10), algorithm="ring")
    transport = npdp.init().transport
    print("notes left:", transport._noting.Iprobe(), flush=True)


def talk_at_exit():
    """What was registered after `import npdp` and before the world may still call MPI."""
    print("sum", transport._data.allreduce(1), flush=True)


def call_at_exit():
    """Rank 0 calls a collective when the others have come to their end."""
    if npdp.rank() == 0:
        npdp.allreduce(np.ones(10))


if sys.argv[1] in ("talk_at_exit", "call_at_exit"):
    atexit.register(globals()[sys.argv[1]])
    transport = npdp.init().transport
    sys.exit()
if sys.argv[1] != "threads_at_once":
    npdp.init()
globals()[sys.argv[1]]()
