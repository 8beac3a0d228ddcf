"""Byte-level BPE: tokens are frequent sequences of bytes, by the package `tokenizers` (`npdp[text]`).

    start from the 256 bytes; merge the most frequent pair of neighbours into a new token; again, until there are N

Lines are cut first, then words as for GPT-2. A line end begins what follows it, so text can be encoded in blocks that
begin there, with the tokens of the whole. A line of over 8192 characters is cut every 4096: training is quadratic in a
word's length.

Source: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016; Radford et al.,
"Language Models are Unsupervised Multitask Learners", 2019.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from npdp.base.errors import InputError
from npdp.data.text.tokenizers import Tokenizer, Tokens

CHUNK = 2**12  # characters that a thread of the package works on at a time; it holds 256 of these when it trains
LINE_MAX = 2 * CHUNK
ENCODED_AT_ONCE = 32  # chunks: a token takes a hundred bytes there


class BPE(Tokenizer):
    """Tokenizer of byte-level BPE.

    Args:
        size: of the vocabulary, as it was asked for; a short text gives fewer tokens.
        vocabulary: the tokens in order, each byte written as GPT-2's files do (`byte_names`).
        merges: the pairs that become one, in order.

    Raises:
        InputError: the package `tokenizers` is missing.
        ValueError: these do not make a tokenizer.
    """

    def __init__(self, size: int, vocabulary: list[str], merges: list[tuple[str, str]]) -> None:
        self.spec = f"bpe:{size}"
        values = {name: value for value, name in enumerate(byte_names())}
        # Without one of them the package panics
        merged = {part for left, right in merges for part in (left, right, left + right)}
        if not set(values) | merged <= set(vocabulary):
            raise ValueError("vocabulary: expected a token for each of the 256 bytes and all that merges take and give")
        self.pieces = [bytes(values[name] for name in token) for token in vocabulary]
        self._vocabulary, self._merges = vocabulary, merges
        numbers = {token: number for number, token in enumerate(vocabulary)}
        try:
            self._bpe = _new(lambda models: models.BPE(vocab=numbers, merges=merges))
        except InputError:
            raise
        except Exception as error:  # of the package's own kind
            raise ValueError(f"merges: {error}") from None

    def encode(self, text: str, place: str = "text", first_byte: int = 0) -> Tokens:
        """Return the tokens of a text; see `Tokenizer.encode`."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            byte = first_byte + len(text[: error.start].encode())
            raise InputError(f"{place}, byte {byte}: expected UTF-8 text, got {text[error.start]!r}") from None
        chunks, found = _chunks(text), [np.zeros(0, np.int64)]
        while batch := list(islice(chunks, ENCODED_AT_ONCE)):
            found += [np.array(chunk.ids, np.int64) for chunk in self._bpe.encode_batch_fast(batch)]
        return np.concatenate(found)

    def _description(self) -> dict[str, Any]:
        return {"vocabulary": self._vocabulary, "merges": self._merges}

    def __reduce__(self) -> tuple[Any, ...]:  # the package's object stays here
        return BPE, (int(self.spec.removeprefix("bpe:")), self._vocabulary, self._merges)


def train(texts: Iterable[str], size: int) -> BPE:
    """Return the BPE of a text; it is the same for any blocks that the text comes in.

    Raises:
        InputError: the package `tokenizers` is missing.
    """
    bpe = _new(lambda models: models.BPE())
    from tokenizers import trainers

    alphabet = sorted(byte_names())
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    bpe.train_from_iterator((chunk for text in texts for chunk in _chunks(text)), trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocabulary = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    return BPE(size, vocabulary, [(left, right) for left, right in trained["merges"]])


def byte_names() -> list[str]:
    """Return the character by which GPT-2's files write each byte: itself where it is visible, else one from U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in visible]
    names = {value: chr(value) for value in visible} | {value: chr(0x100 + n) for n, value in enumerate(hidden)}
    return [names[value] for value in range(256)]


def _new(make: Callable[[Any], Any]) -> Any:
    """Return the package's tokenizer around a model, with the cuts that all of npdp's have."""
    try:
        import tokenizers
    except ImportError:
        raise InputError("the tokenizer bpe needs the package tokenizers: pip install 'npdp[text]'") from None
    bpe = tokenizers.Tokenizer(make(tokenizers.models))
    cuts = tokenizers.pre_tokenizers
    bpe.pre_tokenizer = cuts.Sequence([cuts.Split("\n", "merged_with_next"), cuts.ByteLevel(add_prefix_space=False)])
    return bpe


def _chunks(text: str) -> Iterator[str]:
    """Yield pieces of a text; where a line is cut depends on the line alone."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start + CHUNK)
        stop = len(text) if stop < 0 else stop
        last_line = max(start, text.rfind("\n", start, start + CHUNK))
        stop = last_line + CHUNK if stop - last_line > LINE_MAX else stop
        yield text[start:stop]
        start = stop
