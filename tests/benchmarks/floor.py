"""What kazoo's own protocol code costs: a handler and a socket that cost nothing.

No server is asked. Requests go through ``get_async`` and ``_send_request``, replies
built beforehand through ``_read_socket``, as in kazoo's connection thread.
"""

from __future__ import annotations

import threading
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


class _Handler:
    """A handler that does nothing, at once."""

    name = "free"
    timeout_exception = TimeoutError
    sleep_func = staticmethod(lambda seconds: None)
    running = True

    def __init__(self) -> None:
        result = _Result()
        self.async_result = lambda: result
        self.event_object = threading.Event
        self.lock_object = threading.Lock
        self.rlock_object = threading.RLock

    def select(self, rlist: Any, wlist: Any, xlist: Any, timeout: Any = None) -> Any:
        return rlist, wlist, xlist


class _Socket:
    """A socket that has received all that it ever will."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._read = 0

    def pending(self) -> int:
        return 1

    def recv(self, size: int) -> bytes:
        start = self._read
        self._read = end = start + size
        return self._data[start:end]

    def send(self, data: Any) -> int:
        return len(data)


class _WakeUp:
    def send(self, data: bytes) -> int:
        return 1

    def recv(self, size: int) -> bytes:
        return b"\0"


class Protocol:
    """Pipelined reads with nothing but kazoo's code."""

    def __init__(self, path: str, operations: int, data: bytes = b"x" * 100) -> None:
        self._path = path
        self._operations = operations
        self._client = KazooClient(handler=_Handler())
        self._client._state = KeeperState.CONNECTED
        self._connection: Any = self._client._connection
        self._connection._read_sock = self._connection._write_sock = _WakeUp()
        stat = pack("!qqqqiiiqiiq", 1, 1, 1, 1, 0, 0, 0, 0, len(data), 0, 1)
        content = pack("!i", len(data)) + data + stat
        self._replies = b"".join(
            pack("!iiqi", 16 + len(content), xid, 1, 0) + content
            for xid in range(1, operations + 1)
        )

    def measure(self) -> Sample:
        """Make all requests, and read all replies."""
        self._connection._xid = 0
        self._connection._socket = _Socket(self._replies)
        return take(partial(self._run, self._client.get_async, self._path))

    def _run(self, get_async: Any, path: str) -> int:
        connection = self._connection
        done = 0
        while done < self._operations:
            count = min(WINDOW, self._operations - done)
            for _ in range(count):
                get_async(path)
            for _ in range(count):
                connection._send_request(TIMEOUT, TIMEOUT)
            for _ in range(count):
                connection._read_socket(TIMEOUT)
            done += count
        assert not self._client._pending, "a reply was not read"
        return done
