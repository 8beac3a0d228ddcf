"""The fused update: parameters and state lie once in memory, and yet a model is copied, scored and saved as ever."""

import copy
import gc
import pickle

import numpy as np
import pytest
from fused import SHARED, algorithms, made
from memories import reserved_bytes
from needs import needs_shared_memory
from worlds import FEATURES, assert_close, criterion, dataset, loader, parameters, run

import npdp
from npdp import nn, optim
from npdp.app import saved_model
from npdp.app.evaluation import evaluate
from npdp.app.models import build
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init


# Once in memory
@needs_shared_memory
def test_parameters_and_state_lie_once_in_memory_and_gradients_once_a_rank():
    """What rank 1 writes in the place of one, all see there; each writes its own gradients."""

    def program():
        model, optimizer = made()
        (group,) = optimizer.groups
        flat = group.flat
        arrays = [flat.data, *group.state.values()]
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
        (group,) = optimizer.groups
        arrays = [group.flat.data, group.flat.grad, *group.state.values()]
        updated, update = [], optimizer.update
        optimizer.update = lambda group, span, *grads: updated.append(span) or update(group, span, *grads)
        optimizer.step()
        lines = [span.start * group.flat.dtype.itemsize % 64 for span in updated]
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
            reserved.append(reserved_bytes())
            init().barrier()
        return reserved

    for reserved in run(2, program):
        assert max(reserved[2:]) <= max(reserved[:2]), reserved


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
        model = build("mlp", FEATURES, 3, {"hidden": (8,)}, "float32")
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
