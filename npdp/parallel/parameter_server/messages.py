"""What workers and servers say to each other, as plain values; gradients and parameters travel beside them.

Each message of a worker to a shard has a `sequence` number, one higher than the last: what comes twice is known by it.
"""

from __future__ import annotations

from typing import NamedTuple

NONE_LEFT = -1  # in a reply: this epoch has no unit of work left
NOT_ASKED = -2


class Request(NamedTuple):
    """Asks for the next unit of a loader's pass over the data, which has `units`; `parts` of them make a batch."""

    loader: int
    epoch: int
    units: int
    parts: int


class Unit(NamedTuple):
    """A piece of work: part `number` of the pass `epoch` of a loader. Without a loader (-1): the worker's own count."""

    loader: int
    epoch: int
    number: int


class Push(NamedTuple):
    """A worker's gradient of a unit of work; it waits for new parameters.

    Attributes:
        worker: its number.
        sequence: of its messages.
        unit: what the gradient was computed from.
        version: that of the parameters it was computed on.
        samples: how many it was computed from.
        batch_samples: those of the whole batch, of which this is a part; with staleness 0 the gradient is weighted by
            its part of it, else it is the mean over its own samples.
        lr: the worker's learning rate; None: a schedule, which the server keeps.
        unused: which of the group's parameters have no gradient, by index; they have zeros instead.
        request: the next unit is asked for.
        rows: of a sparse parameter, how many the gradient has.
        completed: iterations that the worker has completed, with this one; the same number to all shards.
        collectives: how many collectives of the workers it has come to; counted with staleness 0.
    """

    worker: int
    sequence: int
    unit: Unit
    version: int
    samples: int
    batch_samples: int
    lr: float | None = None
    unused: tuple[int, ...] = ()
    request: Request | None = None
    rows: int = 0
    completed: int = 0
    collectives: int = 0


class Start(NamedTuple):
    """A worker begins to work, with the first unit of an epoch say; it waits for parameters no staler than allowed.

    Attributes:
        completed: at how many iterations it begins; None: the shard that hands out says where, in its reply.
    """

    worker: int
    sequence: int
    version: int
    request: Request | None = None
    completed: int | None = None


class Idle(NamedTuple):
    """A worker has nothing to do for now: nobody need wait for it. Not answered.

    Attributes:
        collectives: with staleness 0, how many it has come to, with the one in which it waits for all others.
    """

    worker: int
    sequence: int
    collectives: int = 0


class Resume(NamedTuple):
    """A worker is back at work after it was idle within an iteration. Not answered."""

    worker: int
    sequence: int
    completed: int


class Pull(NamedTuple):
    """A worker wants the newest parameters, to look at; it waits for them."""

    worker: int
    sequence: int
    version: int


class Fetch(NamedTuple):
    """A worker wants some rows of a sparse parameter, which a forward is about to read; it waits for them.

    Attributes:
        rows: how many.
        training: whether a gradient will come of it; else they are looked at only.
    """

    worker: int
    sequence: int
    version: int
    rows: int = 0
    training: bool = True


class Leave(NamedTuple):
    """A worker will send nothing more; it waits for a last answer."""

    worker: int
    sequence: int


Message = Push | Start | Idle | Resume | Pull | Fetch | Leave


class Reply(NamedTuple):
    """What a worker waits for: the version there is now, and the unit it asked for.

    Parameters travel along where this version is not `held`, the one that the worker has. `completed` is the
    worker's, as this shard counts it.
    """

    worker: int
    version: int
    held: int
    unit: int = NOT_ASKED
    pulled: bool = False  # the answer to Pull
    last: bool = False  # the answer to Leave
    completed: int = 0

    @property
    def changed(self) -> bool:
        return self.version != self.held
