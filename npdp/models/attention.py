"""Causal self-attention of a language model, with the keys and values of earlier tokens kept where text is generated.

Rotary positions turn queries and keys by an angle that grows with their place in the text:

    pairs (x_i, x_{i + d/2}) of a head's d numbers, at place t, turn by t / 10000^(2 i / d)

A product of a turned query and a turned key then depends on how far apart they are, not on their places.
Source: Su et al., RoFormer: enhanced transformer with rotary position embedding, 2021.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from npdp import nn
from npdp.autograd import Tensor
from npdp.autograd.operators import concatenate
from npdp.nn import functional

BASE = 10000.0
Cache = dict[str, Any]  # of one attention: "k" and "v" of the tokens before, (batch, heads, time, width / heads)


class Attention(nn.Module):
    """Causal self-attention: each token looks at those before it and at itself."""

    def __init__(self, width: int, heads: int, dropout: float, rotary: bool) -> None:
        self.heads, self.rotary = heads, rotary
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        batch, time, width = x.shape
        parts = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))  # (batch, heads, time, width / heads)
        if self.rotary:
            first = tokens_in(cache)
            q, k = rotate(q, first), rotate(k, first)
        if cache is not None:
            k, v = _with_earlier(cache, k, v)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=time > 1)
        return self.drop(self.out(y.transpose(1, 2).reshape(batch, time, width)))


def tokens_in(cache: Cache | None) -> int:
    """Return how many tokens have been before those to come."""
    return cache["k"].shape[2] if cache else 0


def _with_earlier(cache: Cache, k: Tensor, v: Tensor) -> tuple[Any, Any]:
    """Return the keys and values of all tokens so far, and keep them."""
    for name, new in (("k", k), ("v", v)):
        cache[name] = np.concatenate([cache[name], new.data], axis=2) if name in cache else new.data
    return cache["k"], cache["v"]


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Return queries or keys (..., time, d), d even, turned by their places, which begin at `first`."""
    time, d = x.shape[-2:]
    angles = np.arange(first, first + time)[:, None] * BASE ** (-2 * np.arange(d // 2) / d)  # (time, d / 2)
    cos, sin = (f(angles).astype(x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return concatenate(a * cos - b * sin, a * sin + b * cos, axis=-1)
