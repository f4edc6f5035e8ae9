"""A connection between the thread that owns it, its socket and other threads."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler, _select
from kazoo_seqthreading._connection import Connection
from tests.concurrency import LIMIT, Gate, in_thread, together
from tests.support import wait_until

#: More than the buffers of two sockets take.
LARGE = 8_000_000


class Ends:
    """A connection, and the socket of its peer."""

    def __init__(self, handler: SequentialThreadingHandler) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.connection: Connection = handler.create_connection(
                server.getsockname(), timeout=LIMIT
            )
            self.peer, _ = server.accept()
            self.peer.settimeout(LIMIT)
        self.wakeup, _ = handler.create_socket_pair()

    def receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += self.peer.recv(1 << 20)
        return bytes(data)

    def close(self) -> None:
        self.connection.close()
        self.peer.close()
        self.wakeup.close()


@pytest.fixture
def ends(handler: SequentialThreadingHandler) -> Iterator[Ends]:
    ends = Ends(handler)
    yield ends
    ends.close()


def test_what_was_gathered_behind_a_full_socket_leaves(ends: Ends) -> None:
    connection = ends.connection
    connection.setblocking(False)
    connection.send(bytes(LARGE))
    assert connection.wait(ends.wakeup, 0) == []
    connection.send(b"the next request")

    def finish() -> None:
        # Nothing wakes it but the socket, that can be written again.
        assert connection.wait(ends.wakeup, 2.0) == []

    received = []

    def receive() -> None:
        received.append(ends.receive(LARGE + 16)[LARGE:])

    connection._owner = None  # another thread waits here
    together(finish, receive)
    assert received == [b"the next request"]


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_held_up_heartbeat(
    ends: Ends, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, once, also if the server has given the session up meanwhile."""
    connection = ends.connection
    connection.setblocking(False)
    assert connection.wait(ends.wakeup, 0.1) == []
    time.sleep(0.3)  # so long it is held up
    if lost:
        ends.peer.close()
    else:
        connection.send(b"a heartbeat")
    assert connection.wait(ends.wakeup, 0.1) == ([connection] if lost else [])
    connection.wait(ends.wakeup, 0)
    (message,) = (one.message for one in caplog.records if one.levelno > logging.INFO)
    assert "the connection thread was held up" in message


def test_closed_before_its_thread_has_it(ends: Ends) -> None:
    """kazoo handles no error of setblocking: its thread would end."""
    in_thread(ends.connection.close)
    ends.connection.setblocking(False)
    for wait in (partial(ends.connection.wait, None, 0), ends.connection.wait_writable):
        with pytest.raises(OSError) as caught:
            wait()
        assert caught.value.errno == errno.EBADF


def test_no_descriptor_left(
    handler: SequentialThreadingHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_select, "make_poller", fail)
    message = os.strerror(errno.EMFILE)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(OSError, match=message),
    ):
        handler.create_connection(server.getsockname(), timeout=LIMIT)
    stats = handler.stats()
    assert (stats.connections_made, stats.connections_failed) == (0, 1)


def test_slow_callback_while_no_server_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = SequentialThreadingHandler(slow_callback_duration=0.05)
    handler.start()

    def warned() -> bool:
        with pytest.raises(ConnectionRefusedError):
            handler.create_connection(("127.0.0.1", 1), timeout=LIMIT)
        return bool(caplog.records)

    try:
        with Gate() as inside:
            handler.completion_queue.put(inside)
            inside.wait_entered()
            wait_until(warned)
    finally:
        handler.stop()
    assert "Gate runs for" in caplog.text


def test_names_are_resolved_though_no_more_may_be_spawned() -> None:
    handler = SequentialThreadingHandler(max_spawned_threads=1)
    with Gate() as inside, socket.create_server(("127.0.0.1", 0)) as server:
        busy = handler.spawn(inside)
        inside.wait_entered()
        port = server.getsockname()[1]
        handler.create_connection(("localhost", port), timeout=LIMIT).close()
    busy.join(LIMIT)
