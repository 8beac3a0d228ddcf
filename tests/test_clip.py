"""Clipping: the common norm of all gradients, however many and however large, and the scaling in place."""

import math

import numpy as np
import pytest

from npdp import nn, optim
from npdp.nn.parameter import Parameter
from npdp.nn.utils.clip import BLOCK


def with_gradients(*gradients):
    """Return parameters that have these gradients; None leaves none."""
    found = []
    for gradient in gradients:
        found.append(Parameter(np.zeros(3) if gradient is None else np.zeros_like(gradient)))
        found[-1].grad = gradient
    return found


def test_clipping_scales_all_gradients_by_their_common_norm():
    params = with_gradients(np.zeros(2), np.array([4.0]), None)
    optim.SGD(params[:1])  # one laid flat, one loose, one without gradient
    params[0].grad = np.array([3.0, 0.0])
    assert optim.clip_grad_norm_(params, 10.0) == 5.0
    np.testing.assert_array_equal(params[0].grad, [3, 0])
    assert optim.clip_grad_norm_(params, 1.0) == 5.0
    np.testing.assert_allclose(np.concatenate([params[0].grad, params[1].grad]), [0.6, 0, 0.8], rtol=1e-6)
    assert params[2].grad is None and optim.clip_grad_norm_(params[2:], 1.0) == 0.0


def test_a_single_parameter_is_clipped_as_in_pytorch():
    (parameter,) = with_gradients(np.array([3.0, 4.0]))
    assert optim.clip_grad_norm_(parameter, 1.0) == 5.0
    np.testing.assert_allclose(parameter.grad, [0.6, 0.8], rtol=1e-6)


def test_a_gradient_without_axes_that_was_scaled_by_hand_is_clipped_as_others_are():
    params = with_gradients(np.array(6.0, np.float32), np.array([4.0], np.float32))
    params[0].grad = params[0].grad * np.float32(0.5)  # a number, where NumPy makes no array of it
    assert optim.clip_grad_norm_(params, 1.0) == 5.0
    assert [p.grad.item() for p in params] == pytest.approx([0.6, 0.8], rel=1e-6)
    assert [(p.grad.shape, p.grad.dtype) for p in params] == [((), np.float32), ((1,), np.float32)]


def test_clipping_is_in_place_and_the_step_sees_it():
    model = nn.Linear(5, 3, generator=np.random.default_rng(5))
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    before = np.concatenate([array.ravel() for array in model.state_dict().values()])
    model(np.ones((4, 5), np.float32)).sum().backward()
    assert optim.clip_grad_norm_(model.parameters(), 0.5) > 0.5
    assert all(p.raw_grad is p.grad_buffer for p in model.parameters())
    optimizer.step()
    after = np.concatenate([array.ravel() for array in model.state_dict().values()])
    assert np.linalg.norm(after - before) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_the_norm_of_many_float32_is_that_of_float64(count):
    gradient = np.random.default_rng(count).uniform(0.05, 0.15, count).astype(np.float32)
    exact = math.sqrt(math.fsum(float(number) ** 2 for number in gradient))
    assert optim.clip_grad_norm_(with_gradients(gradient), math.inf) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("size", [1e19, 1e-30])
def test_numbers_whose_squares_float32_does_not_hold_are_clipped_too(size):
    params = with_gradients(np.array([3 * size, 4 * size, 0], np.float32))
    assert optim.clip_grad_norm_(params, 1e18) == pytest.approx(5 * size, rel=1e-6)
    scale = min(5 * size, 1e18)
    np.testing.assert_allclose(params[0].grad, [0.6 * scale, 0.8 * scale, 0], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(("number", "after"), [(np.inf, [np.nan, 0]), (np.nan, [np.nan, 1])])
def test_a_gradient_that_is_no_number_still_shows(number, after):
    params = with_gradients(np.array([number, 1], np.float32))
    np.testing.assert_equal(optim.clip_grad_norm_(params, 1.0), float(number))
    np.testing.assert_array_equal(params[0].grad, after)


@pytest.mark.parametrize("max_norm", [-1.0, math.nan])
def test_a_norm_that_there_is_not_is_refused(max_norm):
    """A negative one would turn gradients round, NaN leave them as they are."""
    params = with_gradients(np.ones(2))
    with pytest.raises(ValueError, match=f"max_norm must be at least 0, got {max_norm}"):
        optim.clip_grad_norm_(params, max_norm)
    assert (params[0].grad == 1).all()
