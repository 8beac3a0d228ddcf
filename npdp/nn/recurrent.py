"""Recurrent layers: GRU and LSTM, a layer's whole sequence as one operation.

    GRU     r, z = sigmoid(gates of x + gates of h)      n = tanh(gate of x + r * gate of h)      h = n + z * (h - n)
    LSTM    i, f, o = sigmoid(...), g = tanh(...)        c = f * c + i * g                        h = o * tanh(c)

What does not wait for the step before it is one product for all steps: the gates of x, before the loop, and in backward
the gradients of the weights, after it. Factors that backward takes at each step are made for all at once, too.
Arrays are (time, batch, gates, hidden); gates come in PyTorch's order, r z n and i f g o.
Source: Cho et al., Learning phrase representations, 2014 (GRU); Hochreiter, Schmidhuber, Long short-term memory, 1997;
Werbos, Backpropagation through time, 1990.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd import Tensor, operators
from npdp.autograd.jointly import one_pass
from npdp.autograd.operation import OUTPUT, logistic, operation
from npdp.autograd.tensor import Array, Vjp
from npdp.base import random
from npdp.base.arguments import at_least_one
from npdp.nn.dropout import Dropout
from npdp.nn.initializers import uniform_fan_in
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter


def _gates_of(x: Array, weight: Array, bias: Array, gates: int) -> Array:
    """Return x (time, batch, features) @ weight.T + bias as (time, batch, gates, hidden)."""
    time, batch, features = x.shape
    y = kernels.matmul(x.reshape(time * batch, features), weight, trans_b=True)
    y += bias
    return y.reshape(time, batch, gates, len(weight) // gates)


def _rows(values: Array) -> Array:
    """Return (time, batch, ...) as a matrix of time * batch rows."""
    time, batch, *rest = values.shape
    return values.reshape(time * batch, int(np.prod(rest)))


@operation(keeps=(0, 2, 3, *OUTPUT))
def _gru(
    x: Array, h0: Array, weight_ih: Array, weight_hh: Array, bias_ih: Array, bias_hh: Array
) -> tuple[Array, tuple[Vjp, ...]]:
    """Rule of a layer of `GRU`: x (time, batch, features), h0 (batch, hidden) -> (time, batch, hidden)."""
    size = h0.shape[1]
    gates = _gates_of(x, weight_ih, bias_ih, 3)
    of_h, states = np.empty_like(gates), np.empty((len(x) + 1, *h0.shape), gates.dtype)
    states[0], turned = h0, np.ascontiguousarray(weight_hh.T)  # BLAS reads it twice as quickly
    for t, gate in enumerate(gates):
        np.dot(states[t], turned, out=of_h[t].reshape(-1, 3 * size))
        of_h[t] += bias_hh.reshape(3, size)
        gate[:, :2] = logistic(gate[:, :2] + of_h[t, :, :2])
        r, z, n = gate.swapaxes(0, 1)
        n += r * of_h[t, :, 2]
        np.tanh(n, out=n)
        states[t + 1] = n + z * (states[t] - n)

    @one_pass
    def backward(gradient: Array) -> tuple[Array, Array, Array]:
        """Return the gradients of the gates of x and of those of h, and that of h0."""
        r, z, n = (gates[:, :, number] for number in range(3))
        slopes = np.stack([of_h[:, :, 2] * r * (1 - r), (states[:-1] - n) * z * (1 - z), (1 - z) * (1 - n * n)], 1)
        to_x, to_h, g = np.empty_like(gates), np.empty_like(gates), np.zeros_like(states[0])
        for t in reversed(range(len(gates))):
            g += gradient[t]
            of_r, of_z, of_n = slopes[t]
            candidate = g * of_n
            to_x[t, :, 2] = candidate
            np.multiply(candidate, of_r, out=to_h[t, :, 0])
            np.multiply(g, of_z, out=to_h[t, :, 1])
            np.multiply(candidate, r[t], out=to_h[t, :, 2])
            g *= z[t]
            g += np.dot(to_h[t].reshape(-1, 3 * size), weight_hh)
        to_x[:, :, :2] = to_h[:, :, :2]
        return to_x, to_h, g

    return states[1:], _rules(x, weight_ih, states[:-1], backward, (lambda g: backward(g)[2],))


@operation(keeps=(0, 3, 4, *OUTPUT))
def _lstm(
    x: Array, h0: Array, c0: Array, weight_ih: Array, weight_hh: Array, bias_ih: Array, bias_hh: Array
) -> tuple[Array, tuple[Vjp, ...]]:
    """Rule of a layer of `LSTM`, as of `GRU`; the result is one longer: behind the last state comes the last cell."""
    size = h0.shape[1]
    gates = _gates_of(x, weight_ih, bias_ih + bias_hh, 4)
    states, cells = (np.empty((len(x) + extra, *h0.shape), gates.dtype) for extra in (2, 1))
    states[0], cells[0], turned = h0, c0, np.ascontiguousarray(weight_hh.T)
    activated = np.empty_like(cells[1:])  # tanh of cells
    for t, gate in enumerate(gates):
        gate += np.dot(states[t], turned).reshape(gate.shape)
        gate[:, :2] = logistic(gate[:, :2])
        gate[:, 3] = logistic(gate[:, 3])
        i, f, candidate, o = gate.swapaxes(0, 1)
        np.tanh(candidate, out=candidate)
        np.add(f * cells[t], i * candidate, out=cells[t + 1])
        np.tanh(cells[t + 1], out=activated[t])
        np.multiply(o, activated[t], out=states[t + 1])
    states[-1] = cells[-1]

    @one_pass
    def backward(gradient: Array) -> tuple[Array, Array, Array, Array]:
        """Return the gradient of the gates twice, as they are sums, and those of h0 and c0."""
        i, f, candidate, o = (gates[:, :, number] for number in range(4))
        slopes = np.stack([candidate * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - candidate * candidate)], 2)
        of_o, of_cell = activated * o * (1 - o), o * (1 - activated * activated)
        to_gates, g, of_c = np.empty_like(gates), np.zeros_like(states[0]), gradient[-1].copy()
        for t in reversed(range(len(gates))):
            g += gradient[t]
            of_c += g * of_cell[t]
            np.multiply(of_c[:, None], slopes[t], out=to_gates[t, :, :3])
            np.multiply(g, of_o[t], out=to_gates[t, :, 3])
            of_c *= f[t]
            g = np.dot(to_gates[t].reshape(-1, 4 * size), weight_hh)
        return to_gates, to_gates, g, of_c

    before = (lambda g: backward(g)[2], lambda g: backward(g)[3])
    return states[1:], _rules(x, weight_ih, states[:-2], backward, before)


def _rules(
    x: Array, weight_ih: Array, states: Array, backward: Callable[[Array], Any], before: tuple[Vjp, ...]
) -> tuple[Vjp, ...]:
    """Return the rules of x, of what is before the first step, and of weights and biases."""

    def to_x(g: Array) -> Array:
        return kernels.matmul(_rows(backward(g)[0]), weight_ih).reshape(x.shape)

    def to_weight_ih(g: Array) -> Array:
        return kernels.matmul(_rows(backward(g)[0]).T, _rows(x))

    def to_weight_hh(g: Array) -> Array:
        return kernels.matmul(_rows(backward(g)[1]).T, _rows(states))

    return (
        to_x, *before, to_weight_ih, to_weight_hh,
        lambda g: _rows(backward(g)[0]).sum(axis=0), lambda g: _rows(backward(g)[1]).sum(axis=0),
    )  # fmt: skip


class _Recurrent(Module):
    """Layers of a recurrent network, one above the other, in one direction or both; see `GRU`."""

    gates: int
    states: int  # of a layer: h, or h and c

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        kind = type(self).__name__
        self.input_size = at_least_one(input_size, f"{kind}: input_size")
        self.hidden_size = at_least_one(hidden_size, f"{kind}: hidden_size")
        self.num_layers = at_least_one(num_layers, f"{kind}: num_layers")
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.drop = dropout, Dropout(dropout)
        self.directions = ("", "_reverse") if bidirectional else ("",)
        generator = generator or random.default_generator()
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            width = hidden_size * len(self.directions) if layer else input_size
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            for direction in self.directions:
                for name, shape in shapes.items():
                    values = uniform_fan_in(shape, hidden_size, dtype, generator)
                    setattr(self, f"{name}_l{layer}{direction}", Parameter(values))

    def _weights(self, layer: int, direction: str) -> list[Any]:
        """Return a layer's weights and biases, zeros where it has none."""
        names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if self.bias else [])
        weights: list[Any] = [getattr(self, f"{name}_l{layer}{direction}") for name in names]
        return weights if self.bias else weights + [np.zeros(len(weights[0].data), weights[0].dtype)] * 2

    def _run(self, x: Any, before: list[Any]) -> tuple[Tensor, list[Tensor]]:
        """Return the output, batch first or not, and the states after the last step, (layers * directions, ...) each.

        Args:
            before: the states before the first step, likewise; or empty, for zeros.
        """
        x = as_tensor(x)
        if x.data.ndim != 3 or x.shape[2] != self.input_size or not x.shape[1 if self.batch_first else 0]:
            axes = f"(batch, time, {self.input_size})" if self.batch_first else f"(time, batch, {self.input_size})"
            raise ValueError(f"{type(self).__name__}: wanted an input {axes} of at least one step, got {x.shape}")
        if self.batch_first:
            x = x.transpose(0, 1)
        states = self._before(x, before)
        after: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in self.directions:
                along = slice(None, None, -1 if direction else 1)
                begin = [each[len(after)] for each in states]
                y, last = self._layer(x[along] if direction else x, begin, self._weights(layer, direction))
                outputs.append(y[along] if direction else y)
                after.append(last)
            x = outputs[0] if len(outputs) == 1 else operators.concatenate(*outputs, axis=2)
            if layer < self.num_layers - 1:
                x = self.drop(x.transpose(0, 1)).transpose(0, 1)  # it masks by samples, which come first there
        return (x.transpose(0, 1) if self.batch_first else x), [operators.stack(*each) for each in zip(*after)]

    def _before(self, x: Tensor, before: list[Any]) -> list[Any]:
        """Return the states before the first step, as tensors."""
        shape = self.num_layers * len(self.directions), x.shape[1], self.hidden_size
        if not before:
            return [Tensor(np.zeros(shape, self._weights(0, "")[0].dtype))] * self.states
        states = [as_tensor(each) for each in before]
        if any(each.shape != shape for each in states):
            got = ", ".join(str(each.shape) for each in states)
            raise ValueError(f"{type(self).__name__}: wanted hx of shape {shape}, got {got}")
        return states

    def _layer(self, x: Tensor, begin: list[Any], weights: list[Any]) -> tuple[Tensor, list[Tensor]]:
        """Return a layer's output, (time, batch, hidden), and its states after the last step."""
        raise NotImplementedError

    def describe(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        return text + "".join(f", {name}={value}" for name in usual if (value := getattr(self, name)) != usual[name])


class GRU(_Recurrent):
    """Gated recurrent unit: layers of it, PyTorch's arguments, parameter names, gates and initialisation.

    Args:
        input_size: features of the input.
        hidden_size: width of the states.
        num_layers: layers, one above the other.
        bias: whether gates have biases, two each.
        batch_first: whether input and output are (batch, time, ...) instead of (time, batch, ...).
        dropout: the part of each layer's output that is dropped before the next; masks are as of `Dropout`.
        bidirectional: whether each layer has a second direction, from the end; outputs are side by side.
        dtype: of the parameters, float32 or float64.
        generator: for the first values, U(-1/sqrt(hidden), 1/sqrt(hidden)); else this rank's own.
    """

    gates, states = 3, 1

    def forward(self, x: Any, hx: Any = None) -> tuple[Tensor, Tensor]:
        """Return the output of each step, and the state after the last, (layers * directions, batch, hidden).

        Args:
            x: (time, batch, features), or batch first.
            hx: the state before the first step, shaped as the second result; zeros where None.
        """
        output, (h,) = self._run(x, [] if hx is None else [hx])
        return output, h

    def _layer(self, x: Tensor, begin: list[Any], weights: list[Any]) -> tuple[Tensor, list[Tensor]]:
        y = _gru(x, *begin, *weights)
        return y, [y[-1]]


class LSTM(_Recurrent):
    """Long short-term memory: layers of it; arguments as of `GRU`."""

    gates, states = 4, 2

    def forward(self, x: Any, hx: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the output of each step, and state and cell after the last.

        Args:
            x: as of `GRU`.
            hx: (h, c) before the first step, zeros where None.
        """
        output, (h, c) = self._run(x, [] if hx is None else list(hx))
        return output, (h, c)

    def _layer(self, x: Tensor, begin: list[Any], weights: list[Any]) -> tuple[Tensor, list[Tensor]]:
        y = _lstm(x, *begin, *weights)
        return y[:-1], [y[-2], y[-1]]
