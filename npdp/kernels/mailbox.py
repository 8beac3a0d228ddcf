"""Mailboxes, `csrc/mailbox.c`, through cffi: messages between the ranks of a host, through memory they all map.

Where the C code was not compiled, importing this raises ImportError. Cost of a call: about half a microsecond.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]

Array = NDArray[Any]

MOST_BYTES: int = lib.NPDP_MAIL_MOST
LINES: int = lib.NPDP_MAIL_LINES
_send, _take, _pointer = lib.npdp_mail_send, lib.npdp_mail_take, ffi.from_buffer


def mail_bytes(ranks: int) -> int:
    """Return how much memory the boxes of so many ranks take."""
    return int(lib.npdp_mail_bytes(ranks))


class Mail:
    """Mailboxes of one rank on a line, and its bell.

    Args:
        memory: (mail_bytes(ranks),) bytes that all ranks map, on a cache line; zeros at first.
        rank, ranks: this rank's number, and how many there are.
        line: which, in 0 .. LINES - 1; messages of one never meet those of another.
    """

    def __init__(self, memory: Array, rank: int, ranks: int, line: int) -> None:
        self._memory = memory  # keeps it
        self._mail = ffi.new("npdp_mail *")
        self._mail.base = ffi.cast("unsigned char *", memory.ctypes.data)
        self._mail.rank, self._mail.ranks, self._mail.line = rank, ranks, line

    def send(self, to: int, message: Array) -> int:
        """Put the first MOST_BYTES of a message, or fewer, into the box for `to`; return how many, -1 if it is full.

        Args:
            message: the bytes that are left of it, contiguous; there may be none.
        """
        return int(_send(self._mail, to, _pointer(message), message.size))

    def take(self, source: int, message: Array) -> int:
        """Take a piece, and return how many bytes of its message were left, with it; -1 where there is no piece.

        It is taken only if they are as many as the receiver expects; otherwise it stays in the box.

        Args:
            message: room for the bytes that the receiver expects to be left of it; the piece goes to its start.
        """
        return int(_take(self._mail, source, _pointer(message, require_writable=True), message.size))

    @property
    def bell(self) -> int:
        """Count of messages put in boxes for this rank, or taken out of its own, on any line."""
        return int(lib.npdp_mail_bell(self._mail))

    def wait(self, heard: int, spins: int, yields: int) -> int:
        """Return when the bell has rung since `heard`, or after 10 ms; return what `bell` is then."""
        return int(lib.npdp_mail_wait(self._mail, heard, spins, yields))

    @property
    def wait_s(self) -> float:
        """Seconds in which this rank waited."""
        return float(self._mail.wait_s)

    @wait_s.setter
    def wait_s(self, seconds: float) -> None:
        self._mail.wait_s = seconds
