"""Horovod's way: the optimiser is wrapped, alone or together with the model, and gradients meet once."""

import pytest
from worlds import (
    HorovodStyle,
    Parallel,
    assert_as_on_one_rank,
    assert_close,
    criterion,
    gradients,
    loader,
    mlp,
    parameters,
    record,
    run,
    train,
)

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError


class Both(HorovodStyle, Parallel):
    """The model and the optimiser wrapped."""


@pytest.mark.parametrize("batch_size", [1, 4, 13])
@pytest.mark.parametrize("way", [HorovodStyle(), Both(), Both(bucket_cap_mb=1e-6)], ids=["alone", "both", "buckets"])
def test_a_distributed_optimizer_gives_what_one_rank_gets(way, batch_size):
    assert_as_on_one_rank(lambda way: train(way, mlp(), loader(batch_size)), [1, 2, 4], way)


def test_data_parallel_and_distributed_optimizer_exchange_once_in_whichever_order():
    def program(order):
        model = mlp()
        optimizer = optim.SGD(model.parameters())
        if order == "optimizer first":
            npdp.DistributedOptimizer(optimizer)
        if order != "horovod":
            model = nn.DataParallel(model)
        if order in ("model first", "horovod"):
            npdp.DistributedOptimizer(optimizer)
        recorder = record()
        inputs, labels = next(iter(loader(6)))
        criterion(model(inputs), labels).backward()
        return recorder.sent

    def sent(order):
        return run(3, program, order, algorithm="ring")

    once = sent("model alone")
    assert all(len(messages) > 0 for messages in once)
    assert sent("model first") == sent("optimizer first") == sent("horovod") == once


def test_no_sync_holds_though_the_optimizer_was_wrapped_as_well():
    def program():
        model = nn.DataParallel(mlp())
        npdp.DistributedOptimizer(optim.SGD(model.parameters()))
        inputs, labels = next(iter(loader(6)))
        recorder = record()
        with model.no_sync():
            criterion(model(inputs), labels).backward()
        return recorder.sent

    assert run(2, program, algorithm="ring") == [[], []]  # by messages, which are seen


def test_no_sync_works_on_a_model_whose_optimizer_was_wrapped_first():
    def program(way):
        model = mlp()
        optimizer = way.wrap_optimizer(optim.SGD(model.parameters()))
        model = way.wrap(model)
        (x, y), (x2, y2), *_ = loader(4)
        with way.no_sync(model):
            criterion(model(x), y).backward()
        criterion(model(x2), y2).backward()
        optimizer.step()
        return gradients(model)

    assert_as_on_one_rank(program, way=Both())


@pytest.mark.parametrize("root", [0, 2])
@pytest.mark.parametrize(
    "take",
    [nn.Module.state_dict, nn.Module.named_parameters, lambda model: dict(model.named_parameters())],
    ids=["state_dict", "named_parameters", "dict"],
)
def test_broadcast_parameters_takes_a_state_dict_as_horovod_does_or_named_parameters(take, root):
    def program():
        model = mlp(seed=npdp.rank())
        before = parameters(model)
        npdp.broadcast_parameters(take(model), root=root)
        return before, parameters(model)

    results = run(3, program)
    for _, after in results:
        assert_close(after, results[root][0], tolerance=0)


@pytest.mark.parametrize(
    ("take", "got"),
    [
        (nn.Module.parameters, "got generator with Parameter"),
        (lambda model: model, "got Layers with Linear"),
        (lambda model: model[0], "got Linear"),
        (lambda model: dict(model.state_dict()), "got dict with ndarray, copies of values that the model would not"),
        (list, "got list with Linear"),
        (lambda model: None, "got NoneType"),
    ],
    ids=["parameters", "model", "layer", "dict of copies", "list", "None"],
)
def test_broadcast_parameters_refuses_what_are_no_parameters_by_name(take, got):
    with pytest.raises(TypeError, match=rf"wanted model\.state_dict\(\) itself or model\.named_parameters\(\), {got}"):
        npdp.broadcast_parameters(take(mlp()))


def test_a_distributed_optimizer_over_other_parameters_is_refused():
    def program():
        model = nn.Linear(3, 1 + npdp.rank())
        with pytest.raises(InputError, match=r"rank 1 has bias \(2,\) float32, rank 0 has bias \(1,\) float32"):
            npdp.DistributedOptimizer(optim.SGD(model.parameters()), model.named_parameters())

    run(2, program)
