"""Losses against PyTorch in float64: layouts of labels, vocabularies, weights, between squares and lines."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_layers import compare, random, torch

from npdp import nn
from npdp.autograd import Tensor
from npdp.nn import cross_entropy_rules

F, T = nn.functional, torch.nn.functional
property_test = settings(max_examples=80, deadline=None, derandomize=True, database=None)
reductions = st.sampled_from(["mean", "sum", "none"])


@pytest.fixture(params=[7, 2**16], autouse=True)
def block(request, monkeypatch):
    """Blocks of a row, or a few, and the real ones."""
    monkeypatch.setattr(cross_entropy_rules, "BLOCK", request.param)


def labels_of(shape, classes, ignored):
    labels = np.random.default_rng(5).integers(0, classes, shape)
    return np.where(random(*shape, seed=6) > 0.7, ignored, labels) if ignored is not None else labels


@property_test
@given(st.lists(st.integers(1, 4), max_size=3).map(tuple), st.sampled_from([2, 5, 70]), reductions,
       st.booleans(), st.sampled_from([None, -100, 1]), st.sampled_from([0.0, 0.2, 1.0]),
       st.booleans())  # fmt: skip
def test_cross_entropy_and_nll_take_pytorchs_layouts(shape, classes, reduction, weighted, ignored, smoothing, log_p):
    """(classes,) with one label, (N, classes) with (N,), (N, classes, d1, ...) with (N, d1, ...)."""
    labels = labels_of(shape, classes, ignored)
    if (labels == ignored).all():
        return  # PyTorch: NaN
    weight = 0.5 + abs(random(classes, seed=3)) if weighted else None
    options = {"reduction": reduction}
    if not log_p:
        options["label_smoothing"] = smoothing
    own = nn.NLLLoss if log_p else nn.CrossEntropyLoss
    other = T.nll_loss if log_p else T.cross_entropy
    theirs = {"weight": None if weight is None else torch.tensor(weight)}
    compare(own(weight, ignore_index=ignored, **options),
            lambda x, y: other(x, y, ignore_index=-100 if ignored is None else ignored, **theirs, **options),
            random(*shape[:1], classes, *shape[1:]), labels=np.asarray(labels))  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 3), (0, 70), (0, 3, 4), (2, 70, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_part_of_no_samples_has_a_loss_of_zero(shape, reduction):
    x = Tensor(random(*shape), requires_grad=True)
    loss = F.cross_entropy(x, np.zeros((shape[0], *shape[2:]), np.int64), reduction=reduction)
    loss.sum().backward()
    assert loss.sum().item() == 0 and x.grad.shape == shape


@property_test
@given(st.lists(st.integers(0, 4), max_size=3).map(tuple), reductions, st.sampled_from([
    lambda nn, **o: lambda x, y: nn.functional.huber_loss(x, y, delta=0.7, **o),
    lambda nn, **o: lambda x, y: nn.functional.smooth_l1_loss(x, y, beta=0.7, **o),
    lambda nn, **o: lambda x, y: nn.functional.smooth_l1_loss(x, y, beta=0.0, **o),
    lambda nn, **o: lambda x, y: nn.functional.l1_loss(x, y, **o), lambda nn, **o: nn.HuberLoss(delta=2.0, **o),
    lambda nn, **o: lambda x, y: nn.functional.mse_loss(x, y, **o), lambda nn, **o: nn.SmoothL1Loss(beta=0.3, **o),
    lambda nn, **o: lambda x, y: nn.functional.binary_cross_entropy_with_logits(x, y, **o),
]))  # fmt: skip
def test_losses_of_one_shape_are_pytorchs(shape, reduction, of_both):
    if reduction == "mean" and 0 in shape:
        return  # PyTorch: NaN
    compare(of_both(nn, reduction=reduction), of_both(torch.nn, reduction=reduction), random(*shape),
            2 * random(*shape, seed=1))  # fmt: skip


def test_a_vocabulary_takes_no_memory_of_its_size_but_the_gradients(block):
    rows, words = 512, 4000
    x = Tensor(np.zeros((rows, words), np.float32), requires_grad=True)
    x.grad_buffer, x.data_buffer = np.empty_like(x.data), x.data
    labels = np.arange(rows)
    tracemalloc.start()
    loss = nn.CrossEntropyLoss(ignore_index=-1)(x, labels)
    forward = tracemalloc.get_traced_memory()[1]
    loss.backward()
    backward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forward < x.data.nbytes / 4 and backward < 1.25 * x.data.nbytes


def test_what_does_not_fit_is_refused_by_the_losses_own_name():
    for loss, name in ((F.cross_entropy, "CrossEntropyLoss"), (F.nll_loss, "NLLLoss")):
        with pytest.raises(ValueError, match=rf"^{name}: wanted logits .* got shapes \(2, 3, 4\) and \(2, 3\)"):
            loss(random(2, 3, 4), np.zeros((2, 3), np.int64))
        with pytest.raises(ValueError, match=rf"^{name}: labels must be in \[0, 3\), got 7"):
            loss(random(1, 3, 4), np.full((1, 4), 7), reduction="none")
    with pytest.raises(ValueError, match=r"CrossEntropyLoss: label_smoothing must be in \[0, 1\], got 2"):
        F.cross_entropy(random(1, 3), np.zeros(1, np.int64), label_smoothing=2)
    with pytest.raises(ValueError, match="reduction must be mean, sum or none, got 'avg'"):
        F.cross_entropy(random(1, 3), np.zeros(1, np.int64), reduction="avg")
    with pytest.raises(ValueError, match="HuberLoss: delta must be above 0, got 0"):
        F.huber_loss(random(2), random(2), delta=0)
    with pytest.raises(ValueError, match="SmoothL1Loss: beta must be at least 0, got -1"):
        F.smooth_l1_loss(random(2), random(2), beta=-1)
