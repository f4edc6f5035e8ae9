"""Forks in the middle of something: a lock is held, a client stops, threads race."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler
from tests.background import in_background
from tests.forking import call, in_child, use
from tests.internals import core_of
from tests.support import (
    TIMEOUT,
    Gate,
    MakeClient,
    frequent_switches,
    together,
    wait_until,
)

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of what is the point here.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

FAILED = ("ConnectionClosedError", True)

#: Every lock that one thread can hold, in code of the package, while another one forks.
LOCKS: dict[str, Callable[[Any], Any]] = {
    "state": lambda client: core_of(client.handler)._changed,
    "event": lambda client: client._stopped._cond,
    "lock": lambda client: client.handler.lock_object(),
    "rlock": lambda client: client.handler.rlock_object(),
}


def use_everything(client: Any) -> Any:
    handler = client.handler
    outcome = call(client.exists, "/")
    result = handler.async_result()
    future = result.as_future()
    result.set("value")
    handler.spawn(int).join(TIMEOUT)
    handler.stop()
    with pytest.raises(OSError, match="refused"):
        handler.create_connection(("127.0.0.1", 1))
    handler.stats()
    return outcome, future.result(TIMEOUT), use(client)


@pytest.mark.parametrize("name", LOCKS)
def test_lock_held_by_another_thread(client: Any, name: str) -> None:
    lock = LOCKS[name](client)
    held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            may_release.wait(4 * TIMEOUT)

    holder = in_background(hold)
    try:
        assert held.wait(TIMEOUT)
        assert in_child(use_everything, client) == (FAILED, "value", b"value")
    finally:
        may_release.set()
    holder.result(TIMEOUT)


@pytest.mark.parametrize("kind", ["lock_object", "rlock_object"])
def test_lock_is_free_in_the_child(client: Any, kind: str) -> None:
    """And there alone; what waits for it in the parent gets it there."""
    lock = getattr(client.handler, kind)()
    held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            may_release.wait(4 * TIMEOUT)

    def acquire() -> Any:
        with lock:
            return together(partial(lock.acquire, False))

    holder = in_background(hold)
    try:
        assert held.wait(TIMEOUT)
        waiting = in_background(lock.acquire, True, TIMEOUT)
        assert in_child(acquire) == [False]
        assert not lock.acquire(False)
    finally:
        may_release.set()
    holder.result(TIMEOUT)

    assert waiting.result(TIMEOUT) is True


def test_lock_that_was_acquired_just_now(client: Any) -> None:
    """The fork comes between a thread's acquiring and its saying so."""
    lock = client.handler.lock_object()
    with lock:
        pass
    held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock._Lock__lock:
            held.set()
            may_release.wait(TIMEOUT)

    holder = in_background(hold)
    try:
        assert held.wait(TIMEOUT)
        assert in_child(partial(lock.acquire, timeout=TIMEOUT / 2)) is True
    finally:
        may_release.set()
    holder.result(TIMEOUT)


def test_lock_that_another_thread_releases(client: Any) -> None:
    """A fork in its former owner leaves it free."""
    lock = client.handler.lock_object()
    lock.acquire()
    in_background(lock.release).result(TIMEOUT)

    assert in_child(lock.acquire, False) is True


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
    stopping.result(TIMEOUT)


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


def test_spawned_threads_of_the_parent(make_client: MakeClient) -> None:
    """They are over in the child, and take nobody's turn there."""
    handler = SequentialThreadingHandler(max_spawned_threads=1)
    client = make_client(handler=handler)
    client.start()

    def look() -> Any:
        for one in spawned:
            one.join()
        alive = [one.is_alive() for one in spawned]
        counts = [handler.stats().spawned_threads]
        for _ in range(2):
            handler.spawn(counts.append, 1).join(TIMEOUT)
        return alive, counts

    with Gate() as inside:
        spawned = [handler.spawn(inside)]
        inside.wait_entered()
        spawned.append(handler.spawn(inside))  # it waits for its turn
        assert in_child(look) == ([False, False], [0, 1, 1])
        assert [one.is_alive() for one in spawned] == [True, True]
    for one in spawned:
        one.join(TIMEOUT)


class Warnings(logging.Handler):
    """Tells when a slow callback was warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.came.set()


def test_background_threads(make_client: MakeClient) -> None:
    """The threads that a process has for all its handlers start anew in a child."""
    client = make_client(
        handler=SequentialThreadingHandler(slow_callback_duration=0.05)
    )
    client.start()
    logger = logging.getLogger("kazoo_seqthreading.watchdog")

    def use_both() -> Any:
        stat = client.exists_async("/").as_future().result(TIMEOUT)
        warnings = Warnings()
        logger.addHandler(warnings)
        try:
            with Gate() as inside:
                client.handler.completion_queue.put(inside)
                return stat is not None, warnings.came.wait(TIMEOUT)
        finally:
            logger.removeHandler(warnings)

    def start_and_use_both() -> Any:
        client.start()
        return use_both()

    assert use_both() == (True, True)
    assert in_child(start_and_use_both) == (True, True)
    assert use_both() == (True, True)


@pytest.mark.parametrize("limit", [None, 1])
def test_fork_in_a_spawned_function(make_client: MakeClient, limit: int | None) -> None:
    """It goes on in the child, in a thread that the handler counts."""
    handler = SequentialThreadingHandler(max_spawned_threads=limit)
    client = make_client(handler=handler)
    client.start()
    reader, writer = os.pipe()

    def tell() -> None:
        status = 1
        try:
            counts.append(handler.stats().spawned_threads)
            next_one = handler.spawn(ran.set)
            if limit is not None:
                assert not next_one.ident
            may_end.set()
            next_one.join(TIMEOUT)
            assert ran.is_set()
            os.write(writer, b"%d" % counts[0])
            status = 0
        finally:
            os._exit(status)

    def fork() -> None:
        pid = os.fork()
        if not pid:
            threading.Thread(target=tell, daemon=True).start()
            may_end.wait(TIMEOUT)
        children.append(pid)

    children, counts = list[int](), list[int]()
    may_end, ran = threading.Event(), threading.Event()
    spawned = handler.spawn(fork)
    try:
        spawned.join(TIMEOUT)
        assert os.waitpid(children[0], 0)[1] == 0
        assert os.read(reader, 10) == b"1"
    finally:
        os.close(reader)
        os.close(writer)
