"""Attention against PyTorch in float64, in blocks of rows of any number, and its memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_layers import assert_near, compare, random, torch

from npdp import nn
from npdp.autograd import Tensor, no_grad
from npdp.nn import attention
from npdp.nn.attention import attend
from npdp.nn.masks import Masks

attend_ours, attend_theirs = (each.functional.scaled_dot_product_attention for each in (nn, torch.nn))
property_test = settings(max_examples=60, deadline=None, derandomize=True, database=None)
leads = st.sampled_from([(), (2,), (2, 3), (0, 2), (1, 2, 2)])


@pytest.fixture(params=[3, 64], autouse=True)
def block(request, monkeypatch):
    """Blocks of three rows, so that a few rows make several, and the real ones."""
    monkeypatch.setattr(attention, "BLOCK", request.param)


def both(**options):
    return (lambda *x: attend_ours(*x, **options)), (lambda *x: attend_theirs(*x, **options))


@property_test
@given(leads, st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.booleans(),
       st.sampled_from([None, 0.7]))  # fmt: skip
def test_attention_is_pytorchs_for_any_numbers_of_queries_and_keys(lead, rows, keys, width, values, causal, scale):
    compare(*both(is_causal=causal, scale=scale), random(*lead, rows, width), random(*lead, keys, width, seed=1),
            random(*lead, keys, values, seed=2))  # fmt: skip


@property_test
@given(leads, st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from(["all", "row", "column", "lead"]),
       st.integers(0, 9))  # fmt: skip
def test_masks_are_pytorchs_and_a_row_that_sees_nothing_is_zero(lead, rows, keys, booleans, kind, seed):
    shape = {"all": (rows, keys), "row": (keys,), "column": (rows, 1), "lead": (*lead, rows, keys)}[kind]
    mask = random(*shape, seed=seed)
    mask = mask > 0 if booleans else np.where(mask > 1, -np.inf, mask)
    xs = random(*lead, rows, 3), random(*lead, keys, 3, seed=1), random(*lead, keys, 2, seed=2)
    theirs = torch.tensor(mask) if mask.ndim > 1 else torch.tensor(mask)[None]
    compare(lambda *x: attend_ours(*x, mask), lambda *x: attend_theirs(*x, theirs), *xs)


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (2, 1, 7, 5), (2, 3, 7, 5), (7, 1)])
def test_a_mask_that_is_learned_gets_its_gradient(shape):
    xs = random(2, 3, 7, 4), random(2, 3, 5, 4, seed=1), random(2, 3, 5, 4, seed=2)
    compare(lambda q, k, v, m: attend_ours(q, k, v, m), lambda q, k, v, m: attend_theirs(q, k, v, m), *xs,
            random(*shape, seed=3))  # fmt: skip


@pytest.mark.parametrize(("rows", "keys", "causal"), [(130, 130, True), (130, 70, True), (70, 130, False)])
def test_long_sequences_are_pytorchs_in_float32_too(rows, keys, causal):
    xs = [random(2, length, 8, seed=seed).astype(np.float32) for seed, length in enumerate((rows, keys, keys))]
    q, k, v = (Tensor(x, requires_grad=True) for x in xs)
    others = [torch.tensor(x, requires_grad=True) for x in xs]
    attend_ours(q, k, v, is_causal=causal).sum().backward()
    attend_theirs(*others, is_causal=causal).sum().backward()
    for mine, other in zip((q, k, v), others):
        np.testing.assert_allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-5)
    compare(*both(is_causal=causal), *(x.astype(np.float64) for x in xs))


def test_heads_that_queries_share_get_the_sum_of_the_gradients():
    compare(*both(is_causal=True), random(2, 3, 7, 4), random(2, 1, 5, 4, seed=1), random(1, 1, 5, 4, seed=2))


def test_heads_of_one_row_in_memory_give_a_result_that_joins_without_a_copy():
    x = Tensor(random(2, 7, 12), requires_grad=True)
    q, k, v = (part.reshape(2, 7, 2, 2).transpose(1, 2) for part in x.split(4, 2))
    y = attend_ours(q, k, v, is_causal=True).transpose(1, 2)
    assert y.data.flags.c_contiguous and np.shares_memory(y.reshape(2, 7, 4).data, y.data)


def test_scores_that_overflow_an_exponential_are_no_trouble():
    compare(*both(is_causal=True), 1000 * random(2, 7, 4), random(2, 7, 4, seed=1), random(2, 7, 4, seed=2))


def test_dropout_of_the_probabilities_is_the_same_in_backward_and_scales_what_is_left(block):
    masks, xs = Masks(0.4, seed=3), [random(2, 2, 7, 4, seed=seed) for seed in range(3)]
    rows = attention.BLOCK
    drawn = np.zeros((2, 2, 7, 7))
    for number, start in enumerate(range(0, 7, rows)):
        part = drawn[:, :, start : start + rows]
        part[...] = masks.draw(part.shape, np.float64, number)
    assert set(np.unique(drawn)) == {0, 1 / 0.6}
    if rows < 7:
        assert (drawn[:, :, :3] != drawn[:, :, 3:6]).any()

    def theirs(q, k, v):
        return (torch.softmax(q @ k.transpose(-1, -2) / 2, -1) * torch.tensor(drawn)) @ v

    compare(lambda q, k, v: attend(q, k, v, None, False, None, masks), theirs, *xs)


def test_the_function_drops_by_this_ranks_generator():
    import npdp

    x = random(2, 5, 4)
    npdp.manual_seed(4)
    first, second = (attend_ours(x, x, x, dropout_p=0.5).data for _ in range(2))
    assert (first != second).any()
    npdp.manual_seed(4)
    np.testing.assert_array_equal(attend_ours(x, x, x, dropout_p=0.5).data, first)
    assert_near(attend_ours(x, x, x, dropout_p=0.0), attend_theirs(*[torch.tensor(x)] * 3))


def test_a_second_backward_over_the_same_graph_gives_the_same():
    q, k, v = (Tensor(random(2, 7, 4, seed=seed), requires_grad=True) for seed in range(3))
    loss = attend_ours(q, k, v, is_causal=True).sum()
    loss.backward(retain_graph=True)
    first = [np.array(x.grad) for x in (q, k, v)]
    loss.backward()
    for x, grad in zip((q, k, v), first):
        assert_near(x.grad, 2 * grad)


def test_memory_grows_with_the_rows_and_not_with_their_square(block):
    if attention.BLOCK < 64:
        return

    def peak(rows):
        x = [Tensor(np.ones((1, rows, 4), np.float32), requires_grad=True) for _ in range(3)]
        tracemalloc.start()
        attend_ours(*x, is_causal=True).sum().backward()
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    assert peak(4096) < 2.5 * peak(2048) < 2048 * 2048 * 4


def test_where_no_gradient_is_wanted_nothing_is_kept():
    x = Tensor(random(2, 5, 4), requires_grad=True)
    with no_grad():
        assert attend_ours(x, x, x).node is None


@pytest.mark.parametrize(("shapes", "options", "error", "said"), [
    (((4, 3), (5, 2), (5, 2)), {}, ValueError, r"got shapes \(4, 3\), \(5, 2\) and \(5, 2\)"),
    (((4, 3), (5, 3), (4, 3)), {}, ValueError, r"wanted query \(\.\.\., T, d\), key \(\.\.\., S, d\)"),
    (((3,), (5, 3), (5, 3)), {}, ValueError, "got shapes"),
    (((4, 3), (5, 3), (5, 3)), {"attn_mask": np.ones((4, 4), bool)}, ValueError,
     r"must fit \(\.\.\., 4, 5\), got \(4, 4\)"),
    (((4, 3), (5, 3), (5, 3)), {"attn_mask": np.ones((4, 5), int)}, TypeError,
     "booleans or of the query's float64, got int"),
    (((4, 3), (4, 3), (4, 3)), {"attn_mask": np.ones((4, 4), bool), "is_causal": True}, ValueError, "got both"),
    (((4, 3), (4, 3), (4, 3)), {"dropout_p": 1.0}, ValueError, r"dropout_p must be in \[0, 1\), got 1.0"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(shapes, options, error, said):
    with pytest.raises(error, match=said):
        attend_ours(*(random(*shape) for shape in shapes), **options)
    with pytest.raises(TypeError, match="of one float dtype, got float64, float32 and float64"):
        attend_ours(random(2, 3), random(2, 3).astype(np.float32), random(2, 3))
