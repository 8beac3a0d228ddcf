"""Console output of rank 0: the plan of a run, its progress, its results.

Progress is a line an epoch. On a terminal there is a live line below them, which is written again and again. It ends in
a newline, as Open MPI's mpirun hands on whole lines only; the next goes up and takes its place. Where the user's model,
or a warning, has printed since, the next takes the place of that one's last line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from npdp.base import environment

LINE_EVERY_S = 0.1
BACK = "\x1b[A\r\x1b[K"  # up to the line above, to its first column, and nothing in the line
TERMINAL = "NPDP_TERMINAL"  # the width of the terminal that shows what ranks print, set by what starts them


class Console:
    """Console of one rank, silent on every rank but 0, in a quiet run and without an output.

    Attributes:
        fault: why nothing more can be written, as on a full disk; None where all was, or the reader has gone.
    """

    def __init__(self, speaks: bool) -> None:
        self.fault: OSError | None = None
        self._next = 0.0
        self._live = False
        self.speak(speaks)

    def speak(self, speaks: bool) -> None:
        """Speak from now on, or be silent."""
        self.speaks = speaks and sys.stdout is not None  # as after >&-
        self._width = _terminal_width() if self.speaks else 0

    def say(self, text: str) -> None:
        """Print lines."""
        if self.speaks:
            self._write(text + "\n")
            self._live = False

    def due(self) -> bool:
        """Return whether there is a terminal, and it is time for its next live line."""
        return self._width > 0 and time.monotonic() >= self._next

    def live(self, text: str) -> None:
        """Show the state of things, on a terminal."""
        if self._width:
            self._next = time.monotonic() + LINE_EVERY_S
            self._write(text[: self._width - 1] + "\n")
            self._live = True

    def _write(self, text: str) -> None:
        """Write in the place of the live line; a reader who has gone (`| head`), or a full disk, ends no training."""
        try:
            sys.stdout.write(_escaped(BACK * self._live + text))
            sys.stdout.flush()
        except OSError as error:
            self.speaks, self._width = False, 0
            self.fault = None if isinstance(error, BrokenPipeError) else error
            discard_output()


def _escaped(text: str) -> str:
    """Return what standard output can encode: of a file's name, say, the rest is escaped, as on standard error."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _terminal_width() -> int:
    """Return the width of the terminal that shows this, 0 for a pipe or file.

    Ranks of Open MPI see a terminal even where mpirun writes to a file, so there only the launcher's word counts.
    """
    if environment.launch() is not None or TERMINAL in os.environ:
        return int(os.environ.get(TERMINAL, "0"))
    return own_terminal_width()


def own_terminal_width() -> int:
    """Return the width of the terminal that this process itself writes to, 0 where that is none or can show no more."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return 0
    return shutil.get_terminal_size().columns


def banner(start: dict[str, Any]) -> str:
    """Return what a run will do, from its `start` event."""
    threads, iterations, epochs = start["blas_threads"], start["iterations_per_epoch"], start["epochs"]
    local = start["local_batch_size"]
    each = f"{local[0]} a rank" if local[0] == local[-1] else f"{local[0]} or {local[-1]} a rank"
    momentum = f", momentum {start['momentum']:g}" if start["optimizer"] == "sgd" else ""
    return (
        f"npdp {start['version']}: {start['model']} with {start['parameters']:,} parameters\n"
        f"  data      {start['data']}\n"
        f"  ranks     {_ranks(start)} on {start['transport']}, {threads} BLAS thread{'s' * (threads != 1)} each, "
        f"{start['backend']} kernels, {_TOGETHER.get(start['strategy'], _by_name)(start)}\n"
        f"  batch     {start['global_batch_size']} globally, {each}; {iterations} iteration{'s' * (iterations != 1)} "
        f"an epoch, {epochs} epoch{'s' * (epochs != 1)}\n"
        f"  optimizer {start['optimizer']}, learning rate {start['learning_rate']:g} ({start['lr_schedule']})"
        f"{momentum}, {start['dtype']}"
    )


def _by_name(start: dict[str, Any]) -> str:
    return f"strategy {start['strategy']}"


_TOGETHER: dict[str, Callable[[dict[str, Any]], str]] = {  # strategy -> how ranks train together
    "allreduce": lambda start: f"all-reduce {start['algorithm']}" if start["world_size"] > 1 else "no all-reduce",
    "ps": lambda start: f"parameter server, staleness {start['staleness']}",
    "local-sgd": lambda start: f"averaged every {start['local_iterations']} iterations",
}


def _ranks(start: dict[str, Any]) -> str:
    workers, servers = start["world_size"], start.get("servers")
    if servers is None:
        return str(workers)
    if servers == 0:
        return f"{workers}, workers and servers at once,"
    return f"{workers} worker{'s' * (workers != 1)} and {servers} server{'s' * (servers != 1)}"


def _staleness(end: dict[str, Any]) -> str:
    """Return the lines on a parameter server's gradients, none for other strategies."""
    if "staleness_histogram" not in end:
        return ""
    counts = ", ".join(f"{staleness}: {count:,}" for staleness, count in end["staleness_histogram"].items()) or "-"
    return f"  staleness {counts} of {end['pushes']:,} gradients\n"


def summary(end: dict[str, Any]) -> str:
    """Return what came out of a run and where the time went, from its `end` event."""
    wall_s = end["wall_s"]
    shares = ", ".join(f"{name} {end[name + '_s'] / wall_s:.0%}" for name in ("compute", "communication", "wait"))
    scores = [f"train loss {end['train_loss']:.4f}"]
    if end["test_loss"] is not None:
        scores.append(f"test loss {end['test_loss']:.4f}")
    if end["test_accuracy"] is not None:
        scores.append(f"test accuracy {end['test_accuracy']:.4f}")
    if end.get("test_bits_per_byte") is not None:
        scores.append(f"{end['test_bits_per_byte']:.3f} bits per byte")
    tokens = f", {end['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in end else ""
    tokens += f", {end['share_of_peak']:.0%} of the processor's peak" if "share_of_peak" in end else ""
    return (
        f"done      {', '.join(scores)}\n"
        f"  time      {wall_s:.2f} s, {end['samples_per_s']:,.0f} samples/s{tokens}: {shares}\n"
        f"{_staleness(end)}"
        f"  memory    {end['peak_memory_bytes'] / 1e6:.0f} MB at most on a rank\n"
        f"  sha256    {end['parameters_sha256']} of the parameters, the same on every rank"
    )


def discard_output() -> None:
    """Send standard output, which cannot be written, nowhere: what is left of it would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refusal(message: str) -> str:
    """Return the line, without its end, that says what went wrong."""
    return f"npdp: error: {' '.join(message.split())}"


def refuse(message: str) -> None:
    """Print what went wrong, in one line, on standard error, where that is still there."""
    _complain(refusal(message))


def note(message: str) -> None:
    """Print what is to be known beside a result, in one line, on standard error."""
    _complain(f"npdp: note: {' '.join(message.split())}")


def _complain(line: str) -> None:
    if sys.stderr is not None:  # as after 2>&-; print would take standard output
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)
