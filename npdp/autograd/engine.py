"""Backward: walks the graph from a loss to its leaves, each node once, when all that it feeds has answered.

Two passes, no recursion. The first counts how often each node's output was used; the second takes a node
when its last use has sent back a gradient. A leaf is complete the moment its last contribution is in, while
the rest of backward still runs: that is when its hooks run and its exchange over the ranks may start. A leaf's
gradient is an array, or, of a sparse parameter, a `RowGradient` (rows.py).

Cost: each vjp once, plus about a microsecond a node.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from npdp.autograd.batch import Batch
from npdp.autograd.rows import RowGradient, no_rows
from npdp.autograd.tensor import Array, Node, Tensor, Vjp

Graph = dict["Node | Tensor", int]  # what a loss was computed from: how often each output is used


class Exchange(Protocol):
    """What owns parameters and is told how their gradients come along; see `parallel/exchange.py`.

    Attributes:
        number: among this rank's exchanges; the same on all ranks.
        leaves_early: whether it is to be told, from its `begin` on, of each parameter that is complete.
    """

    number: int
    leaves_early: bool

    def begin(self, batch: Batch | None, alone: bool) -> float:
        """Backward begins: return the weight of this rank's loss in the global one.

        Args:
            batch: what the loss was computed from.
            alone: whether no other exchange has parameters behind this loss.
        """

    def ready(self, parameter: Tensor) -> None:
        """The gradient of this parameter is complete."""

    def finish(self) -> None:
        """Backward has ended."""

    def cancel(self) -> None:
        """Backward has failed, or what `finish` does."""

    def note_outsiders(self, leaves: list[Tensor]) -> None:
        """Behind the same loss are leaves that nobody exchanges."""


def backward(loss: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Add the gradient of `loss` to every leaf's `.grad`; see `Tensor.backward`."""
    given = _given(loss, gradient)
    if loss.node is None:
        _run_hooks(loss, np.ones(loss.shape, loss.dtype) if given is None else given, weight=1.0)
        return
    graph, exchanges, outsiders = _count_uses(loss.node)
    if outsiders and exchanges:
        exchanges[0].note_outsiders(outsiders)
    weight = _begin(exchanges, loss)
    scale = loss.data.dtype.type(weight)
    start = scale if given is None else given * scale
    try:
        _walk(loss.node, start, graph, weight, retain_graph)
        while exchanges:
            exchanges[0].finish()
            del exchanges[0]
    except BaseException:
        for exchange in exchanges:
            exchange.cancel()
        raise


def _given(loss: Tensor, gradient: Any) -> Array | None:
    """Return the gradient that the walk begins with; None for that of a number, which is 1."""
    if loss.node is None and not loss.requires_grad:
        raise RuntimeError("backward: nothing that this tensor was computed from has requires_grad=True")
    if gradient is None:
        if loss.data.size != 1:
            raise ValueError(f"backward needs a gradient for a tensor of shape {loss.shape}; only a number needs none")
        return None if loss.data.ndim == 0 else np.ones(loss.shape, loss.dtype)
    given = np.asarray(gradient, dtype=loss.dtype)
    if given.shape != loss.shape:
        raise ValueError(f"backward: the gradient has shape {given.shape}, the tensor {loss.shape}")
    return given


def _count_uses(root: Node) -> tuple[Graph, list[Exchange], list[Tensor]]:
    """Return, for all that `root` was computed from, how often each is used; who exchanges leaves; those of nobody."""
    uses: Graph = {root: 0}
    exchanges: list[Exchange] = []
    outsiders: list[Tensor] = []
    found: list[Node] = [root]
    while found:
        for parent in found.pop().parents:
            if parent is None:
                continue
            if parent in uses:
                uses[parent] += 1
                continue
            uses[parent] = 1
            if type(parent) is Node:
                found.append(parent)
            elif parent.exchange is None:  # type: ignore[union-attr]
                outsiders.append(parent)  # type: ignore[arg-type]
            elif parent.exchange not in exchanges:  # type: ignore[union-attr]
                exchanges.append(parent.exchange)  # type: ignore[union-attr]
    return uses, exchanges, outsiders


def _begin(exchanges: list[Exchange], loss: Tensor) -> float:
    """Begin all exchanges; return this rank's weight in the global loss: 1 where nothing is exchanged."""
    if not exchanges:
        return 1.0
    if len(exchanges) == 1:
        return exchanges[0].begin(loss.batch, True)
    exchanges.sort(key=lambda exchange: exchange.number)  # they meet in this order, whatever graph a rank's loss has
    weights: list[float] = []
    try:
        for exchange in exchanges:
            weights.append(exchange.begin(loss.batch, False))
        if any(weight != weights[0] for weight in weights[1:]):
            raise RuntimeError(
                "backward: the models behind this loss weigh it differently, as they saw different numbers of samples, "
                "or are trained by different strategies; give each loss its own backward"
            )
    except BaseException:
        for exchange, _ in zip(exchanges, weights):
            exchange.cancel()
        raise
    return weights[0]


def _walk(root: Node, start: Array, uses: Graph, weight: float, retain_graph: bool) -> None:
    pending: dict[Node | Tensor, Array] = {root: start}  # gradients that still wait for further contributions
    complete: list[Node] = [root]
    accumulate = _accumulate if weight else _accumulate_zeros
    while complete:
        node = complete.pop()
        gradient = pending.pop(node)
        vjps = node.vjps
        if vjps is None:
            raise RuntimeError(f"{node.name}: backward ran through here before; pass retain_graph=True the first time")
        for cell, version in node.kept:
            if cell[0] != version:
                raise RuntimeError(
                    f"{node.name}: a value that its gradient needs was changed in place between forward and backward"
                )
        for parent, vjp in zip(reversed(node.parents), reversed(vjps)):  # weights first: their gradients travel on
            if parent is None or vjp is None:
                continue
            is_leaf = type(parent) is not Node
            if is_leaf and parent.hooks is None:  # type: ignore[union-attr]
                accumulate(parent, vjp, gradient, node.writes)  # type: ignore[arg-type]
            elif parent in pending:
                pending[parent] = pending[parent] + vjp(gradient)
            else:
                pending[parent] = vjp(gradient)
            left = uses[parent] - 1
            if left:
                uses[parent] = left
            elif not is_leaf:
                complete.append(parent)  # type: ignore[arg-type]
            else:
                if parent.hooks is not None:  # type: ignore[union-attr]
                    _run_hooks(parent, pending.pop(parent), weight)  # type: ignore[arg-type]
                if parent.exchange is not None and parent.exchange.leaves_early:  # type: ignore[union-attr]
                    parent.exchange.ready(parent)  # type: ignore[union-attr,arg-type]
        if not retain_graph:
            node.vjps = None


def _accumulate(leaf: Tensor, vjp: Vjp, gradient: Array, writes: bool) -> None:
    """Add one contribution to `leaf.grad`; the first is written where the owner wants it, without a copy."""
    buffer = leaf.grad_buffer
    if leaf.grad is not None:
        more = vjp(gradient)
        if type(more) is RowGradient:  # an array does not take one in
            leaf.grad = leaf.grad + more
        else:
            leaf.grad += more
    elif writes and gradient.dtype == leaf.data.dtype and (buffer is None or leaf.data is leaf.data_buffer):
        leaf.grad = vjp(gradient, buffer)
    elif buffer is None:
        given = vjp(gradient)
        sparse = type(given) is RowGradient
        leaf.grad = given.astype(leaf.data.dtype) if sparse else np.array(given, dtype=leaf.data.dtype)
    else:
        np.copyto(buffer, vjp(gradient), casting="same_kind")
        leaf.grad = buffer


def _accumulate_zeros(leaf: Tensor, vjp: Vjp, gradient: Array, writes: bool) -> None:
    """Add zeros, whatever the contribution is: a loss over no samples counts for nothing, though it be 0 / 0."""
    given: Any = vjp(gradient)  # which fails where it fails on the other ranks
    is_rows = type(given) is RowGradient
    zeros: Any = no_rows(leaf.shape, leaf.dtype) if is_rows else np.zeros(leaf.shape, leaf.dtype)
    _accumulate(leaf, lambda g: g, zeros, writes=False)


def _run_hooks(leaf: Tensor, gradient: Array, weight: float) -> None:
    """Run a leaf's hooks, if any, which see the local gradient, and add what they leave of it to `leaf.grad`."""
    gradient = np.array(gradient)  # an array of its own, which a hook may change
    if weight == 0:
        gradient[...] = 0  # as `_accumulate_zeros` does
    local = gradient / gradient.dtype.type(weight) if weight not in (0, 1) else gradient
    for hook in leaf.hooks or ():
        replaced = hook(local)
        local = local if replaced is None else _replaced(replaced, leaf)
    gradient = local * local.dtype.type(weight) if weight != 1 else local
    _accumulate(leaf, lambda g: g, gradient, writes=False)


def _replaced(gradient: Any, leaf: Tensor) -> Array:
    """Return what a hook gives in place of a gradient."""
    array = np.asarray(gradient, dtype=leaf.dtype)
    if array.shape != leaf.shape:
        raise ValueError(f"a hook of a leaf of shape {leaf.shape} gave a gradient of shape {array.shape}")
    return array
