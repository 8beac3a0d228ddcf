"""Token files: the tokens of a text in one file, made once, and mapped by whoever trains on it.

    {"format": 1, "dtype": "<u2", "count": 466195, "source": {...}, "tokenizer": {...}, ...}     a line of JSON
    tokens                                                         little-endian uint16, or uint32 from 65537 tokens on

The line's length is a multiple of 64 bytes. To read it without npdp:

    with open(path, "rb") as file:
        header = json.loads(file.readline())
        tokens = np.memmap(path, header["dtype"], "r", file.tell())

`book.txt.bytes.npdp-tokens` lies beside `book.txt`, and `bytes.npdp-tokens` in a folder of texts. Where no file can be
made there, and for python-docs, it is in `$XDG_CACHE_HOME/npdp` (`~/.cache/npdp`). It is made anew when it was cut, or
is of another text (by its size and SHA-256) or by another tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npdp.base import environment
from npdp.base.errors import InputError
from npdp.base.partition import rounded_up
from npdp.base.text_files import TOKENS
from npdp.base.whole_file import whole_file
from npdp.data.datasets import Array
from npdp.data.formats.raw import open_file, shown
from npdp.data.text.source import TextSource, find
from npdp.data.text.tokenizers import Tokenizer
from npdp.data.text.vocabulary import from_json, learn

FORMAT = 1
WANTED = f"a token file of npdp's (format {FORMAT})"
ALIGNMENT = 64  # bytes
SPARE = 32  # characters for numbers that are longer than the 0 in their place
HEADER_MAX = 2**28  # bytes
REQUIRED: dict[str, Callable[[Any], bool]] = {  # what a header must hold, and which values will do
    "format": lambda value: value == FORMAT,
    "dtype": lambda value: value in ("<u2", "<u4"),
    "count": lambda value: type(value) is int and value >= 1,
    "source": lambda value: isinstance(value, dict) and {"bytes", "sha256"} <= value.keys(),
    "fingerprint": lambda value: isinstance(value, str),
    "learned": lambda value: isinstance(value, bool),
    "tokenizer": lambda value: isinstance(value, dict) and isinstance(value.get("tokenizer"), str),
}


class TokenFile(NamedTuple):
    """A token file that has been opened.

    Attributes:
        path: where it is.
        header: what its first line says.
        tokens: (count,) uint16 or uint32, a read-only `np.memmap`.
    """

    path: str
    header: dict[str, Any]
    tokens: Array

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that cut the text, made anew."""
        return from_json(json.dumps(self.header["tokenizer"]))

    @property
    def spec(self) -> str:
        """The name of that tokenizer."""
        return str(self.header["tokenizer"]["tokenizer"])

    def is_of(self, source: TextSource) -> bool:
        """Return whether these are the tokens of a text, which is read where its size is right."""
        made_of = self.header["source"]
        return bool(made_of["bytes"] == source.nbytes and made_of["sha256"] == source.sha256())

    def is_by(self, tokenizer: str | Tokenizer) -> bool:
        """Return whether they are by a tokenizer; one that is only named learns its vocabulary from the text."""
        if isinstance(tokenizer, Tokenizer):
            return bool(self.header["fingerprint"] == tokenizer.fingerprint())
        return self.spec == tokenizer and bool(self.header["learned"])


def tokens_of(source: TextSource, tokenizer: str | Tokenizer) -> TokenFile:
    """Return the tokens of a text, from their file where there is one that is right, else from a new one.

    Args:
        tokenizer: one that there is, or the name of one that is to learn its vocabulary from the text.

    Raises:
        InputError: the text cannot be used, or a file of its tokens be written.
    """
    places = _places(source, tokenizer if isinstance(tokenizer, str) else tokenizer.spec)
    for path in filter(os.path.exists, places):
        try:
            found = open_tokens(path)
        except InputError:  # cut, or none: it is made anew
            continue
        if found.is_by(tokenizer) and found.is_of(source):
            return found
    if isinstance(tokenizer, str):
        return _write(places, source, learn(tokenizer, source), learned=True)
    return _write(places, source, tokenizer, learned=tokenizer.spec == "bytes")


def open_tokens(path: str) -> TokenFile:
    """Return a token file.

    Raises:
        InputError: it is none, or was cut.
    """
    file, size = open_file(path, WANTED)
    with file:
        line = file.readline(HEADER_MAX)
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not all(fits(header.get(name)) for name, fits in REQUIRED.items()):
        raise InputError(f"{path}: expected {WANTED}, got {shown(line)} at its beginning")
    count, dtype = header["count"], np.dtype(header["dtype"])
    wanted = len(line) + count * dtype.itemsize
    if size != wanted:
        raise InputError(f"{path}: expected {wanted} bytes for {count} tokens, got {size}: it was cut, or written to")
    found = TokenFile(path, header, np.memmap(path, dtype, "r", len(line), (count,)))
    if (largest := int(found.tokens.max())) >= (size := found.tokenizer.vocabulary_size):
        raise InputError(f"{path}: expected tokens below {size}, got {largest}: it was written to")
    return found


def open_named(path: str, tokenizer: str | Tokenizer | None) -> TokenFile:
    """Return a token file that the user names, not the text.

    Raises:
        InputError: it is none, was cut, is by another tokenizer than the one asked for, or of another text than that
            which lies beside it.
    """
    found = open_tokens(path)
    asked = tokenizer.spec if isinstance(tokenizer, Tokenizer) else tokenizer
    if asked not in (None, found.spec) or (isinstance(tokenizer, Tokenizer) and not found.is_by(tokenizer)):
        other = "another " * (asked == found.spec)
        raise InputError(f"{path}: the tokens are by the tokenizer {found.spec}, wanted {other}{asked}")
    text = path.removesuffix(f".{_in_name(found.spec)}{TOKENS}")
    if text != path and os.path.isfile(text) and os.path.getsize(text) and not found.is_of(find(text)):
        raise InputError(f"{path}: the tokens are of another text than {text} beside it: name that, they are made anew")
    return found


def _places(source: TextSource, spec: str) -> list[str]:
    """Return where the tokens of a text may lie, the best place first."""
    name, places = _in_name(spec) + TOKENS, []
    if os.path.isdir(source.name):
        places.append(os.path.join(source.name, name))
    elif source.paths:
        places.append(f"{source.name}.{name}")
    where = hashlib.sha256(os.path.realpath(source.name).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    label = f"{os.path.basename(os.path.realpath(source.name))}-{where}" if source.paths else source.name
    with contextlib.suppress(RuntimeError):  # no home
        places.append(str(environment.cache_folder() / f"{label}.{name}"))
    return places


def _in_name(spec: str) -> str:
    return spec.replace(":", "-")


def _write(places: list[str], source: TextSource, tokenizer: Tokenizer, learned: bool) -> TokenFile:
    """Write the tokens of a text to the first place that takes them."""
    why = "no folder"
    for path in places:
        folder = os.path.dirname(os.path.realpath(path))
        try:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):  # a file there cannot be replaced by another
                raise PermissionError(0, "no permission")
            _write_to(path, source, tokenizer, learned)
        except OSError as error:
            why = f"{path}: {error.strerror or error}"
        else:
            return open_tokens(path)
    raise InputError(f"{source.name}: its tokens cannot be written to {why}; $XDG_CACHE_HOME may name another folder")


def _write_to(path: str, source: TextSource, tokenizer: Tokenizer, learned: bool) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocabulary_size <= 2**16 else "<u4")
    made_of: dict[str, Any] = {"name": os.path.basename(source.name), "bytes": 0, "sha256": "0" * 64}
    header = {"format": FORMAT, "dtype": dtype.str, "count": 0, "source": made_of,
              "fingerprint": tokenizer.fingerprint(), "learned": learned, "tokenizer": json.loads(tokenizer.to_json())}
    digest, nbytes = hashlib.sha256(), rounded_up(len(json.dumps(header)) + SPARE + 1, ALIGNMENT)
    with whole_file(path) as file:
        file.write(bytes(nbytes))
        for block in source.blocks():
            tokens = tokenizer.encode(block.text(tokenizer.any_bytes), block.name, block.first_byte)
            file.write(tokens.astype(dtype).data)
            digest.update(block.content)
            header["count"] += len(tokens)
            made_of["bytes"] += len(block.content)
        made_of["sha256"] = digest.hexdigest()
        file.seek(0)
        file.write(json.dumps(header).encode().ljust(nbytes - 1) + b"\n")
