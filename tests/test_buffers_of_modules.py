"""Buffers: values of a module that are no parameters, in its state, and the same on all ranks when it is wrapped."""

import copy
import pickle

import numpy as np
import pytest
from worlds import run

import npdp
from npdp import nn, optim
from npdp.autograd import Tensor
from npdp.base.errors import InputError
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.replicas import parameters_sha256


class Centered(nn.Module):
    """Subtracts a running mean; has a mask that is not saved, and a count of whole numbers."""

    def __init__(self, width=3, start=0.0):
        self.linear = nn.Linear(width, 2)
        self.register_buffer("mean", np.full(width, start, np.float32))
        self.register_buffer("count", np.array([int(start)]))
        self.register_buffer("mask", np.ones(width, np.float32), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
            self.count += 1
        return self.linear((x - self.mean) * self.mask)


def test_buffers_are_tensors_without_a_gradient_and_no_parameters():
    model = nn.Sequential(Centered())
    assert [name for name, _ in model.named_buffers()] == ["0.mean", "0.count", "0.mask"]
    assert [buffer.dtype for buffer in model.buffers()] == [np.float32, np.int64, np.float32]
    assert [name for name, _ in model.named_parameters()] == ["0.linear.weight", "0.linear.bias"]
    assert all(isinstance(buffer, Tensor) and not buffer.requires_grad for buffer in model.buffers())
    assert model[0].nothing is None


def test_persistent_buffers_are_in_the_state_and_what_is_set_is_what_is_saved():
    model = nn.Sequential(Centered())
    model(Tensor(np.ones((4, 3), np.float32))).sum().backward()
    state = model.state_dict()
    assert list(state) == ["0.mean", "0.count", "0.linear.weight", "0.linear.bias"]
    assert state["0.mean"].tolist() == [0.5] * 3 and state["0.count"].tolist() == [1]
    other = nn.Sequential(Centered())
    mean = other[0].mean
    assert other.load_state_dict(state) == ([], [])
    assert other[0].mean is mean and mean.data.tolist() == [0.5] * 3
    assert not np.shares_memory(mean.data, state["0.mean"])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.train()(Tensor(np.ones((4, 3), np.float32)))
        assert twin.state_dict()["0.mean"].tolist() == [0.75] * 3
    assert model.state_dict()["0.mean"].tolist() == [0.5] * 3


@pytest.mark.parametrize(("change", "said"), [
    (lambda state: state.pop("mean"), "missing: mean"),
    (lambda state: state.update(mask=np.ones(3)), "not in this model: mask"),
    (lambda state: state.update(mean=np.ones(4)), r"mean: wanted shape \(3,\), got \(4,\)"),
    (lambda state: state.update(count=np.ones(1)), "count: wanted numbers that fit int64, got float64"),
])  # fmt: skip
def test_values_that_do_not_fit_a_buffer_are_refused_and_change_nothing(change, said):
    model = Centered()
    state = model.state_dict()
    change(state)
    with pytest.raises(ValueError, match=f"load_state_dict of Centered: {said}"):
        model.load_state_dict(state)
    assert not model.mean.data.any()


def test_a_buffer_that_is_used_in_two_places_is_one():
    first, second = nn.Module(), nn.Module()
    first.register_buffer("table", np.arange(3))
    second.register_buffer("table", first.table)
    model = nn.Sequential(first, second)
    assert [name for name, _ in model.named_buffers()] == ["0.table"]
    assert list(model.state_dict()) == ["0.table", "1.table"]  # as PyTorch's
    model.load_state_dict({"1.table": np.ones(3, int), "0.table": np.full(3, 2)})
    assert second.table.data.tolist() == [2] * 3


def test_an_array_that_is_set_or_only_to_be_read_is_a_buffer_of_its_own():
    module = nn.Module()
    module.register_buffer("mask", np.broadcast_to(np.float32(1), (3,)))
    module.load_state_dict({"mask": [1, 0, 1]})
    module.mask = [0, 1, 1]
    assert isinstance(module.mask, Tensor) and module.state_dict()["mask"].tolist() == [0, 1, 1]
    module.mask = None
    assert list(module.buffers()) == [] and module.state_dict() == {}


@pytest.mark.parametrize("name", ["", "a.b", 3, "forward", "linear"])
def test_a_name_that_cannot_be_a_buffers_is_refused(name):
    with pytest.raises(ValueError, match="register_buffer: "):
        Centered().register_buffer(name, np.ones(2))


@pytest.mark.parametrize("strategy", [{}, {"update": "fused"}, {"strategy": npdp.LocalSGD()}], ids=str)
def test_ranks_have_rank_0s_buffers_when_a_model_is_wrapped(strategy):
    def program():
        rank = npdp.rank()
        model = nn.Sequential(Centered(start=1.0 + rank))
        model[0].mask = np.full(3, rank, np.float32)
        wrapped = nn.DataParallel(model, **strategy)
        assert list(wrapped.state_dict()) == list(model.state_dict())
        return [buffer.data.tolist() for buffer in wrapped.buffers()]

    assert run(3, program) == [[[1] * 3, [1], [0] * 3]] * 3


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_forward_may_set_a_buffer_from_its_batch_and_the_next_read_it(world_size):
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)

    def program():
        npdp.manual_seed(0)
        model = Centered()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        wrapped, means = nn.DataParallel(model), []
        for inputs, labels in DataLoader(ArrayDataset(x, x[:, :2]), batch_size=7):
            optimizer.zero_grad()
            nn.MSELoss()(wrapped(inputs), labels).backward()
            optimizer.step()
            means.append(inputs.data.mean(axis=0))
        wanted = sum(mean * 0.5 ** (len(means) - k) for k, mean in enumerate(means))
        np.testing.assert_allclose(model.mean.data, wanted, rtol=1e-5)

    run(world_size, program)


def test_a_state_dict_stands_for_buffers_too_where_parameters_are_broadcast():
    def program():
        model = Centered(start=1.0 + npdp.rank())
        npdp.broadcast_parameters(model.state_dict(), root=1)
        return model.mean.data.tolist(), model.count.data.tolist(), parameters_sha256(model.named_parameters())

    found = run(2, program)
    assert found[0] == found[1] and found[0][:2] == ([2] * 3, [2])


def test_ranks_whose_buffers_have_other_shapes_are_told_so():
    def program():
        model = Centered()
        model.register_buffer("mask", np.ones(3 + npdp.rank(), np.float32))
        nn.DataParallel(model)

    with pytest.raises(InputError, match=r"rank 1 has mask \(4,\)"):
        run(2, program)


def test_the_hash_of_a_model_is_of_its_parameters():
    model = Centered()
    before = parameters_sha256(model.named_parameters())
    model.mean = np.ones(3, np.float32)
    assert parameters_sha256(model.named_parameters()) == before
    assert len(optim.SGD(model.parameters()).parameters) == 2
