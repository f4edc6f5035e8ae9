"""Forked children, and what tests do with clients in them."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support import TIMEOUT, wait_until

#: "At once", in seconds: less than the 5 that stop() may wait, and the 10 of kazoo.
AT_ONCE = 4.5


class Child:
    """A forked child that calls *function*; its answer comes through a pipe."""

    #: How long one may take, in seconds.
    limit = 4 * TIMEOUT

    def __init__(self, function: Callable[[], Any]) -> None:
        self._reader, writer = os.pipe()
        self._ended = False
        self.pid = os.fork()
        if not self.pid:
            self._run(function, writer)
        os.close(writer)

    def _run(self, function: Callable[[], Any], writer: int) -> None:
        status = 1
        try:
            os.close(self._reader)
            try:
                answer = function()
            except BaseException as error:
                answer = error
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
            status = 0
        finally:
            os._exit(status)

    def result(self) -> Any:
        """Return what the function returned, or raise what it raised."""
        answer, status = b"", None
        deadline = time.monotonic() + self.limit
        try:
            while True:
                left = max(deadline - time.monotonic(), 0)
                if not select.select([self._reader], [], [], left)[0]:
                    pytest.fail(f"no answer from the child within {self.limit} s")
                part = os.read(self._reader, 65536)
                if not part:
                    break
                answer += part
            status = wait_until(self._wait, what="the child's end")
        finally:
            self.kill()
        assert status == (self.pid, 0)
        value = pickle.loads(answer)
        if isinstance(value, BaseException):
            raise value
        return value

    def kill(self) -> None:
        """End the child, if it has not ended."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

    def _wait(self) -> tuple[int, int] | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self._ended = bool(pid)
        return (pid, status) if pid else None


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Call *function* in a forked child and return its result."""
    return Child(partial(function, *args)).result()


def call(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, bool]:
    """Return what came of a call, and whether it came at once."""
    began = time.monotonic()
    try:
        function(*args, **options)
        outcome = "returned"
    except Exception as error:
        outcome = type(error).__name__
    return outcome, time.monotonic() - began < AT_ONCE


def use(client: Any) -> bytes:
    """Start *client*, use it, stop it; return what it read."""
    client.start(2 * TIMEOUT)
    client.create(f"/used-by-{os.getpid()}", b"value", ephemeral=True)
    with client.Lock("/lock"):
        value: bytes = client.get(f"/used-by-{os.getpid()}")[0]
    client.stop()
    client.close()
    return value
