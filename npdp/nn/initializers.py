"""Initial values of parameters."""

from typing import Any

import numpy as np

from npdp.autograd.tensor import Array


def uniform_fan_in(shape: tuple[int, ...], fan_in: int, dtype: Any, generator: np.random.Generator) -> Array:
    """Return U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for Linear, weight and bias."""
    bound = 1 / np.sqrt(fan_in)
    return generator.uniform(-bound, bound, shape).astype(dtype)


def normal(shape: tuple[int, ...], dtype: Any, generator: np.random.Generator) -> Array:
    """Return N(0, 1): PyTorch's default for Embedding."""
    return generator.standard_normal(shape).astype(dtype)


def xavier_uniform(shape: tuple[int, int], dtype: Any, generator: np.random.Generator) -> Array:
    """Return U(-a, a), a = sqrt(6 / (rows + columns)): PyTorch's default for the weight of MultiheadAttention.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.
    """
    bound = np.sqrt(6 / sum(shape))
    return generator.uniform(-bound, bound, shape).astype(dtype)
