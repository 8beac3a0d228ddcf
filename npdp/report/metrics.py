"""The metrics file: one JSON object a line, each with an `event`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

LAST = "end", "stopped"  # events after which none comes
ITERATION_EVERY_S = 0.1  # at most about ten iteration lines a second


class Metrics:
    """Writer of events as they come; a run that is killed leaves whole lines. Without a path it writes nothing.

    Where a line cannot be written, as on a full disk, it is taken back, no more are written, and it is told: at once,
    and again to who closes. Training goes on.

    Args:
        path: of the file, which is made anew, or gone on with.
        tell: called, once, with why a line could not be written.
        append: go on with what there is.

    Attributes:
        ended: whether the last event has come, after which nothing is written.
    """

    def __init__(
        self, path: str | None, tell: Callable[[str], object] = lambda why: None, append: bool = False
    ) -> None:
        self._tell, self.ended = tell, False
        self._fault: OSError | None = None
        self._next = 0.0
        self._open(path, append)

    def _open(self, path: str | None, append: bool) -> None:
        self._file = open(path, "ab" if append else "wb", buffering=0) if path else None  # noqa: SIM115
        self._whole = 0 if self._file is None else self._file.tell()  # bytes of the lines that were written

    def take_over(self, path: str) -> int:
        """Go on with what a rank that has died has written; return the last epoch of which it has told, 0 for none.

        What the file has of runs before this one, which has gone on from a checkpoint, does not count.

        Raises:
            OSError: the file cannot be written.
        """
        with open(path, "rb+") as file:
            lines = [line for line in file if line.endswith(b"\n")]
            file.truncate(sum(map(len, lines)))  # what it was writing when it died
        events = list(map(json.loads, lines))
        starts = [number for number, said in enumerate(events) if said["event"] == "start"]
        events = events[max(starts, default=0) :]
        self._open(path, append=True)
        self.ended = any(said["event"] in LAST for said in events)
        return max((said["epoch"] for said in events if said["event"] == "epoch"), default=0)

    def write(self, event: str, **fields: Any) -> None:
        """Write one line; numbers that JSON has no word for become null."""
        if self.ended:  # a rank has died since, while files were written
            return
        self.ended = event in LAST
        if self._file is None or self._fault is not None:
            return
        fields = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in fields.items()
        }
        try:
            self._write_line(self._file.fileno(), json.dumps({"event": event, **fields}).encode() + b"\n")
        except OSError as error:
            self._fault = error
            with contextlib.suppress(OSError):  # of a pipe, say, nothing can be taken back
                self._file.truncate(self._whole)
            self._tell(error.strerror or str(error))

    def _write_line(self, file: int, line: bytes) -> None:
        written = 0
        while written < len(line):  # a disk that becomes full takes a part first, and then refuses
            written += os.write(file, line[written:])
        self._whole += written

    def due(self) -> bool:
        """Return whether it is time for another iteration line."""
        now = time.monotonic()
        if self._file is None or now < self._next:
            return False
        self._next = now + ITERATION_EVERY_S
        return True

    def close(self) -> None:
        """End the file.

        Raises:
            OSError: why there is a line that could not be written.
        """
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._fault = self._fault or error
        if self._fault is not None:
            raise self._fault

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # nothing to be told beside another error; else who has closed was told
            self.close()
