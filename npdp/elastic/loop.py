"""Elastic training in a program of the user's: it goes on through deaths of ranks.

    model = nn.DataParallel(model)
    state = npdp.elastic.State(model, optimizer, loader)

    def step(inputs, labels):                       one whole iteration
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    npdp.elastic.run(step, state, epochs=10)

Launch it with `npdp run --elastic`, or `mpirun --with-ft ulfm` of Open MPI 5. A rank that is killed at any moment takes
nothing along: the others do the iteration in flight again, each sample once, down to one survivor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npdp.elastic.recovery import Recovery, through_deaths
from npdp.elastic.state import State as State


def nothing(*_: object) -> None:
    """Do nothing."""


def run(
    step: Callable[..., Any],
    state: State,
    epochs: int,
    after: Callable[[int], object] = nothing,
    after_epoch: Callable[[int, float], object] = nothing,
    recovered: Callable[[Recovery], object] = nothing,
) -> None:
    """Train to the end of an epoch through deaths of ranks, from where the state is; collective.

    What `step` changes beside the model, the optimiser and npdp's random generator is not put back where an iteration
    is done again.

    Args:
        step: does an iteration on a batch's (inputs, labels), the optimiser's step the last of it.
        state: what is trained.
        epochs: how many there will be in all.
        after: called after each iteration with how many there were; it may be collective. Again, where a rank dies
            in it.
        after_epoch: likewise after each epoch, with its number, from 1 on, and the mean loss over its samples.
        recovered: called after each recovery.
    """
    if state.loader.accumulate > 1:
        raise ValueError("elastic.run: wanted a loader that gives whole batches, got one with accumulate")

    def train() -> None:
        state.look(after)
        for epoch in range(state.ended, epochs):
            for inputs, labels in state.loader:
                step(inputs, labels)
                state.commit()
                state.look(after)
            after_epoch(epoch + 1, state.ledger.mean_loss)
            state.end_epoch()
        state.world.barrier()

    through_deaths(state, train, recovered)
