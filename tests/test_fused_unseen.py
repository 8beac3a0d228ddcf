"""What a fused update leaves nobody to see or to change: gradients, and parameters that all ranks of a host share."""

import numpy as np
import pytest
from fused import NOT_SEEN, algorithms, made
from worlds import assert_close, criterion, loader, mlp, run, train

import npdp
from npdp import nn, optim


@algorithms
def test_parameters_are_read_only(algorithm):
    def program():
        model, _ = made(algorithm)
        weight = model.module[0].weight
        refused = 0
        for change in (
            lambda: weight.data.__setitem__(0, 1.0),
            lambda: model.load_state_dict(dict(model.state_dict())),
            lambda: npdp.broadcast_parameters(model.named_parameters()),
            lambda: npdp.allreduce(weight.data),
        ):
            with pytest.raises(ValueError, match="read-only"):
                change()
            refused += 1
        with npdp.no_grad(), pytest.raises(ValueError, match="read-only"):
            weight.zero_()
        return refused

    assert run(2, program) == [4, 4]


def test_who_writes_a_parameter_through_npdp_is_told_why_it_is_read_only():
    def program():
        model, _ = made("auto")
        weight = model.module[0].weight
        for change in (
            lambda: npdp.broadcast_parameters(model.state_dict()),
            lambda: weight.copy_(weight.data),
            lambda: weight.add_(0.0),
            lambda: weight.__iadd__(0.0),
            lambda: weight.__setitem__(0, weight.data[0]),
        ):
            with npdp.no_grad(), pytest.raises(ValueError, match="server.*: set values before the model is wrapped"):
                change()
        return npdp.rank()

    assert run(2, program) == [0, 1]


@algorithms
def test_reading_a_gradient_says_why_there_is_none(algorithm):
    def program():
        model, optimizer = made(algorithm)
        inputs, labels = next(iter(loader(6)))
        for _ in range(2):
            for parameter in model.parameters():
                with pytest.raises(RuntimeError, match=NOT_SEEN):
                    _ = parameter.grad
            with pytest.raises(RuntimeError, match=NOT_SEEN):
                optim.clip_grad_norm_(model.parameters(), 1.0)
            criterion(model(inputs), labels).backward()
        optimizer.zero_grad()
        with model.no_sync():
            criterion(model(inputs), labels).backward()
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            _ = model.module[0].weight.grad

    run(2, program)


def test_after_a_backward_or_a_step_that_failed_there_is_none_to_be_seen_either():
    def program():
        model, optimizer = made()
        weight = model.module[2].weight
        inputs, labels = next(iter(loader(6)))
        remove = weight.register_hook(lambda gradient: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            criterion(model(inputs), labels).backward()
        remove()
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            _ = weight.grad
        criterion(model(inputs), labels).backward()
        optimizer.update = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            _ = weight.grad

    run(2, program)


def test_on_one_rank_nothing_is_summed_and_gradients_are_there():
    def program():
        model, _ = made("auto")
        model.module[0].weight.data[...] = 1.0
        return np.abs(model.module[0].weight.grad).sum() > 0

    assert run(1, program) == [True]


REFUSED = [
    (lambda model: nn.DataParallel(model, update="melted"), "no update 'melted'; there are replicated, fused"),
    (lambda model: nn.DataParallel(nn.DataParallel(model, update="fused")), "wrap it once"),
    (lambda model: nn.DataParallel(nn.DataParallel(model), update="fused"), "wrap it once"),
]


@pytest.mark.parametrize(("wrap", "text"), REFUSED)
def test_what_cannot_be_wrapped_is_refused(wrap, text):
    with pytest.raises(ValueError, match=text):
        run(2, lambda: wrap(mlp()))


def test_it_and_a_distributed_optimizer_exclude_each_other():
    def program():
        model = mlp()
        npdp.DistributedOptimizer(optim.SGD(model.parameters()))
        nn.DataParallel(model, update="fused")

    with pytest.raises(ValueError, match='update="fused" and DistributedOptimizer exclude each other'):
        run(2, program)


def test_an_optimiser_with_parameters_of_another_model_is_refused_and_the_model_still_free():
    def program():
        model, extra = mlp(), nn.Parameter(np.zeros(3))
        optimizer = optim.SGD([*model.parameters(), extra])
        with pytest.raises(ValueError, match="the optimiser also has 1 parameters of another model"):
            nn.DataParallel(model, update="fused")
        wrapped = nn.DataParallel(model)
        inputs, labels = next(iter(loader(6)))
        criterion(wrapped(inputs), labels).backward()
        optimizer.step()
        return model[0].weight.grad is not None

    assert run(2, program) == [True, True]


def test_the_wrapped_models_of_a_program_may_differ_in_their_update():
    class Both:
        def __init__(self, update):
            self.update = update

        def wrap(self, model):
            return nn.DataParallel(model, update=self.update)

        def wrap_optimizer(self, optimizer):
            return optimizer

    def program():
        first = train(Both("replicated"), mlp(), loader(4), epochs=1)
        with pytest.raises(RuntimeError, match=NOT_SEEN):
            train(Both("fused"), mlp(), loader(4), epochs=1)
        second = train(Both("replicated"), mlp(), loader(4), epochs=1)
        assert_close(first, second, tolerance=0)

    run(2, program)
