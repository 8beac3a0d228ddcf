"""Layers beside PyTorch's of the same state: results and all gradients, in float64."""

import numpy as np

from npdp.autograd import Tensor

CLOSE = dict(rtol=1e-10, atol=1e-12)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def assert_same(ours, theirs, what=""):
    got, wanted = np.asarray(ours), theirs.detach().numpy()
    assert got.shape == wanted.shape and got.dtype == wanted.dtype, what
    np.testing.assert_allclose(got, wanted, **CLOSE, err_msg=what)


def assert_same_function(torch, ours, theirs, *arrays):
    """Compare results and gradients of two functions of the same arrays, the gradient of the result the same too."""
    xs = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, t = ours(*xs), theirs(*ts)
    assert_same(y, t, "result")
    gradient = random(*t.shape, seed=9)
    y.backward(gradient)
    t.backward(torch.tensor(gradient))
    for number, (x, other) in enumerate(zip(xs, ts, strict=True)):
        assert_same(x.grad, other.grad, f"gradient of input {number}")


def assert_same_layer(torch, ours, theirs, *arrays):
    """Compare two layers: `theirs` gets our state first; then results, all gradients, and the state that is left."""
    state = {name: torch.tensor(array) for name, array in ours.state_dict().items()}
    theirs.double().load_state_dict(state)
    assert_same_function(torch, ours, theirs, *arrays)
    for (name, mine), (their_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == their_name
        assert_same(mine.grad, other.grad, f"gradient of {name}")
    assert_same_state(ours, theirs)


def assert_same_state(ours, theirs):
    """Compare parameters and buffers, and load theirs into ours."""
    state, wanted = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(wanted)
    for name, array in state.items():
        assert_same(array, wanted[name], name)
    ours.load_state_dict(wanted)
