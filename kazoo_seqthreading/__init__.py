"""A drop-in threading handler for kazoo, the Python client for Apache ZooKeeper.

Pass it to a client; nothing else changes::

    from kazoo.client import KazooClient
    from kazoo_seqthreading import SequentialThreadingHandler

    client = KazooClient(hosts="127.0.0.1:2181", handler=SequentialThreadingHandler())
    client.start()

All options of :class:`SequentialThreadingHandler` are keyword arguments. Their defaults
suit most programs.

Results
    Each ``*_async`` method of the client returns an :class:`AsyncResult`, which can be
    used in threads and with asyncio::

        value, stat = client.get_async("/app").get(timeout=10)  # in a thread
        value, stat = await client.get_async("/app")  # in a coroutine
        client.get_async("/app").rawlink(callback)  # calls callback(result)
        future = client.get_async("/app").as_future()  # a concurrent.futures.Future

    Do not call blocking methods in a coroutine: ``get()`` and ``wait()`` of a result,
    and the client's methods without ``_async``.

Callbacks
    Callbacks of results run one after the other in one thread, watches in another. Both
    may block and call ZooKeeper; their exceptions are logged. State listeners run in
    the client's connection thread, which reads the replies, and must not wait for one.

Exceptions
    =========================== ====================================================
    :exc:`TimeoutError`         a result was not ready in time; a subclass of kazoo's
                                ``KazooTimeoutError`` and Python's ``TimeoutError``
    :exc:`BlockingCallError`    a call in a state listener could never return
    :exc:`BlockingCallWarning`  a call blocks an asyncio event loop (only issued in
                                its debug mode)
    =========================== ====================================================

    Requests fail with kazoo's own exceptions, as with its own handler.

TLS
    Pass kazoo's arguments to the client, ``use_ssl=True``, ``ca``, ``certfile``,
    ``keyfile`` and so on; see :meth:`SequentialThreadingHandler.create_connection`. Or
    pass only ``use_ssl=True`` to the client, and your own :class:`ssl.SSLContext` to
    the handler, as ``ssl_context``.

Stopping
    ``client.stop()`` stops the handler. Queued callbacks run first, for up to
    ``stop_timeout`` seconds. Handlers that are running at exit are stopped likewise.

Diagnosis
    ``client.handler.stats()`` returns a :class:`Stats` with counters over all clients
    of the handler: a :class:`QueueStats` for each of the two threads, a
    :class:`ConnectionStats` for each connected client, latencies of requests as
    :class:`RoundTrips`, which has two of :class:`Histogram`, and a :class:`Disconnect`
    for each of the last lost connections. ``client.handler.report()`` returns a text
    for a bug report, even while everything hangs.

Applications on gevent or eventlet use kazoo's own handlers for these:
``kazoo.handlers.gevent`` and ``kazoo.handlers.eventlet``.
"""

from __future__ import annotations

from types import FunctionType
from typing import get_type_hints

from ._disconnects import Disconnect
from ._exceptions import BlockingCallError, BlockingCallWarning, TimeoutError
from ._handler import SequentialThreadingHandler
from ._result import AsyncResult
from ._round_trips import Histogram, RoundTrips
from ._stats import ConnectionStats, QueueStats, Stats
from ._version import __version__

KazooTimeoutError = TimeoutError


__all__ = [
    "AsyncResult",
    "BlockingCallError",
    "BlockingCallWarning",
    "ConnectionStats",
    "Disconnect",
    "Histogram",
    "KazooTimeoutError",
    "QueueStats",
    "RoundTrips",
    "SequentialThreadingHandler",
    "Stats",
    "TimeoutError",
    "__version__",
]


def _make_public(cls: type[object]) -> None:
    """Make pickles, help and tracebacks name *cls* as users import it."""
    # Annotations are resolved first, as their names are those of its own module.
    cls.__annotations__ = get_type_hints(cls)
    cls.__module__ = __name__
    for value in vars(cls).values():
        if isinstance(value, FunctionType):
            value.__module__ = __name__


for _class in (
    AsyncResult,
    BlockingCallError,
    BlockingCallWarning,
    ConnectionStats,
    Disconnect,
    Histogram,
    QueueStats,
    RoundTrips,
    SequentialThreadingHandler,
    Stats,
    TimeoutError,
):
    _make_public(_class)
del _class
