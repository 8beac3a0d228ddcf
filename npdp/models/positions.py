"""Rotary positions: queries and keys are turned by an angle that grows with their place in the text.

    pairs (x_i, x_{i + d/2}) of a head's d numbers, at place t, turn by t / 10000^(2 i / d)

A product of a turned query and a turned key then depends on how far apart they are, not on their places.
Source: Su et al., RoFormer: enhanced transformer with rotary position embedding, 2021.
"""

from __future__ import annotations

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.operators import concatenate

BASE = 10000.0


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Return queries or keys (..., time, d), d even, turned by their places, which begin at `first`."""
    time, d = x.shape[-2:]
    angles = np.arange(first, first + time)[:, None] * BASE ** (-2 * np.arange(d // 2) / d)  # (time, d / 2)
    cos, sin = (f(angles).astype(x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return concatenate(a * cos - b * sin, a * sin + b * cos, axis=-1)
