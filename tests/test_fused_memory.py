"""The fused update: parameters and state lie once in memory, read-only, gradients are not to be seen; and its flag."""

import copy
import gc
import json
import os
import pickle

import numpy as np
import pytest
from launching import mpirun, needs_mpi, python
from needs import needs_shared_memory
from training import UNUSED, fit, strict_lines
from worlds import FEATURES, assert_close, criterion, dataset, loader, mlp, parameters, run, train

import npdp
from npdp import kernels, nn, optim, saved_model
from npdp.evaluation import evaluate
from npdp.models import build
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init
from npdp.train import main

SHARED = "shared_memory" if kernels.backend() == "c" else "auto"
algorithms = pytest.mark.parametrize("algorithm", [SHARED, "ring"])
NOT_SEEN = 'with update="fused" the gradient is summed while the parameters are updated, and stored nowhere'


def made(algorithm=SHARED, optimizer=optim.Adam):
    """Return a model that is updated by a fused step, and its optimiser, after one step."""
    npdp.init(algorithm)
    model = mlp()
    optimizer = optimizer(model.parameters())
    wrapped = nn.DataParallel(model, update="fused")
    inputs, labels = next(iter(loader(6)))
    criterion(wrapped(inputs), labels).backward()
    optimizer.step()
    return wrapped, optimizer


# Once in memory
@needs_shared_memory
def test_parameters_and_state_lie_once_in_memory_and_gradients_once_a_rank():
    """What rank 1 writes in the place of one, all see there; each writes its own gradients."""

    def program():
        model, optimizer = made()
        (slab,) = optimizer.slabs
        flat = slab.flat
        arrays = [flat.data, *slab.state.values()]
        init().barrier()
        if npdp.rank() == 1:
            for number, array in enumerate(arrays):
                array[0] = 70 + number
        flat.grad[0] = npdp.rank()
        init().barrier()
        weight = model.module[0].weight
        inside = np.shares_memory(weight.data, flat.data) and weight.data.flat[0] == 70
        return inside, [float(array[0]) for array in arrays], float(flat.grad[0])

    outcomes = run(3, program)
    assert [(inside, seen) for inside, seen, _ in outcomes] == [(True, [70.0, 71.0, 72.0])] * 3
    assert [gradient for _, _, gradient in outcomes] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("world_size", [2, 3])
@algorithms
def test_all_start_on_a_cache_line(algorithm, world_size):
    """So that no two ranks write to one; also the chunks that they update."""

    def program():
        _, optimizer = made(algorithm)
        (slab,) = optimizer.slabs
        arrays = [slab.flat.data, slab.flat.grad, *slab.state.values()]
        updated, update = [], optimizer.update
        optimizer.update = lambda slab, run, *grads: updated.append(run) or update(slab, run, *grads)
        optimizer.step()
        lines = [run.start * slab.flat.dtype.itemsize % 64 for run in updated]
        return [array.ctypes.data % 64 for array in arrays], lines if algorithm == "shared_memory" else [0]

    assert all(set(starts) == set(lines) == {0} for starts, lines in run(world_size, program))


@needs_shared_memory
@pytest.mark.parametrize("dropped", ["optimiser", "model"])
def test_what_is_dropped_gives_its_memory_back(dropped):
    def program():
        npdp.init(SHARED)
        model, reserved = None, []
        for _ in range(6):
            if model is None or dropped == "model":
                model = nn.Linear(200, 200)
                wrapped = nn.DataParallel(model, update="fused")
            optimizer = optim.Adam(model.parameters())
            (wrapped(np.ones((4, 200), np.float32)) ** 2).mean().backward()
            optimizer.step()
            del optimizer
            gc.collect()
            init().barrier()
            reserved.append(os.fstat(init().host.arena._memory._fd).st_blocks * 512)
            init().barrier()
        return reserved

    for reserved in run(2, program):
        assert max(reserved[2:]) <= max(reserved[:2]), reserved


# What is not to be seen or changed
@algorithms
def test_parameters_are_read_only(algorithm):
    def program():
        model, _ = made(algorithm)
        weight = model.module[0].weight
        refused = 0
        for change in (
            lambda: weight.data.__setitem__(0, 1.0),
            lambda: model.load_state_dict(dict(model.state_dict())),
            lambda: npdp.broadcast_parameters(model.named_parameters()),
            lambda: npdp.allreduce(weight.data),
        ):
            with pytest.raises(ValueError, match="read-only"):
                change()
            refused += 1
        with npdp.no_grad(), pytest.raises(ValueError, match="read-only"):
            weight.zero_()
        return refused

    assert run(2, program) == [4, 4]


def test_who_writes_a_parameter_through_npdp_is_told_why_it_is_read_only():
    def program():
        model, _ = made("auto")
        weight = model.module[0].weight
        for change in (
            lambda: npdp.broadcast_parameters(model.state_dict()),
            lambda: weight.copy_(weight.data),
            lambda: weight.add_(0.0),
            lambda: weight.__iadd__(0.0),
            lambda: weight.__setitem__(0, weight.data[0]),
        ):
            with npdp.no_grad(), pytest.raises(ValueError, match="server.*: set values before the model is wrapped"):
                change()
        return npdp.rank()

    assert run(2, program) == [0, 1]


@algorithms
def test_reading_a_gradient_says_why_there_is_none(algorithm):
    def program():
        model, optimizer = made(algorithm)
        inputs, labels = next(iter(loader(6)))
        for _ in range(2):
            for parameter in model.parameters():
                with pytest.raises(RuntimeError, match=NOT_SEEN):
                    _ = parameter.grad
            with pytest.raises(RuntimeError, match=NOT_SEEN):
                optim.clip_grad_norm_(model.parameters(), 1.0)
            criterion(model(inputs), labels).backward()
        optimizer.zero_grad()
        with model.no_sync():
            criterion(model(inputs), labels).backward()
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            _ = model.module[0].weight.grad

    run(2, program)


def test_after_a_backward_or_a_step_that_failed_there_is_none_to_be_seen_either():
    def program():
        model, optimizer = made()
        weight = model.module[2].weight
        inputs, labels = next(iter(loader(6)))
        remove = weight.register_hook(lambda gradient: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            criterion(model(inputs), labels).backward()
        remove()
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            _ = weight.grad
        optimizer.update = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            _ = weight.grad

    run(2, program)


def test_on_one_rank_nothing_is_summed_and_gradients_are_there():
    def program():
        model, _ = made("auto")
        model.module[0].weight.data[...] = 1.0
        return np.abs(model.module[0].weight.grad).sum() > 0

    assert run(1, program) == [True]


REFUSED = [
    (lambda model: nn.DataParallel(model, update="melted"), "no update 'melted'; there are replicated, fused"),
    (lambda model: nn.DataParallel(nn.DataParallel(model, update="fused")), "wrap it once"),
    (lambda model: nn.DataParallel(nn.DataParallel(model), update="fused"), "wrap it once"),
]


@pytest.mark.parametrize(("wrap", "text"), REFUSED)
def test_what_cannot_be_wrapped_is_refused(wrap, text):
    with pytest.raises(ValueError, match=text):
        run(2, lambda: wrap(mlp()))


def test_it_and_a_distributed_optimizer_exclude_each_other():
    def program():
        model = mlp()
        npdp.DistributedOptimizer(optim.SGD(model.parameters()))
        nn.DataParallel(model, update="fused")

    with pytest.raises(ValueError, match='update="fused" and DistributedOptimizer exclude each other'):
        run(2, program)


def test_an_optimiser_with_parameters_of_another_model_is_refused_and_the_model_still_free():
    def program():
        model, extra = mlp(), nn.Parameter(np.zeros(3))
        optimizer = optim.SGD([*model.parameters(), extra])
        with pytest.raises(ValueError, match="the optimiser also has 1 parameters of another model"):
            nn.DataParallel(model, update="fused")
        wrapped = nn.DataParallel(model)
        inputs, labels = next(iter(loader(6)))
        criterion(wrapped(inputs), labels).backward()
        optimizer.step()
        return model[0].weight.grad is not None

    assert run(2, program) == [True, True]


# What goes on as always
@algorithms
def test_a_copy_of_the_model_trains_by_itself(algorithm):
    def program():
        model, _ = made(algorithm)
        for again in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
            assert_close(parameters(again), parameters(model.module))
            optimizer = optim.SGD(again.parameters(), lr=0.1)
            inputs, labels = dataset(6).take(np.arange(6))
            criterion(again(npdp.Tensor(inputs)), labels).backward()
            optimizer.step()
            assert again[0].weight.grad is not None
            assert not np.array_equal(again[0].weight.data, model.module[0].weight.data)
        return parameters_sha256(model.named_parameters())

    assert len(set(run(2, program))) == 1


@algorithms
def test_a_model_can_be_scored_and_saved_between_steps_by_one_rank_alone(algorithm, tmp_path):
    """The others go on meanwhile: they may not change what it reads."""

    def program():
        npdp.init(algorithm)
        npdp.manual_seed(7)
        model = build("mlp", FEATURES, 3, (8,), "float32")
        optimizer = optim.Adam(model.parameters(), lr=0.05)
        wrapped = nn.DataParallel(model, update="fused")
        hashes = []
        for turn, (inputs, labels) in enumerate(loader(4)):
            optimizer.zero_grad()
            criterion(wrapped(inputs.data.astype(np.float32)), labels).backward()
            optimizer.step()
            if npdp.rank() == 1:
                path = f"{tmp_path}/{turn}.npz"
                description = {"model": "mlp", "features": FEATURES, "classes": 3, "hidden": [8], "dtype": "float32"}
                hashes.append(parameters_sha256(model.named_parameters()))
                saved_model.save(path, saved_model.SavedModel(model, description, None))
                loaded = saved_model.load(path).model
                assert parameters_sha256(loaded.named_parameters()) == hashes[-1]
                assert parameters_sha256(model.named_parameters()) == hashes[-1]
        score = evaluate(init(), model, dataset(13), 3)
        return score, parameters_sha256(wrapped.named_parameters()), len(hashes)

    (score, sha256, _), (score_1, sha256_1, steps) = run(2, program)
    assert score == score_1 and sha256 == sha256_1 and steps == 4


def test_an_exception_of_one_rank_in_backward_ends_those_that_wait_in_the_step():
    def program():
        model, optimizer = made()
        inputs, labels = next(iter(loader(6)))
        if npdp.rank() == 1:
            model.module[0].weight.register_hook(lambda gradient: 1 / 0)
        criterion(model(inputs), labels).backward()
        optimizer.step()

    with pytest.raises(ZeroDivisionError):
        run(3, program, limit_s=5)


def test_the_wrapped_models_of_a_program_may_differ_in_their_update():
    class Both:
        def __init__(self, update):
            self.update = update

        def wrap(self, model):
            return nn.DataParallel(model, update=self.update)

        def wrap_optimizer(self, optimizer):
            return optimizer

    def program():
        first = train(Both("replicated"), mlp(), loader(4), epochs=1)
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            train(Both("fused"), mlp(), loader(4), epochs=1)
        second = train(Both("replicated"), mlp(), loader(4), epochs=1)
        assert_close(first, second, tolerance=0)

    run(2, program)


# The flag
IN_RANK_ORDER = () if kernels.backend() == "c" else ("--algorithm", "naive")  # shared memory adds so by itself
FLAGS = ("--quiet", "--epochs", "2", "--global-batch-size", "50", *IN_RANK_ORDER)
LARGE = ("--model", "mlp", "--hidden", "3600", "--epochs", "1")  # just above 1 MB
SETTINGS = {
    "sgd": (),
    "adamw": ("--optimizer", "adamw", "--learning-rate", "0.01"),
    "accumulate": ("--accumulate", "3", "--weight-decay", "0.01"),
    "mlp": ("--model", "mlp", "--hidden", "40", "--epochs", "1"),
    "naive": ("--algorithm", "naive", "--optimizer", "adam", "--learning-rate", "0.01"),
    "unused": ("--model", "{folder}/unused.py:make"),
    "large": LARGE,
    "large naive": (*LARGE, "--algorithm", "naive"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_flag_makes_no_difference_to_the_bits_and_is_told_in_the_metrics(setting, tmp_path):
    (tmp_path / "unused.py").write_text(UNUSED)
    flags = [flag.format(folder=tmp_path) for flag in SETTINGS[setting]]
    runs = {update: fit(*FLAGS, *flags, "--update", update, ranks=3) for update in ("replicated", "fused", "auto")}
    auto = "fused" if kernels.backend() == "c" and setting == "large" else "replicated"
    assert {update: run.events[0]["update"] for update, run in runs.items()} == {
        "replicated": "replicated", "fused": "fused", "auto": auto,
    }  # fmt: skip
    assert len({run.end["parameters_sha256"] for run in runs.values()}) == 1
    assert len({run.end["train_loss"] for run in runs.values()}) == 1


FROZEN = """
from npdp import nn
def make(features, classes):
    model = nn.Sequential(nn.Linear(features, 5000), nn.ReLU(), nn.Linear(5000, classes))
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    return model
"""


def test_auto_looks_at_what_is_trained(tmp_path):
    (tmp_path / "frozen.py").write_text(FROZEN)
    flags = (*FLAGS, "--epochs", "0", "--model", f"{tmp_path}/frozen.py:make")
    assert fit(*flags, ranks=2).events[0]["update"] == "replicated"


def test_auto_is_replicated_where_gradients_are_looked_at_or_there_is_one_rank():
    flags = (*FLAGS, *LARGE, "--epochs", "0")
    assert fit(*flags, "--clip-norm", "1", ranks=2).events[0]["update"] == "replicated"
    assert fit(*flags, ranks=1).events[0]["update"] == "replicated"


def test_fused_and_clipping_exclude_each_other(capsys):
    assert main(["--update", "fused", "--clip-norm", "1", "--transport", "threads", "--ranks", "2"]) == 2
    assert "--update fused stores no gradient that --clip-norm could scale" in capsys.readouterr().err


def test_fused_and_an_algorithm_without_a_reduce_scatter_exclude_each_other(capsys):
    assert main(["--update", "fused", "--algorithm", "tree", "--transport", "threads", "--ranks", "2"]) == 2
    assert "--update fused needs an algorithm that has a reduce-scatter, auto, hierarchical" in capsys.readouterr().err


def test_numpys_kernels_give_the_same_bits(tmp_path):
    """Of more than the blocks that NumPy takes at a time."""
    flags = (*FLAGS, "--model", "mlp", "--hidden", "400", "--epochs", "1", "--update", "fused", "--optimizer", "adamw")
    out = ("--algorithm", "naive", "--transport", "threads", "--ranks", "3", "--metrics", f"{tmp_path}/run.jsonl")
    code, _, stderr = python("-m", "npdp.train", *flags, *out, NPDP_KERNELS="numpy")
    assert code == 0, stderr
    end = strict_lines((tmp_path / "run.jsonl").read_text())[-1]
    assert end["backend"] == "numpy"
    assert end["parameters_sha256"] == fit(*flags, ranks=3).end["parameters_sha256"]


@needs_mpi
def test_under_mpi_the_flag_makes_no_difference_to_the_bits(tmp_path):
    naive = ("--algorithm", "naive")
    flags, cases = [], [("replicated", ()), ("fused", ()), ("fused", naive), ("replicated", LARGE), ("auto", LARGE)]
    for number, (update, others) in enumerate(cases):
        out = ("--update", update, "--metrics", f"{tmp_path}/{number}.jsonl")
        flags.append(json.dumps([*FLAGS, *others, *out]))
    code, _, stderr = mpirun(3, "train_many.py", *flags, timeout=60)
    assert code == 0, stderr
    runs = [strict_lines((tmp_path / f"{number}.jsonl").read_text()) for number in range(len(cases))]
    fused = "fused" if kernels.backend() == "c" else "replicated"
    assert [events[0]["update"] for events in runs] == ["replicated", "fused", "fused", "replicated", fused]
    shas = [events[-1]["parameters_sha256"] for events in runs]
    assert shas[3] == shas[4]
    threads = fit(*FLAGS, "--update", "fused", ranks=3)
    wanted = threads.end["parameters_sha256"] if kernels.backend() == "c" else shas[0]
    assert set(shas[:3]) == {wanted}
