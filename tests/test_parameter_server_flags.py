"""npdp.train under a parameter server: the bits of all-reduce with staleness 0, and each sample once in any run."""

import functools
import random

import pytest
from servers import staleness_of
from training import DIGITS_TRAIN, DROPOUT, UNUSED, exact_flags, fit, off, on_one_rank

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


@pytest.mark.parametrize("seed", range(6))
def test_any_run_uses_each_sample_once(seed):
    """With flags drawn from a seed."""
    dice = random.Random(seed)
    servers, workers = dice.choice([0, 1, 2]), dice.choice([1, 2, 3, 4])
    staleness = dice.choice(["0", "1", "2", "3", "inf"])
    flags = ["--quiet", "--strategy", "ps", "--servers", servers, "--staleness", staleness,
             "--epochs", 2, "--global-batch-size", dice.choice([3, 7, 50, 64, 1437]), "--seed", seed % 7,
             "--accumulate", dice.choice([1, 1, 3]), "--momentum", 0, "--learning-rate", 0.01]  # fmt: skip
    if dice.random() < 0.5:
        flags += ["--inject", f"slow@rank={dice.randrange(workers)},factor={dice.choice([2, 5])}"]
    if dice.random() < 0.3:
        flags += ["--model", "mlp", "--hidden", "30,20", "--optimizer", "adam", "--learning-rate", "0.001"]
    one = fit(*flags, ranks=servers + workers)
    assert one.end["samples_seen"] == 2 * DIGITS_TRAIN, flags
    assert sum(staleness_of(one).values()) == one.end["pushes"], flags
    assert one.end["train_loss"] < 3, flags
