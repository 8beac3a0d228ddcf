"""Switches of recording, as PyTorch names them, and names that do nothing here."""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import Any

from npdp.autograd.recording import is_grad_enabled, mode, no_grad


class set_grad_enabled(ContextDecorator):  # noqa: N801  (PyTorch's name)
    """Switch of recording: at once, and where it is a context, back again at its end."""

    def __init__(self, mode: bool) -> None:
        self._before, self._wanted = is_grad_enabled(), bool(mode)
        _set(self._wanted)

    def __enter__(self) -> None:
        _set(self._wanted)

    def __exit__(self, *error: object) -> None:
        _set(self._before)


class enable_grad(ContextDecorator):  # noqa: N801  (PyTorch's name)
    """Context manager or decorator that turns recording on, inside `no_grad()` too."""

    def __enter__(self) -> None:
        self._before = is_grad_enabled()
        _set(True)

    def __exit__(self, *error: object) -> None:
        _set(self._before)

    def _recreate_cm(self) -> enable_grad:  # contextlib asks: a decorated function may call itself
        return enable_grad()


def _set(enabled: bool) -> None:
    mode.grad_enabled = enabled


def inference_mode(mode: Any = True) -> Any:
    """Return `no_grad()`, or what records where `mode` is False; of a function, it decorated."""
    if callable(mode):
        return no_grad()(mode)
    return no_grad() if mode else enable_grad()


def compile(model: Any = None, **options: Any) -> Any:
    """Return the model, or function, as it is: there is no compiler, and the results are the same."""
    return (lambda function: function) if model is None else model


NAMES: dict[str, Any] = {
    **{f.__name__: f for f in (set_grad_enabled, enable_grad, inference_mode, compile, is_grad_enabled)},
    **dict.fromkeys(("set_float32_matmul_precision", "use_deterministic_algorithms"), lambda *given, **named: None),
    "are_deterministic_algorithms_enabled": lambda: True,
}
