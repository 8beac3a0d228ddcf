"""Checkpoints: all that training goes on from, in one file that does not depend on the number of ranks.

    000410.npz   structure.json | a0.npy | a1.npy | ... | the zip's directory, with 64 digits of comment: SHA-256 of
                 names and numbers, and which      all before but the arrays, whose CRC-32 the directory has
                 array stands where

    {"format": 1, "iteration": 410, "model": {"0.weight": array, ...}, "optimizer": {PyTorch's layout},
     "loader": {"epoch": 3, "batches": 50, ...}, "random": {...}, "forwards": {...}, "more": {...}}

A file is written under another name, flushed, and renamed, so it is whole or absent; hash and CRCs tell one that the
disk has changed. (A zip has CRCs anyway; SHA-256 of the arrays would take three times as long.) Nothing in it is a
program. `np.load(path)` has its arrays; torch_names/files.py says how they are named.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from npdp.base import random
from npdp.base.errors import InputError, OutputError
from npdp.base.whole_file import whole_file
from npdp.data import DataLoader
from npdp.elastic import safetensors_file
from npdp.nn.module import Module
from npdp.optim import Optimizer
from npdp.parallel.agreement import agree
from npdp.parallel.world import init
from npdp.torch_names import files

FORMAT = 1
WANTED = "a checkpoint that npdp wrote"
PARTS = {"format", "iteration", "model", "optimizer", "loader", "random", "forwards", "more"}
DIGITS = 64  # of SHA-256
COMMENT_SIZE_BYTES = 2  # with which a zip without a comment ends
SUFFIXES = (".npz", safetensors_file.SUFFIX)
NAME = re.compile(r"(\d{6,})(\.npz|\.safetensors)")
LENGTHS_AT, LOCAL_HEADER_BYTES = 26, 30  # in a member's own header: where the lengths of its name and extra stand


# What is in one
def capture(
    model: Module, optimizer: Optimizer, loader: DataLoader | None = None, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return copies of all that training goes on from, as they are on this rank.

    Raises:
        RuntimeError: servers, or other ranks, have the optimiser's state or a part of it.
    """
    forwards = model.own_forwards()
    return {
        "format": FORMAT,
        "iteration": optimizer.iteration,
        "model": model.state_dict("K"),  # as they lie, which the file says of each array
        "optimizer": optimizer.state_dict("K"),
        "loader": None if loader is None else loader.state_dict(),
        "random": random.get_rng_state(),
        "forwards": forwards and {"number": forwards.number, "counted_arrays": forwards.counted_arrays},
        "more": dict(more or {}),
    }


def restore(
    content: Mapping[str, Any], model: Module, optimizer: Optimizer, loader: DataLoader | None = None
) -> dict[str, Any]:
    """Take over what `capture` returned; return its `more`.

    Raises:
        ValueError: it is of another model, optimiser or loader: what does not fit is named.
    """
    try:
        if loader is not None:
            loader.load_state_dict(content["loader"] or {})  # first: it changes nothing that a refusal would leave
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        random.set_rng_state(content["random"])
        if (forwards := model.own_forwards()) is not None and (theirs := content["forwards"]):
            forwards.number, forwards.counted_arrays = (int(theirs[name]) for name in ("number", "counted_arrays"))
        more: dict[str, Any] = {**content["more"]}
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"expected what a checkpoint has of a run, got {error!r}") from error
    return more


# One file
def write(path: str, content: Mapping[str, Any], half_way: Callable[[], object] = lambda: None) -> None:
    """Write a checkpoint, whole or not at all; OSError where that fails, and what was there is still there then.

    It is an .npz file, or one of safetensors where the path ends so.
    """
    with whole_file(path) as file:
        if path.endswith(safetensors_file.SUFFIX):
            half_way()
            safetensors_file.write(file, content)
            return
        files.save(content, file)
        half_way()
        file.seek(-COMMENT_SIZE_BYTES, os.SEEK_END)
        file.write(DIGITS.to_bytes(COMMENT_SIZE_BYTES, "little"))
        end = file.tell()
        digits = _sha256(file, end)
        file.seek(end)
        file.write(digits)


def read(path: str) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        InputError: it cannot be read, is torn or altered, or is something else.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    with file:
        try:
            content = safetensors_file.read(path) if path.endswith(safetensors_file.SUFFIX) else _checked(file)
        except (zipfile.BadZipFile, ValueError, OSError, RuntimeError, OverflowError) as error:
            raise InputError(f"{path}: expected {WANTED}, got one that is torn or was altered: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= PARTS:
        raise InputError(f"{path}: expected {WANTED}, of format {FORMAT}")
    return content


def _checked(file: BinaryIO) -> Any:
    """Return what an .npz file holds; ValueError where its hash is another."""
    end = max(0, file.seek(0, os.SEEK_END) - DIGITS)
    hashed = _sha256(file, end)
    file.seek(end)
    if file.read() != hashed:
        raise ValueError("another hash than it has written in it")
    return files.load(file)


def _sha256(file: BinaryIO, end: int) -> bytes:
    """Return the digits of the hash of a zip's first `end` bytes without those of its arrays."""
    with zipfile.ZipFile(file) as archive:
        arrays = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    digest, at = hashlib.sha256(), 0
    for array in sorted(arrays, key=lambda array: array.header_offset):
        file.seek(array.header_offset + LENGTHS_AT)
        name_bytes, more_bytes = np.frombuffer(file.read(4).ljust(4), "<u2").tolist()
        start = array.header_offset + LOCAL_HEADER_BYTES + name_bytes + more_bytes
        digest.update(_between(file, at, min(start, end)))
        at = max(at, start + array.compress_size)
    digest.update(_between(file, at, end))
    return digest.hexdigest().encode()


def _between(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(max(0, stop - start))


# A directory of them
def path_of(folder: str, iteration: int, suffix: str | None = None) -> str:
    """Return where the checkpoint after so many iterations is, or is to be: with a suffix, or that of the one there."""
    paths = [os.path.join(folder, f"{iteration:06d}{each}") for each in ([suffix] if suffix else SUFFIXES)]
    return next(filter(os.path.exists, paths), paths[0])


def numbers(folder: str) -> list[int]:
    """Return the iterations of which a directory has checkpoints, whole or not, the newest first."""
    found = (NAME.fullmatch(name) for name in os.listdir(folder))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def prune(folder: str, newest: int, keep: int) -> None:
    """Remove all checkpoints but the last `keep`; those after `newest` are of no use, it was written in their stead."""
    kept = [number for number in numbers(folder) if number <= newest][:keep]
    for number in set(numbers(folder)) - set(kept):
        with contextlib.suppress(OSError):
            os.unlink(path_of(folder, number))


# A user's own loop
def save_checkpoint(
    path: str | os.PathLike[str], model: Module, optimizer: Optimizer, loader: DataLoader | None = None, **more: Any
) -> None:
    """Write all that training goes on from to one file; collective: rank 0 writes, and all know that it has.

    Call it after `optimizer.step()`. It does not depend on the number of ranks. Buffers are rank 0's.

    Args:
        path: of the file, `runs/000410.npz`, say, which is replaced whole or not at all; one that ends in .safetensors
            is written by that package.
        model: wrapped or not.
        optimizer: the model's.
        loader: whose place in the epoch is kept.
        more: numbers, texts, arrays, and dicts and lists of them: a scheduler's `state_dict()`, say.

    Raises:
        OutputError: it could not be written; on all ranks alike, and what was at `path` is still there.
        InputError: the package safetensors is missing.
        RuntimeError: servers, or other ranks, have the optimiser's state or a part of it.
        TypeError: `more` has something else.
    """
    world = init()
    content = capture(model, optimizer, loader, more) if world.rank == 0 else {}
    agree(world, lambda: _write_or_say(os.fspath(path), content) if world.rank == 0 else None, OutputError)


def _write_or_say(path: str, content: Mapping[str, Any]) -> None:
    try:
        write(path, content)
    except OSError as error:
        raise OutputError(f"{path}: not written: {error.strerror or error}") from None


def load_checkpoint(
    path: str | os.PathLike[str], model: Module, optimizer: Optimizer, loader: DataLoader | None = None
) -> dict[str, Any]:
    """Go on from a checkpoint, at any number of ranks; return its `more`. Collective; every rank reads the file.

        more = npdp.load_checkpoint(path, model, optimizer, loader)
        for epoch in range(loader.epoch, 10):       the first pass has what is left of its epoch
            for inputs, labels in loader: ...

    With `update="fused"` call it before the model is wrapped.

    Raises:
        InputError: a rank cannot read it, or it is torn or altered; on all ranks alike.
        ValueError: it is of another model, optimiser or loader, or parameters are read-only; likewise.
    """
    content = agree(init(), lambda: read(os.fspath(path)))
    return agree(init(), lambda: restore(content, model, optimizer, loader), ValueError)
