"""When operations are recorded: not under `no_grad`, on this thread, in a function or a generator."""

import threading

import pytest
from arithmetic import leaf

from npdp.autograd import Tensor, is_grad_enabled, no_grad


def test_nothing_is_recorded_under_no_grad():
    x = leaf(1.0)
    with no_grad():
        with no_grad():
            assert not is_grad_enabled()
        assert not is_grad_enabled()
        y = x * 2
    assert is_grad_enabled() and y.node is None and not y.requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()


def test_no_grad_on_one_thread_does_not_touch_another():
    inside, done, seen = threading.Event(), threading.Event(), []

    def other():
        inside.wait(10)
        seen.append((is_grad_enabled(), (leaf(1.0) * 2).requires_grad))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with no_grad():
        inside.set()
        assert done.wait(10)
    thread.join()
    assert seen == [(True, True)]


def test_no_grad_decorates_a_function():
    x = Tensor([1.0], requires_grad=True)

    @no_grad()
    def double():
        return x * 2

    assert double().node is None and (x * 2).node is not None


def test_a_function_under_no_grad_may_call_itself():
    @no_grad()
    def depth(rest):
        return 1 + depth(rest - 1) if rest else 0

    assert depth(3) == 3
    assert is_grad_enabled()


def test_what_a_generator_function_under_no_grad_does_is_not_recorded():
    x = leaf(2.0)

    @no_grad()
    def doubled(count):
        """Doubles."""
        for _ in range(count):
            yield x * 2
        return "done"

    seen = [(y.node, (x * 2).node is not None) for y in doubled(2)]  # who goes over it records
    assert seen == [(None, True)] * 2 and is_grad_enabled()
    assert doubled.__doc__ == "Doubles."
    with pytest.raises(StopIteration, match="done"):
        next(doubled(0))


def test_a_generator_under_no_grad_is_sent_to_and_thrown_into_as_any_other():
    seen = []

    @no_grad()
    def echo():
        given = None
        try:
            while True:
                try:
                    given = yield given, is_grad_enabled()
                except KeyError as error:
                    given = error.args[0]
        finally:
            seen.append(is_grad_enabled())

    generator = echo()
    assert next(generator) == (None, False) and generator.send(1) == (1, False)
    assert generator.throw(KeyError("a")) == ("a", False) and next(generator) == (None, False)
    generator.close()
    assert seen == [False] and is_grad_enabled()
    failing = echo()
    next(failing)
    with pytest.raises(ZeroDivisionError):
        failing.throw(ZeroDivisionError())
    assert seen == [False] * 2 and is_grad_enabled()
