"""Writing of the result files that flags name, at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from npdp.base.errors import OutputError
from npdp.report.console import Console


def write_results(console: Console, files: Iterable[tuple[str, str | None, Callable[[], None]]]) -> None:
    """Write files, each whether or not the others could be.

    Args:
        console: what has been written to standard output.
        files: (flag, path, what writes it); those without a path are not wanted.

    Raises:
        OutputError: those that could not be written, and standard output if it could not.
    """
    faults = [] if console.fault is None else [_not_written("standard output", console.fault)]
    for flag, path, write in files:
        try:
            if path is not None:
                write()
        except OSError as error:
            faults.append(_not_written(f"{flag}: {path}", error))
    if faults:
        raise OutputError("; ".join(faults))


def _not_written(what: str, error: OSError) -> str:
    return f"{what} could not be written: {error.strerror or error}"
