"""What any handler can reach: kazoo's protocol in one thread, on a blocking socket.

It is kazoo's client with kazoo's steps, ``_connect``, ``_send_request`` and
``_read_response``, and without its loop: whoever waits for a result takes them until
it is complete. Requests leave together when somebody waits. There are no watches, no
heartbeats, and no second thread may call.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kazoo.handlers.utils import create_tcp_connection
from kazoo.protocol.serialization import CloseInstance, ReplyHeader, int_struct

from tests.benchmarks.floor import TIMEOUT, FreeHandler, WakeUp
from tests.benchmarks.subjects import Site


class _Result:
    """A result that is read by the one who waits for it."""

    __slots__ = ("_done", "_exception", "_links", "_step", "_value")

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._done = False
        self._value: Any = None
        self._exception: BaseException | None = None
        self._links: list[Callable[[Any], None]] = []

    def get(self) -> Any:
        while not self._done:
            self._step()
        if self._exception is not None:
            raise self._exception
        return self._value

    def rawlink(self, callback: Callable[[Any], None]) -> None:
        self._links.append(callback)

    def set(self, value: Any = None) -> None:
        self._value = value
        self._complete()

    def set_exception(self, exception: BaseException) -> None:
        self._exception = exception
        self._complete()

    def _complete(self) -> None:
        self._done = True
        for callback in self._links:
            callback(self)


class _Handler(FreeHandler):
    """Has the caller take kazoo's steps."""

    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.async_result = lambda: _Result(self._step)

    def create_connection(self, **arguments: Any) -> _Socket:
        return _Socket(create_tcp_connection(socket, **arguments))

    def _step(self) -> None:
        connection = self.client._connection
        while self.client._queue:
            connection._send_request(TIMEOUT, TIMEOUT)
        frame = connection._socket.receive_frame()
        header, offset = ReplyHeader.deserialize(frame, 0)
        connection._read_response(header, frame, offset)


class _Socket:
    """A blocking socket with buffers, as kazoo uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb", 65536)
        self._unsent: list[bytes] = []

    def setblocking(self, blocking: bool) -> None:
        """Block without a limit, which would cost a system call: ``take`` has one."""
        self._sock.setblocking(True)

    def send(self, data: memoryview) -> int:
        self._unsent.append(bytes(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._unsent:
            self._sock.sendall(b"".join(self._unsent))
            self._unsent.clear()
        data: bytes = self._reader.read(size)
        if len(data) < size:
            raise ConnectionError("the server has closed the connection")
        return data

    def receive_frame(self) -> bytes:
        (size,) = int_struct.unpack(self.recv(4))
        return self.recv(size)

    def close(self) -> None:
        self._reader.close()
        self._sock.close()


@contextmanager
def connected(site: Site) -> Iterator[Any]:
    """Use a client that does all in the calling thread."""
    handler = _Handler()
    handler.client = client = site.make_client(handler)
    connection = client._connection
    connection._read_sock = connection._write_sock = WakeUp()
    connection._xid = 0
    connection._connect(site.host, site.host, site.port)
    try:
        yield client
        closed = handler.async_result()
        client._call(CloseInstance, closed)
        with suppress(OSError):  # the server may end it without an answer
            closed.get()
    finally:
        connection._socket.close()
