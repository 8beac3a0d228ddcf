"""A model is scored as it is used: without dropout, and left as it was."""

from contextlib import nullcontext

import numpy as np
import pytest

from npdp import nn
from npdp.app.evaluation import evaluate
from npdp.autograd import Tensor
from npdp.data import ArrayDataset
from npdp.parallel.world import init


def test_a_model_is_scored_without_dropout_and_goes_on_with_it():
    model = nn.Sequential(nn.Dropout(0.5, seed=1), nn.Linear(3, 2))
    dataset = ArrayDataset(np.ones((20, 3), np.float32), np.zeros(20, np.int64))
    first, second = (evaluate(init(), model, dataset, classes=2) for _ in range(2))
    assert first == second  # dropout would draw two masks
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("features", [3, 4], ids=["", "after an exception"])
def test_scoring_leaves_each_module_in_training_or_not_as_it_was(features):
    model = nn.Sequential(nn.Dropout(0.5, seed=1), nn.Linear(3, 2))
    model[0].eval()
    dataset = ArrayDataset(np.ones((20, features), np.float32), np.zeros(20, np.int64))
    with nullcontext() if features == 3 else pytest.raises(ValueError, match="3"):
        evaluate(init(), model, dataset, classes=2)
    assert [module.training for module in model.modules()] == [True, False, True]


def test_nan_is_no_right_answer():
    class NoAnswer(nn.Module):
        def forward(self, x):
            return Tensor(np.full((len(x), 3), np.nan, np.float32))

    assert evaluate(init(), NoAnswer(), ArrayDataset(np.zeros((4, 2)), np.zeros(4, np.int64)), 3).accuracy == 0
