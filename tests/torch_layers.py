"""Layers beside PyTorch's, in float64: values and all gradients to 1e-10."""

import numpy as np
import pytest

from npdp.autograd import Tensor

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def assert_near(got, wanted, what=""):
    wanted = np.asarray(wanted.detach() if isinstance(wanted, torch.Tensor) else wanted)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-10, atol=1e-10, err_msg=what)


def compare(ours, theirs, *arrays, labels=None):
    """Compare results and gradients of two functions of the same arrays, contracted with the same cotangent.

    Labels are given to both as well, as the last argument.
    """
    xs = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    whole = ([], []) if labels is None else ([labels], [torch.tensor(labels)])
    y, t = ours(*xs, *whole[0]), theirs(*ts, *whole[1])
    assert y.shape == tuple(t.shape)
    assert_near(y, t)
    cotangent = random(*y.shape, seed=9)
    y.backward(cotangent)
    t.backward(torch.tensor(cotangent))
    for number, (x, other) in enumerate(zip(xs, ts, strict=True)):
        assert_near(x.grad, np.zeros(x.shape) if other.grad is None else other.grad, f"input {number}")


def compare_modules(ours, theirs, *arrays):
    """Compare two modules with the same parameters, which they take from each other."""
    theirs.double().load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})
    compare(ours, theirs, *arrays)
    named = dict(theirs.named_parameters())
    assert list(named) == [name for name, _ in ours.named_parameters()]
    for name, parameter in ours.named_parameters():
        assert_near(parameter.grad, named[name].grad, name)


def disturbed(module):
    """Return a module whose parameters are no longer ones and zeros."""
    module.load_state_dict({name: random(*a.shape, seed=len(name)) for name, a in module.state_dict().items()})
    return module
