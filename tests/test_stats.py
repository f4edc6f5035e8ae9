"""``stats()`` and ``repr``: what they count is what happened."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from typing import Any

import pytest
from kazoo.protocol.states import Callback

from kazoo_seqthreading import SequentialThreadingHandler
from tests.support import TIMEOUT, Gate, MakeClient, wait_until


def test_queues() -> None:
    handler = SequentialThreadingHandler()
    handler.start()
    release, entered = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        assert release.wait(10)

    def fail() -> None:
        raise ValueError("on purpose")

    try:
        for function in (block, fail):
            handler.dispatch_callback(Callback("watch", function, ()))
        assert entered.wait(10)
        watches = handler.stats().watches
        assert (watches.depth, watches.runs, watches.failures) == (1, 0, 0)
        assert watches.current_callback is not None
        assert watches.current_callback.endswith("test_queues.<locals>.block")
        assert watches.current_run_seconds >= 0.0
        release.set()
        after = wait_until(
            lambda: [one for one in [handler.stats().watches] if one.runs == 2]
        )[0]
        assert (after.depth, after.failures, after.current_callback) == (0, 1, None)
        assert 0 < after.longest_run_seconds <= after.run_seconds_total
        assert 0 < after.longest_wait_seconds <= after.wait_seconds_total
        handler.stop()
        handler.start()
        assert handler.stats().watches.runs == 2  # goes on over a restart
        assert handler.stats().completions.runs == 0
    finally:
        release.set()
        handler.stop()


def test_snapshot_is_immutable() -> None:
    stats = SequentialThreadingHandler().stats()
    assert stats.running is False
    with pytest.raises(AttributeError):
        stats.requests = 1  # type: ignore[misc]


def test_traffic(client: Any) -> None:
    if not isinstance(client.handler, SequentialThreadingHandler):
        pytest.fail("kazoo's handler counts nothing")
    before = client.handler.stats()
    for _ in range(50):
        client.exists("/")
    results = [client.exists_async("/") for _ in range(500)]
    for result in results:
        result.get(timeout=10)
    after = client.handler.stats()

    assert after.running and after.connections_made == 1
    assert after.connections_failed == 0
    assert 550 <= after.requests - before.requests <= 560  # and heartbeats
    assert 550 <= after.replies - before.replies <= 560
    assert after.bytes_sent - before.bytes_sent >= 550 * 16
    assert after.bytes_received - before.bytes_received >= 550 * 20

    def has_woken() -> bool:  # a request with a watch is never sent directly
        client.exists("/", watch=str)
        return bool(client.handler.stats().wake_ups > after.wake_ups)

    wait_until(has_woken)


def test_connections(client: Any) -> None:
    client.exists("/")
    (connection,) = client.handler.stats().connections
    peer = client._connection._socket.getpeername()
    assert connection.server == f"{peer[0]}:{peer[1]}"
    assert connection.session_id == client.client_id[0]
    assert connection.session_timeout_seconds == client._session_timeout / 1000
    assert 0 <= connection.unheard_seconds <= connection.connected_seconds
    assert connection.requests_unanswered == 0
    assert connection.oldest_unanswered_seconds == 0.0
    client.stop()

    assert client.handler.stats().connections == ()
    assert client.handler.stats().disconnects_by_cause == {}


def test_stats_can_be_sent_elsewhere(client: Any) -> None:
    client.exists("/")
    stats = client.handler.stats()

    assert pickle.loads(pickle.dumps(stats)) == stats
    assert dataclasses.replace(stats, running=False) != stats


def test_failed_connections(make_client: MakeClient) -> None:
    """Those of connection threads count; a call of the user's raises, and is his."""
    handler = SequentialThreadingHandler()
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        handler.create_connection(("127.0.0.1", 1), timeout=5)
    assert handler.stats().connections_failed == 0
    client = make_client(hosts="127.0.0.1:1", handler=handler)
    client.start_async()
    wait_until(lambda: handler.stats().connections_failed >= 2)
    client.stop()

    assert handler.stats().connections_made == 0


def test_several_clients(client: Any, make_client: MakeClient) -> None:
    handler = client.handler
    other = make_client(handler=handler)
    other.start()
    before = handler.stats()
    assert before.connections_made == 2
    assert repr(handler).endswith(" connections=2>")
    for one in (client, other):
        for _ in range(10):
            one.exists("/")
    after = handler.stats()
    assert 20 <= after.requests - before.requests <= 30  # and heartbeats
    other.stop()

    assert repr(handler).endswith(" connections=1>")
    assert handler.stats().requests >= after.requests


def test_spawned_threads() -> None:
    """Those that run now; one that waits for its turn does not count."""
    handler = SequentialThreadingHandler(max_spawned_threads=1)
    with Gate() as inside:
        spawned = [handler.spawn(inside) for _ in range(2)]
        inside.wait_entered()
        assert handler.stats().spawned_threads == 1
    for one in spawned:
        one.join(TIMEOUT)

    assert handler.stats().spawned_threads == 0


def test_totals_outlive_connections(client: Any) -> None:
    client.exists("/")
    client.stop()
    stats = client.handler.stats()
    assert stats.requests >= 2 and stats.replies >= 2
    client.start()

    assert client.handler.stats().requests > stats.requests
    assert client.handler.stats().connections_made == 2


def test_repr() -> None:
    handler = SequentialThreadingHandler()
    state = "completions=0 watches=0 connections=0>"
    assert repr(handler).startswith("<SequentialThreadingHandler kazoo-seqthreading-")
    assert repr(handler).endswith(f" stopped {state}")
    handler.start()
    try:
        assert repr(handler).endswith(f" running {state}")
    finally:
        handler.stop()
    result = handler.async_result()
    assert repr(result) == "<AsyncResult pending>"
    result.set(b"x")

    assert repr(result) == "<AsyncResult value=b'x'>"
