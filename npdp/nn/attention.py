"""Attention: softmax(query key^T scale + mask) value, a block of query rows at a time.

                keys
    query   ┌────────────┐      for each block of rows, over all samples and heads at once:
    rows    │▒▒▒         │        p = softmax(q k^T scale + mask)       (..., rows, keys)
            │▒▒▒▒▒▒▒     │        y = p v
            │▒▒▒▒▒▒▒▒▒▒▒ │      with `is_causal`, keys behind the block's last row are not multiplied
            └────────────┘      and those above the diagonal within it are left out

Only y, (..., T, d), is kept: backward works out p again. With g the gradient of y, the rest is, for a block:

    dv += p^T g     ds = p (g v^T - sum(p (g v^T)))     dq = ds k scale     dk += ds^T q scale

Memory: O(T x block) for a head, not O(T^2). Cost: two products forward, five backward.
Source: Rabe and Staats, Self-attention does not need O(n^2) memory, 2021; Dao et al., FlashAttention, 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod, sqrt
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.jointly import jointly
from npdp.autograd.operation import operation, unbroadcast
from npdp.autograd.tensor import Array, TensorLike, Vjp
from npdp.base import random
from npdp.kernels import layers as kernels
from npdp.nn.masks import Masks
from npdp.nn.module import as_tensor

BLOCK = 64  # rows: of 32 to 128 the quickest at 256 keys, and no slower at 64


@operation(keeps=(0, 1, 2))
def _attention(
    query: Array,
    key: Array,
    value: Array,
    *learned_mask: Array,
    mask: Array | None = None,
    causal: bool,
    scale: float,
    dropout: Masks | None = None,
) -> tuple[Array, tuple[Vjp, ...]]:
    """softmax(query key^T scale + mask) value; query (..., T, d), key (..., S, d), value (..., S, e) -> (..., T, e)."""
    learned = bool(learned_mask)
    blocks = _Blocks(query, key, value, learned_mask[0] if learned else mask, causal, scale, dropout)
    return blocks.forward(), jointly(lambda g: blocks.backward(g, learned), 3 + learned)


class _Blocks:
    """Attention of these arrays by blocks of query rows; each array is stretched to the axes of all."""

    def __init__(
        self, query: Array, key: Array, value: Array, mask: Array | None, causal: bool, scale: float,
        dropout: Masks | None,
    ) -> None:  # fmt: skip
        self.shapes = query.shape, key.shape, value.shape
        self.lead = lead = np.broadcast_shapes(*(shape[:-2] for shape in self.shapes))
        self.query, self.key, self.value = (_stretched(x, lead) for x in (query, key, value))
        self.rows, self.keys = query.shape[-2], key.shape[-2]
        self.mask, self.causal, self.dropout = mask, causal, dropout
        self.scale = query.dtype.type(scale)
        self.above = np.triu(np.full((BLOCK, BLOCK), -np.inf, query.dtype), 1)

    def __iter__(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield the blocks, each with its number, its rows and the keys that these see; the last comes first."""
        for number in reversed(range(-(-self.rows // BLOCK))):
            start, stop = number * BLOCK, min(self.rows, (number + 1) * BLOCK)
            yield number, slice(start, stop), slice(0, min(self.keys, stop) if self.causal else self.keys)

    def memory(self) -> Array:
        """Return memory for the scores of any block."""
        return np.empty(prod(self.lead) * min(BLOCK, self.rows) * self.keys, self.query.dtype)

    def view(self, memory: Array, rows: slice, keys: slice) -> Array:
        """Return the memory of a block's scores, contiguous (..., rows, keys)."""
        shape = (*self.lead, rows.stop - rows.start, keys.stop)
        return memory[: prod(shape)].reshape(shape)

    def scores(self, scaled: Array, memory: Array, rows: slice, keys: slice) -> Array:
        """Return query key^T scale + mask of a block."""
        scores = self.view(memory, rows, keys)
        np.matmul(scaled, self.key[..., keys, :].swapaxes(-1, -2), out=scores)
        if self.mask is not None:
            scores += _of_block(self.mask, rows, keys, scores.dtype)
        if self.causal and rows.start < keys.stop:
            scores[..., rows.start :] += self.above[: rows.stop - rows.start, : keys.stop - rows.start]
        return scores

    def dropped(self, number: int, shape: tuple[int, ...]) -> Array | None:
        """Return what dropout multiplies the probabilities of a block by."""
        return None if self.dropout is None else self.dropout.draw(shape, self.query.dtype, number)

    def probabilities(self, scores: Array) -> Array:
        """Return softmax of scores, in their place; a row that sees no key is 0."""
        sees = True if self.mask is None else np.maximum.reduce(scores, axis=-1, initial=-np.inf) != -np.inf
        p, _ = kernels.softmax_rows(scores, out=scores)
        if sees is not True:
            p[~sees] = 0
        return p

    def forward(self) -> Array:
        """Return the result, (..., T, e), laid as the query is."""
        y, memory = _laid_as(self.query, self.value.shape[-1]), self.memory()
        for number, rows, keys in self:
            p = self.probabilities(self.scores(self.query[..., rows, :] * self.scale, memory, rows, keys))
            if (dropped := self.dropped(number, p.shape)) is not None:
                p *= dropped
            np.matmul(p, self.value[..., keys, :], out=y[..., rows, :])
        return y

    def backward(self, g: Array, learned: bool) -> list[Array]:
        """Return the gradients of query, key and value, each laid as that is, and of a mask that is learned."""
        to_query, to_key, to_value = (np.empty_like(x) for x in (self.query, self.key, self.value))
        to_mask = [np.zeros_like(self.mask)] if learned else []
        memories = self.memory(), self.memory()
        fresh = True
        for number, rows, keys in self:
            scaled, of_rows = self.query[..., rows, :] * self.scale, g[..., rows, :]
            p = self.probabilities(self.scores(scaled, memories[0], rows, keys))
            slope = self.view(memories[1], rows, keys)
            np.matmul(of_rows, self.value[..., keys, :].swapaxes(-1, -2), out=slope)
            if (dropped := self.dropped(number, p.shape)) is not None:
                slope *= dropped
            kernels.softmax_rows_gradient(slope, p, out=slope)
            if dropped is not None:
                p *= dropped
            np.matmul(slope, self.key[..., keys, :], out=to_query[..., rows, :])
            _add_product(to_key, keys, slope, scaled, fresh)
            _add_product(to_value, keys, p, of_rows, fresh)
            for total in to_mask:
                part = _part(total, rows, keys)
                part += unbroadcast(slope, part.shape)
            fresh = False
        to_query *= self.scale
        if fresh:  # no rows
            to_key[...] = to_value[...] = 0
        gradients = zip((to_query, to_key, to_value), self.shapes)
        return [unbroadcast(gradient, shape) for gradient, shape in gradients] + to_mask


def _stretched(x: Array, lead: tuple[int, ...]) -> Array:
    return x if x.shape[:-2] == lead else np.broadcast_to(x, (*lead, *x.shape[-2:]))


def _laid_as(query: Array, width: int) -> Array:
    """Return memory for a result: heads that lie beside each other in a row of the query do so here."""
    return np.empty_like(query) if query.shape[-1] == width else np.empty((*query.shape[:-1], width), query.dtype)


def _part(mask: Array, rows: slice, keys: slice) -> Array:
    """Return the view of a mask that a block sees; an axis of extent 1 is for all rows, or keys."""
    return mask[..., rows if mask.shape[-2] > 1 else slice(None), keys if mask.shape[-1] > 1 else slice(None)]


def _of_block(mask: Array, rows: slice, keys: slice, dtype: Any) -> Array:
    """Return what a mask adds to the scores of a block: of booleans, 0 for True and -inf for False."""
    part = _part(mask, rows, keys)
    return np.where(part, dtype.type(0), dtype.type(-np.inf)) if part.dtype == bool else part


def _add_product(total: Array, keys: slice, weights: Array, rows: Array, fresh: bool) -> None:
    """Add weights^T rows to the total's rows for these keys; where it is fresh, write them, and zeros for the rest."""
    weights = weights.swapaxes(-1, -2)
    if fresh:
        np.matmul(weights, rows, out=total[..., keys, :])
        total[..., keys.stop :, :] = 0
    else:
        total[..., keys, :] += weights @ rows


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: Masks | None,
) -> Tensor:
    """Return attention as `scaled_dot_product_attention` does, with dropout's masks, or without; checks arguments."""
    wanted = "scaled_dot_product_attention: wanted query (..., T, d), key (..., S, d) and value (..., S, e)"
    shapes = f"{query.shape}, {key.shape} and {value.shape}"
    fit = min(query.ndim, key.ndim, value.ndim) > 1 and query.shape[-1] == key.shape[-1]
    if not fit or key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{wanted}, got shapes {shapes}")
    if query.dtype.kind != "f" or not query.dtype == key.dtype == value.dtype:
        raise TypeError(f"{wanted} of one float dtype, got {query.dtype}, {key.dtype} and {value.dtype}")
    options = dict(causal=causal, scale=1 / sqrt(query.shape[-1]) if scale is None else scale, dropout=dropout)
    if mask is None:
        return _attention(query, key, value, **options)
    if causal:
        raise ValueError("scaled_dot_product_attention: wanted attn_mask or is_causal, got both")
    mask = _checked(mask, (query.shape[-2], key.shape[-2]), query.dtype)
    if mask.requires_grad:
        return _attention(query, key, value, mask, **options)
    return _attention(query, key, value, mask=mask.data, **options)


def _checked(mask: Tensor, extents: tuple[int, int], dtype: Any) -> Tensor:
    """Return a mask of at least two axes that fits queries and keys so many."""
    if mask.dtype not in (bool, dtype):
        raise TypeError(
            f"scaled_dot_product_attention: attn_mask must be of booleans or of the query's {dtype}, got {mask.dtype}"
        )
    if any(mine not in (1, extent) for mine, extent in zip(mask.shape[::-1], extents[::-1])):
        raise ValueError(
            f"scaled_dot_product_attention: attn_mask must fit (..., {extents[0]}, {extents[1]}), got {mask.shape}"
        )
    return mask if mask.ndim > 1 else mask.reshape((1,) * (2 - mask.ndim) + mask.shape)


def scaled_dot_product_attention(
    query: TensorLike,
    key: TensorLike,
    value: TensorLike,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query key^T scale + attn_mask) value, over the keys; (..., T, e).

    Dropout here draws from this rank's generator (`npdp.manual_seed`), so that ranks do not drop as one would:
    `nn.MultiheadAttention` and `nn.CausalSelfAttention` do, as `nn.Dropout` does.

    Args:
        query, key, value: (..., T, d), (..., S, d), (..., S, e), of one float dtype; axes before are stretched.
        attn_mask: fits (..., T, S): booleans, False where a query does not see a key, or floats that are added. A row
            that sees nothing gives 0.
        dropout_p: the probability of dropping, in [0, 1).
        is_causal: whether query t sees keys 0 to t alone; not with a mask.
        scale: 1 / sqrt(d) where None.

    Raises:
        ValueError: shapes do not fit each other, or there are a mask and `is_causal`.
        TypeError: dtypes differ, or are no floats.
    """
    if not 0 <= dropout_p < 1:
        raise ValueError(f"scaled_dot_product_attention: dropout_p must be in [0, 1), got {dropout_p}")
    masks = Masks(dropout_p, int(random.default_generator().integers(2**63))) if dropout_p else None
    query = as_tensor(query)
    mask = None if attn_mask is None else as_tensor(attn_mask)
    return attend(query, as_tensor(key), as_tensor(value), mask, is_causal, scale, masks)
