"""What a forward makes of arrays belongs to its batch: it weighs and drops out as the loader's rows do."""

import numpy as np
import pytest

import npdp
from npdp import nn, optim
from npdp.autograd import operators
from npdp.data import ArrayDataset, DataLoader

X = np.random.default_rng(0).standard_normal((10, 3))


class Numbers(nn.Module):
    """Looks rows up by numbers that it makes itself: what it returns comes from arrays that carry no batch."""

    def __init__(self, p: float) -> None:
        self.embedding = nn.Embedding(5, 2, dtype=np.float64, sparse=False)
        self.dropout = nn.Dropout(p)

    def forward(self, x):
        return self.dropout(self.embedding(np.abs(np.asarray(x.data) * 7).astype(np.int64)[:, 0] % 5))


class Towers(nn.Module):
    """Takes two inputs, with dropout in the second one's way."""

    def __init__(self, p: float) -> None:
        self.first, self.second = nn.Linear(3, 2, dtype=np.float64), nn.Linear(3, 2, dtype=np.float64)
        self.dropout = nn.Dropout(p)

    def forward(self, x, other):
        return self.first(x) + self.dropout(self.second(other))


class Connections(nn.Module):
    """Drops weights, and no rows of a batch, though there may be as many."""

    def __init__(self, p: float) -> None:
        self.weight = nn.Parameter(np.ones((5, 3)))
        self.dropout = nn.Dropout(p)

    def forward(self, x):
        return (x @ self.dropout(self.weight).T)[:, :2]


class ConnectionsOnTheWay(Connections):
    """Drops what is computed of weights."""

    def forward(self, x):
        return (x @ self.dropout(self.weight * 1.0).T)[:, :2]


class Added(Connections):
    """Is given what it drops, a parameter."""

    def forward(self, x, weight):
        return (x @ self.dropout(weight).T)[:, :2]


class Rows(nn.Module):
    """Takes rows of a weight; nothing in it has as many rows as the batch but what it returns."""

    def __init__(self, p: float) -> None:
        self.weight = nn.Parameter(np.ones((5, 2)))

    def forward(self, x):
        return self.weight[(np.abs(x.numpy() * 7).astype(np.int64)[:, 0] % 5).tolist()]


class Named(nn.Module):
    """Takes its input by name, with dropout in its way."""

    def __init__(self, p: float) -> None:
        self.linear, self.dropout = nn.Linear(3, 2, dtype=np.float64), nn.Dropout(p)

    def forward(self, inputs):
        return self.dropout(self.linear(inputs["x"]))


FORWARDS = {
    "numbers of the loader's": (Numbers, lambda model, x: model(x)),
    "numbers of an array": (Numbers, lambda model, x: model(npdp.Tensor(x.numpy()))),
    "rows of a weight": (Rows, lambda model, x: model(x)),
    "a tensor by name": (Named, lambda model, x: model({"x": npdp.Tensor(x.numpy())})),
    "two arrays": (Towers, lambda model, x: model(x.numpy(), x.numpy()[:, ::-1].copy())),
    "the loader's and an array": (Towers, lambda model, x: model(x, x.numpy()[:, ::-1].copy())),
    "the loader's and a tensor": (Towers, lambda model, x: model(x, npdp.Tensor(x.numpy()[:, ::-1].copy()))),
    "a tensor behind the loader's, by name": (Towers, lambda model, x: model(x, other=npdp.Tensor(x.numpy() * 2))),
    "two tensors": (Towers, lambda model, x: model(npdp.Tensor(x.numpy()), npdp.Tensor(x.numpy() * 2))),
    "a parameter, with as many rows": (Added, lambda model, x: model(x, model.module.weight)),
    "weights dropped": (Connections, lambda model, x: model(x)),
    "weights dropped on the way": (ConnectionsOnTheWay, lambda model, x: model(x)),
}


def trained(make, call, p: float, accumulate: int) -> dict[str, np.ndarray]:
    npdp.manual_seed(0)
    model = make(p)
    wrapped = nn.DataParallel(model)
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    for number, (x, y) in enumerate(DataLoader(ArrayDataset(X, X[:, :2].copy()), batch_size=5, accumulate=accumulate)):
        nn.MSELoss()(call(wrapped, x), y).backward()
        if number % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    return wrapped.state_dict()


@pytest.mark.parametrize(("p", "accumulate"), [(0.0, 1), (0.5, 1), (0.0, 2)])
@pytest.mark.parametrize(("make", "call"), FORWARDS.values(), ids=FORWARDS)
def test_what_a_forward_makes_of_arrays_counts_and_drops_out_as_its_batch_does(make, call, p, accumulate):
    wanted = npdp.run_ranks(1, trained, make, call, p, accumulate)[0]
    for world_size in (2, 3):
        for got in npdp.run_ranks(world_size, trained, make, call, p, accumulate):
            for name, values in wanted.items():
                np.testing.assert_allclose(got[name], values, rtol=1e-12, atol=1e-14, err_msg=name)


def test_results_in_tuples_and_dicts_carry_the_batch_too():
    class Both(Rows):
        def forward(self, x):
            return {"one": (super().forward(x),), "weight": self.weight}

    model = nn.DataParallel(Both(0.0))
    outputs = model(X)
    assert outputs["one"][0].batch.count == len(X)
    assert outputs["weight"].batch is None  # a parameter is of no batch, or each loss of it would be


def test_what_has_other_rows_than_the_batch_leaves_the_weight_to_the_labels():
    class Turned(nn.Module):
        """Takes what lies the other way round."""

        def __init__(self) -> None:
            self.linear = nn.Linear(3, 1, dtype=np.float64)

        def forward(self, columns):
            return self.linear(np.array(columns.data.T))

    outputs = nn.DataParallel(Turned())(np.array(X.T))
    assert outputs.shape == (10, 1) and outputs.batch is None


def test_batches_of_different_sizes_in_one_input_are_refused():
    parts = [next(iter(DataLoader(ArrayDataset(X, X), batch_size=size)))[0] for size in (4, 3)]
    with pytest.raises(ValueError, match="made of batches of different sizes; give each its own forward"):
        nn.DataParallel(nn.Linear(3, 1))(operators.concatenate(*parts))


def test_scipys_rows_beside_the_loaders_drop_out_as_its_batch_does():
    scipy_sparse = pytest.importorskip("scipy.sparse")

    class Hidden(nn.Module):
        def __init__(self) -> None:
            self.first, self.last = nn.SparseLinear(3, 4, dtype=np.float64), nn.Linear(4, 1, dtype=np.float64)
            self.first.bias.data += 1
            self.dropout = nn.Dropout(0.5)

        def forward(self, x, targets):
            return nn.MSELoss()(self.last(self.dropout(self.first(x))), targets)

    def program():
        npdp.manual_seed(0)
        model = Hidden()
        wrapped = nn.DataParallel(model)
        for x, y in DataLoader(ArrayDataset(X, X[:, :1].copy()), batch_size=5):
            wrapped(scipy_sparse.csr_array(x.numpy()), y).backward()
        return model.first.bias.grad.copy()

    wanted = npdp.run_ranks(1, program)[0]
    for got in npdp.run_ranks(3, program):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
