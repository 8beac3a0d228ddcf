"""Windows of a text: each once an epoch, from an offset and in an order that are functions of seed and epoch."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from needs import needs_shared_memory
from texts import SAMPLE, SPECS, tokenizer_for, write
from worlds import assert_as_on_one_rank, parameters, run

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError
from npdp.data import DataLoader, sources
from npdp.data.text import Bytes, TextDataset, token_file
from npdp.parallel.shared_data import load_once
from npdp.parallel.world import init

SIZES = st.integers(2, 90), st.integers(1, 20)


def counting(count, context, **options):
    """Return the windows of a text whose tokens are their own places."""
    return TextDataset(np.arange(count, dtype=np.uint16), context, **options)


@given(*SIZES, st.integers(0, 2**64 - 1), st.integers(0, 99))
def test_windows_of_an_epoch_use_each_token_at_most_once_and_labels_follow(count, context, seed, epoch):
    assume(count > context)
    windows = counting(count, context).of_epoch(seed, epoch)
    x, y = windows.take(slice(None))
    assert x.dtype == y.dtype == np.int64 and x.shape == y.shape == (len(windows), context)
    first = x[0, 0]
    assert 0 <= first < context and len(windows) == max(1, count // context - 1)
    np.testing.assert_array_equal(x.ravel(), np.arange(first, first + x.size))
    np.testing.assert_array_equal(y, x + 1)
    assert y.max() < count


@given(*SIZES)
def test_what_is_held_out_begins_at_its_first_token_in_every_epoch_and_leaves_less_than_a_window(count, context):
    assume(count > context)
    windows = counting(count, context, held_out=True)
    for each in (windows, *(windows.of_epoch(3, epoch) for epoch in range(4))):
        x, y = each.take(slice(None))
        assert x[0, 0] == 0 and len(each) == (count - 1) // context and count - 1 - y.max() < context


def test_every_offset_comes_and_seed_and_epoch_alone_say_which():
    windows = counting(100, 7)

    def offsets(seed, epochs):
        return [int(windows.of_epoch(seed, epoch).take(slice(0, 1))[0][0, 0]) for epoch in epochs]

    assert set(offsets(0, range(100))) == set(range(7))
    assert offsets(5, range(20)) == offsets(5, range(20)) != offsets(6, range(20))
    assert offsets(5, [19, 3]) == [offsets(5, range(20))[19], offsets(5, range(20))[3]]
    assert windows.take(slice(0, 1))[0][0, 0] == 0  # and nothing has changed


@given(st.integers(1, 5), st.integers(1, 17), st.integers(1, 9), st.integers(0, 3), st.integers(1, 3))
@settings(deadline=None, max_examples=30, database=None)
def test_each_window_comes_once_an_epoch_over_all_ranks_in_one_order(ranks, batch, context, epoch, accumulate):
    windows = counting(83, context)

    def program():
        loader = DataLoader(windows, batch, shuffle=True, seed=9, accumulate=accumulate)
        loader.set_epoch(epoch)
        return [(x.data.tolist(), y.data.tolist()) for x, y in loader]

    wanted = windows.of_epoch(9, epoch)
    everyones = run(ranks, program)
    alone = run(1, program)[0]
    seen = [window for of_rank in everyones for x, _ in of_rank for window in x]
    assert sorted(seen) == wanted.take(slice(None))[0].tolist()
    for number in range(0, len(alone), accumulate):
        batch_of = [[w for x, _ in each[number : number + accumulate] for w in x] for each in (alone, *everyones)]
        assert batch_of[0] == list(chain(*batch_of[1:]))
    assert all(np.array_equal(np.array(y), np.array(x) + 1) for of_rank in everyones for x, y in of_rank if x)


def test_a_loader_that_does_not_shuffle_gives_the_windows_themselves():
    windows = counting(50, 7)
    for _ in range(2):
        batches = [x.data for x, _ in DataLoader(windows, 4, rank=0, world_size=1)]
        np.testing.assert_array_equal(np.concatenate(batches), windows.take(slice(None))[0])


@pytest.mark.parametrize("rows", [[], [0], [3, 1, 1], slice(2, 5)], ids=str)
def test_take_gives_fresh_windows_in_the_order_asked_for(rows):
    windows = counting(60, 5)
    rows = rows if isinstance(rows, slice) else np.array(rows, np.int64)
    x, y = windows.take(rows)
    np.testing.assert_array_equal(x, np.arange(55).reshape(11, 5)[rows])
    assert x.flags.c_contiguous and x.flags.owndata and y.flags.owndata and (y == x + 1).all()
    with pytest.raises(IndexError, match="row 11: expected 0 to 10"):
        windows.take(np.array([11]))


@pytest.mark.parametrize("spec", SPECS)
def test_bytes_of_labels_are_those_of_their_text(spec):
    text = SAMPLE * 4
    tokenizer = tokenizer_for(spec, text)
    windows = TextDataset(tokenizer.encode(text), 8, held_out=True, tokenizer=tokenizer)
    for start, stop in ((0, None), (0, 1), (2, 5), (3, 3)):
        labels = windows.take(slice(start, stop))[1].ravel()
        whole = b"".join(tokenizer.pieces[token] for token in labels)
        assert windows.label_bytes(start, stop) == len(whole)
    with pytest.raises(ValueError, match="the tokenizer, which was not given"):
        TextDataset(np.arange(9), 3).label_bytes()


def test_fingerprint_and_checksum_see_the_tokens_and_the_context():
    tokens = np.arange(5000, dtype=np.uint16) % 251
    changed = tokens.copy()
    changed[1] += 1
    every = [TextDataset(tokens, 10), TextDataset(changed, 10), TextDataset(tokens, 20)]
    assert len({each.fingerprint() for each in every}) == 3
    assert len({each.labels_checksum() for each in every} - {0}) == 3


@pytest.mark.parametrize("tokens, said", [
    (np.arange(4), "expected at least 5 tokens, a context of 4 and one more, got 4"),
    (np.zeros((3, 9), int), "expected one dimension of whole numbers, got int64 of shape (3, 9)"),
    (np.zeros(9), "expected one dimension of whole numbers, got float64"),
])
def test_tokens_that_make_no_window_are_refused(tokens, said):
    with pytest.raises(InputError) as caught:
        TextDataset(tokens, 4)
    assert said in str(caught.value)


def test_the_end_of_a_text_is_held_out(tmp_path):
    path = write(tmp_path / "a.txt", bytes(range(97, 122)) * 8)  # 200 bytes
    data = sources.load(path, context=9)
    assert data.classes == 256 and isinstance(data.tokenizer, Bytes) and "\n" not in data.source
    assert data.source.endswith("text, bytes (256 tokens), 200 tokens, 19 windows of 9 to train on, 2 to test")
    content = (tmp_path / "a.txt").read_bytes()
    assert bytes(data.test.take(slice(None))[0].ravel().astype(np.uint8)) == content[180:198]
    assert data.train.of_epoch(0, 0).take(slice(None))[1].max() < 256 and len(data.train) == 180 // 9 - 1
    whole = sources.load(path, context=9, test_fraction=0)
    assert whole.test is None and whole.source.endswith("21 windows of 9 to train on, no test part")
    assert [len(sources.load(path, context=9, test_fraction=f).test) for f in (0.05, 0.07, 0.5)] == [1, 1, 11]


@needs_shared_memory
def test_one_rank_of_a_host_makes_the_tokens_and_all_map_them(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", SAMPLE * 40)
    calls, write_to = [], token_file._write_to
    monkeypatch.setattr(token_file, "_write_to", lambda *arguments: calls.append(1) or write_to(*arguments))

    def program():
        data = load_once(init(), lambda: sources.load(path, tokenizer="characters"))
        tokens = data.train._tokens
        return isinstance(tokens.base, np.memmap), data.train.fingerprint(), data.tokenizer.fingerprint(), data.source

    results = run(4, program)
    assert len(calls) == 1 and len(set(results)) == 1 and results[0][0]


@pytest.mark.parametrize("batch, context", [(12, 6), (7, 4)])
def test_training_on_windows_leaves_on_any_number_of_ranks_what_it_leaves_on_one(batch, context):
    tokens = np.frombuffer(SAMPLE.encode(), np.uint8) % 11

    def program(way):
        npdp.manual_seed(2)
        model = nn.Sequential(nn.Embedding(11, 5, dtype=np.float64), nn.Linear(5, 11, dtype=np.float64))
        optimizer = optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        wrapped = way.wrap(model)
        loader = DataLoader(TextDataset(tokens, context), batch, shuffle=True, seed=4)
        for _ in range(3):
            for inputs, labels in loader:
                loss = nn.CrossEntropyLoss()(wrapped(inputs).reshape(-1, 11), labels.data.reshape(-1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return parameters(model)

    assert_as_on_one_rank(program)
