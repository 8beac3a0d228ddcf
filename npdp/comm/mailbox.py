"""Small messages between the ranks of a host through memory that they map (csrc/mailbox.c), no MPI.

Who waits sleeps, and is woken in some ten microseconds by what it waits for: no core is used meanwhile. A message that
does not fit into a box goes in pieces, each as soon as the last one has been taken; a large one by another transport.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import LoggedCall
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.failures.vain_waits import why_in_vain
from npdp.comm.transport import Buffer, Handle, Transport, wrong_message
from npdp.comm.waiting import MAILBOXES

LARGE_BYTES = 8192  # from here on pieces cost more than a message of the transport beneath


class _Piecewise:
    """A message on its way: its bytes, and how many of them have gone."""

    __slots__ = ("bytes", "done", "gone", "peer")

    def __init__(self, buffer: Buffer, peer: int) -> None:
        self.bytes, self.peer = buffer.reshape(-1).view(np.uint8), peer
        self.gone, self.done = 0, False


class MailboxTransport:
    """Transport of small messages through shared memory; all else goes to the transport beneath. See `lines`.

    Sender and receiver know a message's size, so both know which way it goes. It is not for collectives: small messages
    of different calls are not told apart. `wait_any` is for messages of less than LARGE_BYTES alone.
    """

    def __init__(self, beneath: Transport, memory: Buffer, line: int) -> None:
        from npdp.kernels import mailbox  # where there is a compiler

        self._beneath, self._most = beneath, mailbox.MOST_BYTES
        self.name, self.host_number, self.find_elsewhere = beneath.name, beneath.host_number, beneath.find_elsewhere
        self.rank, self.world_size, self.calls = beneath.rank, beneath.world_size, beneath.calls
        self.subworld, self.fail, self.native_allreduce = beneath.subworld, beneath.fail, beneath.native_allreduce
        self.ended, self.compare_calls = beneath.ended, beneath.compare_calls
        self.stalls = beneath.stalls
        self._mail = mailbox.Mail(memory, self.rank, self.world_size, line)
        self._spins, self._yields = MAILBOXES.policy(self.world_size)
        self._sends: dict[int, deque[_Piecewise]] = defaultdict(deque)
        self._receives: dict[int, deque[_Piecewise]] = defaultdict(deque)
        self._lines: list[MailboxTransport] = [self]
        refused_after_fork(self)

    @property
    def wait_s(self) -> float:
        return self._mail.wait_s + self._beneath.wait_s

    @wait_s.setter
    def wait_s(self, seconds: float) -> None:
        self._mail.wait_s, self._beneath.wait_s = seconds, 0.0

    def send(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Handle:
        if buffer.nbytes >= LARGE_BYTES:
            return self._beneath.send(buffer, peer, call)
        message, queue = _Piecewise(buffer, peer), self._sends[peer]
        queue.append(message)
        self._push(queue)
        return message

    def receive(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Handle:
        if buffer.nbytes >= LARGE_BYTES:
            return self._beneath.receive(buffer, peer, call)
        message, queue = _Piecewise(buffer, peer), self._receives[peer]
        queue.append(message)
        self._pull(queue)
        return message

    def wait(self, handle: Handle) -> None:
        if type(handle) is _Piecewise:
            self.wait_any([handle])
        else:
            self._beneath.wait(handle)

    def wait_any(self, handles: Sequence[Handle]) -> int:
        spins, yields, since = self._spins, self._yields, 0.0
        heard = self._mail.bell
        while True:
            for line in self._lines:
                line._progress()
            done = next((number for number, handle in enumerate(handles) if handle.done), None)
            if done is not None:
                return done
            before, heard = heard, self._mail.wait(heard, spins, yields)
            if heard == before:
                spins = yields = 0  # for what takes this long, sleep at once
                since = since or time.perf_counter()
                error = why_in_vain(self._beneath, [handle.peer for handle in handles], since)
                if error is not None and self._mail.bell == heard:
                    raise error

    def _progress(self) -> None:
        for queue in self._sends.values():
            self._push(queue)
        for queue in self._receives.values():
            self._pull(queue)

    def _push(self, queue: deque[_Piecewise]) -> None:
        """Send what may be sent to a peer, in order."""
        while queue:
            message = queue[0]
            count = self._mail.send(message.peer, message.bytes[message.gone :])
            if count < 0:
                return
            message.gone += count
            if message.gone == message.bytes.size:
                queue.popleft().done = True

    def _pull(self, queue: deque[_Piecewise]) -> None:
        """Take what has come from a peer into the buffers that wait for it, in order."""
        while queue:
            message = queue[0]
            missing = message.bytes.size - message.gone
            left = self._mail.take(message.peer, message.bytes[message.gone :])
            if left < 0:
                return
            if left != missing:
                got = message.gone + left
                raise CommunicationError(wrong_message(message.bytes, got, True, self.rank, message.peer))
            message.gone += min(self._most, missing)
            if message.gone == message.bytes.size:
                queue.popleft().done = True


def lines(beneath: Sequence[Transport], memory: Buffer) -> list[MailboxTransport]:
    """Return worlds of ranks that share memory, whose messages never meet; for one thread of this rank.

    While it waits for one, messages of the others go on. Another thread makes its own; of each line one of the two may
    send and the other receive.

    Args:
        beneath: for each line a transport of the same ranks.
        memory: (nbytes(ranks),) bytes that all of them map; zeros at first.
    """
    from npdp.kernels import mailbox

    made = [MailboxTransport(transport, memory, line) for line, transport in zip(range(mailbox.LINES), beneath)]
    for line in made:
        line._lines = made
    return made


def nbytes(ranks: int) -> int:
    """Return how much memory the boxes of so many ranks take."""
    from npdp.kernels import mailbox

    return mailbox.mail_bytes(ranks)
