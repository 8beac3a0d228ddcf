"""Pooling: PyTorch's results and gradients, the first of equal ones included."""

import numpy as np
import pytest
from against_torch import assert_same, assert_same_function, random
from hypothesis import given, settings
from hypothesis import strategies as st

from npdp import nn
from npdp.autograd import Tensor
from npdp.nn import functional

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
torch.set_num_threads(1)
several = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@st.composite
def windows(draw, axes):
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    stride = draw(st.one_of(st.none(), st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * axes)))
    padding = tuple(draw(st.integers(0, extent // 2)) for extent in kernel)
    extents = (extent + draw(st.integers(0, 4)) for extent in kernel)
    return (kernel, stride, padding), (draw(st.integers(1, 3)), 2, *extents)


def whole_numbers(shape):
    """Return few different values: most windows have their largest several times."""
    return np.random.default_rng(shape).integers(-2, 2, shape).astype(np.float64)


@several
@given(windows(2))
def test_images_are_pooled_as_by_pytorch(drawn):
    arguments, shape = drawn
    for name in ("MaxPool2d", "AvgPool2d"):
        ours, theirs = (getattr(module, name)(*arguments) for module in (nn, torch.nn))
        assert_same_function(torch, ours, theirs, whole_numbers(shape))


@several
@given(windows(1))
def test_sequences_are_pooled_as_by_pytorch(drawn):
    arguments, shape = drawn
    assert_same_function(torch, nn.MaxPool1d(*arguments), torch.nn.MaxPool1d(*arguments), whole_numbers(shape))


@pytest.mark.parametrize("size", [1, (1, 1), 3, (2, 5), (None, 4), 7])
def test_parts_of_images_are_averaged_as_by_pytorch(size):
    ours, theirs = nn.AdaptiveAvgPool2d(size), torch.nn.AdaptiveAvgPool2d(size)
    assert_same_function(torch, ours, theirs, random(3, 2, 7, 6))
    assert_same_function(torch, lambda x: functional.adaptive_avg_pool2d(x, size), theirs, random(3, 2, 7, 6))


def test_what_is_not_a_number_is_a_windows_largest():
    x = random(1, 1, 4, 4)
    x[0, 0, 1, 1] = np.nan
    assert_same(functional.max_pool2d(x, 2), torch.nn.functional.max_pool2d(torch.tensor(x), 2))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)])
def test_a_batch_of_no_samples_is_pooled_to_none(pool):
    x = Tensor(np.zeros((0, 3, 4, 4), np.float32), requires_grad=True)
    y = pool(x)
    y.sum().backward()
    assert y.shape[:2] == (0, 3) and y.dtype == np.float32 and x.grad.shape == x.shape


@pytest.mark.parametrize(("call", "said"), [
    (lambda: nn.MaxPool2d(2)(random(2, 4, 4)), r"max_pool2d: wanted .* \(batch, channels, height, width\), got"),
    (lambda: nn.MaxPool1d(2)(random(4, 4)), r"max_pool1d: wanted .* \(batch, channels, time\), got \(4, 4\)"),
    (lambda: nn.AvgPool2d(5)(random(1, 1, 4, 4)), "avg_pool2d: wanted images of at least one window"),
    (lambda: nn.MaxPool2d(2, padding=2)(random(1, 1, 4, 4)), "max_pool2d: padding must be at most half of"),
    (lambda: nn.AdaptiveAvgPool2d(1)(random(1, 4, 4)), "adaptive_avg_pool2d: wanted an input"),
])  # fmt: skip
def test_what_does_not_fit_is_named(call, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        call()
