"""Recurrent layers: PyTorch's outputs, states and gradients; parameters under its names."""

import numpy as np
import pytest
from against_torch import assert_same, assert_same_layer, random
from hypothesis import given, settings
from hypothesis import strategies as st

import npdp
from npdp import nn
from npdp.autograd import Tensor

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
torch.set_num_threads(1)
several = settings(max_examples=25, deadline=None, derandomize=True, database=None)
kinds = pytest.mark.parametrize("kind", ["GRU", "LSTM"])
size = st.integers(1, 4)


class All(torch.nn.Module):
    """PyTorch's layer, of which one tensor is made: the output, and what comes of the last states."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, *before):
        return together(self.layer, x, before, torch.cat)

    def named_parameters(self, *arguments):
        return self.layer.named_parameters(*arguments)

    def state_dict(self):
        return self.layer.state_dict()

    def load_state_dict(self, state):
        return self.layer.load_state_dict(state)


def together(layer, x, before, join):
    """Return the output and the last states as one row of numbers."""
    hx = None if not before else before[0] if len(before) == 1 else before
    output, last = layer(x, hx)
    return join([part.reshape(-1) for part in (output, *(last if isinstance(last, tuple) else (last,)))])


class Ours(nn.Module):
    """The same of npdp's."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, *before):
        return together(self.layer, x, before, lambda parts: npdp.autograd.operators.concatenate(*parts))

    def named_parameters(self):
        return self.layer.named_parameters()

    def state_dict(self):
        return self.layer.state_dict()

    def load_state_dict(self, state):
        return self.layer.load_state_dict(state)


@kinds
@several
@given(size, size, st.integers(1, 2), st.booleans(), st.booleans(), st.booleans(), size, size, st.booleans())
def test_sequences_are_run_through_as_by_pytorch(kind, width, hidden, layers, bias, first, both, time, batch, begun):
    arguments = (width, hidden, layers, bias, first, 0.0, both)
    ours, theirs = getattr(nn, kind)(*arguments, dtype=np.float64), getattr(torch.nn, kind)(*arguments)
    x = random(batch, time, width) if first else random(time, batch, width)
    shape = layers * (1 + both), batch, hidden
    before = [random(*shape, seed=seed) for seed in range({"GRU": 1, "LSTM": 2}[kind])] if begun else []
    assert_same_layer(torch, Ours(ours), All(theirs), x, *before)


@kinds
def test_the_outputs_have_pytorchs_shapes(kind):
    ours, theirs = (getattr(of, kind)(2, 3, 2, batch_first=True, bidirectional=True) for of in (nn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    x = random(4, 5, 2).astype(np.float32)
    (y, last), (t, their_last) = ours(x), theirs(torch.tensor(x))
    pairs = [(last, their_last)] if kind == "GRU" else zip(last, their_last)
    for mine, other in [(y, t), *pairs]:
        assert mine.shape == tuple(other.shape) and mine.dtype == np.float32
        np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=1e-5, atol=1e-6)


@kinds
def test_first_values_are_drawn_as_pytorch_draws_them(kind):
    layer = getattr(nn, kind)(5, 64)
    for parameter in layer.parameters():
        assert 0.95 / 8 < abs(parameter.data).max() <= 1 / 8 and abs(parameter.data.mean()) < 0.02


@kinds
def test_dropout_is_between_layers_alone(kind):
    one, two = (getattr(nn, kind)(3, 4, layers, dropout=0.9) for layers in (1, 2))
    x = random(5, 6, 3).astype(np.float32)
    np.testing.assert_array_equal(one(x)[0].data, one.eval()(x)[0].data)
    assert (two(x)[0].data != two.eval()(x)[0].data).any()


@kinds
def test_a_batch_of_no_samples_and_far_values_pass(kind):
    layer = getattr(nn, kind)(3, 4)
    x = Tensor(np.zeros((2, 0, 3), np.float32), requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad.shape == x.shape and not layer.weight_ih_l0.grad.any()
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(layer(np.full((2, 1, 3), 1e4, np.float32))[0].data).all()


def test_a_state_that_goes_on_is_one_long_sequence():
    layer, x = nn.LSTM(2, 3, dtype=np.float64), random(6, 4, 2)
    whole, (h, c) = layer(x)
    first, state = layer(x[:2])
    second, (h2, c2) = layer(x[2:], state)
    assert_same(np.concatenate([first.data, second.data]), torch.tensor(whole.data))
    assert_same(h2, torch.tensor(h.data))
    assert_same(c2, torch.tensor(c.data))


@pytest.mark.parametrize(("call", "said"), [
    (lambda: nn.GRU(2, 3)(random(4, 5)), r"GRU: wanted an input \(time, batch, 2\) of at least one step, got \(4, 5\)"),
    (lambda: nn.LSTM(2, 3, batch_first=True)(random(4, 5, 3)), r"LSTM: wanted an input \(batch, time, 2\)"),
    (lambda: nn.GRU(2, 3)(random(0, 5, 2)), r"GRU: wanted an input \(time, batch, 2\) of at least one step"),
    (lambda: nn.GRU(2, 3)(random(4, 5, 2), random(1, 4, 3)), r"GRU: wanted hx of shape \(1, 5, 3\), got \(1, 4, 3\)"),
    (lambda: nn.GRU(2, 3, num_layers=0), "GRU: num_layers must be a whole number, at least 1, got 0"),
    (lambda: nn.GRU(2, 3, dropout=1.0), r"Dropout: p must be in \[0, 1\), got 1.0"),
])  # fmt: skip
def test_what_does_not_fit_is_named(call, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        call()


def test_a_layer_shows_its_settings():
    assert repr(nn.GRU(2, 3)).splitlines()[0] == "GRU("
    assert nn.LSTM(2, 3, 2, dropout=0.1).describe() == "2, 3, num_layers=2, dropout=0.1"
