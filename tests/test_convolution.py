"""Convolution: PyTorch's results and gradients, however large the blocks, and errors that say what does not fit."""

from unittest import mock

import numpy as np
import pytest
from against_torch import assert_same_function, assert_same_layer, random
from hypothesis import given, settings
from hypothesis import strategies as st

import npdp
from npdp import nn
from npdp.autograd import Tensor
from npdp.nn import convolution, functional

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")
torch.set_num_threads(1)
several = settings(max_examples=40, deadline=None, derandomize=True, database=None)
small = st.integers(1, 3)


@st.composite
def settings_of(draw, axes):
    """Draw a layer's arguments, and the shape of an input that has room for a window."""
    groups, batch = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    channels, out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, dilation = (tuple(draw(small) for _ in range(axes)) for _ in range(2))
    padding = draw(st.sampled_from(["same", "valid", 0, 1, tuple(range(axes))]))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, tuple(range(2, 2 + axes))]))
    extents = (d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation))
    arguments = dict(kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return channels, out, arguments | dict(bias=draw(st.booleans())), (batch, channels, *extents)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@several
@given(settings_of(2), st.sampled_from([0, 200, 2**19]))
def test_images_are_convolved_as_by_pytorch_in_blocks_of_any_size(drawn, block_bytes):
    channels, out, arguments, shape = drawn
    with mock.patch.multiple(convolution, BLOCK_BYTES=block_bytes, ADDED_BYTES=block_bytes):
        ours, theirs = (nn.Conv2d(channels, out, **arguments, dtype=np.float64),
                        torch.nn.Conv2d(channels, out, **arguments, dtype=torch.float64))  # fmt: skip
        assert_same_layer(torch, ours, theirs, random(*shape))


@several
@given(settings_of(1))
def test_sequences_are_convolved_as_by_pytorch(drawn):
    channels, out, arguments, shape = drawn
    ours = nn.Conv1d(channels, out, **arguments, dtype=np.float64)
    theirs = torch.nn.Conv1d(channels, out, **arguments, dtype=torch.float64)
    assert_same_layer(torch, ours, theirs, random(*shape))


def test_the_functions_take_pytorchs_arguments():
    def both(call, *arrays):
        ours, theirs = (lambda *tensors, of=of: call(of, *tensors) for of in (functional, torch.nn.functional))
        assert_same_function(torch, ours, theirs, *arrays)

    x, weight, bias = random(2, 4, 6, 5), random(6, 2, 3, 2), random(6)
    both(lambda of, *tensors: of.conv2d(*tensors, (2, 1), 1, 1, 2), x, weight, bias)
    both(lambda of, x, weight: of.conv2d(x, weight, padding=2, groups=2), x, weight)
    both(lambda of, x, weight: of.conv1d(x, weight, padding="same"), x[0], random(3, 6, 4))
    both(lambda of, *tensors: of.conv1d(*tensors, stride=2), x[0], random(3, 6, 2), bias[:3])


def test_a_chain_of_layers_keeps_samples_last_in_memory_and_any_order_gives_the_same():
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2))
    x = random(4, 2, 8, 8).astype(np.float32)
    y = layers(x).data
    assert y.transpose(1, 2, 3, 0).flags.c_contiguous
    turned = np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(layers(turned).data, y)


def test_first_values_are_drawn_as_pytorch_draws_them():
    npdp.manual_seed(3)
    layer = nn.Conv2d(4, 400, (3, 5), groups=2)
    bound = 1 / np.sqrt(2 * 15)
    for values in (layer.weight.data, layer.bias.data):
        assert values.dtype == np.float32 and 0.98 * bound < abs(values).max() <= bound
        assert abs(values.std() - bound / np.sqrt(3)) < 0.05 * bound
    npdp.manual_seed(3)
    np.testing.assert_array_equal(nn.Conv2d(4, 400, (3, 5), groups=2).weight.data, layer.weight.data)


def test_the_gradient_of_data_is_not_computed(monkeypatch):
    layer = nn.Conv2d(1, 2, 3)
    monkeypatch.setattr(convolution.Windows, "take_off", None)
    layer(random(2, 1, 4, 4)).sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize(("call", "said"), [
    (lambda: nn.Conv2d(2, 3, 3)(random(2, 3, 8, 8)), r"Conv2d: wanted an input .*, height, width\) of 2 channels, got"),
    (lambda: nn.Conv2d(2, 3, 3)(random(2, 8, 8)), r"Conv2d: wanted an input .* got \(2, 8, 8\)"),
    (lambda: nn.Conv1d(2, 3, 3)(random(4, 3, 8)), r"Conv1d: wanted an input \(batch, channels, time\) of 2 channels"),
    (lambda: nn.Conv2d(1, 1, 5)(random(1, 1, 4, 9)), r"Conv2d: wanted images of at least one window, \(5, 5\)"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: groups must divide 3 and 4 channels, got 2"),
    (lambda: nn.Conv2d(3, 4, 3, 2, "same"), 'Conv2d: padding="same" is for stride 1, got 2'),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), "Conv2d: padding must be a whole number, at least 0, or 2 of them"),
    (lambda: nn.Conv2d(3, 4, 0), "Conv2d: kernel_size must be a whole number, at least 1"),
    (lambda: functional.conv2d(random(1, 2, 3, 3), random(3, 1, 2, 2), groups=2), "conv2d: groups must divide the"),
])  # fmt: skip
def test_what_does_not_fit_is_named(call, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        call()


def test_a_layer_shows_its_settings():
    assert repr(nn.Conv2d(1, 6, 5, padding=2)) == "Conv2d(1, 6, kernel_size=(5, 5), stride=1, padding=2)"
    of_sequences = nn.Conv1d(2, 4, 3, 2, groups=2, bias=False)
    assert repr(of_sequences) == "Conv1d(2, 4, kernel_size=(3,), stride=2, groups=2, bias=False)"


def test_a_bias_that_is_not_there_has_no_gradient():
    layer, x = nn.Conv2d(1, 2, 2, bias=False), Tensor(random(2, 1, 3, 3), requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape and [name for name, _ in layer.named_parameters()] == ["weight"]
