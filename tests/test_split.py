"""split, chunk and unbind: PyTorch's pieces, views with a gradient that is put together once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_layers import compare, random, torch

from npdp.autograd import Tensor, no_grad, operators
from npdp.autograd.gradcheck import gradcheck

property_test = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def used(pieces, which):
    """Return a number that is computed from some of the pieces, from one of them twice."""
    chosen = [pieces[number % len(pieces)] for number in which]
    return sum((piece * piece * (number + 1)).sum() for number, piece in enumerate(chosen))


@property_test
@given(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), st.integers(1, 4), st.integers(-3, 2),
       st.sampled_from(["split", "chunk"]), st.lists(st.integers(0, 5), min_size=1, max_size=4))  # fmt: skip
def test_pieces_and_their_gradients_are_pytorchs(shape, size, dim, method, which):
    dim = dim % len(shape)
    compare(*[lambda x: used(getattr(x * 1, method)(size, dim), which)] * 2, random(*shape))
    mine, other = (getattr(x, method)(size, dim) for x in (Tensor(random(*shape)), torch.ones(shape)))
    assert [piece.shape for piece in mine] == [tuple(piece.shape) for piece in other]


@pytest.mark.parametrize("sizes", [[2, 3], [0, 5], [1, 1, 3], (5,)])
@pytest.mark.parametrize("which", [[0], [0, 1, 0], [-1]])
def test_pieces_of_given_extents_are_pytorchs(sizes, which):
    compare(*[lambda x: used(x.split(list(sizes), dim=1), which)] * 2, random(2, 5))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_unbind_takes_an_axis_apart(dim):
    compare(*[lambda x: used(x.unbind(dim), [0, 1, 1])] * 2, random(2, 3, 2))
    compare(*[lambda x: used(x.unbind(-1), [0, 2])] * 2, random(3))
    assert all(type(view.data) is np.ndarray for view in Tensor(random(3)).unbind())


def test_pieces_of_a_leaf_and_of_a_result_pass_gradcheck_and_a_second_backward():
    x = Tensor(random(3, 4), requires_grad=True)
    gradcheck(lambda x: operators.concatenate(*reversed(x.split(2, 1)), axis=1) * x, x)
    loss = used(x.split(3, 1), [0])
    loss.backward(retain_graph=True)
    first = np.array(x.grad)
    loss.backward()
    np.testing.assert_array_equal(x.grad, 2 * first)
    assert first[:, :3].all() and not first[:, 3:].any()


def test_a_hook_of_a_leaf_sees_the_whole_gradient():
    x, seen = Tensor(random(4), requires_grad=True), []
    x.register_hook(lambda g: seen.append(g.copy()))
    a, b = x.chunk(2)
    (a * 2 + b * 3).sum().backward()
    np.testing.assert_array_equal(seen, [[2, 2, 3, 3]])


def test_pieces_are_views_whose_change_in_place_is_noticed():
    x = Tensor(random(4), requires_grad=True)
    y = x * x
    a, _ = y.split(2)
    assert np.shares_memory(a.data, y.data) and a.version is y.version
    with no_grad():
        assert all(piece.node is None and not piece.requires_grad for piece in x.split(1))


def test_sizes_that_do_not_fit_are_refused():
    x = Tensor(random(4))
    with pytest.raises(ValueError, match=r"split: wanted sizes that add up to 4, the extent of axis 0, got \[1, 2\]"):
        x.split([1, 2])
    for refused in (lambda: x.split(0), lambda: x.chunk(0)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            refused()
