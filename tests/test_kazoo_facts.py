"""What this package relies on of kazoo's inside, held against the installed kazoo."""

from __future__ import annotations

import inspect
import logging
import struct
import sys
import threading
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import kazoo.client
import kazoo.handlers.threading
import pytest
from kazoo.client import KazooClient
from kazoo.handlers.utils import wrap
from kazoo.protocol import connection as kazoos_connection
from kazoo.protocol import serialization
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import (
    Auth,
    Create,
    GetData,
    ReplyHeader,
    SetData,
    Transaction,
)
from kazoo.protocol.states import Callback, KeeperState, WatchedEvent
from kazoo.security import OPEN_ACL_UNSAFE

from kazoo_seqthreading import (
    AsyncResult,
    SequentialThreadingHandler,
    _connection,
    _frames,
    _handler,
    _kazoo,
)
from kazoo_seqthreading._kazoo import (
    ORDINARY,
    connection_of,
    has_queues,
    in_flight,
    is_internal_callback,
    results_behind,
    unsent,
)
from kazoo_seqthreading._steps import frame_of, outcome_of
from kazoo_seqthreading._sync import Event
from kazoo_seqthreading._waiting import make_blocking_call_error
from tests.internals import core_of
from tests.support import TIMEOUT, Gate, in_thread, wait_until

if TYPE_CHECKING:
    from tests.support import MakeClient


class Recording(SequentialThreadingHandler):
    """Remembers what kazoo asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[Any, Any]] = []
        self.spawned: list[Any] = []
        self.events: list[Any] = []

    def async_result(self) -> AsyncResult[Any]:
        return RecordingResult(self)

    def spawn(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        self.spawned.append(func)
        return super().spawn(func, *args, **kwargs)

    def event_object(self) -> Any:
        return RecordingEvent(self)


class RecordingResult(AsyncResult[Any]):
    def rawlink(self, callback: Any) -> None:
        self._handler.links.append((self, callback))
        super().rawlink(callback)


class RecordingEvent(Event):
    def __init__(self, handler: Recording) -> None:
        super().__init__(core_of(handler))
        self._recorded = handler.events

    def is_set(self) -> bool:
        # threading.Event.wait asks, too
        self._recorded.append(self)
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

    assert {name_of(link) for _, link in handler.links} == {
        "KazooClient.create_async.<locals>.create_completion",
        "KazooClient.create_async.<locals>.retry_completion",
        "KazooClient.ensure_path_async.<locals>.create_completion",
        "KazooClient.ensure_path_async.<locals>.exists_completion",
        "KazooClient.ensure_path_async.<locals>.prepare_completion",
        "KazooClient.sync_async.<locals>._sync_completion",
    }
    assert all(is_internal_callback(link) for _, link in handler.links)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.create_async("/a/b/c", makepath=True),
        lambda client: client.ensure_path_async("/d/e"),
        lambda client: client.sync_async("/"),
    ],
    ids=["create", "ensure_path", "sync"],
)
def test_what_a_chain_completes_is_found(
    make_client: MakeClient, handler: Recording, call: Any
) -> None:
    """From what is in flight, link by link, to the result that the caller has."""
    client = make_client(handler=handler)
    client.start()
    handler.links.clear()
    outer = call(client)
    outer.get(timeout=TIMEOUT)
    assert handler.links
    for inner, link in handler.links:
        todo, found = [inner], list[Any]()
        while todo:
            result = todo.pop()
            found.append(result)
            for linked, callback in handler.links:
                if linked is result:
                    todo += [
                        one for one in results_behind(callback) if one not in found
                    ]
        assert outer in found, f"not behind {name_of(link)}"


def test_results_behind_a_users_closure() -> None:
    mine = Recording().async_result()
    assert results_behind(lambda result: mine.set()) == [mine]
    assert results_behind(partial(lambda one, result: one.set(), mine)) == [mine]
    assert results_behind(print) == []

    def recursive(result: object) -> Any:
        return recursive, mine

    assert results_behind(recursive) == [mine]


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
        assert not is_internal_callback(callback), callback


def test_connection_loop(make_client: MakeClient, handler: Recording) -> None:
    client = make_client(handler=handler)
    client.start()
    connection = client._connection
    assert handler.spawned == [connection.zk_loop]
    assert connection_of(handler.spawned[0]) is connection
    assert client._connection.client is client
    for other in (client.start, ConnectionHandler.zk_loop, print, handler.spawn):
        assert connection_of(other) is None
    assert core_of(handler).connections.connections() == [connection]
    client.stop()

    assert len(core_of(handler).connections) == 0


def test_channel_is_made_before_the_loop_is_spawned(handler: Recording) -> None:
    """So ``spawn`` can tell the channel which client it serves."""
    connection: Any = KazooClient(handler=handler)._connection
    ends = list[Any]()

    def spawn(func: Any) -> Any:
        assert func == connection.zk_loop
        ends.extend((connection._read_sock, connection._write_sock))

    handler.spawn = spawn  # type: ignore[method-assign]
    connection.start()
    assert [end.channel.client for end in ends] == [None, None]
    connection.connection_stopped.set()
    connection.close()

    assert [end.fileno() for end in ends] == [-1, -1]


def test_queues_of_a_client(handler: Recording) -> None:
    client = KazooClient(handler=handler)
    assert type(client._queue) is type(client._pending) is deque
    assert has_queues(client._connection)
    for missing in ("_queue", "_pending"):
        other = KazooClient(handler=handler)
        setattr(other, missing, [])
        assert not has_queues(other._connection)
        assert in_flight(other._connection) == []
        assert not unsent(other._connection)


def test_requests_are_in_the_queues(client: Any) -> None:
    """One that is sent goes from ``_queue`` to ``_pending``, with its xid."""
    connection, held, release = client._connection, threading.Event(), threading.Event()

    def hold(state: str) -> None:
        held.set()
        assert release.wait(TIMEOUT)

    assert client._live.is_set()
    assert not unsent(connection)
    client.add_listener(hold)
    connection._socket.close()
    assert held.wait(TIMEOUT)  # its thread sends and reads nothing
    try:
        assert not client._live.is_set()
        results = [client.exists_async("/") for _ in range(3)]
        assert [entry[1] for entry in client._queue] == results
        assert {len(entry) for entry in client._queue} == {2}
        assert in_flight(connection) == results
        assert not unsent(connection), "there is no connection"
        client._live.set()
        assert unsent(connection)
        client._live.clear()
        request, result = client._queue.popleft()
        client._pending.append((request, result, 1))  # as if it were sent
        assert set(in_flight(connection)) == set(results)
        client._queue.appendleft(client._pending.pop()[:2])
    finally:
        client.remove_listener(hold)
        release.set()
    for result in results:
        assert result.get(timeout=TIMEOUT) is not None

    assert in_flight(connection) == []


def test_pending_requests_have_their_result_in_the_middle(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, read = list[Any](), client._connection._read_response

    def look(header: Any, *args: Any) -> Any:
        seen.append((client._pending[0], header.xid))
        return read(header, *args)

    monkeypatch.setattr(client._connection, "_read_response", look)
    result = client.exists_async("/")
    assert result.get(timeout=TIMEOUT) is not None
    (((_, found, xid), expected),) = seen

    assert found is result
    assert xid == expected > 0


def test_queue_is_replaced_when_the_session_ends(client: Any) -> None:
    before, pending = client._queue, client._pending
    client.stop()

    assert client._queue is not before
    assert client._pending is not pending
    assert type(client._queue) is type(client._pending) is deque


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
        names.append(str(make_blocking_call_error()))

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
    assert fired.wait(TIMEOUT)
    (callback,) = dispatched

    assert callback.type == "watch"
    assert isinstance(callback.args[0], WatchedEvent)
    assert callback.args[0].path == "/a"


def test_replies_are_no_shorter_than_their_header() -> None:
    reply = bytes(_frames.MIN_FRAME)
    assert ReplyHeader.deserialize(reply, 0)[1] == _frames.MIN_FRAME


def test_socket_stops_blocking_once_it_is_connected(client: Any) -> None:
    connection = client._connection._socket
    assert type(connection) is _connection.Connection
    assert connection.framed


def test_request_is_queued_before_its_byte_is_sent(handler: Recording) -> None:
    client: Any = KazooClient(handler=handler)
    sent = list[tuple[bytes, int]]()

    class Writer:
        def send(self, data: bytes) -> None:
            sent.append((data, len(client._queue)))

    client._connection._write_sock = Writer()
    client._state = "CONNECTED"
    for _ in range(3):
        client.exists_async("/")
    assert sent == [(b"\0", 1), (b"\0", 2), (b"\0", 3)]
    client._stopped.clear()
    client.stop()

    assert sent[3:] == [(b"\0", 4)]
    assert client._queue[3][1] is None, "a Close has no result"


def test_events_are_the_handlers(handler: Recording) -> None:
    client = KazooClient(handler=handler)
    for event in (
        *(client._live, client._stopped),
        client._connection.connection_stopped,
    ):
        assert type(event) is RecordingEvent

    assert client._connection.connection_stopped.is_set()
    assert not client._live.is_set()


def test_loop_takes_a_byte_for_each_request(
    make_client: MakeClient, handler: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it has taken the request from the queue."""
    client = make_client(handler=handler)
    client.start()
    reader, lengths = client._connection._read_sock, list[int]()
    receive = type(reader).recv

    def recv(self: Any, size: int, flags: int = 0) -> bytes:
        assert size == 1
        lengths.append(len(client._queue))
        data: bytes = receive(self, size, flags)
        return data

    monkeypatch.setattr(type(reader), "recv", recv)
    for count in range(1, 11):
        assert client.exists("/") is not None
        wait_until(lambda count=count: len(lengths) == count)  # type: ignore[misc]

    assert lengths == [0] * 10


def test_client_closes_both_ends(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    connection = client._connection
    ends = connection._read_sock, connection._write_sock
    client.stop()
    client.close()

    assert [end.fileno() for end in ends] == [-1, -1]
    assert connection._write_sock is None


# -- what tells why a connection ended -------------------------------------------------


class Closed(Recording):
    """Notes how kazoo's connection and client are when a socket is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, object, bool]] = []
        self.connection: Any = None

    def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.at_connect = _kazoo.is_socket_of(self.connection, None)
        sock = super().create_connection(*args, **kwargs)
        close = sock.close

        def note() -> None:
            self.seen.append(
                (
                    _kazoo.is_socket_of(self.connection, sock),
                    _kazoo.state_of(self.connection),
                    _kazoo.is_stopped(self.connection),
                )
            )
            close()

        sock.close = note  # type: ignore[method-assign]
        return sock


@pytest.fixture
def closing(make_client: MakeClient) -> Any:
    handler = Closed()
    client = make_client(handler=handler)
    handler.connection = client._connection
    client.start()
    assert handler.at_connect, "a socket is known before it is made"
    return client


def test_connection_of_a_stopped_client(closing: Any) -> None:
    closing.stop()
    assert closing.handler.seen == [(True, "CLOSED", True)]


@pytest.mark.parametrize(
    ("cause", "state"),
    [("_CONNECTION_DROP", "CONNECTING"), ("_SESSION_EXPIRED", _kazoo.EXPIRED)],
)
def test_connection_that_is_lost(closing: Any, cause: str, state: str) -> None:
    closing._queue.append((getattr(kazoos_connection, cause), None))
    closing._connection._write_sock.send(b"\0")
    wait_until(lambda: closing.handler.seen)

    assert closing.handler.seen[0] == (True, state, False)


def test_state_of_refused_credentials(closing: Any) -> None:
    result = closing.add_auth_async("no-such-scheme", "me")
    result.wait(TIMEOUT)
    assert _kazoo.AUTH_FAILED == KeeperState.AUTH_FAILED
    wait_until(lambda: closing.handler.seen)


def test_server_that_was_found(handler: Recording) -> None:
    connection = KazooClient(handler=handler)._connection
    assert connection._rw_server is None
    assert not _kazoo.found_server(connection)
    connection._rw_server = ("127.0.0.1", 2181)

    assert _kazoo.found_server(connection)


def test_another_kazoo_tells_nothing() -> None:
    other: Any = object()
    assert not _kazoo.is_socket_of(other, None)
    assert not _kazoo.is_stopped(other)
    assert _kazoo.state_of(other) is None
    assert not _kazoo.found_server(other)


def test_exception_that_ends_the_loop() -> None:
    # In a thread that no test has interrupted while it handled an exception.
    assert in_thread(_kazoo.current_exception) == "for an unknown reason"
    try:
        raise ValueError("s3cret")
    except ValueError:
        assert _kazoo.current_exception() == "ValueError"


def test_operations_have_a_path_and_secrets() -> None:
    operations = [
        (Create("/a", b"s3cret", [], 0), "Create /a"),
        (SetData("/a", b"s3cret", -1), "SetData /a"),
        (GetData("/a", None), "GetData /a"),
        (Auth(0, "digest", "s3cret"), "Auth"),
    ]
    for operation, name in operations:
        assert _kazoo.operation_of(operation) == name
    many = Transaction([Create("/a", b"s3cret", [], 0)] * 3)

    assert _kazoo.operation_of(many) == "Transaction of 3 operations"


def test_code_that_a_connection_thread_runs(client: Any) -> None:
    (thread,) = core_of(client.handler).connections.threads()
    ident = thread.history.ident
    inside = Gate()

    def listener(state: str) -> None:
        inside()

    wait_until(lambda: _kazoo.foreign_code(sys._current_frames()[ident]) is None)
    client.add_listener(listener)
    with inside:
        client._connection._socket.close()
        inside.wait_entered()
        seen = _kazoo.foreign_code(sys._current_frames()[ident])
        assert seen == _kazoo.foreign_code(sys._current_frames()[ident])
        client.remove_listener(listener)
    assert seen is not None
    _, name, is_listener = seen

    assert f"listener ({__file__}:" in name
    assert is_listener
    assert _kazoo.foreign_code(sys._getframe()) is None


# -- a kazoo that is not as expected -------------------------------------------------


def test_kazoo_that_is_not_recognised(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its queues the handler is slower, and works."""
    monkeypatch.setattr(_handler, "has_queues", lambda connection: False)
    client, changed = make_client(), threading.Event()
    client.start()
    assert client._connection._read_sock.client is None
    client.create("/node", b"value")
    client.get("/node", watch=lambda event: changed.set())
    results = [client.get_async("/node") for _ in range(100)]
    assert {result.get(timeout=TIMEOUT)[0] for result in results} == {b"value"}
    client.set("/node", b"other")

    assert changed.wait(TIMEOUT)
    assert client._connection._socket.framed is False


# -- a step in a caller's thread -------------------------------------------------------

ACLS = OPEN_ACL_UNSAFE
STAT = struct.pack("!qqqqiiiqiiq", *range(11))
REQUESTS = [
    serialization.Create("/a", b"data", ACLS, 1),
    serialization.Create2("/a", b"data", ACLS, 1),
    serialization.Delete("/a", 3),
    serialization.Exists("/a", None),
    serialization.GetACL("/a"),
    serialization.GetChildren("/a", None),
    serialization.GetChildren2("/a", None),
    serialization.GetData("/a", None),
    serialization.Reconfig("a", "b", "c", 7),
    serialization.SetACL("/a", ACLS, 3),
    serialization.SetData("/a", b"data", 3),
    serialization.Sync("/a"),
    serialization.CheckVersion("/a", 3),
    serialization.Transaction([serialization.Delete("/a", 3)]),
]


def test_requests_are_all_that_are_ordinary() -> None:
    assert {type(request) for request in REQUESTS} == ORDINARY


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_frame_of_a_request(request_: Any) -> None:
    written: list[bytes] = []
    kazoos: Any = SimpleNamespace(
        logger=logging.getLogger("kazoo.client"),
        _write=lambda data, timeout: written.append(bytes(data)),
    )
    ConnectionHandler._submit(kazoos, request_, 1.0, 42)

    assert written == [frame_of(request_, 42)]


@pytest.mark.parametrize(
    ("request_", "error", "reply"),
    [
        (serialization.Delete("/a", 3), 0, b""),
        (serialization.GetData("/a", None), 0, b"\0\0\0\x04data" + STAT),
        (serialization.GetData("/a", None), -101, b""),
        (serialization.Exists("/a", None), 0, STAT),
        (serialization.Exists("/a", None), -101, b""),
        (serialization.Exists("/a", None), -102, b""),
        (serialization.Create("/a", b"", ACLS, 0), 0, b"\0\0\0\x07/root/a"),
        (serialization.Create("/a", b"", ACLS, 0), -110, b""),
        (
            serialization.Transaction([serialization.Create("/a", b"", ACLS, 0)]),
            0,
            struct.pack("!iBi", 1, False, 0)
            + b"\0\0\0\x07/root/a"
            + struct.pack("!iBi", -1, True, -1),
        ),
    ],
)
def test_outcome_of_a_reply(request_: Any, error: int, reply: bytes) -> None:
    """It is that of kazoo's own method."""
    client: Any = KazooClient(hosts="127.0.0.1:1/root")
    outcomes: list[tuple[Any, Any]] = []
    result = SimpleNamespace(
        set=lambda value: outcomes.append((value, None)),
        set_exception=lambda exception: outcomes.append((None, exception)),
    )
    client._pending.append((request_, result, 42))
    frame = struct.pack("!iiqi", 16 + len(reply), 42, 7, error) + reply
    header = serialization.ReplyHeader(42, 7, error)
    client._connection._read_response(header, frame[4:], 16)
    outcome = outcome_of(client, request_, error, frame)
    assert outcome is not None
    ((expected, raised),) = outcomes

    assert (outcome[0], type(outcome[1])) == (expected, type(raised))
    assert client.last_zxid == 7


def test_error_that_kazoo_does_not_know() -> None:
    """It ends kazoo's thread, and is left to that."""
    client: Any = KazooClient(hosts="127.0.0.1:1")
    request = serialization.Delete("/a", 3)
    frame = struct.pack("!iiqi", 16, 42, 7, -9999)
    client._pending.append((request, None, 42))
    with pytest.raises(RuntimeError, match="Invalid error code"):
        client._connection._read_response(
            serialization.ReplyHeader(42, 7, -9999), frame[4:], 16
        )

    assert outcome_of(client, request, -9999, frame) is None
