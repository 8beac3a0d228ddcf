"""What a wrapped model may be called with: its samples are found among whatever else its forward takes."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest

import npdp
from npdp import nn
from npdp.data import ArrayDataset, DataLoader

X = np.random.default_rng(0).standard_normal((10, 3))
Y = X.sum(axis=1, keepdims=True)
Point = namedtuple("Point", "kind x")
CUT = {1: [0, 10], 2: [0, 3, 10]}  # uneven: who counts wrongly weighs wrongly
CALLS = {
    "number": lambda model, x: model(0.5, x),
    "text": lambda model, x: model("a", x),
    "nothing": lambda model, x: model(None, x),
    "no dimension": lambda model, x: model(np.float64(2), x),
    "tuple": lambda model, x: model((x, x)),
    "list": lambda model, x: model([x, x]),
    "list with a number first": lambda model, x: model([0.5, x]),
    "tensors": lambda model, x: model((npdp.Tensor(x), npdp.Tensor(x))),
    "dict": lambda model, x: model({"x": x, "kind": 1}),
    "namedtuple": lambda model, x: model(Point(1, x)),
    "namedtuple of tensors": lambda model, x: model(Point(1, npdp.Tensor(x))),
    "dict of another class": lambda model, x: model(OrderedDict(kind=1, x=x)),
    "list of another class": lambda model, x: model(Samples([1, x])),
    "by name": lambda model, x: model(x=x),
    "deeper": lambda model, x: model(1, {"all": [("a", x)]}),
    "lists of numbers": lambda model, x: model(x.tolist()),
    "tuples of numbers": lambda model, x: model(tuple(map(tuple, x.tolist()))),
}


class Samples(list):
    """A list of the user's own."""


class Anything(nn.Module):
    """Takes the samples wherever they are, and sees to it that the rest is as it was given."""

    def __init__(self) -> None:
        self.linear = nn.Linear(3, 1, dtype=np.float64)

    def forward(self, *inputs, **named):
        return self.linear(found(inputs or named))


def found(value):
    """Return the rows in there."""
    if isinstance(value, dict):
        return found(list(value.values()))
    if isinstance(value, (tuple, list)):
        return next((rows for rows in map(found, value) if rows is not None), None)
    assert type(value) in (int, float, str, type(None), np.float64, npdp.Tensor, np.ndarray)
    return value if getattr(value, "ndim", 0) else None


def gradient(call):
    rank, cut = npdp.rank(), CUT[npdp.world_size()]
    npdp.manual_seed(0)
    model = Anything()
    rows = slice(cut[rank], cut[rank + 1])
    nn.MSELoss()(call(nn.DataParallel(model), X[rows]), Y[rows]).backward()
    return model.linear.weight.grad.copy()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_samples_count_wherever_they_are(call):
    wanted = npdp.run_ranks(1, gradient, lambda model, x: model(x))[0]
    for world_size in (1, 2):
        for got in npdp.run_ranks(world_size, gradient, call):
            np.testing.assert_allclose(got, wanted, rtol=1e-6)  # lists of numbers become float32


class Projected(nn.Module):
    """Takes a matrix that is no samples, before them."""

    def __init__(self) -> None:
        self.linear = nn.Linear(2, 1, dtype=np.float64)

    def forward(self, matrix, x):
        return self.linear(x @ matrix)


def assert_the_loaders_rows_count(make, call):
    """Assert that two ranks have one's gradient of a model with a layer `linear`, called with a loader's samples."""

    def program():
        npdp.manual_seed(0)
        model = make()
        wrapped = nn.DataParallel(model)
        for x, y in DataLoader(ArrayDataset(X, Y), batch_size=7):
            nn.MSELoss()(call(wrapped, x), y).backward()
        return model.linear.weight.grad.copy()

    wanted = npdp.run_ranks(1, program)[0]
    for got in npdp.run_ranks(2, program):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_the_loaders_rows_count_also_behind_what_is_no_samples():
    assert_the_loaders_rows_count(Projected, lambda model, x: model(np.eye(3, 2), x))


@pytest.mark.parametrize("given", [Point(1, X), OrderedDict(x=X), Samples([X])], ids=lambda given: type(given).__name__)
def test_what_holds_the_samples_keeps_its_class(given):
    class Looks(nn.Module):
        def forward(self, holder):
            assert type(holder) is type(given) and holder is not given

    nn.DataParallel(Looks())(given)


class Sample:
    """Has rows where nobody looks for them."""

    def __init__(self, x) -> None:
        self.x = x


class Opened(Anything):
    def forward(self, sample):
        return self.linear((sample[0] if isinstance(sample, tuple) else sample).x)


@pytest.mark.parametrize("call", [lambda sample: sample, lambda sample: (sample, 1)], ids=["alone", "in a tuple"])
def test_samples_that_nobody_can_count_are_refused(call):
    def program():
        nn.DataParallel(Opened())(call(Sample(X[: 1 + npdp.rank()])))

    with pytest.raises(ValueError, match="nothing says how many samples a rank has.* Sample is not looked into"):
        npdp.run_ranks(2, program)


def test_the_loaders_rows_count_wherever_they_are():
    assert_the_loaders_rows_count(Opened, lambda model, x: model(Sample(x)))


def test_arrays_made_of_a_loaders_pieces_are_refused_where_they_would_have_to_say_how_much_they_weigh():
    model, targets = nn.DataParallel(nn.Linear(3, 1, dtype=np.float64)), DataLoader(ArrayDataset(X, Y), 5, accumulate=2)
    for x, y in targets:
        with pytest.raises(ValueError, match=r"gives in pieces \(accumulate\) only the loader's tensors say"):
            nn.MSELoss()(model(x.numpy()), y.numpy()).backward()
        nn.MSELoss()(model(x.numpy()), y).backward()  # here the labels do
        break
    nn.MSELoss()(model(X), Y).backward()  # no loader is at a batch any more


def test_without_gradients_inputs_are_passed_as_they_are():
    class Same(nn.Module):
        def forward(self, given):
            return given

    given = [X, {"x": X}]
    with npdp.no_grad():
        assert nn.DataParallel(Same(), strategy=npdp.LocalSGD(1))(given) is given


@pytest.mark.parametrize(("model", "what"), [(np.tanh, "ufunc"), (nn.Linear, "the class Linear")], ids=str)
def test_what_is_no_module_is_not_wrapped(model, what):
    with pytest.raises(TypeError, match=f"DataParallel: wanted a Module, got {what}"):
        nn.DataParallel(model)


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix"])
def test_scipys_rows_are_samples(kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")

    def program():
        rank, cut = npdp.rank(), CUT[npdp.world_size()]
        npdp.manual_seed(0)
        model = nn.SparseLinear(3, 1, dtype=np.float64)
        rows = slice(cut[rank], cut[rank + 1])
        nn.MSELoss()(nn.DataParallel(model)(getattr(scipy_sparse, kind)(X[rows])), Y[rows]).backward()
        return model.bias.grad.copy()

    wanted = npdp.run_ranks(1, program)[0]
    for got in npdp.run_ranks(2, program):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
