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
