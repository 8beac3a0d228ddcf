"""Stories for the player: what all ranks have after each step of data parallel training, and under a parameter server.

    story       what it is about, in a sentence
    columns     what there is of each row; `rows` names these: ranks, workers, a server
    beginning   title, text, cells [row][column], waiting: the rows that wait for another
    steps       the same after each step
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from npdp.base.partition import part
from npdp.parallel.parameter_server.messages import Kind, Message, WorkItem
from npdp.parallel.parameter_server.server import Bounded, Server, Synchronous

Json = dict[str, Any]

SAMPLES_OF_A_RANK = 2
RATE, SLOPE, BEGINNING = 0.1, 2.0, 0.5  # of the learning; of the data, y = 2 x; w before
ITERATIONS = 4  # of each worker
SLOWER = 3  # how many times as long the last worker computes


def _frame(title: str, text: str, cells: list[list[str]], waiting: list[int] | None = None) -> Json:
    return {"title": title, "text": text, "cells": cells, "waiting": waiting or []}


def data_parallel(ranks: int) -> Json:
    """Return the seven steps of an iteration of data parallel training of y = w x, one sample more than even."""
    count = SAMPLES_OF_A_RANK * ranks + 1
    x = np.arange(1, count + 1) / count
    parts = [x[slice(*part(count, ranks, rank))] for rank in range(ranks)]
    w = BEGINNING
    outputs = [w * mine for mine in parts]
    losses = [float(np.mean((out - SLOPE * mine) ** 2)) for out, mine in zip(outputs, parts)]
    gradients = [float(np.mean(2 * (out - SLOPE * mine) * mine)) for out, mine in zip(outputs, parts)]
    total = sum(len(mine) * gradient for mine, gradient in zip(parts, gradients))
    mean = total / count
    steps = [
        ("split the batch", f"The batch of {count} samples is cut into parts, which need not be even.", 0,
         [" ".join(f"{value:.2f}" for value in mine) for mine in parts]),
        ("forward", "Each rank computes its outputs w x, with the same w as all others.", 1,
         [" ".join(f"{value:.2f}" for value in out) for out in outputs]),
        ("loss", "Each takes the mean squared error over its own part.", 2, [f"{loss:.3f}" for loss in losses]),
        ("backward", "Each computes the gradient of its own loss: these differ.", 3, [f"{g:.3f}" for g in gradients]),
        ("all-reduce", "Each gradient is weighted by its part's samples; the sum comes to all ranks.", 3,
         [f"{total:.3f}"] * ranks),
        ("average", f"The sum over {count} samples is the gradient of the whole batch, as on one rank.", 3,
         [f"{mean:.3f}"] * ranks),
        ("update", f"Each does w -= {RATE} × gradient, and has the same w again.", 4,
         [f"{w - RATE * mean:.3f}"] * ranks),
    ]  # fmt: skip
    cells = [["", "", "", "", f"{w:.3f}"] for _ in range(ranks)]
    frames = [_frame("before", "All ranks have the same parameter w.", [list(row) for row in cells])]
    for title, text, column, values in steps:
        for row, value in zip(cells, values):
            row[column] = value
        frames.append(_frame(title, text, [list(row) for row in cells]))
    return {
        "story": f"An iteration of data parallel training of y = w x on {ranks} ranks.",
        "columns": ["samples", "outputs", "loss", "gradient", "w"],
        "rows": [f"rank {rank}" for rank in range(ranks)],
        "beginning": frames[0],
        "steps": frames[1:],
    }


def parameter_server(workers: int, staleness: float) -> Json:
    """Return the pushes of workers, the last one slow, to a server; npdp's own server decides who may go on."""
    server = Server(workers, Bounded(staleness) if staleness else Synchronous(), lambda pushes: None)
    held, clocks, met = [0] * workers, [0] * workers, [""] * workers
    due = [(_seconds(worker, workers), worker) for worker in range(workers)]
    frames = [_frame("start", "All workers compute on version 0.", _rows(server, clocks, held, met))]
    while due:
        now, worker = heapq.heappop(due)
        clocks[worker] += 1
        before, on = server.record.version, held[worker]
        answers = list(server.handle(_push(worker, clocks[worker], on)))
        _note(server, before, on, worker, held, met)
        for reply in answers:
            held[reply.worker] = reply.version
            if clocks[reply.worker] < ITERATIONS:
                heapq.heappush(due, (now + _seconds(reply.worker, workers), reply.worker))
        waiting = [number for number, state in enumerate(server.workers) if state.waiting is not None]
        text = _told(worker, on, server.record.version - before, met[worker], waiting)
        frames.append(_frame(f"at {now} s", text, _rows(server, clocks, held, met), waiting))
    slowest = f"the last of {workers} workers is {SLOWER} times as slow"
    return {
        "story": f"A parameter server, staleness {staleness:g}; {slowest}.",
        "columns": ["iterations", "version", "staleness"],
        "rows": [*(f"worker {worker}" for worker in range(workers)), "server"],
        "beginning": frames[0],
        "steps": frames[1:],
    }


def _seconds(worker: int, workers: int) -> int:
    return SLOWER if worker == workers - 1 else 1


def _push(worker: int, completed: int, version: int) -> Message:
    item = WorkItem(-1, worker, completed - 1)
    return Message(Kind.PUSH, worker, completed=completed, version=version, item=item, samples=1)


def _note(server: Server, before: int, on: int, worker: int, held: list[int], met: list[str]) -> None:
    """Note the staleness of the pushes that a message has led the server to apply."""
    if server.record.version > before:
        met[worker] = str(before - on)
        if isinstance(server.policy, Synchronous):
            met[:] = [str(before - version) for version in held]


def _told(worker: int, on: int, updates: int, staleness: str, waiting: list[int]) -> str:
    what = f"Worker {worker} pushes a gradient computed on version {on}"
    applied = f"; it is applied, with staleness {staleness}." if updates else "; the server waits for the others'."
    who = f" Waiting: worker {', '.join(map(str, waiting))}." if waiting else ""
    return what + applied + who


def _rows(server: Server, clocks: list[int], held: list[int], met: list[str]) -> list[list[str]]:
    rows = [[str(clock), str(version), stale] for clock, version, stale in zip(clocks, held, met)]
    return [*rows, ["", str(server.record.version), str(max(server.record.staleness, default=""))]]
