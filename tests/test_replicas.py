"""Who takes part in an exchange: equal models, wrapped once, each gradient sent once, by loader or without."""

import copy
import pickle

import numpy as np
import pytest
from worlds import (
    FEATURES,
    HorovodStyle,
    Parallel,
    Plain,
    assert_as_on_one_rank,
    assert_close,
    criterion,
    dataset,
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
from npdp.errors import InputError
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init


class Both(HorovodStyle, Parallel):
    """The model and the optimiser wrapped."""


WRAPS = {
    "replicated": nn.DataParallel,
    "fused": lambda model: nn.DataParallel(model, update="fused"),
    "servers": lambda model: nn.DataParallel(model, strategy=npdp.ParameterServer(0)),
    "local SGD": lambda model: nn.DataParallel(model, strategy=npdp.LocalSGD(2)),
    "horovod": lambda model: npdp.DistributedOptimizer(optim.SGD(model.parameters())),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("sharing", [(0, 1), (0, 1, 2), (1, 2), (0, 2)], ids=str)
def test_ranks_on_threads_that_have_the_same_model_are_told_so(wrap, sharing):
    shared = mlp()
    optim.SGD(shared.parameters())

    def program():
        own = mlp()
        optimizer = optim.SGD(own.parameters())
        with pytest.raises(ValueError, match="ranks on threads have the same model: each needs one of its own"):
            WRAPS[wrap](shared if npdp.rank() in sharing else own)
        return optimizer

    run(1 + max(sharing), program)


# Horovod's way
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


def test_wrapping_twice_is_refused():
    def program():
        model = mlp()
        nn.DataParallel(model)
        for again in (model, nn.Sequential(model, nn.Linear(3, 1, dtype=np.float64)), model[0]):
            with pytest.raises(ValueError, match="exchanged already; wrap it once"):
                nn.DataParallel(again)

    run(2, program)
    run(1, program)


# Without the loader's batches
@pytest.mark.parametrize("counts", [[3, 1, 2], [0, 5, 1], [6, 0, 0]])
def test_the_users_own_arrays_count_by_their_first_dimension(counts):
    cuts = np.cumsum([0, *counts])
    x, y = dataset(6).take(np.arange(6))

    def mine(start, stop):
        model = nn.DataParallel(mlp(dropout=0.3)) if npdp.world_size() > 1 else mlp(dropout=0.3)
        for _ in range(2):
            criterion(model(x[start:stop]), y[start:stop]).backward()
        return gradients(model)

    wanted = run(1, mine, 0, 6)[0]
    for rank, got in enumerate(run(3, lambda: mine(*cuts[npdp.rank() : npdp.rank() + 2]))):
        assert_close(got, wanted, f"rank {rank}")


def test_the_gradient_of_an_input_still_arrives():
    x, y = dataset(4).take(np.arange(4))

    def program(way):
        inputs = npdp.Tensor(x[npdp.rank() :: npdp.world_size()], requires_grad=True)
        criterion(way.wrap(mlp())(inputs), y[npdp.rank() :: npdp.world_size()]).backward()
        return inputs.grad

    wanted = run(1, program, Plain())[0]
    for rank, got in enumerate(run(2, program, Parallel())):
        np.testing.assert_allclose(got, wanted[rank::2], rtol=1e-12)


def test_a_forward_without_gradients_communicates_nothing():
    def program():
        model = nn.DataParallel(mlp())
        recorder = record()
        with npdp.no_grad():
            model(np.ones((2, FEATURES)))
        model(next(iter(loader(4)))[0])
        return recorder.sent

    assert run(2, program, algorithm="ring") == [[], []]  # by messages, which are seen


# How the exchange goes
def test_buckets_leave_while_backward_goes_on():
    def program():
        model = nn.DataParallel(mlp(), bucket_cap_mb=1e-6)
        recorder = record()
        sent_before = []
        dict(model.named_parameters())["0.weight"].register_hook(lambda g: sent_before.append(len(recorder.sent)))
        inputs, labels = next(iter(loader(4)))
        criterion(model(inputs), labels).backward()
        return sent_before[0], len(recorder.sent)

    for before, after in run(2, program, algorithm="ring"):
        assert 0 < before < after


def test_a_bucket_ends_where_it_has_reached_its_size():
    def sizes(**options):
        return run(1, lambda: [len(b.parameters) for b in nn.DataParallel(mlp(), **options).exchange.buckets])[0]

    assert sizes() == [4]
    assert sizes(bucket_cap_mb=1e-6) == [1, 1, 1, 1]
    assert sizes(first_bucket_mb=1e-6) == [1, 3]
    for cap in (0, -1):
        with pytest.raises(ValueError, match="a bucket must hold something, got"):
            sizes(bucket_cap_mb=cap)


@pytest.mark.parametrize("bucket_cap_mb", [1e-6, 25])
def test_no_two_buckets_share_an_element_and_all_trained_parameters_are_in_one(bucket_cap_mb):
    def program():
        model = mlp()
        model[0].bias = nn.Parameter(model[0].bias.data, requires_grad=False)
        optim.SGD(model.parameters())  # lays all of them flat, the frozen one in the middle as well
        wrapped = nn.DataParallel(model, bucket_cap_mb=bucket_cap_mb)
        covered = [np.zeros_like(flat.grad) for flat in wrapped.exchange.flats]
        for bucket in wrapped.exchange.buckets:
            start = (bucket.buffer.ctypes.data - bucket.flat.grad.ctypes.data) // bucket.buffer.itemsize
            covered[wrapped.exchange.flats.index(bucket.flat)][start : start + bucket.buffer.size] += 1
        found = [id(p) for bucket in wrapped.exchange.buckets for p in bucket.parameters]
        return covered, sorted(found) == sorted(id(p) for p in wrapped.parameters() if p.requires_grad)

    covered, complete = run(1, program)[0]
    assert complete and all((times <= 1).all() and times.any() for times in covered)


@pytest.mark.parametrize("loss", [nn.MSELoss(reduction="sum"), nn.CrossEntropyLoss(reduction="sum")], ids=repr)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_summed_loss_is_refused_with_the_reason(loss, world_size):
    def program():
        model = nn.DataParallel(mlp())
        inputs, labels = next(iter(loader(4)))
        targets = labels if isinstance(loss, nn.CrossEntropyLoss) else np.zeros((len(inputs), 3))
        with pytest.raises(ValueError, match='reduction="sum" cannot be used under DataParallel'):
            loss(model(inputs), targets).backward()

    run(world_size, program)


MEANS = {
    "mean": lambda each, count: each.mean(),
    "divided": lambda each, count: each.sum() / max(1, count),
    "weighted": lambda each, count: (each * 3).sum() / max(1, count),
}


@pytest.mark.parametrize("mean", MEANS)
def test_a_mean_of_losses_each_weighs_by_the_samples_whoever_divides(mean):
    def program(way):
        model = way.wrap(mlp())
        for inputs, labels in loader(4):
            MEANS[mean](nn.CrossEntropyLoss(reduction="none")(model(inputs), labels), len(inputs)).backward()
        return gradients(model)

    assert_as_on_one_rank(program)


# Equal models
DTYPES = ["bool", "int8", "int16", "uint64", "float16", "complex64", ">f8", ">i4", "float32", "int64"]


@pytest.mark.parametrize("dtype", DTYPES)
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


def bias(layer, count, dtype):
    layer.bias = nn.Parameter(np.zeros(count, dtype))


def frozen(model, number):
    for parameter in model[number].parameters():
        parameter.requires_grad = False
    return model


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda model, odd: nn.DataParallel(model, update="fused" if odd else "replicated"), "AllReduce.*fused"),
        (lambda model, odd: nn.DataParallel(model, bucket_cap_mb=1 + odd), "bucket_cap_mb=2.* has .*bucket_cap_mb=1"),
        (lambda model, odd: nn.DataParallel(model, strategy=npdp.LocalSGD(2, 0.5, 1 - odd / 2)), "outer_lr=0.5"),
        (lambda model, odd: nn.DataParallel(frozen(model, odd)), "0.weight, rank 0 has 1.weight"),
    ],
    ids=["update", "buckets", "local SGD", "frozen"],
)
def test_ranks_that_train_otherwise_are_refused_when_they_wrap(wrap, text):
    def program():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        with pytest.raises(InputError, match=f"trained parameters differ between ranks: rank 1 has .*{text}"):
            wrap(model, npdp.rank() == 1)

    run(3, program)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: bias(m[2], 4, "f8"), r"rank 2 has 2\.bias \(4,\) float64, rank 0 has 2\.bias \(3,\) float64"),
        (lambda m: bias(m[0], 4, "f4"), r"rank 2 has 0\.bias \(4,\) float32, rank 0 has 0\.bias \(4,\) float64"),
        (lambda m: setattr(m, "more", nn.Linear(1, 1)), r"rank 2 has more\.bias \(1,\) float32, rank 0 has nothing"),
        (lambda m: setattr(m[2], "bias", None), r"rank 2 has 2\.weight \(3, 4\) float64, rank 0 has 2\.bias"),
    ],
    ids=["shape", "dtype", "one more", "one less"],
)
def test_models_that_differ_between_ranks_are_refused_by_name_on_every_rank(change, text):
    def program():
        model = mlp()
        if npdp.rank() == 2:
            change(model)
        for wrap in (nn.DataParallel, lambda m: npdp.broadcast_parameters(m.named_parameters())):
            with pytest.raises(InputError, match="parameters differ between ranks: " + text):
                wrap(model)

    run(3, program)


def test_a_parameter_that_lies_in_another_order_on_a_rank_is_refused():
    """Gradients are summed as they lie: those of a matrix in C order with those of one in Fortran order."""

    def program():
        model = mlp()
        if npdp.rank() == 1:
            model[0].weight = nn.Parameter(np.asfortranarray(model[0].weight.data))
        nn.DataParallel(model)

    with pytest.raises(InputError, match=r"rank 1 has 0\.weight in Fortran order, rank 0 has 0\.weight in C order"):
        run(2, program)


@pytest.mark.parametrize("way", [dict(), dict(update="fused"), dict(strategy=npdp.LocalSGD(1)),
                                 dict(strategy=npdp.ParameterServer(0))], ids=str)  # fmt: skip
def test_an_optimiser_with_another_order_on_a_rank_is_refused(way):
    """Gradients are summed as they lie, in the order of the optimiser that laid them."""

    def program():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        parameters = list(model.parameters())
        optim.SGD(parameters[::-1] if npdp.rank() == 1 else parameters)
        with pytest.raises(InputError, match="orders .* differ .* rank 1 has 0.bias as number 2, rank 0 has 0.bias"):
            nn.DataParallel(model, **way)

    run(2, program)


def test_a_distributed_optimizer_over_other_parameters_is_refused():
    def program():
        model = nn.Linear(3, 1 + npdp.rank())
        with pytest.raises(InputError, match=r"rank 1 has bias \(2,\) float32, rank 0 has bias \(1,\) float32"):
            npdp.DistributedOptimizer(optim.SGD(model.parameters()), model.named_parameters())

    run(2, program)


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
