"""Layers and losses as functions, under PyTorch's names; each family is in a file of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import operators
from npdp.autograd.operators import relu as relu
from npdp.autograd.operators import sigmoid as sigmoid
from npdp.autograd.operators import tanh as tanh
from npdp.autograd.tensor import Tensor, TensorLike
from npdp.base.missing import missing
from npdp.nn import rules
from npdp.nn.activations import elu as elu
from npdp.nn.activations import gelu as gelu
from npdp.nn.activations import silu as silu
from npdp.nn.activations import softplus as softplus
from npdp.nn.attention import scaled_dot_product_attention as scaled_dot_product_attention
from npdp.nn.convolution import conv1d as conv1d
from npdp.nn.convolution import conv2d as conv2d
from npdp.nn.cross_entropy import cross_entropy as cross_entropy
from npdp.nn.cross_entropy import nll_loss as nll_loss
from npdp.nn.losses import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from npdp.nn.losses import huber_loss as huber_loss
from npdp.nn.losses import l1_loss as l1_loss
from npdp.nn.losses import mse_loss as mse_loss
from npdp.nn.losses import smooth_l1_loss as smooth_l1_loss
from npdp.nn.module import as_tensor
from npdp.nn.normalization import layer_norm as layer_norm
from npdp.nn.normalization import rms_norm as rms_norm
from npdp.nn.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from npdp.nn.pooling import avg_pool2d as avg_pool2d
from npdp.nn.pooling import max_pool1d as max_pool1d
from npdp.nn.pooling import max_pool2d as max_pool2d
from npdp.nn.rules import leaky_relu as leaky_relu


def softmax(x: TensorLike, dim: int = -1) -> Tensor:
    """exp(x) over its sum along an axis."""
    return operators.softmax(x, axis=dim)


def log_softmax(x: TensorLike, dim: int = -1) -> Tensor:
    """The logarithm of `softmax`, precise also where that is near 0."""
    return operators.log_softmax(x, axis=dim)


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """x @ weight.T + bias; x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    weight = as_tensor(weight)
    return rules.linear(x, weight, np.zeros(weight.shape[0], weight.dtype) if bias is None else bias)


def one_hot(tensor: TensorLike, num_classes: int = -1) -> Tensor:
    """1 in the place of each label, else 0; labels (...) of whole numbers -> (..., num_classes), int64.

    Args:
        tensor: the labels.
        num_classes: as many as there are, or -1: one more than the largest label.

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: a label lies outside 0 .. num_classes - 1.
    """
    labels = np.asarray(as_tensor(tensor).data)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"one_hot: labels must be integers, got {labels.dtype}")
    classes = int(labels.max(initial=-1)) + 1 if num_classes == -1 else num_classes
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"one_hot: labels must be in [0, {classes}), got {wrong[0]}")
    return Tensor((labels[..., None] == np.arange(classes)).astype(np.int64))


def __getattr__(name: str) -> Any:
    raise missing("npdp.nn.functional", name)
