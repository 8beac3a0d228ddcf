"""Wrapping makes replicas: all ranks get the values of rank 0, keep their names and modes, and stay equal."""

import copy
import pickle

import numpy as np
import pytest
from worlds import FEATURES, Parallel, Plain, assert_as_on_one_rank, assert_close, loader, mlp, parameters, run, train

import npdp
from npdp import nn, optim
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init

DTYPES_OF_FROZEN_ONES = ["bool", "int8", "int16", "uint64", "float16", "complex64", ">f8", ">i4", "float32", "int64"]


@pytest.mark.parametrize("dtype", DTYPES_OF_FROZEN_ONES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (3, 5)], ids=str)
def test_wrapping_gives_all_ranks_the_values_of_rank_0_in_whatever_dtype_a_frozen_parameter_has(dtype, shape):
    def program(first_rank):
        model = nn.Linear(2, 2)
        values = (np.arange(np.prod(shape)) + 1 + npdp.rank() - first_rank).reshape(shape) % 2 * 7
        model.mask = nn.Parameter(values.astype(dtype), requires_grad=False)
        nn.DataParallel(model)
        return model.mask.data

    (wanted,) = run(1, program, 0)
    for got in run(3, program, 0):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_parameter_on_an_array_that_is_read_only_trains_on_a_copy_of_it(frozen, turned):
    values = np.arange(15.0).reshape(5, 3).T if turned else np.arange(15.0).reshape(3, 5)
    values.flags.writeable = False

    def program(way):
        model = nn.Linear(FEATURES, 3, dtype=np.float64)
        model.weight = nn.Parameter(values, requires_grad=not frozen)
        return train(Plain(), way.wrap(model), loader(4))  # the optimiser comes last: it would lay parameters flat

    assert_as_on_one_rank(program, [1, 2, 3])


def test_wrapping_gives_all_ranks_the_values_of_rank_0():
    def program():
        model = mlp(seed=npdp.rank())
        before = parameters(model)
        nn.DataParallel(model)
        return before, parameters(model)

    results = run(3, program)
    for _, after in results:
        assert_close(after, results[0][0], tolerance=0)
    assert not np.array_equal(results[1][0]["0.weight"], results[0][0]["0.weight"])


def test_the_hash_is_of_names_order_and_values_and_equal_on_all_ranks_after_training():
    def program():
        model = mlp(seed=npdp.rank())
        train(Parallel(bucket_cap_mb=1e-6), model, loader(5))
        return parameters_sha256(model.named_parameters())

    hashes = run(4, program)
    assert len(set(hashes)) == 1
    model = mlp()
    before = parameters_sha256(model.named_parameters())
    assert before == parameters_sha256(reversed(list(model.named_parameters())))
    assert before == parameters_sha256([(n, nn.Parameter(np.array(p.data))) for n, p in model.named_parameters()])
    model[0].weight.data[0, 0] += 1e-15
    assert parameters_sha256(model.named_parameters()) != before


def test_a_wrapped_model_keeps_its_names_and_its_modes():
    def program():
        plain = mlp()
        wrapped = npdp.DistributedDataParallel(plain)
        assert list(wrapped.state_dict()) == list(plain.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        wrapped.eval()
        assert not plain[0].training
        wrapped.load_state_dict({name: np.zeros_like(value) for name, value in plain.state_dict().items()})
        return float(np.abs(plain[0].weight.data).max()), wrapped.world is init()

    assert nn.DataParallel is npdp.DistributedDataParallel
    assert run(2, program) == [(0.0, True)] * 2


@pytest.mark.parametrize("take", [copy.deepcopy, pickle.dumps])
def test_copying_what_ranks_or_parameters_are_tied_to_says_what_to_copy(take):
    model = mlp()
    wrapped, optimizer = nn.DataParallel(model), optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"^DataParallel cannot be copied .* copy or pickle model\.module, and wrap"):
        take(nn.Sequential(wrapped))
    with pytest.raises(TypeError, match=r"^SGD cannot be deep-copied or .* a new one .*, SGD\(copy\.parameters\(\)"):
        take(optimizer)
    take(wrapped.module)
