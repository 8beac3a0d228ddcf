"""Tokenizers made from a text, by the name that `--tokenizer` gives them, and from their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from npdp.base.errors import InputError
from npdp.data.text.bpe import BPE, train
from npdp.data.text.source import TextSource
from npdp.data.text.tokenizers import Bytes, Characters, Tokenizer, all_characters

BPE_MIN, BPE_MAX = 257, 2**20  # tokens: the bytes and one merge; more than any model has rows for


def checked_spec(spec: str) -> str:
    """Return the name of a tokenizer; InputError where there is none of that name."""
    size = re.fullmatch(r"bpe:([1-9]\d{0,8})", spec, re.ASCII)
    if spec in ("bytes", "characters") or (size and BPE_MIN <= int(size[1]) <= BPE_MAX):
        return spec
    raise InputError(f"tokenizer: expected bytes, characters or bpe:N with N from {BPE_MIN} to {BPE_MAX}, got {spec}")


def learn(spec: str, source: TextSource) -> Tokenizer:
    """Return the tokenizer of that name for a text, which is read once; for `bytes` it is not.

    The vocabulary is that of the whole text, held-out part included: it says how text is cut, not what comes next.

    Raises:
        InputError: the text is not UTF-8, or the package for BPE is missing.
    """
    if spec == "bytes":
        return Bytes()
    return all_characters(_texts(source)) if spec == "characters" else train(_texts(source), int(spec[4:]))


def from_json(text: str) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.to_json` described.

    Raises:
        InputError: this is no such description, or the package for BPE is missing.
    """
    try:
        description = json.loads(text)
        spec = checked_spec(description["tokenizer"])
        if spec == "bytes":
            return Bytes()
        if spec == "characters":
            return Characters(description["characters"])
        merges = [(left, right) for left, right in description["merges"]]
        return BPE(int(spec[4:]), description["vocabulary"], merges)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"expected a tokenizer of npdp's, as its to_json gives it, got {error!r}") from None


def _texts(source: TextSource) -> Iterator[str]:
    return (block.text(any_bytes=False) for block in source.blocks())
