"""Tokenizers: cut text into tokens, numbers from 0, and join them again.

    bytes        256 tokens, any text           "né" -> 110 195 169
    characters   one for each of the text's     "né" -> 40 71
    bpe:4096     byte-level BPE (bpe.py)        "né" -> 1523

Each token stands for some bytes (`pieces`). Decoding is the same for all, and can go token by token: bytes that are no
whole character yet wait for the rest of it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.base.errors import InputError

Tokens = NDArray[np.int64]

CODES = 0x110000  # of Unicode


class Tokenizer(ABC):
    """Base class of tokenizers.

    Attributes:
        spec: what `--tokenizer` calls it.
        pieces: the bytes that each token stands for.
        any_bytes: whether text that is not UTF-8 can be encoded, its bytes as lone surrogates (PEP 383).
    """

    spec: str
    pieces: Sequence[bytes]
    any_bytes = False

    @abstractmethod
    def encode(self, text: str, place: str = "text", first_byte: int = 0) -> Tokens:
        """Return the tokens of a text.

        Args:
            text: any; "" has no tokens.
            place, first_byte: where it stands, for messages.

        Returns:
            (n,) int64.

        Raises:
            InputError: a character has no token: which, and where.
        """

    @abstractmethod
    def _description(self) -> dict[str, Any]:
        """Return what makes this tokenizer again, for JSON."""

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens there are."""
        return len(self.pieces)

    @cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """The number of bytes that each token stands for, (vocabulary_size,)."""
        return np.array([len(piece) for piece in self.pieces], np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; bytes that are no character become U+FFFD.

        Raises:
            IndexError: there is no such token.
        """
        stream = self.stream()
        return stream.feed(tokens) + stream.end()

    def stream(self) -> TextStream:
        """Return a new stream that decodes token by token."""
        return TextStream(self.pieces)

    def to_json(self) -> str:
        """Return this tokenizer as text, from which `from_json` makes it again."""
        return json.dumps({"tokenizer": self.spec, **self._description()})

    def fingerprint(self) -> str:
        """Hash what this tokenizer is; 32 hexadecimal digits, the same on every machine."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()


class TextStream:
    """Text that becomes readable token by token; the last bytes wait until they are a whole character."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces, self._decoder = pieces, codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """Return what these tokens add to the text."""
        return self._decoder.decode(b"".join(map(self._piece, tokens)))

    def end(self) -> str:
        """Return what still waits, as U+FFFD; the stream begins anew."""
        left = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return left

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < len(self._pieces):
            raise IndexError(f"token {token}: expected 0 to {len(self._pieces) - 1}, the tokens of this tokenizer")
        return self._pieces[token]


class Bytes(Tokenizer):
    """Tokenizer whose tokens are the 256 bytes, of UTF-8 where it is text."""

    spec = "bytes"
    pieces = tuple(bytes([value]) for value in range(256))
    any_bytes = True

    def encode(self, text: str, place: str = "text", first_byte: int = 0) -> Tokens:
        """Return the bytes of a text in UTF-8; see `Tokenizer.encode`."""
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int64)

    def _description(self) -> dict[str, Any]:
        return {}


class Characters(Tokenizer):
    """Tokenizer whose tokens are characters, in the order of their code points.

    Args:
        characters: each once.

    Raises:
        ValueError: there are none, or they are not in order.
    """

    spec = "characters"

    def __init__(self, characters: str) -> None:
        codes = _codes(characters)
        if not len(codes) or (np.diff(codes.astype(np.int64)) <= 0).any():
            raise ValueError("characters: expected each once, in the order of their code points")
        self.characters = characters
        self.pieces = [character.encode() for character in characters]
        self._tokens = np.full(int(codes[-1]) + 2, -1, np.int64)  # by code point; the last one for all that are larger
        self._tokens[codes] = np.arange(len(codes))

    def encode(self, text: str, place: str = "text", first_byte: int = 0) -> Tokens:
        """Return the numbers of a text's characters; see `Tokenizer.encode`."""
        tokens = self._tokens[np.minimum(_codes(text), len(self._tokens) - 1)]
        for index in np.flatnonzero(tokens < 0)[:1]:
            byte = first_byte + len(text[:index].encode("utf-8", "surrogatepass"))
            raise InputError(f"{place}, byte {byte}: the character {text[index]!r} is none of the "
                             f"{self.vocabulary_size} that the tokenizer knows")  # fmt: skip
        return tokens

    def _description(self) -> dict[str, Any]:
        return {"characters": self.characters}


def all_characters(texts: Iterable[str]) -> Characters:
    """Return the tokenizer of all characters that occur."""
    occurs = np.zeros(CODES, bool)
    for text in texts:
        occurs[_codes(text)] = True
    return Characters("".join(map(chr, np.flatnonzero(occurs))))


def _codes(text: str) -> NDArray[np.uint32]:
    """Return the code points of a text, (n,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
