"""Parameters that are unused, partly used, frozen, tied or of another dtype get the gradients of one rank."""

import numpy as np
import pytest
from worlds import CLASSES, FEATURES, Parallel, assert_as_on_one_rank, gradients, loader, run

import npdp
from npdp import nn


class Odd(nn.Module):
    """Parameters that nobody, everybody, or only a row with a large first feature uses; one frozen; one tied."""

    def __init__(self):
        npdp.manual_seed(3)
        linear = lambda: nn.Linear(FEATURES, FEATURES, dtype=np.float64)  # noqa: E731
        self.always, self.sometimes, self.never, self.frozen, self.tied = (linear() for _ in range(5))
        self.frozen.weight = nn.Parameter(self.frozen.weight.data, requires_grad=False)
        self.tied_too = nn.Linear(FEATURES, FEATURES, bias=False, dtype=np.float64)
        self.tied_too.weight = self.tied.weight
        self.half = nn.Linear(FEATURES, CLASSES, dtype=np.float32)

    def forward(self, x):
        hidden = self.tied_too(self.tied(self.frozen(self.always(x)).tanh()).tanh())
        if len(x) and x.data[:, 0].max() > 0.5:
            hidden = hidden + self.sometimes(hidden) * ((x.data[:, :1] > 0.5) * 1.0)
        return hidden


@pytest.mark.parametrize("bucket_cap_mb", [1e-6, 3e-4, 25])
@pytest.mark.parametrize("batch_size", [1, 3, 13])
def test_unused_partly_used_frozen_and_tied_parameters_get_one_ranks_gradients(batch_size, bucket_cap_mb):
    def program(way):
        model = way.wrap(Odd())
        seen = {}
        for number, (x, y) in enumerate(loader(batch_size)):
            ((model(x) - y.data[:, None]) ** 2).mean().backward()
            seen |= {f"{number} {name}": g for name, g in gradients(model).items()}
            if number % 2:
                model.zero_grad()
        return seen

    assert_as_on_one_rank(program, way=Parallel(bucket_cap_mb=bucket_cap_mb, first_bucket_mb=bucket_cap_mb))
    seen = run(3, program, Parallel())[0]
    assert all(g is None for name, g in seen.items() if "never" in name or "frozen.weight" in name or "half" in name)
    used = [g is not None for name, g in seen.items() if "sometimes" in name]
    assert any(used) and (batch_size > 1 or not all(used))


def test_checksums_and_flags_are_0_outside_an_exchange():
    """They lie among the gradients: an optimiser runs over all."""

    def program():
        model = nn.DataParallel(Odd())
        for x, y in loader(4):
            ((model(x) - y.data[:, None]) ** 2).mean().backward()
        flats = model.strategy.flats
        return sum(np.count_nonzero(flat.grad[spare : spare + 2]) for flat in flats for spare in flat.spare)

    assert run(3, program) == [0, 0, 0]


def test_a_model_of_several_dtypes_meets_in_buckets_of_each():
    class Mixed(nn.Module):
        def __init__(self):
            npdp.manual_seed(4)
            self.wide, self.narrow = nn.Linear(FEATURES, 4, dtype=np.float64), nn.Linear(4, 2, dtype=np.float32)

        def forward(self, x):
            return self.wide(x) @ self.narrow.weight.transpose(1, 0) + self.narrow.bias

    def program(way):
        model = way.wrap(Mixed())
        for x, y in loader(5):
            ((model(x) - y.data[:, None]) ** 2).mean().backward()
        return gradients(model)

    got = run(3, program, Parallel(bucket_cap_mb=1e-6))
    assert got[0]["wide.weight"].dtype == np.float64 and got[0]["narrow.weight"].dtype == np.float32
    assert_as_on_one_rank(program, way=Parallel(bucket_cap_mb=1e-6), tolerance=1e-5)


def test_a_parameter_unfrozen_after_wrapping_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].weight.requires_grad = False
    wrapped = nn.DataParallel(model)
    model[0].weight.requires_grad = True
    with pytest.raises(RuntimeError, match="unfrozen after the model was wrapped"):
        wrapped(np.ones((1, 2), np.float32))
