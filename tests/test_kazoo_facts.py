"""What this package relies on of kazoo's inside, held against the installed kazoo."""

from __future__ import annotations

import inspect
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import kazoo.client
import kazoo.handlers.threading
import pytest
from kazoo.client import KazooClient
from kazoo.handlers.utils import wrap
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import ReplyHeader
from kazoo.protocol.states import Callback, WatchedEvent

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler, _connection
from kazoo_seqthreading._handler import _would_block_connection
from kazoo_seqthreading._kazoo import (
    is_chain_link,
    is_connection_loop,
)
from kazoo_seqthreading._sync import Event
from tests.concurrency import LIMIT
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.support import MakeClient


class Recording(SequentialThreadingHandler):
    """Remembers what kazoo asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Any] = []
        self.spawned: list[Any] = []
        self.events: list[Any] = []
        self.sent = self.received = 0

    def async_result(self) -> AsyncResult[Any]:
        return RecordingResult(self)

    def spawn(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        self.spawned.append(func)
        return super().spawn(func, *args, **kwargs)

    def event_object(self) -> Any:
        return RecordingEvent(self)


class RecordingResult(AsyncResult[Any]):
    def rawlink(self, callback: Any) -> None:
        self._handler.links.append(callback)
        super().rawlink(callback)


class RecordingEvent(Event):
    def is_set(self) -> bool:
        # threading.Event.wait asks, too
        self._handler.events.append(self)  # type: ignore[attr-defined]
        return super().is_set()


@pytest.fixture
def handler() -> Recording:
    return Recording()


def name_of(callback: Any) -> str:
    """Return the name of what was linked, in kazoo's wrapping or without."""
    if isinstance(callback, partial):
        callback = callback.func
    inner = getattr(callback, "__wrapped__", None)
    if callback.__module__ == "kazoo.handlers.utils" and inner is not None:
        callback = inspect.getclosurevars(inner).nonlocals["function"]
    name: str = callback.__qualname__
    return name


def test_links_of_chains(make_client: MakeClient, handler: Recording) -> None:
    client = make_client(handler=handler)
    client.start()
    client.create("/a/b/c", makepath=True)
    client.ensure_path("/d/e")
    client.sync("/d")
    client.create("/d/f", sequence=True)
    assert {name_of(link) for link in handler.links} == {
        "KazooClient.create_async.<locals>.create_completion",
        "KazooClient.create_async.<locals>.retry_completion",
        "KazooClient.ensure_path_async.<locals>.create_completion",
        "KazooClient.ensure_path_async.<locals>.exists_completion",
        "KazooClient.ensure_path_async.<locals>.prepare_completion",
        "KazooClient.sync_async.<locals>._sync_completion",
    }
    assert all(is_chain_link(link) for link in handler.links)


def test_users_links_are_no_chains() -> None:
    def create_completion(result: object) -> None:
        pass

    create_completion.__qualname__ = (
        "KazooClient.create_async.<locals>.create_completion"
    )

    def foreign(result: object) -> None:
        pass

    foreign.__module__ = "kazoo.client"
    wrapped = wrap(Recording().async_result())(create_completion)
    client = KazooClient()
    for callback in (
        *(create_completion, partial(create_completion), foreign, wrapped, print),
        *(client.exists, client.create, partial(client.create, "/a"), Recording),
        *(partial(partial(client.create), "/a"), list[Any]().append),
    ):
        assert not is_chain_link(callback), callback


def test_connection_loop(make_client: MakeClient, handler: Recording) -> None:
    client = make_client(handler=handler)
    client.start()
    assert handler.spawned == [client._connection.zk_loop]
    assert is_connection_loop(client._connection.zk_loop)
    assert handler.spawned[0].__func__ is ConnectionHandler.zk_loop
    for other in (client.start, ConnectionHandler.zk_loop, print, handler.spawn):
        assert not is_connection_loop(other)
    assert len(handler._connections) == 1
    client.stop()
    assert len(handler._connections) == 0


def test_loop_asks_for_stopped_first_and_closes_the_client(handler: Recording) -> None:
    """That is how a client is closed in a forked child."""
    client, states = KazooClient(handler=handler), list[str]()
    client.add_listener(states.append)
    client._stopped.set()
    client._state, client.state = "CONNECTED", "CONNECTED"
    pending, queued = handler.async_result(), handler.async_result()
    client._pending.append((None, pending, 1))
    client._queue.append((None, queued))
    client._session_id = 5
    handler.events.clear()
    client._connection.zk_loop()
    assert handler.events[0] is client._stopped
    assert client._connection.connection_stopped.is_set()
    assert states == ["LOST"]
    for result in (pending, queued):
        assert result.exception is not None
    assert client._session_id is None
    assert client._state == "CLOSED"


def test_connection_stops_without_a_thread(handler: Recording) -> None:
    client = KazooClient(handler=handler)
    client._stopped.set()
    client._connection.zk_loop()
    assert client._connection.stop(0) is True
    client._connection.close()


def test_names_of_kazoos_modules() -> None:
    assert KazooClient.__module__ == "kazoo.client"
    assert KazooClient._make_state_change.__module__ == "kazoo.client"
    assert KazooClient._make_state_change.__code__.co_name == "_make_state_change"
    assert ConnectionHandler.__module__ == "kazoo.protocol.connection"
    stock = kazoo.handlers.threading.SequentialThreadingHandler
    assert issubclass(SequentialThreadingHandler.timeout_exception, Exception)
    assert issubclass(
        SequentialThreadingHandler.timeout_exception, stock.timeout_exception
    )


def test_listeners_are_called_by_make_state_change() -> None:
    client, frames, names = KazooClient(), list[str](), list[str]()

    def listener(state: str) -> None:
        frames.append(sys._getframe(1).f_code.co_name)
        frames.append(sys._getframe(1).f_globals["__name__"])
        names.append(str(_would_block_connection()))

    client.add_listener(listener)
    client._make_state_change("CONNECTED")
    assert frames == ["_make_state_change", "kazoo.client"]
    assert f"listener ({__file__}:" in names[0]


def test_callbacks_of_watches() -> None:
    assert Callback._fields == ("type", "func", "args")
    assert WatchedEvent("CHANGED", "CONNECTED", "/path").path == "/path"


def test_watches_are_dispatched_with_their_event(
    make_client: MakeClient, handler: Recording
) -> None:
    client, fired = make_client(handler=handler), threading.Event()
    dispatched, dispatch = list[Any](), handler.dispatch_callback

    def record(callback: Any) -> None:
        dispatched.append(callback)
        dispatch(callback)

    handler.dispatch_callback = record  # type: ignore[method-assign]
    client.start()
    client.create("/a")
    client.get("/a", watch=lambda event: fired.set())
    client.delete("/a")
    assert fired.wait(LIMIT)
    (callback,) = dispatched
    assert callback.type == "watch"
    assert isinstance(callback.args[0], WatchedEvent)
    assert callback.args[0].path == "/a"


def test_replies_are_no_shorter_than_their_header() -> None:
    reply = bytes(_connection.MIN_FRAME)
    assert ReplyHeader.deserialize(reply, 0)[1] == _connection.MIN_FRAME


def test_socket_stops_blocking_once_it_is_connected(client: Any) -> None:
    connection = client._connection._socket
    assert type(connection) is _connection.Connection
    assert connection.framed


def test_one_wake_up_for_each_request(client: Any) -> None:
    connection = client._connection
    assert connection._read_sock is connection._write_sock
    for _ in range(10):
        client.exists("/")
    for result in [client.exists_async("/") for _ in range(50)]:
        result.get(timeout=LIMIT)
    # the last byte is taken after the request has been written
    wait_until(lambda: connection._read_sock.pending() == 0)
    assert not client._queue


def test_client_closes_both_ends(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    wakeup = client._connection._read_sock
    client.stop()
    client.close()
    assert wakeup.fileno() == -1
    assert client._connection._write_sock is None
