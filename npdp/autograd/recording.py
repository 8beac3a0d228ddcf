"""Switch that turns recording for backward on and off, a thread at a time, as ranks may be threads."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from contextlib import ContextDecorator
from types import TracebackType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Mode(threading.local):
    """The recording mode of this thread."""

    grad_enabled = True


mode = Mode()


def is_grad_enabled() -> bool:
    """Return whether operations are recorded on this thread."""
    return mode.grad_enabled


class no_grad(ContextDecorator):  # noqa: N801  (PyTorch's name)
    """Context manager or decorator that turns recording off, for evaluation and for changing parameters by hand.

    Of a generator function that it decorates nothing is recorded; what goes over its items is recorded as before.
    """

    def __enter__(self) -> None:
        self._before = mode.grad_enabled
        mode.grad_enabled = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.grad_enabled = self._before

    def _recreate_cm(self) -> no_grad:  # contextlib asks: a decorated function may call itself, or run on other threads
        return no_grad()

    def __call__(self, function: Function) -> Function:
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)
        made: Any = functools.wraps(function)(lambda *args, **kwargs: _unrecorded(function(*args, **kwargs)))
        return made  # type: ignore[no-any-return]


def _unrecorded(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Pass on what a generator yields, is sent and returns; only what it does between is not recorded."""
    resume: Callable[[Any], Any] = generator.send
    given: Any = None
    while True:
        try:
            with no_grad():
                item = resume(given)
        except StopIteration as end:
            return end.value
        try:
            given, resume = (yield item), generator.send
        except BaseException as error:  # thrown in, also by `close`: the generator's own matter
            given, resume = error, generator.throw
