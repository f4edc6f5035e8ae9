"""Helpers for tests of threads: every wait has a limit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tests.support import thread_stacks

#: How long anything may take, in seconds; far more than it needs.
LIMIT = 20.0

#: What is not an ``Exception``, and what is.
RAISED = [
    "SystemExit",
    "KeyboardInterrupt",
    "CancelledError",
    "GeneratorExit",
    "OSError",
]


class Gate:
    """A callback that stands still until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.passed = threading.Event()

    def __call__(self, *args: Any) -> None:
        self.entered.set()
        if not self.opened.wait(LIMIT):
            raise AssertionError("the gate was never opened")
        self.passed.set()

    def wait_entered(self) -> None:
        assert self.entered.wait(LIMIT), f"nobody came\n{thread_stacks()}"

    def open(self) -> None:
        self.opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()


def in_thread(function: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Run *function* in a daemon thread; return its result, or raise its exception.

    :raises AssertionError: if it has not returned in time
    """
    return together(function, limit=limit)[0]


def together(*functions: Callable[[], Any], limit: float = LIMIT) -> list[Any]:
    """Run *functions* at once, each in a daemon thread; return their results.

    :raises AssertionError: if one has not returned in time
    """
    barrier = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            barrier.wait(limit)
            results[index] = functions[index]()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(index,), daemon=True)
        for index in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit)
        assert not thread.is_alive(), f"not within {limit} s\n{thread_stacks()}"
    if errors:
        raise errors[0]
    return results


@contextmanager
def frequent_switches() -> Iterator[None]:
    """Have threads take turns as often as possible, so that races are met."""
    if not hasattr(sys, "setswitchinterval"):
        yield
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def make_exception(name: str) -> BaseException:
    """Return an exception of the class called *name*, one of ``RAISED``."""
    if name == "CancelledError":
        from asyncio import CancelledError

        return CancelledError(name)
    import builtins

    exception: BaseException = getattr(builtins, name)(name)
    return exception


def interrupt(
    function: Callable[[], Any], number: int, handler: Callable[[], Any]
) -> bool:
    """Call *function*, and *handler* in the middle of it, as a signal handler is.

    :param number: before which step in the package's code, counted from 1
    :returns: whether there are so many steps
    """
    left = number

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith("kazoo_seqthreading"):
            return None
        frame.f_trace_opcodes = True
        if event in ("line", "opcode"):
            left -= 1
            if left == 0:
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return left <= 0
