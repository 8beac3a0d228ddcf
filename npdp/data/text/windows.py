"""Windows of a text as a data set: `context` tokens each, and what follows each of them.

    tokens   t0 t1 t2 t3 t4 t5 t6 t7 t8 t9        context 3, offset 1
    inputs      [t1 t2 t3][t4 t5 t6]              windows do not overlap
    labels         [t2 t3 t4][t5 t6 t7]

Each epoch of training draws an offset below `context`, a function of (seed, epoch): so in time a token is seen in every
place of a window. What is held out has offset 0. Inputs and labels are views of the tokens, which may be mapped.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdp.base.arguments import at_least_one
from npdp.base.errors import InputError
from npdp.data.datasets import Array, ArrayDataset, Rows, checked_rows, gather
from npdp.data.text.tokenizers import Tokenizer

OFFSET_STREAM = (0, 0, 0, 1)  # of the generator: the order of an epoch is drawn from (0, 0, 0, 0) on
NUMBERS_PER_TOKEN = 256  # at least, in a model that looks at a window
TOKENS_AT_ONCE = 2**20  # of a pass over all labels


class TextDataset(ArrayDataset):
    """Data set of windows of a text.

    A `DataLoader` that shuffles takes an epoch's windows from `of_epoch`; by themselves they have offset 0.

    Args:
        tokens: (L,) integers from 0; kept, not copied; may be an `np.memmap`.
        context: tokens of a window.
        held_out: whether the offset is always 0.
        tokenizer: what cut the text, for `label_bytes`.

    Raises:
        InputError: there are not context + 1 tokens.
    """

    def __init__(
        self, tokens: ArrayLike, context: int, *, held_out: bool = False, tokenizer: Tokenizer | None = None
    ) -> None:
        self._tokens: Array = np.asarray(tokens)
        self.context, self.tokenizer = at_least_one(context, "TextDataset: context"), tokenizer
        if self._tokens.ndim != 1 or self._tokens.dtype.kind not in "iu":
            raise InputError(f"TextDataset: expected one dimension of whole numbers, got {self._tokens.dtype} "
                             f"of shape {self._tokens.shape}")  # fmt: skip
        if len(self._tokens) <= context:
            raise InputError(f"expected at least {context + 1} tokens, a context of {context} and one more, "
                             f"got {len(self._tokens)}")  # fmt: skip
        most = (len(self._tokens) - 1) // context
        self._windows = most if held_out else max(1, len(self._tokens) // context - 1)
        self._offsets = 1 if held_out else min(context, len(self._tokens) - self._windows * context)
        super().__init__(*self._views(0))

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64, of what `take` returns."""
        return np.dtype(np.int64)

    @property
    def elements_per_sample(self) -> int:
        """Approximate count of numbers in memory per window: those of a model that looks at it."""
        vocabulary = 0 if self.tokenizer is None else self.tokenizer.vocabulary_size
        return self.context * max(NUMBERS_PER_TOKEN, vocabulary)

    def take(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Copy windows; see `ArrayDataset.take`.

        Returns:
            (n, context) int64 tokens, and the tokens that follow each of them, of the same shape.
        """
        rows = checked_rows(rows, len(self))
        return self._features(rows), gather(self._y, rows).astype(np.int64)

    def of_epoch(self, seed: int, epoch: int) -> TextDataset:
        """Return the windows of an epoch of training, as many as these; a pure function of its arguments."""
        key = np.array([seed, epoch], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key, counter=np.array(OFFSET_STREAM, np.uint64)))
        windows = copy.copy(self)
        windows._x, windows._y = self._views(int(generator.integers(self._offsets)))
        return windows

    def label_bytes(self, start: int = 0, stop: int | None = None) -> int:
        """Return how many bytes of text the labels of windows [start, stop) stand for: what bits per byte divides by.

        Raises:
            ValueError: the tokenizer was not given.
        """
        if self.tokenizer is None:
            raise ValueError("TextDataset: bytes are counted by the tokenizer, which was not given")
        labels = self._y[start:stop].reshape(-1)
        blocks = (labels[first : first + TOKENS_AT_ONCE] for first in range(0, len(labels), TOKENS_AT_ONCE))
        return sum(int(self.tokenizer.token_bytes[block].sum()) for block in blocks)

    def _views(self, offset: int) -> tuple[Array, Array]:
        """Return inputs and labels, (windows, context) each, of the windows from this token on."""
        stop, shape = offset + self._windows * self.context, (self._windows, self.context)
        return self._tokens[offset:stop].reshape(shape), self._tokens[offset + 1 : stop + 1].reshape(shape)

    def _features(self, rows: Rows) -> Array:
        return gather(self._x, rows).astype(np.int64)
