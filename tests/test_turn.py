"""A caller that waits sends its request, and reads the reply, itself.

Each test has a server of the module's own, which can be suspended: a caller waits for
it in ``poll``, with the socket, while the connection thread sleeps.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoNodeError,
    SessionExpiredError,
)

from kazoo_seqthreading import TimeoutError, _steps, _turn
from tests.background import in_background
from tests.internals import core_of
from tests.interrupts import Where, interrupt_everywhere
from tests.support import TIMEOUT, MakeClient, interrupt, together, wait_until
from tests.zookeeper import ZooKeeper

pytestmark = pytest.mark.skipif(
    not (_turn.SUPPORTED and _steps.ENABLED), reason="for CPython on Linux"
)


#: Of a session that is to end soon; a heartbeat is due after a third of it. It takes
#: the connection from callers for a moment, so other sessions have none.
SHORT = 4.0


def make(make_client: MakeClient, server: ZooKeeper, timeout: float) -> Any:
    client = make_client(hosts=server.hosts, timeout=timeout)
    client.start()
    client.delete("/node", recursive=True)
    client.create("/node", b"data")
    return client


@pytest.fixture
def client(make_client: MakeClient, own_server: ZooKeeper) -> Any:
    return make(make_client, own_server, 60.0)


@pytest.fixture
def short_client(make_client: MakeClient, own_server: ZooKeeper) -> Any:
    return make(make_client, own_server, SHORT)


@contextmanager
def suspended(server: ZooKeeper) -> Iterator[Callable[[], None]]:
    """Suspend the server; what is given lets it go on."""
    (node,) = server.nodes
    node.suspend()
    try:
        yield node.resume
    finally:
        if node.alive:
            node.resume()


def turn_of(client: Any) -> Any:
    return client._connection._socket._turn


def led_by(client: Any) -> Any:
    """Return the callers that poll the client's socket themselves."""
    turn = turn_of(client)
    return [] if turn is None else turn._leaders


def wait_until_asleep(client: Any) -> None:
    def is_asleep() -> bool:
        turn = turn_of(client)
        busy = client._pending or client._queue
        return turn is not None and not busy and bool(turn._tokens)

    wait_until(is_asleep)
    turn_of(client)._backoff = 0  # two threads may have made requests at once


@contextmanager
def leading(
    client: Any, server: ZooKeeper, call: Callable[[], Any] | None = None
) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Have a thread wait for a reply in ``poll``; give its future, and "resume".

    It tries again where the connection thread happened to be awake.
    """
    call = partial(client.get, "/node") if call is None else call
    for _ in range(20):
        wait_until_asleep(client)
        with suspended(server) as resume:
            future = in_background(call)
            wait_until(lambda: client._pending)
            with suppress(AssertionError):
                wait_until(lambda: led_by(client), 0.5)
            if led_by(client):
                yield future, resume
                return
        future.result(TIMEOUT)
    raise AssertionError("nobody leads")


def sent_by_callers(client: Any) -> int:
    count: int = core_of(client.handler).connections.caller_traffic.requests
    return count


# -- what it does -------------------------------------------------------------------


def test_call_that_waits_wakes_nobody(client: Any) -> None:
    def call() -> int:
        wait_until_asleep(client)
        before = client.handler.stats().wake_ups
        assert client.get("/node")[0] == b"data"
        woken: int = client.handler.stats().wake_ups - before
        return woken

    sent = sent_by_callers(client)

    # It may be the moment of a heartbeat.
    assert min(call() for _ in range(10)) == 0
    assert sent_by_callers(client) > sent


def test_every_kind_of_request(client: Any) -> None:
    def direct(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        wait_until_asleep(client)
        return call(*args, **kwargs)

    before = sent_by_callers(client)
    assert direct(client.get, "/node")[0] == b"data"
    assert direct(client.exists, "/node").dataLength == 4
    assert direct(client.exists, "/none") is None
    with pytest.raises(NoNodeError):
        direct(client.get, "/none")
    assert direct(client.set, "/node", b"data").version == 1
    assert direct(client.get_children, "/node") == []
    assert direct(client.get_children, "/node", include_data=True)[0] == []
    assert direct(client.create, "/node/a", b"") == "/node/a"
    assert direct(client.create, "/node/b/c/d", makepath=True) == "/node/b/c/d"
    assert direct(client.create, "/node/e", include_data=True)[0] == "/node/e"
    assert direct(client.ensure_path, "/node/f/g")
    assert direct(client.get_acls, "/node")[0]
    assert direct(client.sync, "/node") == "/node"
    transaction = client.transaction()
    transaction.check("/node", 1)
    transaction.delete("/node/a")

    assert direct(transaction.commit) == [True, True]
    assert client.last_zxid == client.exists("/node").pzxid
    assert direct(client.delete, "/node/e")
    assert sent_by_callers(client) > before + 10


def test_chroot(make_client: MakeClient, client: Any, own_server: ZooKeeper) -> None:
    inner = make_client(hosts=f"{own_server.hosts}/node")
    inner.start()
    transaction = inner.transaction()
    transaction.create("/b")
    wait_until_asleep(inner)
    assert inner.create("/a") == "/a"
    wait_until_asleep(inner)
    assert transaction.commit() == ["/b"]
    wait_until_asleep(inner)

    assert inner.delete("/a") and inner.delete("/b")
    # A heartbeat may be due at any of them.
    assert sent_by_callers(inner) >= 2


def test_watch_is_left_to_the_connection_thread(client: Any) -> None:
    for _ in range(20):
        events: list[Any] = []
        wait_until_asleep(client)
        client.get("/node")
        client.get("/node", watch=events.append)
        client.set("/node", b"data")
        wait_until(lambda: events)  # noqa: B023


def test_reply_that_is_longer_than_a_read(client: Any) -> None:
    data = os.urandom(500_000)
    client.set("/node", data)
    for _ in range(5):
        wait_until_asleep(client)
        assert client.get("/node")[0] == data
    client.set("/node", b"data")


def test_kazoo_logs_its_debug_messages(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In the thread that logs them with kazoo's own handler."""
    with caplog.at_level(logging.DEBUG, "kazoo.client"):
        wait_until_asleep(client)
        before = sent_by_callers(client)
        client.get("/node")
        assert sent_by_callers(client) == before
    threads = {
        record.threadName
        for record in caplog.records
        if record.getMessage().startswith(("Sending request", "Received response"))
    }

    assert len(threads) == 1
    assert "connection" in str(threads.pop())


# -- while a caller waits -----------------------------------------------------------


def test_time_out(client: Any, own_server: ZooKeeper) -> None:
    wait_until_asleep(client)
    with suspended(own_server):
        result = client.get_async("/node")
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            result.get(timeout=0.2)
        assert 0.2 <= time.monotonic() - begun < TIMEOUT / 2
    assert result.get(timeout=TIMEOUT)[0] == b"data"


def test_result_that_is_set_by_another_thread(
    client: Any, own_server: ZooKeeper
) -> None:
    wait_until_asleep(client)
    with suspended(own_server):
        result = client.get_async("/node")
        future = in_background(result.get)  # it has not sent it
        assert not led_by(client)
        result.set("mine")
        assert future.result(TIMEOUT) == "mine"
    results: list[Any] = []

    def call() -> Any:
        results.append(client.get_async("/node"))
        return results[-1].get()

    with leading(client, own_server, call) as (future, _):
        results[-1].set("mine")
        assert future.result(1.0) == "mine"

    assert client.get("/node")[0] == b"data"


def test_request_of_another_thread_does_not_wait_for_the_first(
    client: Any, own_server: ZooKeeper
) -> None:
    with leading(client, own_server) as (future, _):
        other = in_background(client.get, "/node")
        wait_until(lambda: len(client._pending) == 2)  # both are sent
        wait_until(lambda: not led_by(client))
    assert future.result(TIMEOUT) == other.result(TIMEOUT)


def test_watch_event_comes_while_a_caller_waits(
    client: Any, own_server: ZooKeeper, make_client: MakeClient
) -> None:
    events: list[Any] = []
    other = make_client(hosts=own_server.hosts)
    other.start()
    client.get("/node", watch=events.append)
    with leading(client, own_server) as (future, resume):
        other.set_async("/node", b"data")
        resume()
        wait_until(lambda: events)
        assert future.result(TIMEOUT)[0] == b"data"


def test_silent_server_costs_no_cpu_and_is_noticed(
    short_client: Any, own_server: ZooKeeper
) -> None:
    client = short_client
    with leading(client, own_server) as (future, _):
        cpu, begun = time.process_time(), time.monotonic()
        with pytest.raises((ConnectionLoss, SessionExpiredError)):
            future.result(3 * TIMEOUT)
        assert time.process_time() - cpu < 0.25 * (time.monotonic() - begun)
    wait_until(lambda: client.connected)

    assert client.get("/node")[0] == b"data"


def test_heartbeats_go_on_while_a_caller_waits(
    short_client: Any, own_server: ZooKeeper
) -> None:
    """And what another thread asks meanwhile."""
    client = short_client
    session = client.client_id
    wait_until_asleep(client)
    deadline = time.monotonic() + 1.5 * SHORT  # more than the session's time-out
    while time.monotonic() < deadline:
        assert client.get("/node")[0] == b"data"

    assert client.client_id == session
    assert client.handler.stats().connections_made == 1


def test_socket_that_another_thread_closes(client: Any, own_server: ZooKeeper) -> None:
    with leading(client, own_server) as (future, _):
        client._connection._socket.close()
        with pytest.raises(ConnectionLoss):
            future.result(TIMEOUT)
    wait_until(lambda: client.connected)
    assert client.get("/node")[0] == b"data"


def test_server_that_is_killed(short_client: Any, own_server: ZooKeeper) -> None:
    client = short_client
    (node,) = own_server.nodes
    with leading(client, own_server) as (future, _):
        node.kill()
        with pytest.raises(ConnectionLoss):
            future.result(TIMEOUT)
    own_server.restore()
    wait_until(lambda: client.connected, 2 * TIMEOUT)
    client.ensure_path("/node")


def test_client_that_another_thread_stops_and_closes(
    make_client: MakeClient, own_server: ZooKeeper, client: Any
) -> None:
    other = make_client(hosts=own_server.hosts)
    other.start()
    with leading(other, own_server) as (future, resume):
        stopping = in_background(other.stop)
        wait_until(lambda: not led_by(other))
        resume()
        stopping.result(TIMEOUT)
        other.close()
    try:
        assert future.result(TIMEOUT)[0] == b"data"
    except (ConnectionClosedError, ConnectionLoss, SessionExpiredError):
        pass  # it was stopped before the reply came


@pytest.mark.parametrize("threads", [2, 3, 8, 12])
def test_threads_that_wait_are_served_in_turn(client: Any, threads: int) -> None:
    counts = [0] * threads
    end = time.monotonic() + 1.0

    def work(index: int) -> None:
        while time.monotonic() < end:
            assert client.get("/node")[0] == b"data"
            counts[index] += 1

    together(*(partial(work, index) for index in range(threads)))

    assert min(counts) > 0.1 * max(counts)


def test_reader_sees_what_another_thread_has_written(client: Any) -> None:
    written = client.exists("/node").version

    def work() -> None:
        nonlocal written
        for _ in range(100):
            version = client.set("/node", b"data").version
            written = max(written, version)
            at_least = written
            assert client.exists("/node").version >= at_least

    together(work, work, work)


# -- interrupted ---------------------------------------------------------------------


def check_that_it_goes_on(client: Any, made: int, _: object = None) -> None:
    assert in_background(client.get, "/node").result(TIMEOUT)[0] == b"data"
    wait_until(lambda: not client._pending and not client._queue)
    assert client.handler.stats().connections_made == made, "it was reconnected"
    wait_until(lambda: not led_by(client))


def prepare(client: Any) -> None:
    client.get("/node")
    wait_until_asleep(client)


def call_interrupted(function: Callable[..., Any], *args: Any) -> None:
    # kazoo takes an interrupt that comes when send() begins for a closed connection.
    with suppress(ConnectionClosedError):
        function(*args)


def test_interrupted_anywhere(client: Any) -> None:
    made = client.handler.stats().connections_made
    interrupt_everywhere(
        partial(prepare, client),
        lambda _: call_interrupted(client.get, "/node"),
        partial(check_that_it_goes_on, client, made),
        Where.SIGNALS,
    )


def test_write_that_is_interrupted_anywhere_is_sent_once(client: Any) -> None:
    """Or not at all."""
    made = client.handler.stats().connections_made
    calls = 0

    def call(_: object) -> None:
        nonlocal calls
        calls += 1
        call_interrupted(client.set, "/node", b"data")

    before = client.exists("/node").version
    interrupt_everywhere(
        partial(prepare, client),
        call,
        partial(check_that_it_goes_on, client, made),
        Where.SIGNALS,
    )
    written = client.exists("/node").version - before

    assert 0 < written <= calls


def test_call_in_a_signal_handler_anywhere(client: Any) -> None:
    made = client.handler.stats().connections_made
    number, there_are_more = 0, True
    while there_are_more:
        number += 1
        seen: list[Any] = []
        prepare(client)

        def nested(seen: list[Any] = seen) -> None:
            seen.append(client.get("/node")[0])

        there_are_more = interrupt(partial(client.get, "/node"), number, nested)
        assert seen == [b"data"] * there_are_more
        check_that_it_goes_on(client, made)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Return a function that has another called by a signal handler, soon."""

    def call_soon(function: Callable[[], Any]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    before = signal.getsignal(signal.SIGALRM)
    yield call_soon
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_signal_handler_that_blocks_holds_up_nobody(
    short_client: Any, own_server: ZooKeeper, make_client: MakeClient, on_alarm: Any
) -> None:
    """Others' requests, watch events and heartbeats go on; so does its own request."""
    client = short_client
    session, called = client.client_id, list[Any]()
    attempts = itertools.count()
    other = make_client(hosts=own_server.hosts)
    other.start()
    watched = threading.Event()
    client.get("/node", watch=lambda event: watched.set())

    def block() -> None:
        if not led_by(client):
            # The connection thread happened to be awake.
            resume() if next(attempts) % 10 == 9 else on_alarm(block)
            return
        resume()
        other.set("/node", b"data")
        assert watched.wait(TIMEOUT)
        assert in_background(client.get, "/node").result(TIMEOUT)[0] == b"data"
        assert client.get("/node")[0] == b"data"
        time.sleep(1.5 * SHORT)  # the session's time-out
        called.append(client.get("/node")[0])

    while not called and next(attempts) < 200:
        wait_until_asleep(client)
        with suspended(own_server) as resume:
            on_alarm(block)
            assert client.get("/node")[0] == b"data"

    assert called == [b"data"]
    assert client.client_id == session
    assert client.handler.stats().connections_made == 1


class Alarm(BaseException):
    pass


def test_signal_handler_that_raises(
    client: Any, own_server: ZooKeeper, on_alarm: Any
) -> None:
    def alarm() -> None:
        raise Alarm

    wait_until_asleep(client)
    with suspended(own_server):
        result = client.get_async("/node")
        with pytest.raises(Alarm):
            on_alarm(alarm)
            result.get()
        assert not result.ready()

    assert in_background(result.get).result(TIMEOUT)[0] == b"data"


def test_fork_in_a_signal_handler(
    client: Any, own_server: ZooKeeper, on_alarm: Any
) -> None:
    pids: list[int] = []

    def fork() -> None:
        if led_by(client):  # else the connection thread happened to be awake
            pids.append(os.fork())
        if pids != [0]:
            resume()

    for _ in range(20):
        wait_until_asleep(client)
        with suspended(own_server) as resume:
            on_alarm(fork)
            status = 1
            try:
                data, _ = client.get("/node")
            except ConnectionClosedError:
                status = 0
            finally:
                if pids == [0]:
                    os._exit(status)
        assert data == b"data"
        if pids:
            break

    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
