"""Standard output of commands that print their answer."""

from __future__ import annotations

from npdp.base.errors import OutputError


def print_now(text: str, end: str = "\n") -> None:
    """Print it here and now, where what goes wrong is dealt with."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output could not be written: {error.strerror or error}") from None
