"""What a world adds to its collectives: an algorithm of its own, the mean of a metric, texts, and a barrier."""

import time

import numpy as np
import pytest
from worlds import record, run

import npdp
from npdp.parallel.world import init


@pytest.mark.parametrize("algorithm", ["tree", "mpi", "naive", "ring"])
def test_the_worlds_algorithm_is_taken_by_the_collectives_that_have_it(algorithm):
    def program():
        npdp.init(algorithm)
        chunk = npdp.reduce_scatter(np.arange(4.0))
        out = np.empty(4)
        npdp.allgather(chunk, out)
        npdp.broadcast(out, 1)
        return out.tolist()

    assert run(2, program) == [[0.0, 2.0, 4.0, 6.0]] * 2


def test_an_algorithm_that_a_collective_lacks_is_refused_though_the_world_has_it():
    def program():
        npdp.init("tree")
        npdp.reduce_scatter(np.zeros(4))  # the world's algorithm has none: the best is taken
        npdp.reduce_scatter(np.zeros(4), algorithm="tree")

    with pytest.raises(ValueError, match="no algorithm 'tree'"):
        run(2, program)


def test_the_worlds_algorithm_is_what_an_allreduce_uses():
    def program(algorithm):
        recorder = record()
        npdp.init(algorithm)
        npdp.allreduce(np.zeros(8))
        return len(recorder.sent)

    assert run(4, program, "naive") == [3, 1, 1, 1]
    assert run(4, program, "ring") == [6, 6, 6, 6]


def test_global_mean_weighs_by_count_and_is_0_over_nothing():
    assert run(3, lambda: npdp.global_mean(npdp.rank(), npdp.rank())) == [(0 + 1 + 4) / 3] * 3
    assert run(2, lambda: npdp.global_mean(float("nan"), 0)) == [0.0] * 2
    assert run(2, lambda: npdp.global_mean(float("nan") if npdp.rank() else 7.0, 1 - npdp.rank())) == [7.0] * 2
    assert run(1, lambda: npdp.global_mean(2.5, 3)) == [2.5]


@pytest.mark.parametrize(
    "texts", [["", "", ""], ["a", "", "Größe → ≥ 1\n"], ["x" * 8, "y" * 9, "z" * 100], ["\0a\0"] * 3]
)
def test_texts_of_any_length_and_alphabet_are_gathered_in_rank_order(texts):
    assert run(3, lambda: init().gather_texts(texts[npdp.rank()])) == [texts] * 3


def test_nobody_leaves_a_barrier_before_all_have_come():
    arrived, early = [], []

    def program():
        time.sleep(0.01 * npdp.rank())
        for turn in range(3):
            arrived.append(turn)
            npdp.barrier()
            if arrived.count(turn) < 4:
                early.append((turn, npdp.rank()))

    run(4, program)
    assert early == []
