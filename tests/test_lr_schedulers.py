"""Schedulers set learning rates of all groups; what cannot be meant is refused. Their courses: against PyTorch's."""

import numpy as np
import pytest
from arithmetic import parameters
from worlds import run

import npdp
from npdp import nn, optim
from npdp.optim import lr_scheduler


def sgd(*rates, **options):
    return optim.SGD([{"params": p, "lr": lr} for p, lr in zip(parameters(*[1] * len(rates)), rates)], **options)


def course(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        scheduler.step()
    return found


def test_a_scheduler_sets_the_learning_rate_of_each_group():
    optimizer = sgd(1.0, 4.0)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    assert course(optimizer, scheduler, 5) == [[1, 4], [1, 4], [0.5, 2], [0.5, 2], [0.25, 1]]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [1, 4]


def test_one_after_the_other_begins_anew_at_each_milestone():
    optimizer = sgd(1.0)
    one, two = lr_scheduler.ConstantLR(optimizer, 0.5, 10), lr_scheduler.ExponentialLR(optimizer, 0.5)
    scheduler = lr_scheduler.SequentialLR(optimizer, [one, two], [2])
    assert course(optimizer, scheduler, 5) == [[0.5], [0.5], [1], [0.5], [0.25]]


def test_a_learning_rate_that_fell_to_0_comes_back():
    optimizer = sgd(1.0)
    assert course(optimizer, lr_scheduler.ConstantLR(optimizer, 0.0, 2), 4) == [[0], [0], [1], [1]]


def test_a_schedule_is_taken_up_by_last_epoch():
    optimizer = sgd(1.0)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    course(optimizer, scheduler, 3)
    other = sgd(0.3)
    other.load_state_dict(optimizer.state_dict())
    assert course(other, lr_scheduler.ExponentialLR(other, 0.5, last_epoch=2), 2) == [[0.125], [0.0625]]


def test_a_state_has_no_optimiser_and_no_functions():
    state = lr_scheduler.LambdaLR(sgd(1.0), lambda step: 1.0).state_dict()
    assert state == {"last_epoch": 0, "base_lrs": [1.0], "_last_lr": [1.0]}


@pytest.mark.parametrize(("make", "said"), [
    (lambda: lr_scheduler.StepLR(sgd(lambda k: 0.1), 3), "StepLR: lr is a function of the iteration already"),
    (lambda: lr_scheduler.ReduceLROnPlateau(sgd(lambda k: 0.1)), "lr is a function of the iteration already"),
    (lambda: lr_scheduler.StepLR(nn.Linear(1, 1), 3), "StepLR: wanted an optimiser of npdp.optim, got Linear"),
    (lambda: lr_scheduler.StepLR(sgd(1), 0), "step_size must be a whole number, at least 1, got 0"),
    (lambda: lr_scheduler.StepLR(sgd(1), 3, last_epoch=4), 'parameter group 0 has no "initial_lr"'),
    (lambda: lr_scheduler.LambdaLR(sgd(1, 1), [abs]), "lr_lambda: wanted 2, one a parameter group, got 1"),
    (lambda: lr_scheduler.LinearLR(sgd(1), start_factor=0), r"start_factor must be a number in \(0, 1\], got 0"),
    (lambda: lr_scheduler.ConstantLR(sgd(1), factor=2), r"factor must be a number in \[0, 1\], got 2"),
    (lambda: lr_scheduler.OneCycleLR(sgd(1), 1, 10), "wanted an optimiser that was made with momentum"),
    (lambda: lr_scheduler.OneCycleLR(sgd(1), 1, epochs=3), "wanted total_steps, or epochs and steps_per_epoch"),
    (lambda: lr_scheduler.OneCycleLR(sgd(1), 1, 10, anneal_strategy="step"), "'step', wanted cos or linear"),
    (lambda: lr_scheduler.ReduceLROnPlateau(sgd(1), mode="least"), "mode is 'least', wanted min or max"),
    (lambda: lr_scheduler.ReduceLROnPlateau(sgd(1), factor=1), r"factor must be in \[0, 1\), got 1"),
    (lambda: lr_scheduler.SequentialLR(o := sgd(1), [lr_scheduler.ConstantLR(o)] * 3, [3, 2]), "rising milestones"),
    (lambda: lr_scheduler.SequentialLR(sgd(1), [lr_scheduler.ConstantLR(sgd(1))], []), "got ConstantLR of another"),
    (lambda: lr_scheduler.SequentialLR(o := sgd(1), [lr_scheduler.ReduceLROnPlateau(o)], []), "got ReduceLROnPlateau"),
    (lambda: lr_scheduler.StepLR(sgd(1), 2).load_state_dict({}), r"wanted what state_dict\(\) gives, got {}"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(make, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make()


def test_a_cycle_has_an_end():
    optimizer = sgd(1.0)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, 3, cycle_momentum=False)
    course(optimizer, scheduler, 3)
    with pytest.raises(ValueError, match="OneCycleLR: wanted at most 3 steps, got 4"):
        scheduler.step()


WAYS = {"replicated": {}, "fused": {"update": "fused"}, "servers": {"strategy": npdp.ParameterServer(0)}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_schedule_counts_under_every_strategy(way):
    def program(way):
        npdp.manual_seed(0)
        model = nn.Linear(3, 2, dtype=np.float64)
        optimizer = optim.SGD([{"params": p, "lr": lr} for p, lr in zip(model.parameters(), (0.5, 0.1))], momentum=0.9)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 4)
        wrapped = nn.DataParallel(model, **way)
        for _ in range(4):
            wrapped.zero_grad()
            (wrapped(np.ones((2, 3))) ** 2).mean().backward()
            optimizer.step()
            scheduler.step()
        return wrapped.state_dict()

    wanted = program({})
    for got in run(2, program, way):
        for name, values in got.items():
            np.testing.assert_allclose(values, wanted[name], rtol=1e-12)
