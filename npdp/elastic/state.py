"""The state of elastic training on one rank."""

from __future__ import annotations

from collections.abc import Callable

from npdp.collectives.communicator import Communicator
from npdp.data import DataLoader
from npdp.elastic.before import Before
from npdp.elastic.ledger import Ledger
from npdp.elastic.recovery import SPARE, narrow, regroup
from npdp.optim import Optimizer
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.data_parallel import DataParallel


class State:
    """State of elastic training: what deaths are survived with. Making one is collective.

    Args:
        model: wrapped by DataParallel, with update="replicated"; the only one that is trained.
        optimizer: the model's.
        loader: of the training data, where it is to go on.
        workers: how many ranks train; the others are spares, which wait, and take the places of ranks that die.

    Attributes:
        all_reduce: how it was trained before.
        workers: as given, or all ranks there were at first.
        is_spare: whether this rank waits.
        ledger: what was done, and with which samples.
        ended: epochs whose end was told.
        looked: iterations after which all was looked at that is to be.

    Raises:
        ValueError: the model is trained by something else than all-reduce with replicated parameters.
    """

    def __init__(
        self, model: DataParallel, optimizer: Optimizer, loader: DataLoader, workers: int | None = None
    ) -> None:
        if not isinstance(model.strategy, AllReduce):
            raise ValueError(
                'elastic: wanted DataParallel(model) with update="replicated", whose ranks have all parameters each, '
                f"got one trained by {type(model.strategy).__name__}"
            )
        self.model, self.optimizer, self.loader, self.all_reduce = model, optimizer, loader, model.strategy
        place = loader.state_dict()
        self.ended = place["epoch"]
        self.looked = place["epoch"] * loader.iterations_per_epoch + place["batches"]
        self.ledger = Ledger(loader.iterations_per_epoch, self.looked)
        self.before = Before(model)
        self._iteration = optimizer.iteration
        self.workers, self.is_spare, self._has_part = workers or self.world.world_size, False, True
        if self.workers < self.world.world_size:
            narrow(self, self.world.transport)
            self._has_part = not self.is_spare
        if not self.is_spare:
            regroup(self, [self.words])

    @property
    def world(self) -> Communicator:
        """The communicator of the ranks that train."""
        return self.model.world

    @property
    def launched(self) -> set[int]:
        """Numbers at launch of the ranks there are."""
        return set(getattr(self.world.transport, "launched", ()))

    @property
    def words(self) -> tuple[int, int, int]:
        """What this rank says when survivors meet: how far it is."""
        return (self.ledger.done, self.ended, self.looked) if self._has_part else SPARE

    def commit(self, *_: object) -> None:
        """Note that an iteration is done."""
        self.ledger.commit()
        self.caught_up()

    def look(self, after: Callable[[int], object]) -> None:
        """Have `after` look at the model, where it has not since the last iteration."""
        if self.looked < self.ledger.done:
            after(self.ledger.done)
            self.looked = self.ledger.done

    def end_epoch(self) -> float:
        """Note that all is done that is to be done after an epoch; return its mean loss."""
        self.ended += 1
        return self.ledger.mean_loss

    def caught_up(self) -> None:
        """Remember all as it is, after an iteration."""
        self._has_part = True
        self._iteration = self.optimizer.iteration
        self.before.remember()

    def settle(self) -> None:
        """Count an iteration whose update is done, after which something died; forget one whose update is not."""
        if self.ledger.is_due and self.optimizer.iteration > self._iteration:
            self.commit()
        self.ledger.discard()

    def place_loader(self) -> None:
        """Have the loader begin behind the last batch that is done; where an epoch's end is due, with nothing."""
        size = self.loader.iterations_per_epoch
        place = {"epoch": self.ended, "batches": self.ledger.done - self.ended * size}
        self.loader.load_state_dict({**self.loader.state_dict(), **place})
