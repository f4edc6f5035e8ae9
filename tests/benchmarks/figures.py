"""The parts by themselves, and how the cost grows.

Every ``*_task`` here has both handlers as its subjects, and counts operations.
"""

from __future__ import annotations

import socket
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from kazoo.protocol.states import Callback

from tests.benchmarks import rows
from tests.benchmarks.measure import Task, take
from tests.benchmarks.subjects import HANDLERS, Site, close
from tests.support import KazooClient

#: How many results are weighed.
WEIGHED = 10_000
#: The fewest operations of a sample whose level is low.
ENOUGH = 1000


@dataclass(frozen=True)
class Part:
    """A part of a handler that is measured alone.

    :param metric: the property of a sample that counts
    :param at_least: the metric to reach, as a multiple of kazoo's; or *at_most*
    """

    title: str
    unit: str
    metric: str
    operations: int
    at_least: float | None = None
    at_most: float | None = None


PARTS = {
    "result": Part("AsyncResult: make, set, get", "us", "cpu_each", 20_000, None, 0.15),
    "worker": Part("callbacks through a worker", "/s", "rate", 20_000, 4.0),
    "links": Part("results completed, with a rawlink", "/s", "rate", 10_000),
    "select": Part("select(): a request waits", "us", "cpu_each", 5_000),
    "wakeup": Part("a byte through the wake-up channel", "us", "cpu_each", 20_000),
}


@dataclass(frozen=True)
class Floor:
    """What no handler can save of the CPU of a row.

    :param subject: of the row, which has nothing else
    :param at_most: the CPU per operation, as a multiple of the subject's
    """

    title: str
    row: str
    subject: str
    at_most: float | None = None


FLOORS = {
    "protocol": Floor(
        "CPU per pipelined read / kazoo's protocol", "pipelined", rows.FLOOR, 1.6
    ),
    "loop": Floor("the same / kazoo's protocol and loop", "pipelined", rows.LOOP),
    "one thread": Floor(
        "CPU per synchronous read / kazoo's protocol, one thread",
        "sync",
        rows.BOUND,
        1.3,
    ),
    "handover": Floor("the same / raw socket, two threads", "sync", rows.HANDOVER),
}


@dataclass(frozen=True)
class Growth:
    """What should cost as much for many as for one."""

    title: str
    unit: str
    metric: str
    levels: tuple[int, ...]
    quick: tuple[int, ...]


GROWTHS = {
    "outstanding": Growth(
        "CPU per read, of so many at once",
        "us",
        "cpu_each",
        (1, 10, 100, 1000, 10_000, 100_000),
        (1, 100, 10_000),
    ),
    "watching": Growth(
        "CPU per watch, of so many that fire at once",
        "us",
        "cpu_each",
        (1, 10, 100, 1000, 10_000),
        (1, 100, 10_000),
    ),
    "clients": Growth(
        "time to start and stop a client, one of so many",
        "us",
        "time_each",
        (25, 50, 100, 200),
        (25, 100),
    ),
}


def part_task(key: str, operations: int, stack: ExitStack) -> Task:
    """Return the task of a part; *stack* closes what it needs."""
    make: Mapping[str, Callable[[Any, ExitStack], Callable[[int], int]]] = {
        "result": _results,
        "worker": _callbacks,
        "links": _links,
        "select": _selects,
        "wakeup": _wake_ups,
    }
    subjects = {}
    for name, handler_class in HANDLERS.items():
        work = make[key](handler_class(), stack)
        subjects[name] = partial(take, partial(work, operations))
    return Task(PARTS[key].title, subjects)


def _results(handler: Any, stack: ExitStack) -> Callable[[int], int]:
    make = handler.async_result

    def work(operations: int) -> int:
        for _ in range(operations):
            result = make()
            result.set(1)
            result.get()
        return operations

    return work


def _started(handler: Any, stack: ExitStack) -> Any:
    handler.start()
    stack.callback(handler.stop)
    return handler


def _callbacks(handler: Any, stack: ExitStack) -> Callable[[int], int]:
    dispatch = _started(handler, stack).dispatch_callback

    def work(operations: int) -> int:
        countdown = rows.Countdown(operations)
        callback = Callback("watch", countdown, (None,))
        for _ in range(operations):
            dispatch(callback)
        countdown.wait()
        return operations

    return work


def _links(handler: Any, stack: ExitStack) -> Callable[[int], int]:
    make = _started(handler, stack).async_result

    def work(operations: int) -> int:
        countdown = rows.Countdown(operations)
        for _ in range(operations):
            result = make()
            result.rawlink(countdown)
            result.set(1)
        countdown.wait()
        return operations

    return work


def _selects(handler: Any, stack: ExitStack) -> Callable[[int], int]:
    """As kazoo's connection thread asks while a request waits."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    connection = handler.create_connection(listener.getsockname(), timeout=10.0)
    stack.callback(connection.close)
    stack.callback(listener.accept()[0].close)
    connection.setblocking(False)
    client = _with_channel(handler, stack)
    client._queue.append((None, None))
    client._connection._write_sock.send(b"\0")
    reader, select = client._connection._read_sock, handler.select

    def work(operations: int) -> int:
        for _ in range(operations):
            select([connection, reader], [], [], 60.0)
        return operations

    return work


def _wake_ups(handler: Any, stack: ExitStack) -> Callable[[int], int]:
    connection = _with_channel(handler, stack)._connection
    reader, writer = connection._read_sock, connection._write_sock

    def work(operations: int) -> int:
        for _ in range(operations):
            writer.send(b"\0")
            reader.recv(1)
        return operations

    return work


def _with_channel(handler: Any, stack: ExitStack) -> Any:
    """Return a client that is stopped, and has its wake-up channel."""
    client = KazooClient(handler=handler)
    client._connection.start()  # its loop ends at once
    stack.callback(client._connection.close)
    client._connection.stop()
    return client


def growth_task(key: str, level: int, rounds: int, site: Site) -> Task:
    """Return the task of one level; high levels have fewer rounds."""
    subjects = {}
    for name in HANDLERS:
        if key == "clients":
            work: Callable[[], int] = partial(_start_and_stop, name, level, site)
        else:
            one = rows.burst if key == "outstanding" else rows.watches
            work = partial(_repeat, one, site.clients[name], site.path, level)
        subjects[name] = partial(take, work)
    slow = key == "clients" or level >= 10_000
    return Task(
        f"{GROWTHS[key].title} ({level:,})", subjects, min(rounds, 3) if slow else None
    )


def _repeat(work: rows.Work, client: Any, path: str, level: int) -> int:
    operations = 0
    while operations < min(ENOUGH, 100 * level):
        operations += work(client, path, level)
    return operations


def _start_and_stop(name: str, count: int, site: Site) -> int:
    clients = [site.make_client(HANDLERS[name]()) for _ in range(count)]
    try:
        for client in clients:
            client.start()
    finally:
        for client in clients:
            close(client)
    return count


def weigh(name: str) -> tuple[float, int]:
    """Return the memory of a result, with all that it holds, and its own size."""
    handler = HANDLERS[name]()
    results: list[Any] = [None] * WEIGHED
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(WEIGHED):
            results[number] = handler.async_result()
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return size / WEIGHED, sys.getsizeof(results[0])
