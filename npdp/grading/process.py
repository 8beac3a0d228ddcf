"""A student's program in a process of its own, as the grader sees it: calls go out, data comes back, or a reason."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from npdp.grading import wire

ROOT = str(Path(__file__).resolve().parent.parent.parent)
START = "import sys; sys.path.append({root!r}); from npdp.grading.child import main; main({descriptor}, {path!r})"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class SolutionError(Exception):
    """What is wrong with a student's program, in a sentence for the student."""


class EndedError(SolutionError):
    """The student's process is gone: it crashed, took too long, or tried what is forbidden."""


class Asked(NamedTuple):
    """What a program asks of the grader: a function's name and its arguments."""

    name: str
    arguments: list[Any]


@dataclass(frozen=True)
class Function:
    """An argument that is a function there: who calls it, asks here."""

    name: str


@dataclass(frozen=True)
class Remote:
    """An object that lives in the student's process."""

    number: int


class Process:
    """One process with the student's program loaded."""

    def __init__(self, path: str, limit_s: float, shown: bool = False) -> None:
        """Start it.

        Args:
            limit_s: how long it may take to load, and for each call.
            shown: what the program prints goes to this terminal, else nowhere.

        Raises:
            SolutionError: the program cannot be loaded.
        """
        self.limit_s, self.path = limit_s, path
        ours, theirs = socket.socketpair()
        start = START.format(root=ROOT, descriptor=theirs.fileno(), path=os.path.abspath(path))
        output = None if shown else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-u", "-c", start], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, env={**os.environ, **ONE_THREAD}, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.connection = ours
        self._what, self._until = "loading the file", time.monotonic() + max(limit_s, 10.0)
        try:
            self.next()
        except SolutionError:
            self.close()
            raise

    def call(self, name: str, *arguments: Any, of: Remote | None = None,
             given: Mapping[str, Callable[..., Any]] | None = None) -> Any:  # fmt: skip
        """Call a function of the program, or a method of its object; return what it returns.

        Args:
            given: what answers where the program calls an argument that is a `Function`, by its name.

        Raises:
            SolutionError: it raises, or returns what is no data.
        """
        self.begin(name, *arguments, of=of)
        while isinstance(answer := self.next(), Asked):
            if given is None or answer.name not in given:
                raise SolutionError(f"{self._what} calls npdp.{answer.name}, which this exercise does without")
            self.answer(given[answer.name](*answer.arguments))
        return answer

    def begin(self, name: str, *arguments: Any, of: Remote | None = None, rank: int = 0, world_size: int = 1) -> None:
        """Let a call begin; `next` says what comes of it."""
        self._what, self._until = _words(name, arguments), time.monotonic() + self.limit_s
        self._write({
            "call": name, "of": None if of is None else of.number, "rank": rank, "world_size": world_size,
            "arguments": [wire.packed(argument, _function) for argument in arguments],
        })  # fmt: skip

    def next(self) -> Any:
        """Return what the call returns, or `Asked` where the program asks for something first."""
        try:
            self.connection.settimeout(max(0.001, self._until - time.monotonic()))
            message = wire.read(self.connection)
            if "asks" in message:
                return Asked(str(message["asks"]), [_unpacked(argument) for argument in message["arguments"]])
            if "value" in message:
                return _unpacked(message["value"])
        except TimeoutError:
            self.close()
            raise EndedError(f"{self._what} takes longer than {self.limit_s:g} s: it was ended") from None
        except (EOFError, ConnectionError):
            raise EndedError(f"{self._what} ended the process{self._code()}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise EndedError(f"{self._what} sent what is no answer: {error}") from None
        if "forbidden" in message:
            raise EndedError(f"{message['forbidden']}")
        raise SolutionError(f"{self._what}: {message.get('error')}")

    def answer(self, value: Any) -> None:
        """Return a value to a program that asked."""
        self._write({"value": wire.packed(value, _function)})

    def close(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._process.wait()

    def _write(self, message: dict[str, Any]) -> None:
        try:
            wire.write(self.connection, message)
        except OSError:
            raise EndedError(f"the process has ended before {self._what}{self._code()}") from None

    def _code(self) -> str:
        self._process.wait()
        code = self._process.returncode
        return f" by {signal.Signals(-code).name}" if code < 0 else f" with code {code}"


def _words(name: str, arguments: tuple[Any, ...]) -> str:
    short = ", ".join(str(argument) if isinstance(argument, (int, float)) else "..." for argument in arguments)
    return f"{name}({short})"


def _function(value: Any) -> dict[str, Any]:
    if isinstance(value, Function):
        return {"function": value.name}
    raise TypeError(f"no data: {value!r}")


def _unpacked(value: Any) -> Any:
    return wire.unpacked(value, lambda other: Remote(int(other["object"])))
