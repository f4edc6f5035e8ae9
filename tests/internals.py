"""What tests see of the package's inside, in one place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from kazoo_seqthreading._callbacks import LinkedCallback
from kazoo_seqthreading._connection import Connection
from kazoo_seqthreading._core import Core
from kazoo_seqthreading._history import Facts, History
from kazoo_seqthreading._monitor import report
from kazoo_seqthreading._stats import TrafficCounters
from kazoo_seqthreading._wakeup import WakeupReader, WakeupWriter


def core_of(handler: SequentialThreadingHandler) -> Core:
    """Return what the handler consists of."""
    return handler._kazoo_seqthreading


def stopping(handler: SequentialThreadingHandler) -> set[int]:
    """Return the idents of the threads that are in ``stop``."""
    return core_of(handler)._stopping


def make_channel(
    handler: SequentialThreadingHandler,
) -> tuple[WakeupReader, WakeupWriter]:
    """Return a wake-up channel's ends: for users they are but sockets."""
    ends = handler.create_socket_pair()
    return cast("tuple[WakeupReader, WakeupWriter]", ends)


def waiting(result: AsyncResult[Any]) -> list[Any]:
    """Return the threads and callbacks that wait for *result*."""
    entries: list[Any] = result._AsyncResult__waiting  # type: ignore[attr-defined]
    return entries


def link_inline(result: AsyncResult[Any], func: Callable[[Any], Any]) -> None:
    """Link *func* as kazoo's own chains are: it runs where the result is completed."""
    link = LinkedCallback(func, None, result)
    result._AsyncResult__link(link)  # type: ignore[attr-defined]


def run_as_connection(
    handler: SequentialThreadingHandler, function: Callable[[], Any]
) -> None:
    """Call *function* in this thread as if it were a client's connection thread."""
    connection: Any = object()
    core_of(handler).connections.run(connection, function)


def begin_frames(connection: Connection) -> None:
    """Have kazoo's main loop begin: for a client that has made no request."""
    wakeup: Any = SimpleNamespace(
        client=SimpleNamespace(_queue=deque(), _pending=deque()), leave_plain=int
    )
    connection.wait(wakeup, 0)


def give_history(connection: Connection) -> History:
    """Have *connection* be one of a connection thread's, which is this thread."""
    kazoos: Any = object()
    history = History(kazoos, TrafficCounters(), deque(), int)
    connection.facts = Facts("127.0.0.1:2181", history)
    return history


def wait_for_messages(limit: float = 20.0) -> None:
    """Wait until what connection threads have reported so far is logged."""
    done = threading.Event()
    report(lambda message: done.set(), "")
    assert done.wait(limit), "the monitor stands still"
