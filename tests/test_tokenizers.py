"""Tokenizers: text is what it was after encoding and decoding, at once or token by token; JSON makes them again."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from texts import SAMPLE, SPECS, needs_bpe, tokenizer_for

from npdp.base.errors import InputError
from npdp.data.text import Bytes, Characters, from_json
from npdp.data.text.bpe import BPE, byte_names, train
from npdp.data.text.tokenizers import all_characters
from npdp.data.text.vocabulary import checked_spec

texts = st.text(max_size=60) | st.lists(st.sampled_from("ab \n\r\tä中🙂"), max_size=60).map("".join)


@pytest.mark.parametrize("spec", SPECS)
@given(texts)
@settings(deadline=None, max_examples=60)
def test_a_text_is_what_it_was_after_encoding_and_decoding(spec, text):
    tokenizer = tokenizer_for(spec, text)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int64 and tokens.ndim == 1
    assert tokenizer.decode(tokens) == text
    assert tokenizer.token_bytes[tokens].sum() == len(text.encode())
    assert not len(tokens) or 0 <= tokens.min() <= tokens.max() < tokenizer.vocabulary_size


@pytest.mark.parametrize("spec", SPECS)
@given(texts)
@settings(deadline=None, max_examples=60)
def test_a_stream_gives_whole_characters_as_soon_as_they_are_there(spec, text):
    tokenizer = tokenizer_for(spec, text)
    stream, tokens, seen = tokenizer.stream(), tokenizer.encode(text), ""
    for number, token in enumerate(tokens.tolist(), 1):
        seen += stream.feed([token])
        so_far = tokenizer.token_bytes[tokens[:number]].sum()
        assert text.startswith(seen) and so_far - len(seen.encode()) < 4
    assert seen + stream.end() == text


@given(st.lists(st.integers(0, 255), max_size=40))
def test_bytes_that_are_no_text_are_decoded_alike_at_once_and_in_a_stream(values):
    stream, tokenizer = Bytes().stream(), Bytes()
    streamed = "".join(stream.feed([value]) for value in values) + stream.end()
    assert streamed == tokenizer.decode(values) == bytes(values).decode("utf-8", "replace")
    assert tokenizer.encode(bytes(values).decode("utf-8", "surrogateescape")).tolist() == values


@pytest.mark.parametrize("spec", SPECS)
def test_json_makes_a_tokenizer_again_with_the_same_fingerprint(spec):
    tokenizer = tokenizer_for(spec, "")
    again = from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer) and again.spec == tokenizer.spec == spec
    assert again.fingerprint() == tokenizer.fingerprint() and again.to_json() == tokenizer.to_json()
    assert again.encode(SAMPLE).tolist() == tokenizer.encode(SAMPLE).tolist()
    assert json.loads(tokenizer.to_json())["tokenizer"] == spec


def test_fingerprints_tell_vocabularies_apart():
    assert len({each.fingerprint() for each in (Bytes(), Characters("ab"), Characters("ac"), Characters("a"))}) == 4
    assert Characters("aé").fingerprint() == "85707745cab1333ed7c4782040c9cd1e"  # on every machine


@given(st.lists(texts, min_size=1))
def test_characters_are_those_that_occur_in_the_order_of_their_code_points(blocks):
    text = "".join(blocks)
    assume(text)
    assert all_characters(blocks).characters == "".join(sorted(set(text)))


@given(st.text(min_size=1, max_size=5), st.text(max_size=20), st.integers(0, 1000))
def test_an_unknown_character_is_named_with_its_place(known, text, first_byte):
    tokenizer = Characters("".join(sorted(set(known))))
    wrong = next((index for index, character in enumerate(text) if character not in known), None)
    if wrong is None:
        tokenizer.encode(text)
        return
    with pytest.raises(InputError) as caught:
        tokenizer.encode(text, "prompt", first_byte)
    byte = first_byte + len(text[:wrong].encode())
    assert str(caught.value).startswith(f"prompt, byte {byte}: the character {text[wrong]!r} is none of the ")


def test_a_token_that_is_none_is_refused_by_number():
    for token in (-1, 2):
        with pytest.raises(IndexError, match=f"token {token}: expected 0 to 1"):
            Characters("ab").decode([token])


@pytest.mark.parametrize("spec", ["", "byte", "bpe", "bpe:", "bpe:256", "bpe:0300", "bpe:-1", "bpe:٣٠٠", "bpe:9999999"])
def test_names_of_no_tokenizer_are_refused(spec):
    with pytest.raises(InputError, match="tokenizer: expected bytes, characters or bpe:N with N from 257 to"):
        checked_spec(spec)


@pytest.mark.parametrize("text", [
    "", "[]", "1", "{}", '{"tokenizer": 3}', '{"tokenizer": "words"}', '{"tokenizer": "characters"}',
    '{"tokenizer": "characters", "characters": ""}', '{"tokenizer": "characters", "characters": "ba"}',
    '{"tokenizer": "characters", "characters": "aa"}', '{"tokenizer": "bpe:300", "vocabulary": [], "merges": []}',
])  # fmt: skip
def test_json_of_no_tokenizer_is_refused(text):
    with pytest.raises(InputError, match="expected"):
        from_json(text)


@needs_bpe
@pytest.mark.parametrize("lost", ["th", "he", "the"])
def test_a_bpe_whose_merges_take_or_give_no_token_is_refused(lost):
    merges, vocabulary = [["t", "h"], ["h", "e"], ["th", "e"]], [*byte_names(), "th", "he", "the"]
    assert from_json(json.dumps({"tokenizer": "bpe:259", "vocabulary": vocabulary, "merges": merges}))
    vocabulary[vocabulary.index(lost)] = "zz"
    with pytest.raises(InputError, match="all that merges take and give"):
        from_json(json.dumps({"tokenizer": "bpe:259", "vocabulary": vocabulary, "merges": merges}))


@needs_bpe
def test_a_line_of_a_megabyte_is_one_of_many_words_and_the_same_in_blocks_as_at_once():
    lines = ["acgt" * 2**18, "x y", "ab" * 5000, "c" * 8100, "end"]
    blocks = [lines[0], *("\n" + line for line in lines[1:])]
    whole = train(["\n".join(lines)], 300)
    assert train(blocks, 300).to_json() == whole.to_json()
    assert np.concatenate([whole.encode(block) for block in blocks]).tolist() == whole.encode("\n".join(lines)).tolist()
    assert whole.decode(whole.encode("\n".join(lines))) == "\n".join(lines)


@needs_bpe
def test_bpe_is_the_same_in_blocks_that_begin_at_line_ends_as_at_once():
    whole = train([SAMPLE * 50], 400)
    lines = (SAMPLE * 50).split("\n")
    blocks = [lines[0], *("\n" + line for line in lines[1:])]
    assert train(blocks, 400).to_json() == whole.to_json()
    assert np.concatenate([whole.encode(block) for block in blocks]).tolist() == whole.encode(SAMPLE * 50).tolist()


@needs_bpe
def test_bpe_is_the_same_in_every_process_and_merges_what_is_frequent():
    program = "import sys\nfrom npdp.data.text.bpe import train\nprint(train([sys.argv[1]], 400).fingerprint())"
    mine = train([SAMPLE * 50], 400)
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program, SAMPLE * 50], capture_output=True, text=True)
        assert done.stdout == f"{mine.fingerprint()}\n", done.stderr
    assert 300 > mine.vocabulary_size > 256  # the sample has no more pairs
    assert len(mine.encode(SAMPLE)) < len(SAMPLE.encode()) / 2


@needs_bpe
def test_bpe_that_is_no_bpe_is_refused():
    with pytest.raises(ValueError, match="all that merges take and give"):
        BPE(300, byte_names(), [("a", "b")])
    with pytest.raises(ValueError, match="a token for each of the 256 bytes"):
        BPE(300, ["a"], [])


@needs_bpe
def test_bpe_refuses_a_prompt_that_is_no_text():
    with pytest.raises(InputError, match=r"prompt, byte 2: expected UTF-8 text, got '\\udcff'"):
        train([SAMPLE], 300).encode("é\udcff", "prompt")


def test_bpe_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"needs the package tokenizers: pip install 'npdp\[text\]'"):
        train([SAMPLE], 300)


def test_bytes_are_written_as_gpt2_writes_them():
    names = "".join(byte_names())
    assert len(set(names)) == 256 and names[ord(" ")] == "Ġ" and names[ord("\n")] == "Ċ" and names[ord("a")] == "a"
