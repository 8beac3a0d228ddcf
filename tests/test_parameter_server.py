"""With staleness 0 a parameter server is exact: the bits of all-reduce in rank order, whatever is trained."""

import functools
import math

import numpy as np
import pytest
from servers import served
from training import DROPOUT, UNUSED, exact_flags, fit, off, on_one_rank
from worlds import Parallel, TwoDtypes, assert_close, criterion, loader, mlp, parameters, run

import npdp
from npdp import kernels, nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.parameter_server.service import IN_STEP

LAYOUTS = [(1, 1), (1, 2), (2, 1), (2, 3), (0, 1), (0, 2), (0, 3)]  # servers (0: colocated), workers


@functools.cache
def all_reduced(ranks, *flags):
    """Train with all-reduce, added in rank order."""
    return fit(*flags, "--algorithm", "naive", "--update", "replicated", ranks=ranks)


def assert_as_all_reduce(flags, servers, workers):
    one = fit(*flags, "--strategy", "ps", "--servers", servers, ranks=servers + workers)
    wanted = all_reduced(workers, *flags)
    assert one.end["parameters_sha256"] == wanted.end["parameters_sha256"]
    assert {k: one.end[k] for k in ("iterations", "samples_seen")} == {
        k: wanted.end[k] for k in ("iterations", "samples_seen")
    }
    assert one.end["staleness_histogram"] == {"0": one.end["iterations"] * workers}
    assert one.end["dropped_pushes"] == one.end["unused_samples"] == 0
    return one


# Staleness 0 is exact
@pytest.mark.parametrize(("servers", "workers"), LAYOUTS)
@pytest.mark.parametrize("batch", [7, 50, 1437])
def test_with_staleness_0_it_has_the_bits_of_all_reduce_and_the_model_of_one_rank(servers, workers, batch):
    flags = (*exact_flags(batch, "float64"), *(("--epochs", "1") if batch == 7 else ()))
    assert off(assert_as_all_reduce(flags, servers, workers), on_one_rank(*flags)) <= 1e-10


MORE = {
    "adam": ("--optimizer", "adam", "--learning-rate", "0.01"),
    "adamw": ("--optimizer", "adamw", "--learning-rate", "0.01", "--weight-decay", "0.1"),
    "weight decay": ("--weight-decay", "0.01", "--lr-schedule", "constant"),
    "step and warm-up": ("--lr-schedule", "step", "--warm-up-epochs", "0.5"),
    "accumulate": ("--accumulate", "3"),
    "mlp": ("--model", "mlp", "--hidden", "20,10"),
    "empty parts": ("--global-batch-size", "2"),
    "float32": ("--dtype", "float32"),
    "dropout": ("--model", "{folder}/dropout.py:make"),
    "unused": ("--model", "{folder}/unused.py:make", "--weight-decay", "0.01"),
}


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize(("servers", "workers"), [(2, 3), (0, 3)])
def test_whatever_is_trained_it_has_the_bits_of_all_reduce(more, servers, workers, tmp_path):
    (tmp_path / "dropout.py").write_text(DROPOUT)
    (tmp_path / "unused.py").write_text(UNUSED)
    base = ("--quiet", "--dtype", "float64", "--epochs", "1", "--global-batch-size", "50")
    assert_as_all_reduce((*base, *(flag.format(folder=tmp_path) for flag in MORE[more])), servers, workers)


def assert_bits(program, layouts=((1, 2), (2, 3), (0, 2)), memories=(True, False), bits=True):
    """Assert that every worker gets, to the last bit, what all-reduce in rank order gives; or up to rounding."""
    for servers, workers in layouts:
        wanted = run(workers, program, Parallel(), algorithm="naive")[0]
        for memory in memories:
            for rank, got in enumerate(served(program, servers, workers, memory)):
                what = f"worker {rank} of {workers}, {servers} servers, memory {memory}"
                assert_close(got, wanted, what, 1e-12)
                assert not bits or all(np.array_equal(got[name], wanted[name]) for name in wanted), what


def steps(way, optimizers, model, batches=None, backwards=None, epochs=2, between=lambda number: None):
    """Train, several losses a step or one; return the parameters."""
    model = way.wrap(model)
    backwards = backwards or [lambda model, x, y: criterion(model(x), y)]
    number = 0
    for _ in range(epochs):
        for inputs, labels in batches or loader(5):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for loss in backwards:
                loss(model, inputs, labels).backward()
            for optimizer in optimizers:
                optimizer.step()
            number += 1
            between(number)
    return parameters(model)


@pytest.mark.parametrize(
    "options", [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.3}, {}], ids=str
)
def test_sgd_in_all_its_forms_trains_to_the_same_bits(options):
    def program(way):
        model = mlp()
        return steps(way, [optim.SGD(model.parameters(), lr=0.2, weight_decay=0.01, **options)], model)

    assert_bits(program)


def test_a_model_of_two_dtypes_trains_to_the_same_bits():
    def program(way):
        model = TwoDtypes()
        return steps(way, [optim.SGD(model.parameters(), lr=0.2, momentum=0.9)], model)

    assert_bits(program)


def test_two_optimisers_over_halves_of_a_model_train_to_the_same_bits():
    def program(way):
        model = mlp()
        halves = [optim.SGD(model[0].parameters(), lr=0.2, momentum=0.9), optim.Adam(model[2].parameters(), lr=0.01)]
        return steps(way, halves, model)

    assert_bits(program)


def side_by_side(way, second_lr=0.01, epochs=2):
    """Train by two optimisers whose parameters lie in one flat array, in turn."""
    model = mlp()
    optim.SGD(model.parameters())  # lays them there, and is thrown away
    found = list(model.parameters())
    halves = [optim.SGD(found[::2], lr=0.2, momentum=0.9), optim.Adam(found[1::2], lr=second_lr)]
    return steps(way, halves, model, epochs=epochs)


def test_two_optimisers_whose_parameters_lie_side_by_side_train_to_the_same_bits():
    assert_bits(side_by_side, layouts=((1, 2), (2, 3), (0, 1), (0, 2), (0, 3)))


@pytest.mark.parametrize("staleness", [1, math.inf])
@pytest.mark.parametrize("servers", [0, 1])
def test_an_optimiser_undoes_nothing_of_another_at_any_staleness(servers, staleness):
    wanted = run(1, side_by_side, Parallel())[0]
    for memory in (True, False):
        assert_close(served(side_by_side, servers, 1, memory, staleness)[0], wanted)

    def both(way):
        model = mlp()
        before = parameters(model)
        optimizers = [optim.SGD(model.parameters(), lr=lr) for lr in (0.1, 0.0)]
        wrapped = way.wrap(model)
        for inputs, labels in loader(3):
            model.zero_grad()
            criterion(wrapped(inputs), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
        wrapped.synchronize()
        return min(np.abs(after - before[name]).max() for name, after in parameters(model).items())

    assert all(change > 1e-4 for change in served(both, servers, 2, staleness=staleness))


def test_optimisers_of_which_one_steps_more_often():
    def program(way):
        model = mlp()
        halves = [optim.SGD(model[0].parameters(), lr=0.2), optim.SGD(model[2].parameters(), lr=0.1)]
        model = way.wrap(model)
        for number, (inputs, labels) in enumerate(loader(5)):
            for optimizer in halves[number % 2 :]:
                model.zero_grad()
                criterion(model(inputs), labels).backward()
                optimizer.step()
        return parameters(model)

    assert_bits(program)


first_layer = lambda model, x, y: (model(x, 1) ** 2).mean()  # noqa: E731
whole = lambda model, x, y: criterion(model(x), y)  # noqa: E731


LOSSES = {"two": [whole, first_layer], "one": [first_layer], "same": [whole, whole, whole]}


@pytest.mark.parametrize("losses", LOSSES)
def test_several_losses_of_one_batch_and_parameters_that_nobody_uses(losses):
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        return steps(way, [optimizer], model, None, LOSSES[losses])

    assert_bits(program, bits=losses == "one")  # several are added up here first, there over the ranks first


def test_batches_of_two_loaders_before_one_step():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for (x, y), (x2, y2) in zip(loader(4), loader(3, 12)):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            criterion(model(x2), y2).backward()
            optimizer.step()
        return parameters(model)

    assert_bits(program, bits=False)


def test_a_gradient_that_is_thrown_away_changes_nothing():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for x, y in loader(4):
            (model(x) ** 2).mean().backward()
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        return parameters(model)

    assert_bits(program)


def test_parameters_that_only_some_workers_use_get_the_same_bits():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.1)
        model = way.wrap(model)
        for number, (x, y) in enumerate(loader(5)):
            optimizer.zero_grad()
            use_all = (npdp.rank() + number) % 2 == 0
            (criterion(model(x), y) if use_all else (model(x, 1) ** 2).mean()).backward()
            optimizer.step()
        return parameters(model)

    assert_bits(program)


@pytest.mark.parametrize("zeroes", ["before", "never"])
def test_gradients_add_up_where_nobody_zeroes_them_and_what_is_unused_stays(zeroes):
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        model = way.wrap(model)
        for x, _ in loader(5):
            if zeroes == "before":
                optimizer.zero_grad()
            (model(x, 1) ** 2).mean().backward()
            optimizer.step()
        return parameters(model)

    assert_bits(program, bits=zeroes == "before")


def test_no_sync_and_accumulation_by_hand_train_to_the_same_bits():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        model = way.wrap(model)
        for number, (x, y) in enumerate(loader(3)):
            with model.no_sync() if number % 2 == 0 and number < 4 else model.syncing(True):
                (criterion(model(x), y) / 2).backward()
            if number % 2 or number == 4:
                optimizer.step()
                optimizer.zero_grad()
        return parameters(model)

    for servers, workers in ((1, 2), (2, 3), (0, 2)):  # sums are made in another order there
        wanted = run(workers, program, Parallel(), algorithm="naive")[0]
        for got in served(program, servers, workers):
            assert_close(got, wanted, "", 1e-12)


def test_a_learning_rate_set_by_hand_counts_from_the_next_step_on():
    def program(way, changed=lambda number: 0.2 / number):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        return steps(way, [optimizer], model, between=lambda number: setattr(optimizer, "lr", changed(number)))

    assert_bits(program)
    assert_bits(functools.partial(program, changed=lambda number: lambda iteration: 0.1 / (iteration + number)))


def test_what_else_an_optimiser_has_is_the_servers_and_a_change_by_hand_is_refused():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        return steps(way, [optimizer], model, between=lambda number: setattr(optimizer, "momentum", 0.5))

    with pytest.raises(RuntimeError, match="momentum of the optimiser was 0.9 when .* and is 0.5"):
        served(program, 1, 2)


@pytest.mark.parametrize("servers", [3, 5])
def test_a_model_smaller_than_the_number_of_servers(servers):
    def program(way):
        npdp.manual_seed(1)
        model = nn.Linear(1, 1, dtype=np.float64)
        x = np.random.default_rng(1).standard_normal((20, 1))
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        model = way.wrap(model)
        for inputs, labels in DataLoader(ArrayDataset(x, 3 * x), 4):
            optimizer.zero_grad()
            nn.MSELoss()(model(inputs), labels).backward()
            optimizer.step()
        return parameters(model)

    assert_bits(program, [(servers, 2)])


@pytest.mark.parametrize("staleness", [0, math.inf])
def test_the_parameters_keep_their_memory(staleness):
    """What is asked for later, shared too, lies elsewhere."""

    def program(way):
        model = TwoDtypes()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        later = [npdp.shared_empty(1000, "float32") for _ in range(3)]
        arrays = [p.data for p in model.parameters()] + later
        pairs = [(a, b) for number, a in enumerate(arrays) for b in arrays[:number]]
        return optimizer, any(np.shares_memory(a, b) for a, b in pairs)

    assert not any(overlap for _, overlap in served(program, 0, 2, staleness=staleness))


def test_servers_that_have_ended_are_not_kept():
    """It has gradients and an optimiser's state; a process may train many models."""

    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        way.wrap(model)
        npdp.init().close()  # all leave, and threads end
        return optimizer, IN_STEP[npdp.init()].servers

    assert [servers for _, servers in served(program, 0, 2)] == [[], []]


@pytest.mark.parametrize(
    ("servers", "options", "once"),
    [(1, {}, True), (2, {}, True), (0, {}, True), (1, {"staleness": 1}, False), (1, {"backup_workers": 1}, False)],
    ids=str,
)
def test_parameters_lie_once_where_all_workers_wait_for_an_update(servers, options, once):
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        flat = way.wrap(model).exchange.flats[0]
        if npdp.rank() == 0:
            flat.data[0] = 7.0
        npdp.barrier()
        return optimizer, flat.data[0] == 7.0

    once = once and kernels.backend() == "c"
    assert [seen for _, seen in served(program, servers, 3, **options)] == [True, once, once]
    assert [seen for _, seen in served(program, servers, 3, memory=False, **options)] == [True, False, False]


def test_an_optimiser_made_after_the_model_was_wrapped_is_refused():
    def program(way):
        model = way.wrap(mlp())
        optim.SGD(model.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="have no optimiser: make it before the model is wrapped"):
        served(program, 1, 2)

    def a_second_one(way):
        model = mlp()
        optim_before = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        after = optim.SGD(model.parameters(), lr=0.1)
        x, y = next(iter(loader(4)))
        criterion(model(x), y).backward()
        after.step()
        return optim_before

    with pytest.raises(RuntimeError, match="made after the model was wrapped"):
        served(a_second_one, 1, 2)


def test_nobody_may_look_at_a_gradient_or_write_a_parameter():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        x, y = next(iter(loader(4)))
        criterion(model(x), y).backward()
        with pytest.raises(RuntimeError, match="parameter server"):
            _ = model.module[0].weight.grad
        with pytest.raises(RuntimeError, match="parameter server"):
            optim.clip_grad_norm_(model.parameters(), 1.0)
        with pytest.raises(ValueError, match="read-only"):
            model.module[0].weight.data[...] = 0
        with pytest.raises((ValueError, RuntimeError)):
            model.load_state_dict({name: np.zeros_like(p) for name, p in parameters(model).items()})
            optimizer.step()
            assert max(np.abs(p).max() for p in parameters(model).values()) < 0.2, "what was loaded had no effect"
            raise RuntimeError("it had")

    served(program, 1, 2)
