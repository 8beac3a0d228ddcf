"""Where a rank's program is, as others see it from beside it."""

from __future__ import annotations

import numpy as np
import pytest

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.data.sampler import this_rank
from npdp.parallel.world import run_ranks


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_program_passes_through_the_parts_of_each_iteration_in_order(ranks: int) -> None:
    x = np.arange(12.0).reshape(6, 2)

    def program() -> tuple[list[str], list[int]]:
        place = npdp.init().place
        parts, iterations = [], []

        class Noting(nn.Module):
            def forward(self, values: npdp.Tensor) -> npdp.Tensor:
                parts.append(place.part)
                return values

        model = nn.DataParallel(nn.Sequential(nn.Linear(2, 1), Noting()))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model.module[0].weight.register_hook(lambda gradient: parts.append(place.part))
        for inputs, labels in DataLoader(ArrayDataset(x, x[:, :1]), batch_size=4, seed=1):
            parts.append(place.part)
            iterations.append(place.iteration)
            loss = nn.MSELoss()(model(inputs), labels)
            loss.backward()
            parts.append(place.part)
            optimizer.step()
        return parts, iterations

    for parts, iterations in run_ranks(ranks, program):
        assert parts == ["data", "forward", "backward", "update"] * 2
        assert iterations == [0, 1]


def test_the_rows_of_a_batch_are_known_to_who_asks_and_each_is_somebodys() -> None:
    x = np.arange(7.0).reshape(7, 1)

    def program() -> list[int]:
        rows: list[int] = []
        for inputs, _ in DataLoader(ArrayDataset(x, x), batch_size=3, shuffle=True, seed=3):
            assert this_rank.rows is not None
            assert x[this_rank.rows].tolist() == np.asarray(inputs).tolist()
            rows += this_rank.rows.tolist()
        return rows

    assert sorted(row for rows in run_ranks(3, program) for row in rows) == list(range(7))
