"""Text as a stream of blocks: of a file, of the texts in a folder, or of the documentation that CPython carries.

    folder/a.md   "def f():\n    pass | \n\nx = f()\n"     a block ends before a line end, after 1 MiB at the latest
                  "\n"                                    between two texts
    folder/b.py   "..."

Nothing holds more than two blocks: the text may be larger than memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from typing import IO, NamedTuple

from npdp.base.errors import InputError
from npdp.base.text_files import PYTHON_DOCS, TEXT_SUFFIXES, text_files
from npdp.data.formats.raw import open_file, status

BLOCK_BYTES = 2**20
CHARACTER_BYTES_MAX = 4  # of UTF-8
SEPARATOR = b"\n"
WANTED = "a text"


class Block(NamedTuple):
    """Consecutive bytes of a text.

    Attributes:
        name: the file, for messages.
        first_byte: where in the file they begin.
        content: the bytes.
    """

    name: str
    first_byte: int
    content: bytes

    def text(self, any_bytes: bool) -> str:
        """Return the characters; where `any_bytes`, what is not UTF-8 becomes lone surrogates (PEP 383).

        Raises:
            InputError: a byte is not UTF-8: file and place.
        """
        try:
            return self.content.decode("utf-8", "surrogateescape" if any_bytes else "strict")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}, byte {self.first_byte + error.start}: expected UTF-8 text, got byte "
                             f"0x{self.content[error.start]:02x}; the tokenizer bytes takes any") from None  # fmt: skip


class TextSource(NamedTuple):
    """Text that can be read any number of times.

    Attributes:
        name: as the user wrote it.
        paths: its files, in the order of reading.
        content: the text itself where it comes from no file.
    """

    name: str
    paths: tuple[str, ...]
    content: bytes = b""

    @property
    def nbytes(self) -> int:
        """The bytes of all blocks."""
        between = len(SEPARATOR) * max(0, len(self.paths) - 1)
        return len(self.content) + between + sum(os.path.getsize(path) for path in self.paths)

    def sha256(self) -> str:
        """Return the checksum of all blocks; of one file, what `sha256sum` says."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block.content)
        return digest.hexdigest()

    def blocks(self) -> Iterator[Block]:
        """Yield the text from its beginning.

        Raises:
            InputError: a file cannot be read.
        """
        if self.content:
            yield from _blocks(self.name, io.BytesIO(self.content))
        for number, path in enumerate(self.paths):
            if number:
                yield Block(path, 0, SEPARATOR)
            with open_file(path, WANTED)[0] as file:
                yield from _blocks(path, file)


def find(spec: str) -> TextSource:
    """Return the text of a name, a file or a folder; empty files of a folder are left out.

    Raises:
        InputError: there is none, or nothing in it.
    """
    if spec == PYTHON_DOCS:
        return TextSource(spec, (), _python_docs())
    found = status(spec)
    if found is None or not stat.S_ISDIR(found.st_mode):
        open_file(spec, WANTED)[0].close()
        return TextSource(spec, (spec,))
    paths = tuple(path for path in text_files(spec) if os.path.getsize(path))
    if not paths:
        raise InputError(f"{spec}: expected texts ({', '.join(TEXT_SUFFIXES)}), got none that is not empty")
    return TextSource(spec, paths)


def _python_docs() -> bytes:
    """Return the language reference as `help()` shows it, topic after topic: 0.5 MB, the same for one CPython."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(f"{PYTHON_DOCS}: this Python carries no documentation (pydoc_data.topics)") from None
    return SEPARATOR.join(topics[name].encode() for name in sorted(topics))


def _blocks(name: str, file: IO[bytes]) -> Iterator[Block]:
    first, rest = 0, b""
    while new := file.read(BLOCK_BYTES):
        rest += new
        stop = _end_of_block(rest)
        yield Block(name, first, rest[:stop])
        first, rest = first + stop, rest[stop:]
    if rest:
        yield Block(name, first, rest)


def _end_of_block(content: bytes) -> int:
    """Return where to cut: before the last line end, or where there is none before the last character."""
    line = content.rfind(b"\n")
    if line > 0:
        return line
    last = len(content) - 1
    begins = (at for at in range(last, last - CHARACTER_BYTES_MAX, -1) if at > 0 and content[at] & 0xC0 != 0x80)
    return next(begins, len(content))
