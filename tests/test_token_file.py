"""Token files: made once, readable without npdp, and made anew where they do not belong to text and tokenizer."""

import hashlib
import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import SAMPLE, SPECS, tokenizer_for, write

from npdp.base.errors import InputError
from npdp.base.text_files import TOKENS
from npdp.data.text import source, token_file, vocabulary
from npdp.data.text.source import find
from npdp.data.text.token_file import open_named, open_tokens, tokens_of


def made(path, tokenizer="bytes"):
    """Return (tokens, whether a file was written) of a text."""
    writes, write_to = [], token_file._write_to
    token_file._write_to = lambda *arguments: writes.append(1) or write_to(*arguments)
    try:
        return tokens_of(find(path), tokenizer), bool(writes)
    finally:
        token_file._write_to = write_to


@pytest.mark.parametrize("spec", SPECS)
@given(st.text(min_size=1, max_size=200), st.integers(4, 50))
@settings(deadline=None, max_examples=30)
def test_tokens_in_the_file_are_those_of_the_text(tmp_path_factory, spec, text, block):
    path = write(tmp_path_factory.mktemp("t") / "a.txt", text)
    before, source.BLOCK_BYTES = source.BLOCK_BYTES, block
    try:
        found, _ = made(path, tokenizer_for(spec, text))
    finally:
        source.BLOCK_BYTES = before
    assert found.tokenizer.decode(found.tokens.tolist()) == text
    assert found.tokens.dtype == np.uint16 and not found.tokens.flags.writeable


@pytest.mark.parametrize("spec", SPECS)
def test_it_is_made_once_and_lies_beside_the_text(tmp_path, spec):
    path = write(tmp_path / "book.txt", SAMPLE)
    first, written = made(path, spec)
    again, twice = made(path, spec)
    assert written and not twice and first.path == again.path == f"{path}.{spec.replace(':', '-')}{TOKENS}"
    assert first.tokens.tolist() == again.tokens.tolist() and sorted(os.listdir(tmp_path)) == sorted(
        ["book.txt", os.path.basename(first.path)])  # fmt: skip


def test_it_can_be_read_without_npdp(tmp_path):
    text = SAMPLE
    path = made(write(tmp_path / "book.txt", text))[0].path
    with open(path, "rb") as file:
        header = json.loads(file.readline())
        tokens = np.memmap(path, header["dtype"], "r", file.tell())
        assert file.tell() % 64 == 0
    assert bytes(tokens.astype(np.uint8)) == text.encode() and header["count"] == len(tokens)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert header["source"] == {"name": "book.txt", "bytes": len(text.encode()), "sha256": sha256}


def test_more_tokens_than_two_bytes_count_are_four_bytes_each(tmp_path):
    text = "".join(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0xE000 + 0x4000)]))
    found, _ = made(write(tmp_path / "a.txt", text), "characters")
    assert found.tokens.dtype == np.uint32 and found.tokens[-1] == len(text) - 1 == found.tokenizer.vocabulary_size - 1


CHANGES = {
    "a cut": lambda path, tokens: os.truncate(tokens, os.path.getsize(tokens) - 1),
    "a cut in the header": lambda path, tokens: os.truncate(tokens, 100),
    "nothing left": lambda path, tokens: os.truncate(tokens, 0),
    "more than there was": lambda path, tokens: Path(tokens).write_bytes(Path(tokens).read_bytes() + b"xx"),
    "another text": lambda path, tokens: write(Path(path), SAMPLE + "x"),
    "another text of that size": lambda path, tokens: write(Path(path), "g" + SAMPLE[1:]),
    "something else": lambda path, tokens: write(Path(tokens), "what is this?"),
    "JSON of something else": lambda path, tokens: write(Path(tokens), '{"format": 1}\n'),
    "another format": lambda path, tokens: write(
        Path(tokens), Path(tokens).read_bytes().replace(b'"format": 1', b'"format": 2')),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_made_anew_after(tmp_path, change):
    path = write(tmp_path / "book.txt", SAMPLE)
    CHANGES[change](path, made(path)[0].path)
    found, written = made(path)
    assert written and bytes(found.tokens.astype(np.uint8)) == Path(path).read_bytes()
    assert not made(path)[1]


def test_it_is_made_anew_by_another_tokenizer_of_that_name(tmp_path):
    path = write(tmp_path / "book.txt", "abc")
    assert made(path, "characters")[0].tokens.tolist() == [0, 1, 2]
    other = tokenizer_for("characters", "abcd")
    found, written = made(path, other)
    assert written and found.tokenizer.fingerprint() == other.fingerprint() and not made(path, other)[1]
    found, written = made(path, "characters")
    assert written and found.tokens.tolist() == [0, 1, 2]


def test_each_tokenizer_has_a_file_of_its_own(tmp_path):
    path = write(tmp_path / "book.txt", SAMPLE)
    assert [made(path, spec)[1] for spec in ("bytes", "characters") * 2] == [True, True, False, False]


def test_a_map_of_a_file_that_is_made_anew_keeps_its_tokens(tmp_path):
    path = write(tmp_path / "book.txt", SAMPLE)
    first, _ = made(path)
    before = first.tokens.tolist()
    write(tmp_path / "book.txt", "z" * len(SAMPLE.encode()))
    assert made(path)[0].tokens[0] == ord("z") and first.tokens.tolist() == before


def test_a_folder_has_its_tokens_inside_and_what_is_in_no_file_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "texts" / "a.txt", "abc")
    assert made(str(tmp_path / "texts"))[0].path == str(tmp_path / "texts" / f"bytes{TOKENS}")
    assert not made(str(tmp_path / "texts"))[1]
    assert made("python-docs")[0].path == str(tmp_path / "cache" / "npdp" / f"python-docs.bytes{TOKENS}")
    assert not made("python-docs")[1]


def test_where_the_texts_folder_takes_no_file_it_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "data" / "book.txt", SAMPLE)
    twin = write(tmp_path / "data2" / "book.txt", SAMPLE[:-1])
    access = os.access
    monkeypatch.setattr(os, "access", lambda folder, how: "data" not in str(folder) and access(folder, how))
    found, written = made(path)
    assert written and found.path.startswith(str(tmp_path / "cache" / "npdp" / "book.txt-")) and not made(path)[1]
    assert made(twin)[0].path != found.path
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    os.unlink(found.path)
    with pytest.raises(InputError, match="book.txt: its tokens cannot be written to .*: no permission; .XDG"):
        made(path)


@pytest.mark.parametrize("fails", ["encode", "disk"])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(source, "BLOCK_BYTES", 16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "book.txt", SAMPLE + "?")
    if fails == "disk":
        monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    tokenizer = "characters" if fails == "disk" else tokenizer_for("characters", "")
    said = "No space left" if fails == "disk" else r"book.txt, byte 171: the character '\?'"
    with pytest.raises(InputError, match=said):
        made(path, tokenizer)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["book.txt"]


def test_a_file_that_is_named_itself_is_used_or_refused(tmp_path):
    path = write(tmp_path / "book.txt", SAMPLE)
    tokens = made(path)[0].path
    moved = write(tmp_path / "elsewhere" / f"x{TOKENS}", Path(tokens).read_bytes())
    for name in (tokens, moved):
        for tokenizer in (None, "bytes", tokenizer_for("bytes", "")):
            assert bytes(open_named(name, tokenizer).tokens.astype(np.uint8)) == SAMPLE.encode()
        with pytest.raises(InputError, match="are by the tokenizer bytes, wanted characters"):
            open_named(name, "characters")
    write(tmp_path / "book.txt", "g" + SAMPLE[1:])
    with pytest.raises(InputError, match="the tokens are of another text than .*book.txt beside it"):
        open_named(tokens, None)
    os.truncate(moved, os.path.getsize(moved) - 2)
    with pytest.raises(InputError, match="expected .* bytes for 171 tokens, got .*: it was cut"):
        open_named(moved, None)
    with pytest.raises(InputError, match=r"expected a token file of npdp's \(format 1\), got b'gef"):
        open_tokens(path)


def test_a_named_file_by_another_vocabulary_is_refused(tmp_path):
    tokens = made(write(tmp_path / "book.txt", "abc"), "characters")[0].path
    with pytest.raises(InputError, match="by the tokenizer characters, wanted another characters"):
        open_named(tokens, tokenizer_for("characters", "abcd"))


@pytest.mark.parametrize("spec", SPECS)
def test_a_text_larger_than_memory_is_read_in_blocks(tmp_path, monkeypatch, spec):
    monkeypatch.setattr(source, "BLOCK_BYTES", 2**15)
    path = write(tmp_path / "book.txt", SAMPLE * 25_000)
    assert os.path.getsize(path) > 4_000_000
    vocabulary.learn(spec, find(write(tmp_path / "warm.txt", SAMPLE)))
    tracemalloc.start()
    try:
        found, written = made(path, spec)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written and peak < 2_500_000  # Characters looks at 1.1 MB of code points
    assert found.tokenizer.token_bytes[found.tokens[:100_000]].sum() > 0


def test_the_programs_of_the_page_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(write(tmp_path / "book.txt", SAMPLE))
    page = (Path(__file__).parent.parent / "docs" / "text.md").read_text()
    trained, read = {}, {}
    for program, names in zip(re.findall(r"```python\n(.*?)```", page, re.S), (trained, read), strict=True):
        exec(program, names)
    assert trained["inputs"].shape == (12, 64) and bytes(read["tokens"].astype(np.uint8)) == SAMPLE.encode()
