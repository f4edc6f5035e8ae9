"""What kazoo's own code costs: a handler and a socket that cost nothing.

No server is asked. Requests go through ``get_async`` and ``_send_request``, replies
built beforehand through ``_read_socket``, as in kazoo's connection thread. That is its
protocol; with the loop of that thread around it, which calls them, it is all that no
handler can save.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import pack
from typing import Any

from kazoo.client import KazooClient
from kazoo.protocol.states import KeeperState

from tests.benchmarks.measure import Sample, take

WINDOW = 256
TIMEOUT = 10.0


class _Result:
    """A result that nobody waits for."""

    def set(self, value: Any = None) -> None:
        pass

    def set_exception(self, exception: Any) -> None:
        raise exception


class FreeHandler:
    """A handler that does nothing, at once."""

    name = "free"
    timeout_exception = TimeoutError
    sleep_func = staticmethod(lambda seconds: None)
    running = True

    def __init__(self) -> None:
        result = _Result()
        self.async_result: Callable[[], Any] = lambda: result
        self.event_object = threading.Event
        self.lock_object = threading.Lock
        self.rlock_object = threading.RLock

    def select(self, rlist: Any, wlist: Any, xlist: Any, timeout: Any = None) -> Any:
        return rlist, wlist, xlist


class _Done(BaseException):
    """Ends kazoo's loop."""


class _LoopHandler(FreeHandler):
    """Has kazoo's loop send all requests, then read all replies, then end."""

    client: Any

    def select(self, rlist: Any, wlist: Any, xlist: Any, timeout: Any = None) -> Any:
        if wlist:
            return [], wlist, []
        if self.client._queue:
            return rlist[1:], [], []
        if self.client._pending:
            return rlist[:1], [], []
        raise _Done


class _Retry:
    def reset(self) -> None:
        pass


class _Socket:
    """A socket that has received all that it ever will."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._read = 0

    def close(self) -> None:
        pass

    def pending(self) -> int:
        return 1

    def recv(self, size: int) -> bytes:
        start = self._read
        self._read = end = start + size
        return self._data[start:end]

    def send(self, data: Any) -> int:
        return len(data)


class WakeUp:
    """A wake-up channel that wakes nobody."""

    def send(self, data: bytes) -> int:
        return 1

    def recv(self, size: int) -> bytes:
        return b"\0"


class Protocol:
    """Pipelined reads with nothing but kazoo's code.

    :param loop: whether the loop of the connection thread is part of it
    """

    def __init__(
        self, path: str, operations: int, data: bytes = b"x" * 100, loop: bool = False
    ) -> None:
        self._path = path
        self._operations = operations
        handler = _LoopHandler() if loop else FreeHandler()
        self._exchange = self._run_loop if loop else self._send_and_read
        self._client = KazooClient(handler=handler)
        if isinstance(handler, _LoopHandler):
            handler.client = self._client
        # As the loop has it, which else would take it for a change.
        self._client._state = KeeperState.CONNECTING
        self._connection: Any = self._client._connection
        self._connection._read_sock = self._connection._write_sock = WakeUp()
        stat = pack("!qqqqiiiqiiq", 1, 1, 1, 1, 0, 0, 0, 0, len(data), 0, 1)
        content = pack("!i", len(data)) + data + stat
        self._replies = b"".join(
            pack("!iiqi", 16 + len(content), xid, 1, 0) + content
            for xid in range(1, operations + 1)
        )

    def measure(self) -> Sample:
        """Make all requests, and read all replies."""
        self._connection._xid = 0
        self._socket = self._connection._socket = _Socket(self._replies)
        self._connection._connect = self._connect
        return take(partial(self._run, self._client.get_async, self._path))

    def _run(self, get_async: Any, path: str) -> int:
        done = 0
        while done < self._operations:
            count = min(WINDOW, self._operations - done)
            for _ in range(count):
                get_async(path)
            self._exchange(count)
            done += count
        assert not self._client._pending, "a reply was not read"
        return done

    def _send_and_read(self, count: int) -> None:
        for _ in range(count):
            self._connection._send_request(TIMEOUT, TIMEOUT)
        for _ in range(count):
            self._connection._read_socket(TIMEOUT)

    def _run_loop(self, count: int) -> None:
        self._xid = self._connection._xid
        with suppress(_Done):
            self._connection._connect_attempt("", "", 0, _Retry())

    def _connect(self, *address: Any) -> tuple[float, float]:
        self._connection._socket = self._socket
        self._connection._xid = self._xid  # no new session
        return TIMEOUT * 1000, TIMEOUT * 1000
