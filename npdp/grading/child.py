"""Runs a student's file: loads it, calls its functions as the grader asks, and sends back what they return.

    grader                                child
    {"call": "ring", "arguments": [4]}    →
                                          ←   {"asks": "send", "arguments": [...]}     a function that the grader has
    {"value": ...}                        →
                                          ←   {"value": ...}, or {"error": "line 12: IndexError: ..."}

An object of a class of the student's file stays here, and goes by its number.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

from npdp.grading import given, sealed, wire

MODULE = "solution"


class Child:
    """The student's side of a connection."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self.connection, self.path = connection, path
        self.place = given.Place()
        self.objects: dict[int, Any] = {}
        self.numbers = itertools.count()
        self.module = ModuleType(MODULE)
        self.module.__file__ = path
        sys.modules[MODULE] = self.module  # where dataclasses and such look for it

    def serve(self) -> None:
        """Load the file, then answer calls until the grader is gone."""
        with open(self.path, "rb") as file:
            source = file.read()
        sealed.seal(lambda tried: self._write({"forbidden": f"{self._line()}: {tried}"}))
        given.install(self._ask, self.place)
        self._answer(lambda: exec(compile(source, self.path, "exec"), self.module.__dict__))
        while True:
            request = wire.read(self.connection)
            self.place.rank, self.place.world_size = request["rank"], request["world_size"]
            self._answer(lambda request=request: self._called(request))

    def _called(self, request: dict[str, Any]) -> Any:
        owner = self.module if request["of"] is None else self.objects[request["of"]]
        if not hasattr(owner, request["call"]):
            raise NotImplementedError(f"there is no {request['call']}")
        arguments = [self._unpacked(argument) for argument in request["arguments"]]
        return self._packed(getattr(owner, request["call"])(*arguments))

    def _answer(self, call: Any) -> None:
        """Send what a call returns, or in one line why it does not."""
        try:
            answer = {"value": call()}
        except BaseException as error:  # whatever it is, the student shall read it
            answer = {"error": self._told(error)}
        self._write(answer)

    def _ask(self, name: str, *arguments: Any) -> Any:
        self._write({"asks": name, "arguments": [self._packed(argument) for argument in arguments]})
        return self._unpacked(wire.read(self.connection)["value"])

    def _packed(self, value: Any) -> Any:
        return wire.packed(value, self._kept)

    def _kept(self, value: Any) -> dict[str, Any]:
        if type(value).__module__ != MODULE:
            raise TypeError(f"wanted numbers, lists or arrays, got {value!r}")
        number = next(self.numbers)
        self.objects[number] = value
        return {"object": number}

    def _unpacked(self, value: Any) -> Any:
        return wire.unpacked(value, lambda other: lambda *arguments: self._ask(other["function"], *arguments))

    def _write(self, message: dict[str, Any]) -> None:
        wire.write(self.connection, message)

    def _line(self) -> str:
        lines = self._lines_of_file(_callers(sys._getframe()))
        return f"line {lines[0]}" if lines else "the file"

    def _told(self, error: BaseException) -> str:
        lines = self._lines_of_file(_raised_in(error.__traceback__))
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{f'line {line}: ' if line else ''}{type(error).__name__}{f': {what}' if what else ''}"

    def _lines_of_file(self, places: Iterator[tuple[CodeType, int | None]]) -> list[int]:
        """Return the lines of the student's file among these; the module traceback would read npdp's files, too."""
        return [line for code, line in places if code.co_filename == self.path and line is not None]


def _callers(frame: FrameType | None) -> Iterator[tuple[CodeType, int | None]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def _raised_in(traceback: TracebackType | None) -> Iterator[tuple[CodeType, int | None]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def main(descriptor: int, path: str) -> None:
    """Serve on an inherited socket; return when the grader has closed it."""
    try:
        Child(socket.socket(fileno=descriptor), path).serve()
    except (EOFError, OSError):
        os._exit(0)
