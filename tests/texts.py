"""Texts for tests, and tokenizers of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from npdp.data.text import Bytes, Characters, Tokenizer
from npdp.data.text.bpe import train

SAMPLE = "def ä(x):\n    return x, 'naïve 中文'\n\n\nprint(ä(1))\r\n" * 3


def has_tokenizers() -> bool:
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return False
    return True


needs_bpe = pytest.mark.skipif(not has_tokenizers(), reason="byte-level BPE needs the package tokenizers")
SPECS = ("bytes", "characters", pytest.param("bpe:300", marks=needs_bpe))


def tokenizer_for(spec: str, text: str) -> Tokenizer:
    """Return a tokenizer that knows the characters of a text; BPE's vocabulary is that of the sample."""
    if spec == "bytes":
        return Bytes()
    return Characters("".join(sorted(set(text + SAMPLE)))) if spec == "characters" else train([SAMPLE], int(spec[4:]))


def write(path: Path, content: bytes | str) -> str:
    """Write a file, and the folders it is in; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)
