"""Optimisers follow their formulas, written out here, and so do learning rates."""

import math

import numpy as np
import pytest
from arithmetic import parameters

from npdp import optim
from npdp.optim import learning_rates


def run_steps(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = np.full(1, gradient)
        optimizer.step()
    return parameter.data[0]


@pytest.mark.parametrize(("dampening", "nesterov"), [(0.0, False), (0.3, False), (0.0, True)])
def test_sgd_follows_its_formula(dampening, nesterov):
    (parameter,) = parameters(1)
    value, velocity = 1.0, None
    for gradient in (2.0, -1.0, 3.0):
        g = gradient + 0.1 * value
        velocity = g if velocity is None else 0.9 * velocity + (1 - dampening) * g
        value -= 0.5 * (g + 0.9 * velocity if nesterov else velocity)
    optimizer = optim.SGD([parameter], 0.5, momentum=0.9, dampening=dampening, weight_decay=0.1, nesterov=nesterov)
    assert run_steps(optimizer, parameter, (2.0, -1.0, 3.0)) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_its_formula(decoupled):
    (parameter,) = parameters(1)
    value, m, v = 1.0, 0.0, 0.0
    for t, gradient in enumerate((2.0, -1.0, 3.0), start=1):
        g = gradient if decoupled else gradient + 0.1 * value
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        shrunk = value - 0.5 * 0.1 * value if decoupled else value
        value = shrunk - 0.5 * m / (1 - 0.8**t) / (math.sqrt(v / (1 - 0.9**t)) + 1e-3)
    make = optim.AdamW if decoupled else optim.Adam
    optimizer = make([parameter], lr=0.5, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    assert run_steps(optimizer, parameter, (2.0, -1.0, 3.0)) == pytest.approx(value, rel=1e-14)


def test_adamw_decays_by_default_and_adam_does_not():
    assert (optim.AdamW(parameters(1)).weight_decay, optim.Adam(parameters(1)).weight_decay) == (0.01, 0.0)


def test_the_learning_rate_may_be_a_function_or_be_set():
    params = parameters(1)
    optimizer = optim.SGD(params, lr=lambda iteration: 1.0 + iteration)
    for wanted in (1.0, 2.0):
        assert optimizer.current_lr == wanted
        before = params[0].data[0]
        optimizer.zero_grad()
        params[0].sum().backward()
        optimizer.step()
        assert before - params[0].data[0] == wanted
    optimizer.lr = 0.5
    assert optimizer.current_lr == 0.5


def test_learning_rates_follow_their_formulas():
    constant, step = learning_rates.constant(0.3), learning_rates.step(1.0, every=10, factor=0.5)
    assert [constant(i) for i in (0, 5, 99)] == [0.3] * 3
    assert [step(i) for i in (0, 9, 10, 19, 20, 35)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    cosine = learning_rates.cosine(1.0, iterations=100, lowest=0.2)
    assert [cosine(i) for i in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert cosine(25) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    warm = learning_rates.warm_up(0.4, iterations=4)
    assert [warm(i) for i in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    both = learning_rates.warm_up(step, iterations=20)
    assert [both(i) for i in (0, 12, 25)] == pytest.approx([1 / 20, 0.5 * 13 / 20, 0.25])
    assert learning_rates.warm_up(cosine, 0)(0) == 1.0 and learning_rates.cosine(1.0, 0)(0) == 1.0
    assert learning_rates.scaled_linearly(0.1, 256, 64) == pytest.approx(0.4)
