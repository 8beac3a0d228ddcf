"""Layers of several attention heads: MultiheadAttention, and CausalSelfAttention as GPT-2 has it.

    x (batch, T, width) ─ linear ─ query, key, value (batch, heads, T, width / heads)
                                   ─ attention ─ (batch, T, width) ─ linear

Each owns a `Dropout`, whose masks of the probabilities are the same however many ranks share a batch.
Source: Vaswani et al., Attention is all you need, 2017; Radford et al., Language models are unsupervised multitask
learners, 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor, operators
from npdp.autograd.tensor import Array
from npdp.base import random
from npdp.base.arguments import at_least_one
from npdp.nn import init
from npdp.nn.attention import attend
from npdp.nn.dropout import Dropout
from npdp.nn.layers import Linear
from npdp.nn.masks import Masks
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter
from npdp.nn.rules import linear


def _width_of_heads(kind: str, embed_dim: int, num_heads: int) -> int:
    at_least_one(embed_dim, f"{kind}: embed_dim")
    width, rest = divmod(embed_dim, at_least_one(num_heads, f"{kind}: num_heads"))
    if rest:
        raise ValueError(f"{kind}: num_heads must divide embed_dim, got {num_heads} heads and a width of {embed_dim}")
    return width


def _heads(x: Tensor, count: int) -> Tensor:
    """Return (batch, T, width) as (batch, heads, T, width / heads)."""
    batch, length, width = x.shape
    return operators.transpose(x.reshape(batch, length, count, width // count), axes=(0, 2, 1, 3))


def _joined(y: Tensor) -> Tensor:
    """Return (batch, heads, T, d) as (batch, T, heads * d)."""
    batch, heads, length, width = y.shape
    return operators.transpose(y, axes=(0, 2, 1, 3)).reshape(batch, length, heads * width)


def _masks(dropout: Dropout, heads: Tensor) -> Masks | None:
    """Return the masks of the probabilities in this forward, if any is dropped."""
    return dropout.masks(heads.shape) if dropout.training and dropout.p else None


class CausalSelfAttention(Module):
    """Self-attention in which a token sees itself and those before it, with GPT-2's names of parameters.

    Args:
        embed_dim: the width of a token.
        num_heads: how many heads share it.
        dropout: of the probabilities.
        bias: whether the two linear layers, `c_attn` and `c_proj`, have one.
        dtype, generator: as of `Linear`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        _width_of_heads("CausalSelfAttention", embed_dim, num_heads)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.c_attn = Linear(embed_dim, 3 * embed_dim, bias, dtype=dtype, generator=generator)
        self.c_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, generator=generator)
        self.dropout = Dropout(dropout)

    def forward(self, x: Any) -> Tensor:
        """Return (batch, T, embed_dim) of x, (batch, T, embed_dim)."""
        query, key, value = (_heads(part, self.num_heads) for part in self.c_attn(x).chunk(3, -1))
        y = attend(query, key, value, None, True, None, _masks(self.dropout, query))
        return self.c_proj(_joined(y))  # type: ignore[no-any-return]

    def describe(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"


class MultiheadAttention(Module):
    """Attention of several heads, with PyTorch's parameters, first values, arguments and masks.

    Args:
        embed_dim: the width of queries, keys and values.
        num_heads: how many heads share it.
        dropout: of the probabilities.
        bias: whether the linear layers have one.
        batch_first: whether inputs are (batch, T, embed_dim), else (T, batch, embed_dim). One without a batch is
            (T, embed_dim).
        dtype, generator: as of `Linear`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        batch_first: bool = False,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.head_dim = _width_of_heads("MultiheadAttention", embed_dim, num_heads)
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        generator = generator or random.default_generator()
        self.in_proj_weight = Parameter(np.empty((3 * embed_dim, embed_dim), dtype))
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim, dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, generator=generator)
        init.xavier_uniform_(self.in_proj_weight, generator=generator)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        is_causal: bool = False,
        *,
        average_attn_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, of the query's shape, and the probabilities: (batch, T, S), or None.

        Args:
            query: (T, batch, embed_dim), as `batch_first` says.
            key, value: (S, batch, embed_dim) likewise.
            key_padding_mask: (batch, S), booleans, True where a key is left out, or floats that are added.
            need_weights: whether to return the probabilities, which then are worked out as a whole, (T, S) for a head.
            attn_mask: (T, S) or (batch * heads, T, S), likewise.
            is_causal: whether query t sees keys 0 to t alone; needs no mask.
            average_attn_weights: whether the probabilities are the mean over the heads; else (batch, heads, T, S).

        Raises:
            ValueError: shapes do not fit each other.
        """
        same = query is key is value
        inputs = [as_tensor(query)] * 3 if same else [as_tensor(x) for x in (query, key, value)]
        batched = self._checked(inputs)
        q, k, v = (_heads(self._with_batch(x, batched), self.num_heads) for x in self._projected(inputs, same))
        mask = self._mask(key_padding_mask, attn_mask, is_causal, need_weights, q, k)
        weights = None
        if need_weights:
            y, weights = self._with_weights(q, k, v, mask)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = attend(q, k, v, mask, is_causal and mask is None, None, _masks(self.dropout, q))
        y = self.out_proj(_joined(y))
        if batched:
            return (y if self.batch_first else y.transpose(0, 1)), weights
        return y[0], None if weights is None else weights[0]

    def _checked(self, inputs: list[Tensor]) -> bool:
        """Raise ValueError where inputs do not fit the layer; return whether they are batches."""
        if {x.ndim for x in inputs} in ({2}, {3}) and all(x.shape[-1] == self.embed_dim for x in inputs):
            return inputs[0].ndim == 3
        axes = "batch, T" if self.batch_first else "T, batch"
        raise ValueError(
            f"MultiheadAttention: wanted query, key and value of shape ({axes}, {self.embed_dim}), or all of "
            f"(T, {self.embed_dim}), got {', '.join(str(x.shape) for x in inputs)}"
        )

    def _projected(self, inputs: list[Tensor], same: bool) -> list[Tensor]:
        """Return query, key and value, each times its third of the weight; by one product where they are the same."""
        weight, width = self.in_proj_weight, self.embed_dim
        bias = np.zeros(3 * width, weight.dtype) if self.in_proj_bias is None else self.in_proj_bias
        if same:
            return list(linear(inputs[0], weight, bias).chunk(3, -1))
        thirds = [slice(number * width, (number + 1) * width) for number in range(3)]
        return [linear(x, weight[third], bias[third]) for x, third in zip(inputs, thirds)]

    def _with_batch(self, x: Tensor, batched: bool) -> Tensor:
        """Return (batch, T, width)."""
        if not batched:
            return x.reshape(1, *x.shape)
        return x if self.batch_first else x.transpose(0, 1)

    def _mask(self, padding: Any, mask: Any, causal: bool, whole: bool, query: Tensor, key: Tensor) -> Tensor | None:
        """Return what is added to the scores, (batch, heads, T, S) or what stretches to it; None for nothing.

        Causality alone needs none, but where the probabilities are made as a `whole`.
        """
        batch, heads, rows, _ = query.shape
        keys, masks = key.shape[-2], []
        if mask is not None:
            masks.append(_added(mask, query, "attn_mask", (rows, keys), (batch * heads, rows, keys)))
            if masks[0].ndim == 3:
                masks[0] = masks[0].reshape(batch, heads, rows, keys)
        if padding is not None:
            given = _added(padding, query, "key_padding_mask", (batch, keys), (keys,))
            masks.append(given.reshape(len(given) if given.ndim == 2 else 1, 1, 1, keys))
        if causal and mask is None and (masks or whole):
            masks.append(_added(np.triu(np.ones((rows, keys), bool), 1), query, "attn_mask", (rows, keys)))
        return masks[0] if len(masks) == 1 else sum(masks[1:], masks[0]) if masks else None

    def _with_weights(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what `attend` does, and the probabilities, dropped, (batch, heads, T, S)."""
        scores = (query * query.dtype.type(self.head_dim**-0.5)) @ key.transpose(-1, -2)
        weights = self.dropout(operators.softmax(scores if mask is None else scores + mask))
        return weights @ value, weights

    def describe(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"


def _added(mask: Any, query: Tensor, name: str, *shapes: tuple[int, ...]) -> Tensor:
    """Return a mask as what is added to scores: of booleans, -inf where True."""
    tensor = as_tensor(mask)
    if tensor.shape not in shapes:
        raise ValueError(f"MultiheadAttention: {name} must have shape {shapes[0]}, got {tensor.shape}")
    if tensor.dtype != bool:
        return tensor
    zero, ruled_out = (query.dtype.type(number) for number in (0, -np.inf))
    added: Array = np.where(tensor.data, ruled_out, zero)
    return Tensor(added)
