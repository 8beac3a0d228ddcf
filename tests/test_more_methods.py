"""More tensor methods against PyTorch's: values and gradients."""

import numpy as np
import pytest
from torch_layers import compare, random, torch

NUMBERS = np.array([[[0, 2, 1, 1]], [[1, 0, 0, 2]]])


def indexed(x, numbers):
    """Return indices as that library takes them."""
    return torch.tensor(numbers) if isinstance(x, torch.Tensor) else numbers


@pytest.mark.parametrize("method", [
    lambda x: x.sin() + x.cos(), lambda x: x.square(), lambda x: x.square().add(1).rsqrt(), lambda x: x.neg().mul(2),
    lambda x: x.exp().reciprocal().div(3), lambda x: x.add(x, alpha=2), lambda x: x.sub(x * x, alpha=0.5),
    lambda x: x.bmm(x.transpose(1, 2)), lambda x: x[0].mm(x[1].t()), lambda x: x[0, 0].dot(x[0, 1]),
    lambda x: x.maximum(x[0]), lambda x: x.minimum(x[:, :1]), lambda x: x.amax(1), lambda x: x.amin((0, 2), True),
    lambda x: x.cumsum(1), lambda x: x.cumsum(-1),
    lambda x: x.var(), lambda x: x.var(1), lambda x: x.var(-1, keepdim=True, unbiased=False), lambda x: x.std((0, 2)),
    lambda x: x.var(dim=2, correction=2), lambda x: x.std(dim=1, correction=0, keepdim=True),
    lambda x: x.contiguous(), lambda x: x.transpose(1, 2).contiguous().view(2, 12),
    lambda x: x[:, :1].expand(-1, 5, -1),
    lambda x: x.expand(3, 2, 3, 4), lambda x: x[0, 0].expand((5, 4)), lambda x: x[:1].expand_as(x),
    lambda x: x.repeat(2, 1, 3), lambda x: x[0].repeat((2, 1, 2)), lambda x: x.unflatten(2, (2, 2)),
    lambda x: x.unflatten(-1, (-1, 4)), lambda x: x.unflatten(dim=1, sizes=[3, -1]), lambda x: x.reshape_as(x.view(24)),
    lambda x: x.flip(0, -1), lambda x: x.flip([1]), lambda x: x.narrow(1, 1, 2), lambda x: x.select(1, -1),
    lambda x: x.index_select(1, indexed(x, np.array([2, 0, 2]))), lambda x: x.gather(1, indexed(x, NUMBERS)),
    lambda x: x.gather(-1, indexed(x, NUMBERS)), lambda x: x.swapaxes(0, 2),
    lambda x: x.where(x > 0, x * x), lambda x: x.where(x > 0, -1.0), lambda x: x.masked_fill(x > 0, 7.0),
    lambda x: x.masked_fill(x[0] > 0, float("-inf")).exp(), lambda x: x.tril(), lambda x: x.triu(1),
    lambda x: x.tril(-1),
])  # fmt: skip
def test_methods_of_the_same_name_are_pytorchs(method):
    compare(method, method, random(2, 3, 4))


@pytest.mark.parametrize("method", [
    lambda x: x.repeat(2, 1, 1), lambda x: x.expand(3, 0, 3, 4), lambda x: x.unflatten(2, (2, -1)), lambda x: x.triu(),
    lambda x: x.contiguous(), lambda x: x.masked_fill(x > 0, 1.0), lambda x: x.flip(0),
])  # fmt: skip
def test_methods_take_an_empty_batch(method):
    compare(method, method, random(0, 3, 4))


def test_equal_elements_share_the_gradient_as_pytorchs():
    compare(lambda a, b: a.maximum(b) * 3 + a.minimum(b), lambda a, b: a.maximum(b) * 3 + a.minimum(b),
            np.array([1.0, 2.0]), np.array([1.0, 0.0]))  # fmt: skip
