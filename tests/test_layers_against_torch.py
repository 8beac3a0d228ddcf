"""Layers of language models against PyTorch in float64: values and all gradients, random shapes, empty batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_layers import compare, compare_modules, disturbed, random, torch

from npdp import nn

F = nn.functional
property_test = settings(max_examples=40, deadline=None, derandomize=True, database=None)
extents = st.integers(1, 5)
batches = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@property_test
@given(batches, st.sampled_from([
    lambda nn: nn.GELU(), lambda nn: nn.GELU(approximate="tanh"), lambda nn: nn.SiLU(), lambda nn: nn.Softplus(),
    lambda nn: nn.Softplus(2.0, 0.5), lambda nn: nn.ELU(), lambda nn: nn.ELU(0.3), lambda nn: nn.functional.gelu,
    lambda nn: lambda x: nn.functional.gelu(x, approximate="tanh"), lambda nn: nn.functional.silu,
    lambda nn: lambda x: nn.functional.softplus(x, 0.5), lambda nn: lambda x: nn.functional.elu(x, 2.0),
]), st.sampled_from([0.1, 1.0, 5.0]))  # fmt: skip
def test_activations_are_pytorchs(shape, of_both, scale):
    compare(of_both(nn), of_both(torch.nn), scale * random(*shape))


def test_gelu_is_precise_where_it_is_nearly_zero_or_the_identity():
    x = np.array([-40.0, -6.0, -1e-300, 0.0, 1e-300, 6.0, 40.0])
    compare(F.gelu, torch.nn.functional.gelu, x)


@property_test
@given(batches, st.lists(extents, min_size=1, max_size=2).map(tuple), st.booleans(), st.booleans(), st.booleans())
def test_layer_norm_is_pytorchs(batch, shape, affine, bias, large):
    options = dict(elementwise_affine=affine, bias=bias, eps=1e-3)
    x = random(*batch, *shape) * (1000 if large else 1)
    compare_modules(
        disturbed(nn.LayerNorm(shape, **options, dtype=np.float64)), torch.nn.LayerNorm(shape, **options), x
    )


@property_test
@given(batches, st.lists(extents, min_size=1, max_size=2).map(tuple), st.booleans(), st.sampled_from([None, 1e-2]))
def test_rms_norm_is_pytorchs(batch, shape, affine, eps):
    options = dict(elementwise_affine=affine, eps=eps)
    compare_modules(disturbed(nn.RMSNorm(shape, **options, dtype=np.float64)), torch.nn.RMSNorm(shape, **options),
                    random(*batch, *shape))  # fmt: skip


def test_the_functions_of_norms_are_pytorchs():
    x, w, b = random(4, 3), random(3, seed=1), random(3, seed=2)
    compare(lambda *t: F.layer_norm(t[0], (3,), *t[1:]), lambda *t: torch.nn.functional.layer_norm(t[0], (3,), *t[1:]),
            x, w, b)  # fmt: skip
    compare(lambda x: F.layer_norm(x, 3), lambda x: torch.nn.functional.layer_norm(x, (3,)), x)
    compare(lambda x, w: F.rms_norm(x, [3], w, 0.1), lambda x, w: torch.nn.functional.rms_norm(x, [3], w, 0.1), x, w)


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
def test_norms_refuse_what_does_not_fit(make):
    with pytest.raises(ValueError, match=r"_norm: wanted an input of shape \(\.\.\., 2, 3\), got \(4, 3\)"):
        make((2, 3))(random(4, 3))
    with pytest.raises(ValueError, match="normalized_shape must be a whole number, at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match=r"normalized_shape must have at least one axis, got \(\)"):
        make(())


def test_gelu_refuses_an_approximation_that_it_has_not():
    for make in (nn.GELU, lambda word: F.gelu(random(2), word)):
        with pytest.raises(ValueError, match="approximate must be one of none, tanh, got 'fast'"):
            make("fast")


@pytest.mark.parametrize(("labels", "classes"), [([2, 0, 1], ()), ([[0], [1]], (4,)), ([], (2,)), (1, ())])
def test_one_hot_is_pytorchs(labels, classes):
    labels = np.array(labels, np.int64)
    found, wanted = F.one_hot(labels, *classes), torch.nn.functional.one_hot(torch.from_numpy(labels), *classes)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_one_hot_refuses_what_is_no_class():
    for labels, classes in (([0, 3], 3), ([-1, 0], -1)):
        with pytest.raises(ValueError, match=rf"one_hot: labels must be in \[0, \d\), got {labels[classes == 3]}"):
            F.one_hot(np.array(labels), classes)
    with pytest.raises(TypeError, match="one_hot: labels must be integers, got float32"):
        F.one_hot(random(2).astype(np.float32))
