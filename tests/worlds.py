"""Worlds for tests: programs on threads with a time limit, inputs that show who and where, messages counted.

Programs under mpirun use it too, so it does without pytest.

A world of threads that hangs would hang pytest: `run` gives each a time limit.
"""

import threading
import time
import traceback
from contextlib import contextmanager, nullcontext

import numpy as np

import npdp
from npdp import nn, optim
from npdp.base.partition import part
from npdp.collectives import execute
from npdp.collectives.arrays import OPS
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.world import init

LIMIT_S = 20
DTYPES = ("float32", "float64", "int32", "int64")
FEATURES, CLASSES = 5, 3
PAIRS = [(dtype, op) for dtype in DTYPES for op in OPS if not (op == "mean" and dtype.startswith("int"))]
NOT_THE_SAME = "do not call the same collective with the same count and dtype"
FOLD = {"sum": np.add, "mean": np.add, "min": np.minimum, "max": np.maximum, "prod": np.multiply}


def run(world_size, program, *arguments, limit_s=LIMIT_S, **options):
    """Do `npdp.run_ranks`, and fail the test where it does not end."""
    what = f"a world of {world_size} ranks"
    return within(limit_s, what, lambda: npdp.run_ranks(world_size, program, *arguments, **options))


def within(limit_s, what, action):
    """Return `action()`, done on a thread, and fail the test where that does not end."""
    outcome = {}

    def act():
        try:
            outcome["result"] = action()
        except BaseException as error:
            outcome["error"] = error

    runner = threading.Thread(target=act, daemon=True)
    runner.start()
    runner.join(limit_s)
    assert not runner.is_alive(), f"{what} did not end within {limit_s} s"
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


@contextmanager
def segments_of(nbytes):
    """Within, chunks travel in segments of so many bytes, two under way: small buffers then have several."""
    before = execute.SEGMENT_BYTES, execute.SENDS_AHEAD
    execute.SEGMENT_BYTES, execute.SENDS_AHEAD = nbytes, 2
    execute.rank_steps.cache_clear()
    try:
        yield
    finally:
        execute.SEGMENT_BYTES, execute.SENDS_AHEAD = before
        execute.rank_steps.cache_clear()


def values(rank, count, dtype, salt=0):
    """Return small whole numbers, other ones on each rank and at each place: sums and products are exact."""
    return ((np.arange(count) * 7 + rank * 5 + rank * rank + salt) % 11 - 5).astype(dtype)


def folded(world_size, count, dtype, op, salt=0):
    """Return what an all-reduce of `values` must leave, by NumPy."""
    total = values(0, count, dtype, salt)
    for rank in range(1, world_size):
        total = FOLD[op](total, values(rank, count, dtype, salt))
    return total / total.dtype.type(world_size) if op == "mean" else total


def do(collective, algorithm, dtype, op, count, root=0, salt=0, lay=np.copy):
    """Carry out one collective on this rank and say what is wrong with its outcome, or None.

    Args:
        lay: copies an array to where the collective is to work on it.
    """
    rank, world_size = npdp.rank(), npdp.world_size()
    mine = slice(*part(count, world_size, rank))
    array = lay(values(rank, count, dtype, salt))
    if collective == "allreduce":
        npdp.allreduce(array, op, algorithm)
        got, wanted = array, folded(world_size, count, dtype, op, salt)
    elif collective == "reduce_scatter":
        got = npdp.reduce_scatter(array, op, algorithm)
        wanted = folded(world_size, count, dtype, op, salt)[mine]
        assert got.size == 0 or np.shares_memory(got, array)
    elif collective == "allgather":
        chunk = array[mine].copy()
        array[...] = -99
        npdp.allgather(chunk, array, algorithm)
        got, wanted = array, np.concatenate([values(r, count, dtype, salt)[slice(*part(count, world_size, r))]
                                             for r in range(world_size)])  # fmt: skip
    else:
        npdp.broadcast(array, root % world_size, algorithm)
        got, wanted = array, values(root % world_size, count, dtype, salt)
    what = f"{collective} {algorithm} {dtype} {op} of {count}, rank {rank} of {world_size}"
    right = got.dtype == wanted.dtype and np.array_equal(got, wanted)
    outcome = None if right else f"{what}: {got}, wanted {wanted}"
    array[...] = -77  # whoever still reads it gets this
    return outcome


def what_is_wrong(names):
    """Make the checks among a program's names, `check_...`, on this rank of all; return what went wrong on any rank.

    Verdicts are gathered over the ranks after each check, so a failure on one rank fails all instead of hanging them.
    """
    wrong = []
    for name in [name for name in names if name.startswith("check_")]:
        text = ""
        try:
            names[name]()
        except Exception:
            text = f"rank {npdp.rank()}, {name}:\n{traceback.format_exc()}"
        wrong += init().gather_texts(text)
    return "".join(wrong)


class Recorder:
    """A transport that passes all on, notes what this rank sends, and may dawdle before it."""

    def __init__(self, transport, delay_s=0.0):
        self.transport, self.delay_s = transport, delay_s
        self.rank, self.world_size, self.wait_s = transport.rank, transport.world_size, 0.0
        self.name, self.host_number, self.calls = transport.name, transport.host_number, transport.calls
        self.ended, self.compare_calls, self.stalls = transport.ended, transport.compare_calls, transport.stalls
        self.sent = []  # (peer, bytes)

    def send(self, buffer, peer, call=None):
        self.sent.append((peer, buffer.nbytes))
        time.sleep(self.delay_s)
        return self.transport.send(buffer, peer, call)

    def receive(self, buffer, peer, call=None):
        time.sleep(self.delay_s)
        return self.transport.receive(buffer, peer, call)

    def wait(self, handle):
        self.transport.wait(handle)

    def native_allreduce(self, buffer, op, call):
        self.transport.native_allreduce(buffer, op, call)


def record(delay_s=0.0):
    """Put a recorder between this rank's world and its transport; return it."""
    world = init()
    recorder = Recorder(world.transport, delay_s)
    world.transport = world.by_messages._transport = world.clock._transport = recorder
    return recorder


# Data parallel: the same program on one plain rank and on many
class Plain:
    """How a program runs that knows nothing of other ranks."""

    def wrap(self, model):
        return model

    def no_sync(self, model):
        return nullcontext()

    def wrap_optimizer(self, optimizer):
        return optimizer


class Parallel(Plain):
    """The same under DataParallel."""

    def __init__(self, **options):
        self.options = options

    def wrap(self, model):
        return nn.DataParallel(model, **self.options)

    def no_sync(self, model):
        return model.no_sync()


def averaging(local_iterations=1, **options):
    """Return the way of local SGD."""
    return Parallel(strategy=npdp.LocalSGD(local_iterations, **options))


class HorovodStyle(Plain):
    """The same with the optimiser wrapped."""

    def wrap_optimizer(self, optimizer):
        return npdp.DistributedOptimizer(optimizer)


def assert_close(got, wanted, what="", tolerance=1e-12):
    """Assert that dicts of arrays, or None, agree in relative norm."""
    assert got.keys() == wanted.keys(), what
    for name, array in wanted.items():
        if array is None or got[name] is None:
            assert array is None and got[name] is None, f"{what}: {name} is {got[name]}, wanted {array}"
        else:
            off = np.linalg.norm(got[name] - array) / (np.linalg.norm(array) or 1.0)
            assert off <= tolerance, f"{what}: {name} is off by {off:.2e}: {got[name]}, wanted {array}"


def assert_as_on_one_rank(program, world_sizes=(1, 2, 3, 4, 5), way=None, tolerance=1e-12):
    """Assert that `program(way)`, a dict of arrays, gives on every rank of every world what one plain rank gets."""
    wanted = run(1, program, Plain())[0]
    for world_size in world_sizes:
        for rank, got in enumerate(run(world_size, program, way or Parallel())):
            assert_close(got, wanted, f"rank {rank} of {world_size}", tolerance)


def gradients(model):
    """Return a copy of every gradient, by name."""
    return {name: None if p.grad is None else np.array(p.grad) for name, p in model.named_parameters()}


def parameters(model):
    """Return a copy of every parameter, by name."""
    return {name: np.array(p.data) for name, p in model.named_parameters()}


def left(model):
    """Return what training has left: a copy of every parameter and, as `grad ...`, of every gradient."""
    return parameters(model) | {f"grad {name}": g for name, g in gradients(model).items()}


# Something small to train
def dataset(count=13):
    generator = np.random.default_rng(count)
    return ArrayDataset(generator.standard_normal((count, FEATURES)), generator.integers(0, CLASSES, count))


def loader(batch_size, count=13, seed=0, **options):
    return DataLoader(dataset(count), batch_size, shuffle=True, seed=seed, **options)


class Layers(nn.Sequential):
    """A Sequential of which one can ask for the first layers alone: the others are unused then."""

    def forward(self, x, last=None):
        for layer in self[:last]:
            x = layer(x)
        return x


class TwoDtypes(nn.Module):
    """A layer of float32, one of float64: two sets of flat arrays."""

    def __init__(self):
        npdp.manual_seed(3)
        self.first, self.last = nn.Linear(FEATURES, 4, dtype=np.float32), nn.Linear(4, CLASSES, dtype=np.float64)

    def forward(self, x):
        return self.last(self.first(x).tanh())


def mlp(seed=1, dtype=np.float64, dropout=0.0):
    npdp.manual_seed(seed)
    middle = [nn.Dropout(dropout)] if dropout else []
    return Layers(nn.Linear(FEATURES, 4, dtype=dtype), nn.Tanh(), *middle, nn.Linear(4, CLASSES, dtype=dtype))


criterion = nn.CrossEntropyLoss()


def train_on(model, optimizer, inputs, labels, criterion=criterion):
    """Do one iteration of the user's loop."""
    loss = criterion(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def each_batch(iteration, batch_size, lr=0.2, **sgd):
    """Return a program that does `iteration(model, optimizer, number, inputs, labels)` for each batch of a pass."""

    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=lr, **sgd)
        model = way.wrap(model)
        for number, (inputs, labels) in enumerate(loader(batch_size)):
            iteration(model, optimizer, number, inputs, labels)
        return parameters(model)

    return program


def train(way, model, batches, epochs=2, momentum=0.9):
    """Train as the user's loop does; return what is left."""
    optimizer = way.wrap_optimizer(optim.SGD(model.parameters(), lr=0.2, momentum=momentum))
    model = way.wrap(model)
    for _ in range(epochs):
        for inputs, labels in batches:
            train_on(model, optimizer, inputs, labels)
    return left(model)
