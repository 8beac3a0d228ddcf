"""Gradients of this rank alone are not taken for global ones: after no_sync, and after a backward that failed."""

from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
from worlds import assert_close, criterion, gradients, loader, mlp, run

import npdp
from npdp import nn, optim


@pytest.mark.parametrize(("update", "kind"), [("replicated", optim.SGD), ("fused", optim.Adam)])
def test_step_refuses_gradients_that_were_never_exchanged(update, kind):
    def program():
        model = mlp()
        optimizer = kind(model.parameters())
        model = nn.DataParallel(model, update=update)
        inputs, labels = next(iter(loader(6)))
        with model.no_sync():
            criterion(model(inputs), labels).backward()
        refused = rf"{kind.__name__}.step: these gradients were accumulated under no_sync\(\)"
        with pytest.raises(RuntimeError, match=refused):
            optimizer.step()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        with model.no_sync():
            criterion(model(inputs), labels).backward()
        optimizer.zero_grad()
        optimizer.step()

    run(2, program)


@pytest.mark.parametrize("update", ["replicated", "fused"])
def test_zero_grad_of_another_optimiser_does_not_make_gradients_exchanged(update):
    def program():
        model = mlp()
        *front, weight, bias = model.parameters()
        first, second = optim.SGD(front), optim.SGD([weight, bias])
        model = nn.DataParallel(model, update=update)
        inputs, labels = next(iter(loader(4)))
        with model.no_sync():
            criterion(model(inputs), labels).backward()
        first.zero_grad()
        with pytest.raises(RuntimeError, match="no_sync"):
            second.step()
        model.zero_grad()
        second.step()

    run(2, program)


@pytest.mark.parametrize("counts", [(2, 2), (0, 2)], ids=str)
def test_gradients_stay_where_a_later_backward_fails(counts):
    def program():
        model = nn.DataParallel(nn.Linear(2, 1))
        loss = model(np.ones((counts[npdp.rank()], 2), np.float32)).mean()
        loss.backward()
        before = [parameter.grad.copy() for parameter in model.parameters()]
        with pytest.raises(RuntimeError, match="retain_graph"):
            loss.backward()
        return all(np.array_equal(p.grad, g) for p, g in zip(model.parameters(), before))

    assert run(2, program) == [True, True]


@pytest.mark.parametrize("local_before", [False, True])
def test_gradients_are_as_before_where_the_end_of_a_backward_fails(local_before):
    """As it does where ranks have other batches: what they have summed by then is dropped, and never summed again."""

    def program():
        model = nn.DataParallel(mlp())
        inputs, labels = next(iter(loader(7)))
        criterion(model(inputs), labels).backward()
        before = gradients(model)
        if local_before:
            with model.no_sync():
                criterion(model(inputs), labels).backward()
        other, its_labels = next(iter(loader(7, seed=npdp.rank())))
        with pytest.raises(RuntimeError, match="loaders .*, differ between ranks: rank 1 has seed 1"):
            criterion(model(other), its_labels).backward()
        failed = gradients(model)
        optim.SGD(model.parameters()).step()  # they are global
        return before, failed

    for before, failed in run(2, program):
        assert_close(failed, before)


def test_flags_are_0_where_the_end_of_a_backward_fails():
    """After the exchange, and before anybody has looked at them: the last layer is unused on one rank."""

    def program():
        model = nn.DataParallel(mlp())
        inputs, labels = next(iter(loader(7)))
        criterion(model(inputs), labels).backward()
        before = gradients(model)
        with pytest.raises(ArithmeticError):
            (model(inputs, npdp.rank() or None) ** 2).mean().backward()
        (flat,) = model.exchange.flats
        assert not any(flat.grad[flag : flag + 3].any() for flag in flat.flags)
        return before, gradients(model)

    with mock.patch("npdp.parallel.all_reduce._take_in", side_effect=ArithmeticError):
        for before, failed in run(2, program):
            assert_close(failed, before)


@pytest.mark.parametrize(
    ("plan", "like"),
    [("Ss", "s"), ("SsS", "s"), ("Ls", "s"), ("sSs", "ss"), ("lSs", "lSs"), ("slSs", "slSs"), ("slLs", "slLs")],
)
def test_what_a_backward_that_failed_has_added_is_not_taken_for_a_global_gradient(plan, like):
    """Synced backwards and local ones; in capitals those that fail when the last layer's gradients are complete."""

    def program(plan):
        model = nn.DataParallel(mlp())
        first, *_ = model.parameters()

        def fail(gradient):
            raise ArithmeticError

        inputs, labels = next(iter(loader(7)))
        for step in plan:
            remove = first.register_hook(fail) if step.isupper() else lambda: None
            with nullcontext() if step.islower() else pytest.raises(ArithmeticError), model.syncing(step in "sS"):
                criterion(model(inputs), labels).backward()
            remove()
        return gradients(model)

    (wanted,) = run(1, program, like)
    for got in run(3, program, plan):
        assert_close(got, wanted)
