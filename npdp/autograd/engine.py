"""The backward pass: walks the graph from a loss to its leaves, each node once its output's gradient is complete.

Two passes, no recursion. The first counts how often each node's output was used; the second takes a node
when its last use has sent back a gradient. A leaf is complete the moment its last contribution is in, while
the rest of backward still runs: that is when its hooks run and its reducer may send it to the other ranks. A leaf adds
up contributions as they come; one with hooks gets their sum, by `Tensor.accumulate_grad`.

Cost: each vjp once, plus about a microsecond a node.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from npdp.autograd.rows import RowGradient
from npdp.autograd.tensor import Array, Node, Tensor, Vjp
from npdp.kernels.memory import keep_freed

Graph = dict["Node | Tensor", int]  # what a loss was computed from: how often each output is used

SUMMED, LOST = -1.0, -2.0  # instead of what a loss counted: it is a sum; what was computed from it is no longer it


class Reducer(Protocol):
    """Interface of gradient reducers, as backward calls them; the base class is in `parallel/strategy.py`.

    Attributes:
        number: among this rank's reducers; the same on all ranks.
        overlaps_backward: whether it is to be told, from its `begin` on, of each parameter that is complete.
    """

    number: int
    overlaps_backward: bool

    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        """Begin a backward: return the weight of this rank's loss in the global one.

        Args:
            loss: where backward begins.
            counted: what the loss is the mean over, where it says so (`Node.counted`), SUMMED or LOST; None: samples.
            alone: whether no other reducer has parameters behind this loss.
        """

    def ready(self, parameter: Tensor) -> None:
        """Note that the gradient of this parameter is complete."""

    def finish(self) -> None:
        """End a backward: make the gradients those of all ranks."""

    def cancel(self) -> None:
        """Clean up after a backward, or a `finish`, that failed."""

    def note_outsiders(self, leaves: list[Tensor]) -> None:
        """Note the leaves behind the same loss that no reducer has."""


def backward(loss: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Add the gradient of `loss` to every leaf's `.grad`; see `Tensor.backward`."""
    keep_freed()  # the next iteration's arrays are as long as this one's
    given = _given(loss, gradient)
    root = loss.node
    if root is None:
        loss.accumulate_grad(np.ones(loss.shape, loss.dtype) if given is None else given, weight=1.0)
        return
    uses, reducers, outsiders, counting = _behind(root)
    if outsiders and reducers:
        reducers[0].note_outsiders(outsiders)
    counted = _counted(root, counting) if counting else None
    weight = reducers[0].begin(loss, counted, True) if len(reducers) == 1 else _begin(reducers, loss, counted)
    scale = loss.array.dtype.type(weight)
    start = scale if given is None else given * scale
    if not weight and counted == 0:
        weight = 1.0  # there are samples, though none counts: losses of other ranks may reach them, by a batch norm
    try:
        _walk(root, start, uses, weight, retain_graph)
        while reducers:
            reducers[0].finish()
            del reducers[0]
    except BaseException:
        for reducer in reducers:
            reducer.cancel()
        raise


def _given(loss: Tensor, gradient: Any) -> Array | None:
    """Return the gradient that the walk begins with; None for that of a number, which is 1."""
    if loss.node is None and not loss.requires_grad:
        raise RuntimeError("backward: nothing that this tensor was computed from has requires_grad=True")
    if gradient is None:
        if loss.array.size != 1:
            raise ValueError(f"backward needs a gradient for a tensor of shape {loss.shape}; only a number needs none")
        return None if loss.array.ndim == 0 else np.ones(loss.shape, loss.dtype)
    given = np.asarray(gradient, dtype=loss.dtype)
    if given.shape != loss.shape:
        raise ValueError(f"backward: the gradient has shape {given.shape}, the tensor {loss.shape}")
    return given


def _behind(root: Node) -> tuple[Graph, list[Reducer], list[Tensor], list[Node]]:
    """Return how often nodes and leaves are used, reducers, leaves without, and nodes that say what they counted."""
    uses: Graph = {root: 0}
    reducers: list[Reducer] = []
    outsiders: list[Tensor] = []
    counting, found = [root] if root.counted is not None else [], [root]
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
                if parent.counted is not None:
                    counting.append(parent)
            elif parent.reducer is None:  # type: ignore[union-attr]
                outsiders.append(parent)  # type: ignore[arg-type]
            elif parent.reducer not in reducers:  # type: ignore[union-attr]
                reducers.append(parent.reducer)  # type: ignore[union-attr]
    return uses, reducers, outsiders, counting


def _counted(root: Node, counting: list[Node]) -> float | None:
    """Return what the loss says that it counted; it alone can say it, not what is computed from it."""
    if any(node.counted == SUMMED for node in counting):
        return SUMMED
    return root.counted if counting == [root] else LOST


def _begin(reducers: list[Reducer], loss: Tensor, counted: float | None) -> float:
    """Begin all reducers, none or several; return this rank's weight in the global loss, 1 where there are none."""
    if not reducers:
        return 1.0
    reducers.sort(key=lambda reducer: reducer.number)  # they meet in this order, whatever graph a rank's loss has
    weights: list[float] = []
    try:
        for reducer in reducers:
            weights.append(reducer.begin(loss, counted, False))
        if any(weight != weights[0] for weight in weights[1:]):
            raise RuntimeError(
                "backward: the models behind this loss weigh it differently, as they saw different numbers of samples, "
                "or are trained by different strategies; give each loss its own backward"
            )
    except BaseException:
        for reducer, _ in zip(reducers, weights):
            reducer.cancel()
        raise
    return weights[0]


def _walk(root: Node, start: Array, uses: Graph, weight: float, retain_graph: bool) -> None:
    pending: dict[Node | Tensor, Array] = {root: start}  # gradients that still wait for further contributions
    complete: list[Node] = [root]
    add = accumulate if weight else _accumulate_zeros
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
                add(parent, vjp, gradient, node.writes)  # type: ignore[arg-type]
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
                    parent.accumulate_grad(pending.pop(parent), weight)  # type: ignore[union-attr]
                if parent.reducer is not None and parent.reducer.overlaps_backward:  # type: ignore[union-attr]
                    parent.reducer.ready(parent)  # type: ignore[union-attr,arg-type]
        if not retain_graph:
            node.vjps = None


def accumulate(leaf: Tensor, vjp: Vjp, gradient: Array, writes: bool) -> None:
    """Add one contribution to `leaf.grad`; the first is written where the owner wants it, without a copy."""
    buffer = leaf.grad_buffer
    if leaf.raw_grad is not None:
        more = vjp(gradient)
        if type(more) is RowGradient:  # of an embedding whose weight something else has used as a whole
            leaf.raw_grad = more.added_to(leaf.raw_grad)
        else:
            leaf.raw_grad += more
    elif writes and gradient.dtype == leaf.array.dtype and (buffer is None or leaf.array is leaf.data_buffer):
        leaf.raw_grad = vjp(gradient, buffer)
    elif buffer is None:
        leaf.raw_grad = np.array(vjp(gradient), dtype=leaf.array.dtype)
    else:
        np.copyto(buffer, vjp(gradient), casting="same_kind")
        leaf.raw_grad = buffer


def _accumulate_zeros(leaf: Tensor, vjp: Vjp, gradient: Array, writes: bool) -> None:
    """Add zeros, whatever the contribution is: a loss over no samples counts for nothing, though it be 0 / 0."""
    vjp(gradient)  # which fails where it fails on the other ranks
    accumulate(leaf, lambda g: g, np.zeros(leaf.shape, leaf.dtype), writes=False)
