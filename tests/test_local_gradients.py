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
        with pytest.raises(RuntimeError, match=r"^step: these gradients were accumulated under no_sync\(\)"):
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
def test_after_a_backward_that_failed_there_are_no_gradients(counts):
    def program():
        model = nn.DataParallel(nn.Linear(2, 1))
        loss = model(np.ones((counts[npdp.rank()], 2), np.float32)).mean()
        loss.backward()
        with pytest.raises(RuntimeError, match="retain_graph"):
            loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    assert run(2, program) == [[None, None], [None, None]]


@pytest.mark.parametrize("local_before", [False, True])
def test_gradients_are_gone_where_the_end_of_a_backward_fails(local_before):
    """As it does where ranks have other batches: what they have summed by then is dropped, and never summed again."""

    def program():
        model = nn.DataParallel(mlp())
        inputs, labels = next(iter(loader(7)))
        with model.syncing(not local_before):
            criterion(model(inputs), labels).backward()
        other, its_labels = next(iter(loader(7, seed=npdp.rank())))
        for _ in range(2):  # batches are looked at after the first two exchanges
            with pytest.raises(RuntimeError, match="loaders .*, differ between ranks: rank 1 has seed 1"):
                criterion(model(other), its_labels).backward()
        assert not any(gradients(model).values())
        optim.SGD(model.parameters()).step()  # of nothing
        criterion(model(inputs), labels).backward()
        return gradients(model)

    (wanted,) = run(1, lambda: first_gradients(nn.DataParallel(mlp())))
    for got in run(2, program):
        assert_close(got, wanted)


def first_gradients(model):
    inputs, labels = next(iter(loader(7)))
    criterion(model(inputs), labels).backward()
    return gradients(model)


def test_checksums_and_flags_are_0_where_the_end_of_a_backward_fails():
    """After the exchange, and before anybody has looked at them: the last layer is unused on one rank."""

    def program():
        model = nn.DataParallel(mlp())
        inputs, _ = next(iter(loader(7)))
        with pytest.raises(ArithmeticError):
            (model(inputs, npdp.rank() or None) ** 2).mean().backward()
        (flat,) = model.strategy.flats
        return [flat.grad[spare : spare + 2].any() for spare in flat.spare], gradients(model)

    with mock.patch("npdp.parallel.buckets.Bucket.take_flag", side_effect=ArithmeticError):
        for spare, found in run(2, program):
            assert not any(spare) and not any(found.values())


@pytest.mark.parametrize("plan", ["Ss", "SsS", "Ls", "sSs", "lSs", "slSs", "slLs", "sSls", "ss", "sls", "lls", "ssls"])
def test_gradients_are_the_sum_of_all_backwards_since_one_that_failed(plan):
    """Synced backwards and local ones; in capitals those that fail when the last layer's gradients are complete."""

    def program():
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

    def alone():
        model = mlp()
        inputs, labels = next(iter(loader(7)))
        for _ in plan if plan.islower() else plan[1 + max(n for n, step in enumerate(plan) if step.isupper()) :]:
            criterion(model(inputs), labels).backward()
        return gradients(model)

    (wanted,) = run(1, alone)
    for got in run(3, program):
        assert_close(got, wanted)
