"""Cross entropy with weights of classes and with rows that do not count: PyTorch's values, on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import CLASSES, FEATURES, Parallel, averaging, gradients, mlp, run

from npdp import nn, optim
from npdp.autograd import Tensor
from npdp.data import ArrayDataset, DataLoader

torch = pytest.importorskip("torch")
ROWS = 9
WEIGHTS = np.array([0.5, 2.0, 0.25])
IGNORED = -7
LABELS = np.array([0, 2, 1, 1, IGNORED, 0, 2, IGNORED, 1])


def logits():
    return np.random.default_rng(3).standard_normal((ROWS, CLASSES))


def of_torch(labels, weight, **options):
    """Return PyTorch's loss, added up, and its gradient."""
    x = torch.tensor(logits(), requires_grad=True)
    weight = None if weight is None else torch.tensor(np.array(weight))
    loss = torch.nn.CrossEntropyLoss(weight, **options)(x, torch.tensor(labels))
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHTS, [0.0, 1.0, 3.0]], ids=["alike", "weights", "one is 0"])
@pytest.mark.parametrize("ignored", [None, IGNORED, 1])
def test_values_and_gradients_are_those_of_pytorch(reduction, smoothing, weight, ignored):
    if smoothing and isinstance(weight, list):
        return  # refused
    labels = LABELS if ignored == IGNORED else np.where(LABELS < 0, 0, LABELS)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    wanted = of_torch(labels, weight, ignore_index=-100 if ignored is None else ignored, **options)
    x = Tensor(logits(), requires_grad=True)
    loss = nn.CrossEntropyLoss(weight, ignore_index=ignored, **options)(x, labels)
    loss.sum().backward()
    np.testing.assert_allclose(loss.data, wanted[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(x.grad, wanted[1], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_loss_of_which_no_row_counts_is_zero_with_zero_gradients(reduction, smoothing):
    x = Tensor(logits().astype(np.float32), requires_grad=True)
    criterion = nn.CrossEntropyLoss(ignore_index=1, reduction=reduction, label_smoothing=smoothing)
    loss = criterion(x, np.ones(ROWS, np.int64))
    loss.sum().backward()
    assert not loss.data.any() and not x.grad.any() and loss.dtype == x.grad.dtype == np.float32


def test_a_row_that_does_not_count_may_have_any_logits():
    x = Tensor(np.array([[-np.inf, 1.0], [0.5, 0.0]]), requires_grad=True)
    loss = nn.CrossEntropyLoss(ignore_index=-1)(x, np.array([-1, 0]))
    loss.backward()
    np.testing.assert_allclose(loss.data, np.log1p(np.exp(-0.5)))
    assert np.isfinite(x.grad).all() and not x.grad[0].any()
    x = Tensor(np.array([[np.nan, 1.0], [0.5, 0.0]]), requires_grad=True)
    nn.CrossEntropyLoss(ignore_index=-1)(x, np.array([-1, 0])).backward()
    assert np.isfinite(x.grad).all() and not x.grad[0].any()
    np.testing.assert_array_equal(nn.CrossEntropyLoss([0.0, 1.0])(x.detach()[:1], np.array([0])).data, 0)


# On several ranks
def trained(way, labels, criterion, batch_size, make=mlp):
    """Train on all of a small data set; return the parameters and the last gradients."""
    x = np.random.default_rng(len(labels)).standard_normal((len(labels), FEATURES))
    model = way.wrap(make())
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    for inputs, targets in DataLoader(ArrayDataset(x, labels), batch_size, seed=1):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    return [np.array(array) for array in (*model.state_dict().values(), *gradients(model).values())]


@settings(max_examples=40, deadline=None)
@given(
    world_size=st.integers(1, 5),
    labels=st.lists(st.integers(-1, CLASSES - 1), min_size=1, max_size=13).map(np.array),
    weight=st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=CLASSES, max_size=CLASSES),
    smoothing=st.sampled_from([0.0, 0.2]),
    batch_size=st.integers(1, 13),
)
def test_ranks_whose_rows_weigh_differently_train_as_one_rank(world_size, labels, weight, smoothing, batch_size):
    smoothing = smoothing if weight is None or all(weight) else 0.0
    criterion = nn.CrossEntropyLoss(weight, ignore_index=-1, label_smoothing=smoothing)
    wanted = run(1, trained, Parallel(), labels, criterion, batch_size)[0]
    for got in run(world_size, trained, Parallel(), labels, criterion, batch_size):
        for mine, array in zip(got, wanted, strict=True):
            np.testing.assert_allclose(mine, array, rtol=1e-11, atol=1e-14)


def normalised():
    """Return a model whose samples meet in a batch norm; of the first layer, hooks see gradients."""
    generator = np.random.default_rng(1)
    first, last = (nn.Linear(*sizes, dtype=np.float64, generator=generator) for sizes in ((FEATURES, 4), (4, CLASSES)))
    first.weight.register_hook(lambda g: None)
    return nn.Sequential(first, nn.BatchNorm1d(4, dtype=np.float64), nn.Tanh(), last)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_a_rank_of_whose_rows_none_counts_passes_on_what_reaches_them_by_a_batch_norm(world_size):
    labels = np.array([0, 2, 1, 1, -1, -1, -1, -1, 2, -1])
    criterion = nn.CrossEntropyLoss(ignore_index=-1)
    wanted = run(1, trained, Parallel(), labels, criterion, 8, normalised)[0]
    for got in run(world_size, trained, Parallel(), labels, criterion, 8, normalised):
        for mine, array in zip(got, wanted, strict=True):
            np.testing.assert_allclose(mine, array, rtol=1e-11, atol=1e-14)


def test_under_data_parallel_one_rank_trains_as_a_model_that_is_not_wrapped():
    def program(wrap):
        model = nn.DataParallel(mlp()) if wrap else mlp()
        nn.CrossEntropyLoss(WEIGHTS)(model(np.ones((4, FEATURES))), np.array([0, 1, 1, 2])).backward()
        return list(gradients(model).values())

    np.testing.assert_equal(run(1, program, True), run(1, program, False))


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("change", [lambda loss: loss * 2, lambda loss: loss + (loss.detach() * 0)], ids=["*", "+"])
def test_what_is_computed_from_such_a_loss_is_refused_and_says_what_to_do(world_size, change):
    def program():
        model = nn.DataParallel(mlp())
        loss = nn.CrossEntropyLoss(WEIGHTS)(model(np.ones((2, FEATURES))), np.array([0, 1]))
        with pytest.raises(ValueError, match=r"call backward\(\) on the loss itself"):
            change(loss).backward()

    run(world_size, program)


@pytest.mark.parametrize("world_size", [1, 2])
def test_such_a_loss_is_refused_where_a_batch_comes_in_micro_batches(world_size):
    def program():
        model = nn.DataParallel(mlp())
        data = ArrayDataset(np.ones((8, FEATURES)), np.zeros(8, np.int64))
        for inputs, labels in DataLoader(data, 8, accumulate=2):
            with pytest.raises(ValueError, match="^backward: with accumulate, a loss with weight or ignore_index"):
                nn.CrossEntropyLoss(WEIGHTS)(model(inputs), labels).backward()

    run(world_size, program)


def test_where_ranks_do_not_meet_in_backward_each_takes_the_mean_of_its_own():
    def program():
        model = averaging().wrap(mlp())
        nn.CrossEntropyLoss(WEIGHTS)(model(np.ones((2, FEATURES))), np.array([0, 1])).backward()
        return list(gradients(model).values())

    def alone():
        model = mlp()
        nn.CrossEntropyLoss(WEIGHTS)(model(np.ones((2, FEATURES))), np.array([0, 1])).backward()
        return list(gradients(model).values())

    for got in run(3, program):
        np.testing.assert_equal(got, run(1, alone)[0])
