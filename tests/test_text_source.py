"""Text as a stream of blocks: every byte once, in one order, whatever the blocks; what is no text is refused."""

import hashlib
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import write

from npdp.base.errors import InputError
from npdp.data import sources
from npdp.data.text import is_text, source
from npdp.data.text.source import TextSource, find


def blocks_of(content, size):
    """Return the blocks of a text that is read so many bytes at a time."""
    before, source.BLOCK_BYTES = source.BLOCK_BYTES, size
    try:
        return list(TextSource("t", (), content).blocks())
    finally:
        source.BLOCK_BYTES = before


TEXTS = st.text("a\n中🙂", min_size=1, max_size=40).map(str.encode)


@given(st.binary(min_size=1, max_size=80) | TEXTS, st.integers(1, 12))
def test_blocks_are_the_bytes_in_order_and_not_much_longer_than_asked(content, size):
    blocks = blocks_of(content, size)
    assert b"".join(block.content for block in blocks) == content
    assert all(0 < len(block.content) <= 2 * size + 4 for block in blocks)
    for block in blocks:
        assert content[block.first_byte :].startswith(block.content)


@given(st.text("ab\n中🙂", min_size=1, max_size=60), st.integers(4, 12))
def test_a_block_of_text_is_text_and_begins_at_a_line_end_where_there_is_one(text, size):
    blocks = blocks_of(text.encode(), size)
    assert "".join(block.text(any_bytes=False) for block in blocks) == text
    for before, block in pairwise(blocks):
        assert block.content.startswith(b"\n") or b"\n" not in before.content[1:]


def test_a_folder_is_read_in_the_order_of_its_paths_with_a_line_end_between(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.RST", "a.py", "empty.py", ".hidden.txt", ".git/x.txt", "data.bin", "x.csv"):
        write(tmp_path / name, "" if name == "empty.py" else name)
    found = find(str(tmp_path))
    content = b"".join(block.content for block in found.blocks())
    assert content == b"a.py\na/b/c.RST\na/z.md\nb.txt"
    assert found.nbytes == len(content) and found.sha256() == hashlib.sha256(content).hexdigest()


def test_one_file_is_read_as_it_is(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf\r\n\x00\xff")
    assert find(path).sha256() == hashlib.sha256(b"\xef\xbb\xbf\r\n\x00\xff").hexdigest()


def test_the_documentation_of_python_is_the_same_each_time():
    first, second = find("python-docs"), find("python-docs")
    assert first.sha256() == second.sha256() and first.nbytes > 300_000
    assert all(block.text(any_bytes=False) for block in first.blocks())


@pytest.mark.parametrize("content, byte, value", [
    (b"abc\xff\n", 3, "ff"), ("é".encode()[:1], 0, "c3"), (b"\n" * 9 + b"\x80", 9, "80")
])  # fmt: skip
def test_what_is_not_utf8_is_named_by_file_and_byte(tmp_path, monkeypatch, content, byte, value):
    monkeypatch.setattr(source, "BLOCK_BYTES", 4)
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(InputError, match=rf"a\.txt, byte {byte}: expected UTF-8 text, got byte 0x{value}; "):
        [block.text(any_bytes=False) for block in find(path).blocks()]
    assert "".join(b.text(any_bytes=True) for b in find(path).blocks()).encode("utf-8", "surrogateescape") == content


def test_which_names_are_text(tmp_path):
    write(tmp_path / "texts" / "a" / "b.md", "x")
    write(tmp_path / "tables" / "a.csv", "1")
    assert all(map(is_text, ("python-docs", "book.TXT", "a/b.py", "c.npdp-tokens", str(tmp_path / "texts"))))
    assert not any(map(is_text, ("digits", "a.csv", "a", str(tmp_path / "tables"), str(tmp_path / "missing"))))


def test_a_folder_of_a_data_set_is_none_of_texts_and_a_built_in_name_is_no_folder(tmp_path, monkeypatch):
    from data_files import idx_folder

    write(tmp_path / "README.md", "what this is")
    assert sources.load(idx_folder(tmp_path)).tokenizer is None
    write(tmp_path / "digits" / "a.txt", "a text" * 200)
    monkeypatch.chdir(tmp_path)
    assert sources.load("digits").tokenizer is None and sources.load("./digits").tokenizer is not None


@pytest.mark.parametrize("make, said", [
    (lambda folder: str(folder / "missing.txt"), "missing.txt: expected a text, found nothing of that name"),
    (lambda folder: write(folder / "empty.txt", ""), "empty.txt: expected a text, got an empty file"),
    (lambda folder: os.path.dirname(write(folder / "a" / "empty.md", "")), "got none that is not empty"),
    (lambda folder: os.path.dirname(write(folder / "b" / "data.bin", "x")), "or texts (.txt, .text, "),
])  # fmt: skip
def test_where_there_is_no_text_it_is_said_in_one_line(tmp_path, make, said):
    with pytest.raises(InputError) as caught:
        sources.load(make(tmp_path))
    assert said in str(caught.value) and "\n" not in str(caught.value)
