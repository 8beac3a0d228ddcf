"""What a wrapped model may be called with: the loader's tensors say how many samples, else the first input's rows."""

import numpy as np
import pytest

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader

X = np.random.default_rng(0).standard_normal((10, 3))
Y = X.sum(axis=1, keepdims=True)
CUT = {1: [0, 10], 2: [0, 3, 10], 3: [0, 3, 3, 10]}  # uneven: who counts wrongly weighs wrongly
CALLS = {
    "array": lambda model, x: model(x),
    "tensor": lambda model, x: model(npdp.Tensor(x)),
    "number first": lambda model, x: model(0.5, x),
    "nothing first": lambda model, x: model(None, x),
    "no dimension first": lambda model, x: model(np.float64(2), x),
    "by name": lambda model, x: model(x=x),
    "number by position, rows by name": lambda model, x: model("a", x=x),
}


class Anything(nn.Module):
    """Takes the samples wherever they are among its inputs."""

    def __init__(self) -> None:
        self.linear = nn.Linear(3, 1, dtype=np.float64)

    def forward(self, *inputs, **named):
        return self.linear(next(value for value in (*inputs, *named.values()) if getattr(value, "ndim", 0)))


def gradient(call):
    rank, cut = npdp.rank(), CUT[npdp.world_size()]
    npdp.manual_seed(0)
    model = Anything()
    rows = slice(cut[rank], cut[rank + 1])
    nn.MSELoss()(call(nn.DataParallel(model), X[rows]), Y[rows]).backward()
    return model.linear.weight.grad.copy()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("hosts", [None, (0, 0, 1)], ids=["in memory", "by messages"])
def test_the_rows_of_the_first_array_are_the_samples(call, hosts):
    wanted = npdp.run_ranks(1, gradient, lambda model, x: model(x))[0]
    for got in npdp.run_ranks(3, gradient, call, hosts=hosts):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


class Projected(nn.Module):
    """Takes a matrix that is no samples, before them; drops out what it returns."""

    def __init__(self) -> None:
        self.linear, self.dropout = nn.Linear(2, 1, dtype=np.float64), nn.Dropout(0.5)

    def forward(self, matrix, x):
        return self.dropout(self.linear(x @ matrix))


class Towers(nn.Module):
    """Takes two inputs, with dropout in the second one's way."""

    def __init__(self) -> None:
        self.first, self.second = nn.Linear(3, 2, dtype=np.float64), nn.Linear(3, 2, dtype=np.float64)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, other):
        return (self.first(x) + self.dropout(self.second(other))).sum(axis=1, keepdims=True)


class Numbers(nn.Module):
    """Looks rows up by numbers that it makes itself: what it returns comes from arrays of its own."""

    def __init__(self) -> None:
        self.embedding, self.dropout = nn.Embedding(5, 1, dtype=np.float64, sparse=False), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.embedding(np.abs(np.asarray(x) * 7).astype(np.int64)[:, 0] % 5))


class Time(nn.Module):
    """Flattens samples and time into one axis before it drops."""

    def __init__(self) -> None:
        self.linear, self.dropout = nn.Linear(1, 1, dtype=np.float64), nn.Dropout(0.5)

    def forward(self, x):
        steps = self.dropout(self.linear(x.reshape(-1, 1)))
        return steps.reshape(len(x), 3).sum(axis=1, keepdims=True)


MODELS = {
    "behind what is no samples": (Projected, lambda model, x: model(np.eye(3, 2), x)),
    "two arrays": (Towers, lambda model, x: model(x.numpy(), x.numpy()[:, ::-1].copy())),
    "the loader's and an array": (Towers, lambda model, x: model(x, x.numpy()[:, ::-1].copy())),
    "an array and the loader's by name": (Towers, lambda model, x: model(x.numpy() * 2, other=x)),
    "rows looked up": (Numbers, lambda model, x: model(x)),
    "flattened on the way": (Time, lambda model, x: model(x)),
    "what is computed of the loader's": (Time, lambda model, x: model(x * 2)),
}


def trained(make, call, accumulate=1):
    npdp.manual_seed(0)
    model = make()
    wrapped = nn.DataParallel(model)
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    for number, (x, y) in enumerate(DataLoader(ArrayDataset(X, Y), batch_size=4, accumulate=accumulate)):
        nn.MSELoss()(call(wrapped, x), y).backward()
        if number % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    return wrapped.state_dict()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("make", "call"), MODELS.values(), ids=MODELS)
def test_whatever_a_forward_makes_of_its_inputs_weighs_and_drops_out_as_on_one_rank(make, call, accumulate):
    if accumulate > 1 and (make, call) in (MODELS["two arrays"], MODELS["what is computed of the loader's"]):
        with pytest.raises(ValueError, match=r"of micro-batches \(accumulate\) only the loader's tensors say"):
            trained(make, call, accumulate)
        return
    wanted = npdp.run_ranks(1, trained, make, call, accumulate)[0]
    for world_size in (2, 3):
        for got in npdp.run_ranks(world_size, trained, make, call, accumulate):
            for name, values in wanted.items():
                np.testing.assert_allclose(got[name], values, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: [(x, x)], lambda x: [{"x": x}], lambda x: [x.tolist()], lambda x: [0.5], lambda x: [object()],
        lambda x: [],
    ],
    ids=["tuple", "dict", "list of numbers", "number", "object", "nothing"],
)
def test_samples_that_nobody_can_count_are_refused(call):
    model = nn.DataParallel(Anything())
    with pytest.raises(TypeError, match="nothing says how many samples a rank has: one of the inputs must be an array"):
        model(*call(X))


def test_after_a_pass_arrays_count_again():
    model = nn.DataParallel(nn.Linear(3, 1, dtype=np.float64))
    for x, _ in DataLoader(ArrayDataset(X, Y), 5, accumulate=2):
        with pytest.raises(ValueError, match="pass them to the model"):
            model(x.numpy())
        break
    nn.MSELoss()(model(X), Y).backward()  # no loader is at a batch any more


def test_a_part_that_was_cut_for_other_ranks_is_refused():
    model = nn.DataParallel(nn.Linear(3, 1, dtype=np.float64))
    x, _ = next(iter(DataLoader(ArrayDataset(X, Y), 4, rank=1, world_size=2)))
    with pytest.raises(ValueError, match="cut for 1 ranks, got one of 2"):
        model(x)


def test_without_gradients_inputs_are_passed_as_they_are_and_nothing_is_counted():
    class Same(nn.Module):
        def forward(self, given):
            return given

    given = [X, {"x": X}]
    with npdp.no_grad():
        assert nn.DataParallel(Same(), strategy=npdp.LocalSGD(1))(given) is given
    assert nn.DataParallel(Same().eval())(given) is given


@pytest.mark.parametrize(("model", "what"), [(np.tanh, "ufunc"), (nn.Linear, "the class Linear")], ids=str)
def test_what_is_no_module_is_not_wrapped(model, what):
    with pytest.raises(TypeError, match=f"DataParallel: wanted a Module, got {what}"):
        nn.DataParallel(model)


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix"])
def test_scipys_rows_are_samples(kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")

    class Hidden(nn.Module):
        def __init__(self) -> None:
            self.first, self.last = nn.SparseLinear(3, 4, dtype=np.float64), nn.Linear(4, 1, dtype=np.float64)
            self.first.bias.data += 1
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            return self.last(self.dropout(self.first(x)))

    def program():
        rank, cut = npdp.rank(), CUT[npdp.world_size()]
        npdp.manual_seed(0)
        model = Hidden()
        rows = slice(cut[rank], cut[rank + 1])
        nn.MSELoss()(nn.DataParallel(model)(getattr(scipy_sparse, kind)(X[rows])), Y[rows]).backward()
        return model.first.bias.grad.copy()

    wanted = npdp.run_ranks(1, program)[0]
    for got in npdp.run_ranks(3, program):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_forwards_of_differing_counts_before_one_backward_are_refused():
    def program():
        model = nn.DataParallel(nn.Linear(3, 1, dtype=np.float64))
        few, many = X[: 1 + npdp.rank()], X[: 2 + npdp.rank()]
        losses = [nn.MSELoss()(model(x), Y[: len(x)]) for x in (few, many)]
        with pytest.raises(ValueError, match="called with .* samples of 3 and 5, which weigh differently"):
            sum(losses).backward()
        for x in (few, many):  # one backward each
            nn.MSELoss()(model(x), Y[: len(x)]).backward()
        for loss in [nn.MSELoss()(model(x), Y[: len(x)]) for x in (many, many)]:  # alike
            loss.backward()

    npdp.run_ranks(2, program)


@pytest.mark.parametrize("looking", ["no_grad", "eval", "eval on what a loader gives"])
def test_a_forward_that_looks_does_not_replace_the_count(looking):
    def gradient():
        rank, cut = npdp.rank(), CUT[npdp.world_size()]
        npdp.manual_seed(0)
        model = nn.DataParallel(nn.Linear(3, 1, dtype=np.float64))
        rows = slice(cut[rank], cut[rank + 1])
        loss = nn.MSELoss()(model(X[rows]), Y[rows])
        if looking == "no_grad":
            with npdp.no_grad():
                model(X[:5])
        else:
            model.eval()
            model(X[:5] if looking == "eval" else next(iter(DataLoader(ArrayDataset(X, Y), 7)))[0])
            model.train()
        loss.backward()
        return next(model.parameters()).grad.copy()

    wanted = npdp.run_ranks(1, gradient)[0]
    for got in npdp.run_ranks(2, gradient):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_backward_of_arrays_in_evaluation_is_refused_where_ranks_would_weigh_alike():
    def program():
        model = nn.DataParallel(nn.Linear(3, 1, dtype=np.float64))
        model.eval()
        with pytest.raises(ValueError, match=r"called in eval\(\) with arrays, which are not counted there"):
            nn.MSELoss()(model(X[: 1 + npdp.rank()]), Y[: 1 + npdp.rank()]).backward()
        for x, y in DataLoader(ArrayDataset(X, Y), 5):  # these say it
            nn.MSELoss()(model(x), y).backward()

    npdp.run_ranks(2, program)
