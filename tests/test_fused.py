"""The fused update gives the parameters of the replicated one: the same bits where sums are in rank order.

What the replicated one gives is known from test_data_parallel.py: what one plain rank gets. Here both run the same
program, on threads. What is refused, and how memory is used, is in test_fused_unseen.py and test_fused_memory.py.
"""

from itertools import product

import numpy as np
import pytest
from fused import IN_RANK_ORDER, OPTIMIZERS, assert_same, trained, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import run


# Every optimiser, algorithm and size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_gives_the_bits_of_the_replicated_update(optimizer, dtype):
    """A batch of 1 leaves all ranks but one an empty part; one of 7 parts that are uneven."""
    for world_size, algorithm, batch_size in product((2, 3, 4), IN_RANK_ORDER, (1, 7)):
        assert_same(world_size, optimizer=optimizer, algorithm=algorithm, batch_size=batch_size, dtype=dtype)


@pytest.mark.parametrize("algorithm", ["ring", "halving_doubling"])
def test_messages_in_another_order_differ_by_rounding(algorithm):
    for world_size, optimizer in product((2, 3, 4, 5), ("nesterov", "adam")):
        assert_same(world_size, 1e-10, optimizer=optimizer, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["tree", "mpi"])
def test_an_algorithm_without_a_reduce_scatter_is_refused(algorithm):
    with pytest.raises(ValueError, match=f"needs an algorithm that has a reduce-scatter, auto, .*; got {algorithm}"):
        run(2, lambda: trained("fused", algorithm=algorithm))


@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_model_of_many_blocks_gets_the_bits_of_the_replicated_update(optimizer, algorithm):
    for world_size in (2, 3):
        assert_same(world_size, plan="zsu" * 3, optimizer=optimizer, algorithm=algorithm, make=wide, dtype=np.float32)


# Several backwards, and parameters that are not always used
PLANS = {
    "accumulated": "zSSsuzSsu",
    "accumulated, then not": "zSsuzsuzSSSsu",
    "two steps with one gradient": "zsuuzsu",
    "a step with no gradient": "uzuzsu",
    "unused at first": "zfuzfuzsuzsu",
    "unused in between": "zsuzfuzsuzfuzsu",
    "unused on odd ranks": "zouzsuzouzsu",
    "unused on even ranks": "zeuzsuzeuzou",
    "unused on some, then on all": "zouzfuzeuzsu",
    "unused on some of an accumulated batch": "zOEsuzFouzSfu",
}


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("plan", PLANS)
def test_plans_with_one_exchange_a_step_give_the_same_bits(plan, algorithm, optimizer):
    for world_size in (2, 3, 4):
        assert_same(world_size, plan=PLANS[plan], optimizer=optimizer, algorithm=algorithm)


@pytest.mark.parametrize("plan", ["zssuzsu", "susu", "zsSsuzsssu", "szsfsuosu"])
def test_gradients_of_several_synced_backwards_add_up_to_rounding(plan):
    """The replicated update sums each over the ranks first; the fused one all of a rank's first."""
    for world_size, algorithm in product((2, 3), ("auto", "ring")):
        assert_same(world_size, 1e-12, plan=plan, algorithm=algorithm)


letters = st.lists(st.sampled_from(["zs", "zSs", "zf", "zo", "ze", "zOs", "zFe", "u", "u", "zsu"]), max_size=9)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), letters, st.sampled_from(sorted(OPTIMIZERS)), st.sampled_from(IN_RANK_ORDER), st.integers(1, 9)
)
def test_any_plan_gives_the_same_bits(world_size, plan, optimizer, algorithm, batch_size):
    plan = "".join(plan) + "zsu"
    assert_same(world_size, plan=plan, optimizer=optimizer, algorithm=algorithm, batch_size=batch_size)
