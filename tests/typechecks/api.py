"""What type checkers make of typical uses: ``mypy --strict`` and pyright.

Nothing here is run. kazoo's own methods have no types: a checker that looks into kazoo
infers ``AsyncResult[Any]`` at best, so a variable or a function tells the type.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import socket
import ssl
import threading
from collections.abc import Awaitable, Sequence
from typing import Any, Optional

from kazoo.handlers.threading import KazooTimeoutError as KazoosTimeoutError
from kazoo.handlers.threading import SequentialThreadingHandler as KazoosHandler
from kazoo.interfaces import IAsyncResult, IHandler
from kazoo.protocol.states import Callback
from typing_extensions import assert_type

import kazoo_seqthreading
from kazoo_seqthreading import (
    AsyncResult,
    BlockingCallError,
    BlockingCallWarning,
    Disconnect,
    KazooTimeoutError,
    RoundTrips,
    SequentialThreadingHandler,
    Stats,
    TimeoutError,
)

Node = tuple[bytes, object]


# -- the handler -----------------------------------------------------------------------


def make_handlers(context: ssl.SSLContext) -> list[IHandler]:
    return [
        SequentialThreadingHandler(),
        SequentialThreadingHandler(
            stop_timeout=2,
            slow_callback_duration=None,
            connect_timeout=0.5,
            ssl_context=context,
            tcp_keepalive=(60, 10, 3),
            max_spawned_threads=100,
            slow_request_duration=None,
        ),
        SequentialThreadingHandler(tcp_keepalive=True),
    ]


def use_handler(handler: SequentialThreadingHandler, event: Callback) -> None:
    assert_type(handler.running, bool)
    assert_type(handler.name, str)
    assert_type(handler.start(), None)
    assert_type(handler.stop(), None)
    assert_type(handler.dispatch_callback(event), None)
    assert_type(handler.report(), str)
    stats = handler.stats()
    assert_type(stats, Stats)
    assert_type(stats.watches.current_callback, Optional[str])
    assert_type(stats.disconnects, tuple[Disconnect, ...])
    assert_type(stats.disconnects_by_cause, dict[str, int])
    assert_type([one.round_trips for one in stats.connections], list[RoundTrips])
    assert_type(stats.round_trips.server.mean_seconds, float)
    assert_type(handler.async_result(), AsyncResult[Any])
    assert_type(handler.timeout_exception, type[Exception])
    tasks: queue.Queue[int] = handler.queue_impl()
    tasks.put(1)
    assert_type(handler.queue_empty, type[queue.Empty])
    assert_type(handler.socket(), socket.socket)
    assert_type(handler.spawn(print, "text", end=""), threading.Thread)
    readable, writable, _ = handler.select([0], [handler.socket()], [], 0.5)
    assert_type(readable, list[Any])
    assert_type(writable, list[Any])
    with handler.lock_object() as locked, handler.rlock_object():
        assert_type(locked, bool)
    event_object: threading.Event = handler.event_object()
    assert_type(event_object.wait(1), bool)
    kazoos: KazoosHandler = handler
    kazoos.start()


def use_sockets(handler: SequentialThreadingHandler) -> None:
    ends: tuple[socket.socket, socket.socket] = handler.create_socket_pair()
    connection: socket.socket = handler.create_connection(("127.0.0.1", 2181))
    connection.sendall(b"ruok")
    assert_type(connection.recv(4), bytes)
    ends[1].send(b"\0")


class Subclass(SequentialThreadingHandler):
    """As Patroni does."""

    def __init__(self, connect_timeout: float) -> None:
        super().__init__(connect_timeout=connect_timeout)

    def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_connection(*args, **kwargs)

    def select(self, *args: Any, **kwargs: Any) -> Any:
        return super().select(*args, **kwargs)


# -- results ---------------------------------------------------------------------------


def use_result(result: AsyncResult[Node]) -> None:
    interface: IAsyncResult = result
    interface.ready()
    assert_type(result.get(), Node)
    assert_type(result.get(timeout=1.5), Node)
    assert_type(result.get(block=False), Node)
    assert_type(result.get_nowait(), Node)
    assert_type(result.wait(), bool)
    assert_type(result.wait(0.5), bool)
    assert_type(result.ready(), bool)
    assert_type(result.successful(), bool)
    assert_type(result.value, Optional[Node])
    assert_type(result.exception, Optional[BaseException])


def complete(handler: IHandler) -> AsyncResult[int]:
    result = AsyncResult[int](handler)
    result.set(1)
    result.set()
    result.set("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    result.set_exception(ValueError("an instance"))
    result.set_exception(ValueError)
    result.set_exception("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return result


def link(result: AsyncResult[Node]) -> None:
    def called(result: AsyncResult[Node]) -> None:
        data, _ = result.get()
        assert_type(data, bytes)

    def of_another_type(result: AsyncResult[str]) -> None: ...

    result.rawlink(called)
    result.rawlink(lambda result: assert_type(result, AsyncResult[Node]))
    result.unlink(called)
    result.rawlink(of_another_type)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def from_client(client: Any) -> bytes:
    """Name the type where kazoo does not: with a variable, or a function."""
    result: AsyncResult[Node] = client.get_async("/")
    data, _ = result.get()
    return assert_type(data, bytes)


# -- other worlds ----------------------------------------------------------------------


async def use_await(result: AsyncResult[Node], names: AsyncResult[list[str]]) -> None:
    assert_type(await result, Node)
    awaitable: Awaitable[Node] = result
    assert_type(await asyncio.wait_for(awaitable, 1), Node)
    node, children = await asyncio.gather(result, names)
    assert_type(node, Node)
    assert_type(children, list[str])
    wrapped = asyncio.wrap_future(result.as_future())
    assert_type(wrapped, asyncio.Future[Node])


def use_futures(results: Sequence[AsyncResult[Node]]) -> list[Node]:
    futures = [result.as_future() for result in results]
    assert_type(futures, list[concurrent.futures.Future[Node]])
    done, not_done = concurrent.futures.wait(futures, 1.0)
    assert_type(not_done, set[concurrent.futures.Future[Node]])
    return [future.result() for future in done]


# -- errors ----------------------------------------------------------------------------


def use_errors(result: AsyncResult[Node]) -> Optional[Node]:
    assert_type(KazooTimeoutError, type[TimeoutError])
    try:
        return result.get(timeout=1)
    except TimeoutError as error:
        kazoos: KazoosTimeoutError = error
        pythons: OSError = error
        assert_type(error.strerror, Optional[str])
        del kazoos, pythons
    except BlockingCallError as error:
        runtime: RuntimeError = error
        del runtime
    warning: type[RuntimeWarning] = BlockingCallWarning
    del warning
    return None


assert_type(kazoo_seqthreading.__version__, str)
