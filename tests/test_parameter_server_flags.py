"""npdp.train under a parameter server with staleness 0 has the bits of all-reduce, whatever is trained."""

import functools

import pytest
from training import DROPOUT, UNUSED, exact_flags, fit, off, on_one_rank

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
