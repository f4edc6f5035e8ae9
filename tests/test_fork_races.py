"""Forks in the middle of something: a lock is held, a client stops, threads race."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kazoo_seqthreading import _asyncio, _futures, _result, _sync
from tests.background import LIMIT, in_background
from tests.concurrency import Gate, frequent_switches, together
from tests.forking import call, in_child, use
from tests.support import MakeClient, wait_until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of what is the point here.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

FAILED = ("ConnectionClosedError", True)

#: Every lock of the package that one thread can hold while another one forks.
LOCKS: dict[str, Callable[[Any], Any]] = {
    "state": lambda client: client.handler._changed,
    "completions": lambda client: client.handler.completion_queue._lock,
    "watches": lambda client: client.handler.callback_queue._lock,
    "threads": lambda client: client.handler._threads._lock,
    "contexts": lambda client: client.handler._contexts._lock,
    "ledger": lambda client: client.handler._ledger._lock,
    "wake-up": lambda client: client._connection._write_sock._lock,
    "connection": lambda client: client._connection._socket._lock,
    "results": lambda client: _result._lock,
    "futures": lambda client: _futures._lock,
    "loops": lambda client: _asyncio._lock,
    "renewing": lambda client: _sync._renewing,
}


def use_everything(client: Any) -> Any:
    handler = client.handler
    outcome = call(client.exists, "/")
    result = handler.async_result()
    future = result.as_future()
    result.set("value")
    handler.spawn(int).join(LIMIT)
    handler.stop()
    with pytest.raises(OSError, match="refused"):
        handler.create_connection(("127.0.0.1", 1))
    assert handler.stats().connections_made == 1
    return outcome, future.result(0), use(client)


@pytest.mark.parametrize("name", LOCKS)
def test_lock_held_by_another_thread(client: Any, name: str) -> None:
    held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCKS[name](client):
            held.set()
            may_release.wait(LIMIT)

    holder = in_background(hold)
    try:
        assert held.wait(LIMIT)
        assert in_child(use_everything, client) == (FAILED, "value", b"value")
    finally:
        may_release.set()
    holder.result(LIMIT)


def test_lock_that_was_acquired_just_now(client: Any) -> None:
    """The fork comes between a thread's acquiring and its saying so."""
    lock = client.handler.lock_object()
    with lock:
        pass
    held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock._lock:
            held.set()
            may_release.wait(LIMIT)

    holder = in_background(hold)
    try:
        assert held.wait(LIMIT)
        assert in_child(partial(lock.acquire, timeout=LIMIT / 2)) is True
    finally:
        may_release.set()
    holder.result(LIMIT)


def test_reentrant_lock_of_the_forking_thread(client: Any) -> None:
    lock = client.handler.rlock_object()
    with lock:
        with lock:
            pass
        assert in_child(together, partial(lock.acquire, False)) == [False]


def test_fork_while_the_client_stops(client: Any) -> None:
    with Gate() as inside:
        client.handler.completion_queue.put(inside)
        inside.wait_entered()
        stopping = in_background(client.stop)
        wait_until(lambda: not client.handler.running)
        assert in_child(call, client.exists, "/") == FAILED
    stopping.result(LIMIT)


def test_first_calls_of_two_threads(make_client: MakeClient) -> None:
    """Neither of the two clients that share a handler is connected by them."""
    first = make_client()
    first.start()
    second = make_client(handler=first.handler)
    second.start()

    def call_both() -> Any:
        with frequent_switches():
            outcomes = together(
                partial(call, first.exists, "/"), partial(call, second.exists, "/")
            )
        return outcomes, first.connected, second.connected

    sessions = first.client_id, second.client_id
    for _ in range(10):
        outcomes, *connected = in_child(call_both)
        # Each may be failed with the other one's client.
        assert set(outcomes) <= {FAILED, ("ConnectionLoss", True)}
        assert connected == [False, False]
    assert first.exists("/") and second.exists("/")
    assert (first.client_id, second.client_id) == sessions


def test_state_that_listeners_see(client: Any) -> None:
    seen: list[tuple[str, bool]] = []
    client.add_listener(lambda state: seen.append((state, client.connected)))

    def stop() -> Any:
        client.stop()
        return seen

    assert in_child(stop) == [("LOST", False)]


def test_fork_in_a_spawned_function(client: Any) -> None:
    """It goes on in the child, in a thread that the handler counts."""
    reader, writer = os.pipe()
    handler = client.handler

    def tell(spawned: list[Any]) -> None:
        status = 1
        try:
            spawned[0].join(LIMIT)
            handler.spawn(int).join(LIMIT)
            os.write(writer, b"%d" % (0 <= handler.stats().spawned_threads <= 2))
            status = 0
        finally:
            os._exit(status)

    def fork() -> int:
        assert ready.wait(LIMIT)
        pid = os.fork()
        if not pid:
            handler.start()
            threading.Thread(target=tell, args=(spawned,), daemon=True).start()
        children.append(pid)
        return pid

    children: list[int] = []
    spawned: list[Any] = []
    ready = threading.Event()
    spawned.append(handler.spawn(fork))
    ready.set()
    try:
        spawned[0].join(LIMIT)
        assert os.waitpid(children[0], 0)[1] == 0
        assert os.read(reader, 10) == b"1"
    finally:
        os.close(reader)
        os.close(writer)
