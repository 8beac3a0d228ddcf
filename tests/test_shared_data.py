"""Data that one rank of a host loads and all see: the same, once in memory, and no rank left alone with an error."""

import numpy as np
import pytest
from needs import needs_shared_memory
from worlds import run

from npdp.base.errors import InputError
from npdp.collectives.arena import Arena
from npdp.data import ArrayDataset, sources
from npdp.parallel.shared_data import load_once
from npdp.parallel.world import init


def dataset(x=None):
    return ArrayDataset(np.arange(12.0).reshape(6, 2) if x is None else x, np.arange(6))


def loaded(load):
    """Return, of each rank, (how often it called `load`, what it got)."""

    def program():
        calls = []
        got = load_once(init(), lambda: calls.append(1) or load())
        return len(calls), got

    return run(3, program)


@needs_shared_memory
def test_one_rank_loads_and_all_have_the_same():
    results = loaded(dataset)
    assert [calls for calls, _ in results] == [1, 0, 0]
    for _, got in results:
        np.testing.assert_array_equal(got.x, dataset().x)
        np.testing.assert_array_equal(got.take(np.array([5, 0]))[0], [[10, 11], [0, 1]])


@needs_shared_memory
def test_it_is_the_same_memory_and_nobody_can_change_it():
    def program():
        data = load_once(init(), dataset)
        assert not data.x.flags.writeable and not data.x.flags.owndata
        return data.x.ctypes.data % 64, data.fingerprint()

    assert len(set(run(3, program))) == 1


def test_every_kind_of_data_is_what_it_was(tmp_path):
    wanted = sources.load("digits", standardize=True)
    for _, got in loaded(lambda: sources.load("digits", standardize=True)):
        assert got.train.fingerprint() == wanted.train.fingerprint() and got.source == wanted.source
        assert got.test.fingerprint() == wanted.test.fingerprint() and got.classes == 10
        np.testing.assert_array_equal(got.scaling[0], wanted.scaling[0])


@needs_shared_memory
def test_what_maps_a_file_is_mapped_by_each_rank(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    results = loaded(lambda: dataset(np.load(tmp_path / "x.npy", mmap_mode="r")))
    for _, got in results:
        np.testing.assert_array_equal(got.take(slice(0, 6))[0], dataset().x)
        assert isinstance(got.x.base, np.memmap) and not got.x.flags.writeable
    assert [calls for calls, _ in results] == [1, 0, 0]


@pytest.mark.parametrize("part", [np.s_[:], np.s_[2:5], np.s_[::2, 1:], np.s_[::-1], np.s_[3]], ids=str)
def test_a_part_of_a_map_is_the_same_part_on_each_rank(tmp_path, part):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    for map_of in (np.asarray, lambda mapped: mapped):
        for _, got in loaded(lambda map_of=map_of: map_of(np.load(tmp_path / "x.npy", mmap_mode="r"))[part]):
            np.testing.assert_array_equal(got, dataset().x[part])


def test_without_room_each_rank_loads_for_itself(monkeypatch):
    monkeypatch.setattr(Arena, "empty", lambda *arguments, **options: None)
    for calls, got in loaded(dataset):
        assert calls == 1
        np.testing.assert_array_equal(got.x, dataset().x)


def test_what_cannot_be_loaded_is_refused_on_all_ranks_alike():
    def program():
        def load():
            raise InputError("data.csv: no such file")

        with pytest.raises(InputError) as caught:
            load_once(init(), load)
        return str(caught.value)

    texts = run(3, program)
    assert len(set(texts)) == 1 and "data.csv: no such file" in texts[0]


def test_nothing_at_all_can_be_loaded_too():
    for _, got in loaded(lambda: [np.empty(0), None]):
        assert got[1] is None and got[0].size == 0
