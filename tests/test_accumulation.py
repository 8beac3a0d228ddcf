"""Backwards without a zero_grad in between add up, synced or under no_sync, as they do on one rank."""

import pytest
from worlds import Parallel, Plain, assert_as_on_one_rank, criterion, gradients, loader, mlp, parameters

from npdp import optim


def steps(way, model, plan, batch_size=4, seed=0):
    """Run backwards as `plan` says, a letter each, and return the gradients seen after every synced one.

    s: synced, n: under no_sync, z: zero_grad, S or N: the same with a loss that leaves out the last layer.
    """
    model = way.wrap(model)
    batches = iter(loader(batch_size, seed=seed))
    seen = {}
    for place, letter in enumerate(plan):
        if letter == "z":
            model.zero_grad()
            continue
        inputs, labels = next(batches)
        with way.no_sync(model) if letter in "nN" else Plain().no_sync(model):
            loss = (model(inputs, 1) ** 2).mean() if letter.isupper() else criterion(model(inputs), labels)
            (loss / 2).backward()
        if letter in "sS":
            seen |= {f"{place} {name}": g for name, g in gradients(model).items()}
    return seen


@pytest.mark.parametrize(
    "plan",
    ["ns", "nns", "ss", "sss", "sns", "snss", "nsns", "szns", "snzs", "nzs", "snznss", "Ss", "sS", "nS", "Ns", "sNs",
     "SnS", "sNzs", "SnzS", "NNS", "SzS"],
)  # fmt: skip
def test_backwards_without_zero_grad_add_up_synced_or_not(plan):
    assert_as_on_one_rank(lambda way: steps(way, mlp(), plan, batch_size=3))
    assert_as_on_one_rank(lambda way: steps(way, mlp(), plan, batch_size=1), [4])
    assert_as_on_one_rank(lambda way: steps(way, mlp(), plan, batch_size=3), [2], Parallel(bucket_cap_mb=1e-6))


def test_no_sync_accumulation_trains_as_on_one_rank():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        model = way.wrap(model)
        for _ in range(2):
            for number, (inputs, labels) in enumerate(loader(3)):  # 5 batches, the last one of 1
                last = number % 2 == 1 or number == 4
                with Plain().no_sync(model) if last else way.no_sync(model):
                    (criterion(model(inputs), labels) / 2).backward()
                if last:
                    optimizer.step()
                    optimizer.zero_grad()
        return parameters(model)

    assert_as_on_one_rank(program)


@pytest.mark.parametrize("batch_size", [1, 4, 13])
@pytest.mark.parametrize("synced", [True, False], ids=["synced", "no_sync"])
def test_the_pieces_of_an_accumulating_loader_add_up_to_the_whole_batch(batch_size, synced):
    def program(way):
        model = way.wrap(mlp())
        optimizer = optim.SGD(model.parameters(), lr=0.3)
        pieces = 1 if type(way) is Plain else 3
        for number, (inputs, labels) in enumerate(loader(batch_size, accumulate=pieces), 1):
            with Plain().no_sync(model) if synced or number % pieces == 0 else way.no_sync(model):
                criterion(model(inputs), labels).backward()
            if number % pieces == 0:
                optimizer.step()
                optimizer.zero_grad()
        return parameters(model)

    assert_as_on_one_rank(program)
