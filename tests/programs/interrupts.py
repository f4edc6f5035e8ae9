"""A signal handler runs in the middle of what the main thread does.

The argument tells what both do. The last line of the output is ``done``.
"""

from __future__ import annotations

import inspect
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from kazoo.exceptions import KazooException

from tests.programs import arguments, new_client
from tests.support import wait_until


class Interrupt(Exception):
    """What the signal handler raises."""


class Alarm:
    """Calls a function in a signal handler, once each time it is set."""

    def __init__(self, function: Callable[[], object], longest: float) -> None:
        self.waits = False
        self._function = function
        self._longest = longest
        signal.signal(signal.SIGALRM, self._ring)

    def set(self) -> None:
        self.waits = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, self._longest))

    def _ring(self, number: int, frame: object) -> None:
        if self.waits:
            try:
                self._function()
            finally:
                self.waits = False


def fail() -> None:
    raise Interrupt


def check(client: Any) -> None:
    """Use *client*, which is connected, and close it."""
    for _ in range(3):
        assert client.exists_async("/").get(timeout=10.0) is not None
    client.stop()
    client.close()


def wait_for(result: Any) -> None:
    """Wait without a lock: with kazoo's handler, a signal handler would meet it."""
    while not result.ready():
        time.sleep(0.0001)


def ask(client: Any, alarm: Alarm, rounds: int) -> None:
    """Make requests until the alarm has rung, so many times."""
    for _ in range(rounds):
        alarm.set()
        while alarm.waits:
            result = client.exists_async("/")
        wait_for(result)


def call_while_asking(rounds: int = 1500) -> None:
    """The signal handler makes a blocking call."""
    client = new_client()
    client.start()
    alarm = Alarm(lambda: client.exists("/"), 0.001)
    ask(client, alarm, rounds)
    check(client)


def call_while_waiting(rounds: int = 1000) -> None:
    """The same, while the main thread makes blocking calls, too."""
    client = new_client()
    client.start()
    alarm = Alarm(lambda: client.exists("/"), 0.001)
    for _ in range(rounds):
        alarm.set()
        while alarm.waits:
            client.exists("/")
    check(client)


def stop_while_asking(rounds: int = 500) -> None:
    """The signal handler stops the client."""
    client = new_client()
    for _ in range(rounds):
        client.start()
        alarm = Alarm(client.stop, 0.002)
        alarm.set()
        while alarm.waits:
            client.exists_async("/")
    client.close()


def stop_handler_while_asking(rounds: int = 60) -> None:
    """The signal handler stops the handler alone, and starts it again."""

    def restart() -> None:
        client.handler.stop()
        client.handler.start()

    client = new_client()
    client.start()
    alarm = Alarm(restart, 0.002)
    ask(client, alarm, rounds)
    check(client)


def stop_while_putting(rounds: int = 60) -> None:
    """The signal handler stops the handler, at once, and no callback is lost."""
    handler = new_client(stop_timeout=30.0).handler
    alarm = Alarm(handler.stop, 0.002)
    for _ in range(rounds):
        put_until_stopped(handler, alarm)


def put_until_stopped(handler: Any, alarm: Alarm) -> None:
    ran, count = list[int](), 0
    handler.start()
    alarm.set()
    while alarm.waits:
        handler.completion_queue.put(partial(ran.append, 1))
        count += 1
    wait_until(lambda: len(ran) == count, what=f"{count} callbacks")


def raise_while_asking(rounds: int = 3000) -> None:
    """The signal handler raises; what it interrupts is lost, and nothing else."""
    client = new_client()
    client.start()
    alarm = Alarm(fail, 0.0005)

    # In a function: CPython 3.13 does not protect the last jump of a loop in a "with".
    def ask() -> None:
        alarm.set()
        while alarm.waits:
            client.exists_async("/").get()

    for _ in range(rounds):
        with suppress(Interrupt, KazooException):
            ask()
    check(client)


def interrupt_after_append(client: Any, function: Callable[[], object]) -> None:
    """Ask for something, and call *function* when that has just been queued."""
    code = client._call.__func__.__code__
    source, first = inspect.getsourcelines(code)
    appended = list[bool]()

    def trace_call(frame: Any, event: str, argument: object) -> Any:
        if event == "line":
            if appended:
                sys.settrace(None)
                function()
                return None
            if "_queue.append(" in source[frame.f_lineno - first]:
                appended.append(True)
        return trace_call

    sys.settrace(lambda frame, *event: trace_call if frame.f_code is code else None)
    try:
        client.exists_async("/").get(timeout=10.0)
    finally:
        sys.settrace(None)
        assert appended


def call_after_append() -> None:
    """The signal handler comes right after a request was queued, and asks, too."""
    client = new_client()
    client.start()
    interrupt_after_append(client, lambda: client.exists("/"))
    check(client)


def stop_after_append() -> None:
    """The same, and it stops the client."""
    client = new_client()
    client.start()
    with suppress(KazooException):
        interrupt_after_append(client, client.stop)
    client.start()
    check(client)


def raise_after_append() -> None:
    """The same, and it raises."""
    client = new_client()
    client.start()
    with suppress(Interrupt):
        interrupt_after_append(client, fail)
    check(client)


if __name__ == "__main__":
    globals()[arguments()[0]]()
    print("done")
