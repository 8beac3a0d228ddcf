"""Arguments of the wrong kind are refused where they are given, by name, with what was wanted and what came."""

import re

import numpy as np
import pytest

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.nn import Linear


def loader(**options):
    return DataLoader(ArrayDataset(np.zeros((8, 2)), np.zeros(8)), **options)


def step_with(lr):
    model = Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.lr = lr
    optimizer.step()


def wrapped(*arguments, **named):
    return nn.DataParallel(Linear(2, 1), *arguments, **named)


COUNT, SEED = "must be a whole number, at least 1, got", "must be a whole number in [0, 2^64), got"
RATE = "lr of iteration 0 must be a finite number, at least 0, got"
WRONG = {  # name -> (call, kind, what the message must say)
    "half a batch": (lambda: loader(batch_size=128 / 2), TypeError, f"DataLoader: batch_size {COUNT} 64.0"),
    "a batch size in text": (lambda: loader(batch_size="3"), TypeError, f"DataLoader: batch_size {COUNT} '3'"),
    "half a piece": (lambda: loader(accumulate=2.5), TypeError, f"DataLoader: accumulate {COUNT} 2.5"),
    "half an order's seed": (lambda: loader(seed=1.5), TypeError, f"DataLoader: seed {SEED} 1.5"),
    "lr in text": (lambda: step_with("a"), TypeError, f"SGD.step: {RATE} 'a'"),
    "no lr": (lambda: step_with(None), TypeError, f"SGD.step: {RATE} None"),
    "a list for lr": (lambda: step_with([0.1]), TypeError, f"SGD.step: {RATE} [0.1]"),
    "two lrs": (lambda: step_with(np.ones(2)), TypeError, f"SGD.step: {RATE} array([1., 1.])"),
    "a schedule without a return": (lambda: step_with(lambda iteration: None), TypeError, f"SGD.step: {RATE} None"),
    "lr in text from the first": (lambda: optim.SGD(Linear(2, 1).parameters(), lr="a"), TypeError,
                                  "lr must be a finite number, at least 0, got 'a'"),
    "a strategy's name": (lambda: wrapped(strategy="ps"), TypeError,
                          "DataParallel: strategy must be npdp.ParameterServer(...) or npdp.LocalSGD(...), got 'ps'"),
    "an empty name": (lambda: wrapped(strategy=""), TypeError, "DataParallel: strategy must be"),
    "a strategy's class": (lambda: wrapped(strategy=npdp.LocalSGD), TypeError, "npdp.LocalSGD(...), got LocalSGD"),
    "device_ids": (lambda: wrapped([0]), TypeError, "DataParallel: bucket_cap_mb must be a number of MB, or None; "
                   "PyTorch's device_ids have no place here, as there are CPUs only, got [0]"),
    "a bucket in text": (lambda: wrapped(first_bucket_mb="1"), TypeError,
                         "DataParallel: first_bucket_mb must be a number of MB, or None, got '1'"),
    "half a seed": (lambda: npdp.manual_seed(1.5), TypeError, f"manual_seed: seed {SEED} 1.5"),
    "no seed": (lambda: npdp.manual_seed(None), TypeError, f"manual_seed: seed {SEED} None"),
    "a negative seed": (lambda: npdp.manual_seed(-1), ValueError, f"manual_seed: seed {SEED} -1"),
    "a seed of 65 bits": (lambda: npdp.manual_seed(2**64), ValueError, f"{SEED} 18446744073709551616"),
    "half a rank": (lambda: npdp.run_ranks(2.0, npdp.rank), TypeError, f"run_ranks: world_size {COUNT} 2.0"),
    "never": (lambda: optim.learning_rates.step(0.1, every=0), ValueError, f"learning_rates.step: every {COUNT} 0"),
    "dropout in text": (lambda: nn.Dropout("a"), TypeError, "Dropout: p must be a number in [0, 1), got 'a'"),
    "half a dropout's seed": (lambda: nn.Dropout(0.5, seed=0.5), TypeError, f"Dropout: seed {SEED} 0.5"),
    "half features": (lambda: Linear(3.0, 2), TypeError, f"Linear: in_features {COUNT} 3.0"),
    "no outputs": (lambda: Linear(3, 0), ValueError, f"Linear: out_features {COUNT} 0"),
    "half sparse outputs": (lambda: nn.SparseLinear(3, 2.0), TypeError, f"SparseLinear: out_features {COUNT} 2.0"),
    "rows in text": (lambda: nn.Embedding("3", 2), TypeError, f"Embedding: num_embeddings {COUNT} '3'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_it_is_refused_by_name(case):
    call, kind, said = WRONG[case]
    with pytest.raises(kind, match=re.escape(said)) as refused:
        call()
    assert type(refused.value) is kind


def test_numbers_of_numpy_are_numbers():
    two = np.int64(2)
    assert loader(batch_size=two, accumulate=two, seed=np.uint8(3)).iterations_per_epoch == 4
    assert Linear(two, np.int32(1)).weight.shape == (1, 2) and nn.Embedding(two, two).weight.shape == (2, 2)
    assert npdp.run_ranks(two, npdp.rank) == [0, 1]
    assert nn.Dropout(np.float32(0.5)).p == 0.5
    assert wrapped(np.float64(1), 1).strategy.bucket_cap_mb == 1
    step_with(np.float32(0.1))
    npdp.manual_seed(np.int16(5))
    assert npdp.base.random.current_seed() == 5 and type(npdp.base.random.current_seed()) is int
