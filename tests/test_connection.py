"""A connection between the thread that owns it, its socket and other threads."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler, _select
from kazoo_seqthreading._connection import Connection
from kazoo_seqthreading._wakeup import attach
from tests.background import in_background
from tests.internals import give_history, make_channel, wait_for_messages
from tests.support import TIMEOUT, Gate, KazooClient, MakeClient, in_thread, wait_until

#: More than the buffers of two sockets take.
LARGE = 8_000_000
PING = struct.pack("!iii", 8, -2, 11)


class Ends:
    """A connection with its wake-up channel, and the socket of its peer."""

    def __init__(self, handler: SequentialThreadingHandler) -> None:
        self._handler = handler
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection = handler.create_connection(
                server.getsockname(), timeout=TIMEOUT
            )
            assert isinstance(connection, Connection)
            self.connection = connection
            self.peer, _ = server.accept()
            self.peer.settimeout(TIMEOUT)
        self._reader, self._writer = make_channel(handler)
        attach(self._reader, self._writer, KazooClient(handler=handler))

    def select(self, timeout: float) -> list[Any]:
        """Wait as kazoo's main loop does."""
        both = [self.connection, self._reader]
        return self._handler.select(both, [], [], timeout)[0]

    def receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += self.peer.recv(1 << 20)
        return bytes(data)

    def close(self) -> None:
        self.connection.close()
        self.peer.close()
        self._writer.close()
        self._reader.close()


@pytest.fixture
def ends(handler: SequentialThreadingHandler) -> Iterator[Ends]:
    ends = Ends(handler)
    yield ends
    ends.close()


def test_what_was_gathered_behind_a_full_socket_leaves(ends: Ends) -> None:
    assert ends.select(0) == []
    ends.connection.send(bytes(LARGE))
    assert ends.select(0) == []
    ends.connection.send(PING)
    received = in_background(lambda: ends.receive(LARGE + len(PING))[LARGE:])

    # Nothing wakes it but the socket, that can be written again.
    assert ends.select(2.0) == []
    assert received.result(TIMEOUT) == PING


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_held_up_heartbeat(
    ends: Ends, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, once, also if the server has given the session up meanwhile."""
    give_history(ends.connection)
    assert ends.select(0.2) == []
    time.sleep(0.5)  # so long it is held up
    if lost:
        ends.peer.close()
        assert ends.select(0.2) == [ends.connection]
    else:
        ends.connection.send(PING)
        assert ends.select(0) == []
    ends.select(0)
    wait_for_messages()
    (message,) = (one.message for one in caplog.records if one.levelno > logging.INFO)

    assert message.startswith("Nothing was sent to 127.0.0.1:2181 for ")
    assert (
        ", though a heartbeat is due every 0.2 s: the process was suspended" in message
    )
    assert message.endswith(" s. The session may be lost.")


def test_closed_before_its_thread_has_it(
    ends: Ends, handler: SequentialThreadingHandler
) -> None:
    """kazoo handles no error of setblocking: its thread would end."""
    connection = ends.connection
    in_thread(connection.close)
    connection.setblocking(False)
    for select in (
        lambda: ends.select(0),
        lambda: handler.select([connection], [], [], 0),
        lambda: handler.select([], [connection], [], 0),
    ):
        with pytest.raises(OSError) as caught:
            select()
        assert caught.value.errno == errno.EBADF


def test_no_descriptor_left(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client loses that connection, and makes another one."""
    make, failed, states = _select.make_poller, list[int](), list[str]()

    def fail_once(fd: int) -> Any:
        if failed:
            return make(fd)
        failed.append(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_select, "make_poller", fail_once)
    client = make_client(handler=SequentialThreadingHandler())
    client.add_listener(states.append)
    client.start_async()  # start() would give up, should it see the first one end
    wait_until(lambda: len(states) == 3)
    assert states == ["CONNECTED", "SUSPENDED", "CONNECTED"]
    assert client.exists("/") is not None
    stats = client.handler.stats()

    assert (stats.connections_made, stats.connections_failed) == (2, 0)


def test_names_are_resolved_though_no_more_may_be_spawned() -> None:
    handler = SequentialThreadingHandler(max_spawned_threads=1)
    with Gate() as inside, socket.create_server(("127.0.0.1", 0)) as server:
        busy = handler.spawn(inside)
        inside.wait_entered()
        port = server.getsockname()[1]
        handler.create_connection(("localhost", port), timeout=TIMEOUT).close()
    busy.join(TIMEOUT)
