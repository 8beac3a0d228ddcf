"""Text as data: from files to windows of tokens.

    source.py ── tokenizers.py, bpe.py ── token_file.py ── windows.py
    blocks of    tokens: bytes,           mapped, made     (context tokens,
    a text       characters, BPE          once             the same shifted by one)
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from npdp.base.errors import InputError
from npdp.base.text_files import PYTHON_DOCS, TOKENS, is_text
from npdp.data.text.source import find
from npdp.data.text.token_file import TokenFile, open_named, tokens_of
from npdp.data.text.tokenizers import Bytes, Characters, TextStream, Tokenizer
from npdp.data.text.vocabulary import checked_spec, from_json
from npdp.data.text.windows import TextDataset

__all__ = ["PYTHON_DOCS", "Bytes", "Characters", "TextDataset", "TextSplit", "TextStream", "Tokenizer", "from_json",
           "is_text", "load"]  # fmt: skip

TOKENIZER, CONTEXT, HELD_OUT = "bytes", 64, 0.1  # where nobody says


class TextSplit(NamedTuple):
    """A text ready to train on.

    Attributes:
        train: its beginning.
        test: its end, which is held out; None where nothing is.
        tokenizer: what cut it.
        source: one line that says what this is.
    """

    train: TextDataset
    test: TextDataset | None
    tokenizer: Tokenizer
    source: str


def load(spec: str, tokenizer: str | Tokenizer | None = None, context: int | None = None,
         test_fraction: float | None = None) -> TextSplit:
    """Load a text and hold out its end.

    Args:
        spec: "python-docs", or the path of a text, a folder of texts or a token file.
        tokenizer: "bytes" (default), "characters" or "bpe:N", with a vocabulary of this text; or one that there is.
        context: tokens of a window, 64 by default.
        test_fraction: ceil(test_fraction * tokens) are held out; 0.1 by default.

    Raises:
        InputError: the text cannot be used, in one line: file, place, wanted, got.
    """
    context = CONTEXT if context is None else context
    held_out = HELD_OUT if test_fraction is None else test_fraction
    if isinstance(tokenizer, str):
        checked_spec(tokenizer)
    made = _tokens(spec, tokenizer)
    cutter, count = made.tokenizer, len(made.tokens)
    first_test = count - ceil(round(held_out * count, 6))
    train = _part(spec, made, "what is left to train on", 0, first_test, context, cutter)
    test = _part(spec, made, "the held-out part", first_test, count, context, cutter) if first_test < count else None
    parts = f"{len(train)} windows of {context} to train on, " + (f"{len(test)} to test" if test else "no test part")
    cut = f"{cutter.spec} ({cutter.vocabulary_size} tokens)"
    return TextSplit(train, test, cutter, f"{spec}: text, {cut}, {count} tokens, {parts}")


def _tokens(spec: str, tokenizer: str | Tokenizer | None) -> TokenFile:
    if spec.endswith(TOKENS):
        return open_named(spec, tokenizer)
    return tokens_of(find(spec), tokenizer or TOKENIZER)


def _part(
    spec: str, made: TokenFile, what: str, start: int, stop: int, context: int, cutter: Tokenizer
) -> TextDataset:
    try:
        return TextDataset(made.tokens[start:stop], context, held_out=start > 0, tokenizer=cutter)
    except InputError as error:
        of = f"{stop - start} of {len(made.tokens)} tokens"
        raise InputError(f"{spec}: {what}, {of}, is too short: {error}") from None
