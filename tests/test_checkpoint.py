"""Checkpoints in a program of one's own: the file, and all that goes on from it, at any number of ranks."""

import json
import zipfile
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import FEATURES, Layers, Parallel, Plain, assert_close, criterion, loader, parameters, run

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError, OutputError
from npdp.data import ArrayDataset, DataLoader
from npdp.elastic import checkpoint

OPTIMIZERS = {
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.2, momentum=0.9),
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.2),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.05),
    "adamw": lambda parameters: optim.AdamW(parameters, lr=lambda iteration: 0.1 / (1 + iteration)),
}


class EndedError(Exception):
    """The end of a program, in the middle of its training."""


def user_program(path, way, kind, *, end_after=None, resume=False, epochs=3, arrays=False, **options):
    """A loop as a user writes it, with a scheduler; ends by an exception after so many updates, where told to."""
    npdp.manual_seed(4)
    middle = [nn.BatchNorm1d(4, dtype=np.float64)] if options.get("accumulate", 1) == 1 else []  # of micro-batches
    middle += [nn.Tanh(), nn.Dropout(0.4)]
    first = nn.Linear(FEATURES, 4, bias=False, dtype=np.float64)  # Adam would scale up a bias's rounding before a norm
    model = Layers(first, *middle, nn.Linear(4, 3, dtype=np.float64))
    optimizer = OPTIMIZERS[kind](model.parameters())
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if kind == "momentum" else None
    model = way.wrap(model)
    batches = loader(5, **options)
    if resume:
        more = npdp.load_checkpoint(path, model, optimizer, batches)
        if scheduler:
            scheduler.load_state_dict(more["scheduler"])
        assert more["note"] == ("anything", 3)
    for epoch in range(batches.epoch, epochs):
        batches.set_epoch(epoch)
        for number, (inputs, labels) in enumerate(batches, 1):
            loss = criterion(model(inputs.numpy() if arrays else inputs), labels)
            loss.backward()
            if number % batches.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                if end_after == optimizer.iteration:
                    of_scheduler = {"scheduler": scheduler.state_dict()} if scheduler else {}
                    npdp.save_checkpoint(path, model, optimizer, batches, note=("anything", 3), **of_scheduler)
                    raise EndedError
        if scheduler:
            scheduler.step()
    return parameters(model) | {name: np.array(buffer.data) for name, buffer in model.named_buffers()}


def on(ranks, *arguments, **options):
    return run(ranks, lambda: user_program(*arguments, **options))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(OPTIMIZERS)), ranks=st.sampled_from([1, 2, 3]), then=st.sampled_from([1, 2, 3, 4]),
    end_after=st.integers(1, 9), accumulate=st.integers(1, 3), arrays=st.booleans(),
)  # fmt: skip
def test_a_program_that_ends_anywhere_goes_on_to_what_it_gives_undisturbed(
    tmp_path_factory, kind, ranks, then, end_after, accumulate, arrays
):
    path = tmp_path_factory.mktemp("kept") / "last.npz"
    accumulate = 1 if arrays else accumulate
    options = {"arrays": arrays, "accumulate": accumulate}
    wanted = on(ranks, path, Parallel(), kind, **options)[0]
    with pytest.raises(EndedError):
        on(ranks, path, Parallel(), kind, end_after=end_after, **options)
    for got in on(ranks, path, Parallel(), kind, resume=True, **options):
        assert all(np.array_equal(got[name], values) for name, values in wanted.items())
    for got in on(then, path, Parallel(), kind, resume=True, **options):
        assert_close(got, wanted)


@pytest.mark.parametrize("arrays", [False, True])
def test_a_model_that_is_not_wrapped_goes_on_too(tmp_path, arrays):
    options = {"arrays": arrays}
    wanted = on(1, tmp_path / "last.npz", Plain(), "adam", **options)[0]
    with pytest.raises(EndedError):
        on(1, tmp_path / "last.npz", Plain(), "adam", end_after=4, **options)
    got = on(1, tmp_path / "last.npz", Plain(), "adam", resume=True, **options)[0]
    assert all(np.array_equal(got[name], values) for name, values in wanted.items())


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40), batch_size=st.integers(1, 12), accumulate=st.integers(1, 3),
    used=st.integers(0, 60), worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)), shuffle=st.booleans(),
)  # fmt: skip
def test_over_both_parts_each_sample_comes_once_an_epoch_in_the_order_of_one_part(
    count, batch_size, accumulate, used, worlds, shuffle
):
    rows = ArrayDataset(np.arange(count, dtype=np.float64)[:, None], np.zeros(count, np.int64))

    def loaders(world_size):
        return [
            DataLoader(rows, batch_size, shuffle, 3, accumulate=accumulate, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]

    def passes(ranks, epochs):
        """Yield the samples of each batch of several passes, and the ranks' states after it."""
        for _ in range(epochs):
            for pieces in zip(*ranks, strict=True):
                samples = [int(x) for inputs, _ in pieces for x in inputs.array.ravel()]
                yield samples, [each.state_dict() for each in ranks]

    def batches(found):
        """Return each global batch's samples, sorted: micro-batches are cut by rank."""
        whole = [found[n : n + accumulate] for n in range(0, len(found), accumulate)]
        return [sorted(chain.from_iterable(parts)) for parts in whole]

    epochs = 3
    wanted = batches([samples for samples, _ in passes(loaders(1), epochs)])
    first, second = loaders(worlds[0]), loaders(worlds[1])
    used = min(used, len(wanted))
    part, states = [], [each.state_dict() for each in first]
    for samples, states in passes(first, epochs):
        if len(part) == used * accumulate:
            break
        part.append(samples)
        after = states
    states = after if part else [each.state_dict() for each in loaders(1)]
    assert all(state == states[0] for state in states)
    for each in second:
        each.load_state_dict(states[0])
    left = epochs - second[0].epoch
    assert batches(part + [samples for samples, _ in passes(second, left)]) == wanted


def test_within_a_batch_that_batch_is_to_be_done_again():
    batches = loader(5, accumulate=2, rank=0, world_size=1)
    places = []
    for _ in batches:
        places.append((batches.state_dict()["epoch"], batches.state_dict()["batches"]))
    assert places == [(0, 0), (0, 1), (0, 1), (0, 2), (0, 2), (0, 3)]
    assert (batches.state_dict()["epoch"], batches.state_dict()["batches"]) == (1, 0)


def test_after_a_pass_that_was_broken_off_the_next_one_is_whole():
    batches = loader(5, rank=0, world_size=1)
    for _ in batches:
        break
    assert (batches.state_dict()["epoch"], batches.state_dict()["batches"]) == (1, 0)


def test_saying_the_same_epoch_keeps_the_place_and_another_one_does_not():
    batches = loader(5, rank=0, world_size=1)
    batches.load_state_dict({**batches.state_dict(), "epoch": 2, "batches": 1})
    batches.set_epoch(2)
    assert batches.state_dict()["batches"] == 1
    batches.set_epoch(3)
    assert batches.state_dict()["batches"] == 0


def test_a_loader_of_other_samples_is_refused():
    state = loader(5, rank=0, world_size=1).state_dict()
    for other, why in ((loader(6), "batch_size 6, got 5"), (loader(5, 14), "samples 14, got 13"),
                       (loader(5, seed=1), "seed 1, got 0")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            other.load_state_dict(state)


@pytest.mark.parametrize("place", [{"epoch": -1}, {"epoch": 2**64}, {"batches": 4}, {"batches": -1}], ids=str)
def test_a_place_that_no_loader_can_have_is_refused(place):
    batches = loader(5, rank=0, world_size=1)
    with pytest.raises(ValueError, match="wanted an? (epoch|number of batches that are done), from 0 to"):
        batches.load_state_dict({**batches.state_dict(), **place})


# The file
def small():
    npdp.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "000001.npz"
    npdp.save_checkpoint(path, *small())
    return path.read_bytes()


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_each_corruption_is_recognised(whole, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "altered.npz"
    content = bytearray(whole)
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "append"]))
    if how == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[at:]
    elif how == "insert":
        content.insert(at, data.draw(st.integers(0, 255)))
    elif how == "zero":
        zeroed = bytes(len(content) - at)
        content[at:] = zeroed
    else:
        content += bytes([data.draw(st.integers(0, 255))])
    path.write_bytes(content)
    with pytest.raises(InputError, match="torn or was altered"):
        checkpoint.read(str(path))


def test_numpy_reads_it_without_npdp(tmp_path):
    model, optimizer = small()
    npdp.save_checkpoint(tmp_path / "000001.npz", model, optimizer, note="x")
    with np.load(tmp_path / "000001.npz") as file:
        structure = json.loads(file["structure.json"])
        entries = dict(structure["dict"])
        of_model = dict(entries["model"]["dict"])
        assert np.array_equal(file[of_model["weight"]["array"]], model.weight.numpy())
    assert zipfile.ZipFile(tmp_path / "000001.npz").testzip() is None
    assert entries["more"] == {"dict": [["note", "x"]]}


def test_what_is_no_checkpoint_is_refused_and_named(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK")
    np.savez(tmp_path / "y.npz", a=np.zeros(3))
    for name, why in (("x", "torn or"), ("y", "torn or"), ("z", "cannot be read: No such file")):
        with pytest.raises(InputError, match=f"{name}.npz: .*{why}"):
            npdp.load_checkpoint(tmp_path / f"{name}.npz", *small())


def test_a_write_that_fails_is_told_on_all_ranks_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.npz"
    npdp.save_checkpoint(path, *small(), note=1)
    whole = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.files, "save", full)

    def program():
        with pytest.raises(OutputError, match="not written: No space left on device"):
            npdp.save_checkpoint(path, *small(), note=2)
        return True

    assert run(3, program) == [True] * 3
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("last.npz", whole)]


def test_another_model_is_refused_on_all_ranks(tmp_path):
    npdp.save_checkpoint(tmp_path / "last.npz", *small())

    def program():
        model = nn.Linear(3, 4)
        with pytest.raises(ValueError, match=r"weight: wanted shape \(4, 3\), got \(2, 3\)"):
            npdp.load_checkpoint(tmp_path / "last.npz", model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        return True

    assert run(2, program) == [True] * 2


@pytest.mark.parametrize("junk", [3, "x", [1], {"x": [1]}], ids=str)
@pytest.mark.parametrize("part", ["model", "optimizer", "loader", "random", "forwards", "more"])
def test_a_file_that_somebody_made_up_is_refused(part, junk, tmp_path):
    linear, optimizer = small()
    model = nn.Sequential(linear, nn.Dropout(0.1))
    batches = loader(5, rank=0, world_size=1)
    content = checkpoint.capture(model, optimizer, batches)
    checkpoint.write(str(tmp_path / "last.npz"), {**content, part: junk})
    if (part, junk) == ("more", {"x": [1]}):
        assert npdp.load_checkpoint(tmp_path / "last.npz", model, optimizer, batches) == junk
        return
    with pytest.raises(ValueError, match=r"wanted|expected|missing|load_state_dict"):
        npdp.load_checkpoint(tmp_path / "last.npz", model, optimizer, batches)


def test_the_generator_goes_on_where_it_was(tmp_path):
    npdp.manual_seed(5)
    parts = small()
    npdp.save_checkpoint(tmp_path / "last.npz", *parts)
    wanted = nn.Linear(4, 4).weight.numpy()
    npdp.manual_seed(6)
    npdp.load_checkpoint(tmp_path / "last.npz", *parts)
    assert np.array_equal(nn.Linear(4, 4).weight.numpy(), wanted)
