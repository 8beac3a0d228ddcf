"""Checkpoints of a training job: what of it is kept, when, and how it goes on.

    --checkpoint DIR           where they are: DIR/000410.npz is the one after 410 iterations
    --checkpoint-format F      npz or safetensors
    --checkpoint-every N       iterations; or a time, as 10min (the default); the last iteration has one in any case
    --keep 3                   how many stay
    --resume                   go on from the newest that is whole, at any number of ranks

Rank 0 copies the state between two iterations and writes it beside training; the others wait for it only where they
need its next gradient. What cannot be written is told in a line, and training goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from npdp.base.errors import InputError
from npdp.elastic import checkpoint, safetensors_file
from npdp.parallel.agreement import agree
from npdp.report.console import note

if TYPE_CHECKING:
    from npdp.app.config import TrainConfig
    from npdp.app.job import Job, Parts
    from npdp.app.observing import Observer
    from npdp.collectives.communicator import Communicator
    from npdp.report.console import Console

# Facts of a run that may be others when it goes on: where the same data is, and what changes no batch and no update
MAY_DIFFER = {"ranks", "data", "epochs", "accumulate", "evaluate_every", "sample_every", "update", "estimate", "on_nan"}


class Checkpoints:
    """Checkpoints of a job; without `--checkpoint` it does nothing.

    Args:
        while_writing: called with its iteration while one is written.

    Attributes:
        goes_on: whether training does not begin, but goes on from one.
    """

    goes_on = False

    def __init__(self, config: TrainConfig, while_writing: Callable[[int], object]) -> None:
        self._folder, self._every, self._keep = config.checkpoint or "", config.checkpoint_every, config.keep
        self._resume, self._while_writing, self._suffix = config.resume, while_writing, f".{config.checkpoint_format}"
        self._writing: threading.Thread | None = None
        self._begun: int | None = None  # of which iteration this rank has begun to write one last
        self._notes: list[str] = []  # of how it began
        self._best: dict[str, Any] | None = None  # of an observer

    def resume(self, world: Communicator, parts: Parts) -> None:
        """Go on from the newest checkpoint that is whole, before the model is wrapped; collective.

        Raises:
            InputError: it is of another run, or there are some and `--resume` is not given, or no right to write.
        """
        if not self._folder:
            return
        agree(world, lambda: _require_folder(self._folder, self._resume))
        if self._suffix == safetensors_file.SUFFIX:
            agree(world, safetensors_file.require_package)
        found = self._newest() if self._resume and world.rank == 0 else {"iteration": 0}
        number = int(world.gather_texts(str(found["iteration"]))[0])
        if number:
            content = agree(world, lambda: self._content(number) if world.rank else found)
            agree(world, lambda: self._take_over(content, parts))

    def _content(self, number: int) -> dict[str, Any]:
        return checkpoint.read(checkpoint.path_of(self._folder, number))

    def _newest(self) -> dict[str, Any]:
        """Return the newest checkpoint that is whole, one of iteration 0 where there is none; note the others."""
        for number in checkpoint.numbers(self._folder):
            try:
                return self._content(number)
            except InputError as error:
                self._notes.append(f"--resume: {error}; the one before it is taken")
        self._notes.append(f"--resume: there is no checkpoint in {self._folder}, training starts afresh")
        return {"iteration": 0}

    def _take_over(self, content: Mapping[str, Any], parts: Parts) -> None:
        path = checkpoint.path_of(self._folder, content["iteration"])
        theirs = content["more"].get("run", {})
        for name, mine in _identity(parts.run, parts.model_name).items():
            if (was := theirs.get(name)) != mine:
                raise InputError(f"--resume: {path} is of another run: {name.replace('_', ' ')} was {was}, is {mine}")
        try:
            self._best = checkpoint.restore(content, parts.model, parts.optimizer, parts.loader)["best"]
        except ValueError as error:
            raise InputError(f"--resume: {path} is of another run: {error}") from None
        self.goes_on, place = True, content["loader"]
        if place["batches"] == parts.loader.iterations_per_epoch:
            parts.loader.epoch += 1  # whose end has nothing to do
        self._notes.append(
            f"resumed after iteration {content['iteration']}, epoch {place['epoch'] + 1}, "
            f"{place['batches']} of its batches done, from {path}"
        )

    def begin(self, job: Job, observer: Observer, console: Console, settings: Mapping[str, Any]) -> Checkpoints:
        """Take on a job with its observer, and tell how it begins; its flags were resolved to `settings`."""
        self._job, self._observer, self._settings = job, observer, settings
        observer.load_state_dict(self._best)
        self._last_s = time.monotonic()
        self._last_iteration = job.config.epochs * job.loader.iterations_per_epoch
        for said in self._notes:
            console.say(f"  {said}")
        if self._folder:
            agree(job.world, lambda: _require_whole_state(job))
        return self

    def after(self, iteration: int) -> None:
        """Write a checkpoint where it is time for one."""
        if not self._folder or self._job.world.rank != 0:
            return
        passed_s = time.monotonic() - self._last_s
        if iteration == self._last_iteration or self._every.is_over(iteration, passed_s):
            self._last_s += passed_s
            self._begin(iteration)

    def stop(self, iteration: int) -> str | None:
        """Write a checkpoint of this iteration, if there is to be one; return where the last is, on rank 0."""
        if not self._folder or self._job.world.rank != 0:
            return None
        self.finish()
        if iteration not in checkpoint.numbers(self._folder):
            self._begin(iteration)
            self.finish()
        newest = max(checkpoint.numbers(self._folder), default=None)
        return None if newest is None else checkpoint.path_of(self._folder, newest)

    def _begin(self, iteration: int) -> None:
        """Begin to write a checkpoint beside training."""
        job = self._job
        job.world.place.part = "checkpoint"
        run = _identity(job.run, job.model_name)
        more = {"run": run, "settings": self._settings, "description": job.describe(),
                "best": self._observer.state_dict()}  # fmt: skip
        self._begun = iteration
        content = checkpoint.capture(job.model, job.optimizer, job.loader, more) | {"iteration": iteration}
        self.finish()  # one write at a time
        self._writing = threading.Thread(target=self._write, args=(iteration, content), name="npdp checkpoint")
        self._writing.start()

    def _write(self, iteration: int, content: Mapping[str, Any]) -> None:
        path = checkpoint.path_of(self._folder, iteration, self._suffix)
        try:
            checkpoint.write(path, content, partial(self._while_writing, iteration))
        except OSError as error:
            note(f"--checkpoint: {path} was not written: {error.strerror or error}; training goes on")
        else:
            checkpoint.prune(self._folder, iteration, self._keep)

    def complete(self) -> None:
        """Finish, at the end of training; write the last one where a rank has died that was to."""
        last, is_to_write = self._last_iteration, self._folder and self._job.world.rank == 0
        if is_to_write and self._begun != last and max(checkpoint.numbers(self._folder), default=0) < last:
            self.stop(last)
        self.finish()

    def finish(self) -> None:
        """Wait until what is being written is on the disk."""
        if self._writing is not None:
            self._writing.join()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


def _identity(run: Mapping[str, Any], model_name: str) -> dict[str, Any]:
    """Return the facts that a run has in common with the one that it goes on with."""
    facts = {**run, "model": os.path.basename(model_name)}  # of a program of the user's, wherever it is now
    return {name: value for name, value in facts.items() if name not in MAY_DIFFER}


def _require_folder(folder: str, resume: bool) -> None:
    """Make the directory where there is none; raise InputError where it cannot be used, or another run has."""
    try:
        os.makedirs(folder, exist_ok=True)
        found = checkpoint.numbers(folder)
    except OSError as error:
        raise InputError(f"--checkpoint: {folder} cannot be used: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"--checkpoint: no permission to write in {folder}")
    if found and not resume:
        newest = os.path.basename(checkpoint.path_of(folder, found[0]))
        raise InputError(f"--checkpoint: {folder} has checkpoints, the last is {newest}: go on from it with --resume, "
                         "or name another directory")  # fmt: skip


def _require_whole_state(job: Job) -> None:
    """Raise InputError where this rank has not all of the optimiser's state."""
    for group in job.optimizer.groups:
        if group.flat.state_elsewhere and group.state:
            raise InputError(f"--checkpoint: {group.flat.state_elsewhere.partition(':')[0]}: use --update replicated")
