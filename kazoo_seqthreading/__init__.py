"""A drop-in threading handler for kazoo, the Python client for Apache ZooKeeper.

Give it to a client. Nothing else changes::

    from kazoo.client import KazooClient
    from kazoo_seqthreading import SequentialThreadingHandler

    client = KazooClient(hosts="127.0.0.1:2181", handler=SequentialThreadingHandler())
    client.start()

Every option of :class:`SequentialThreadingHandler` is a keyword argument, and has a
default that suits most programs.

Results
    Each ``*_async`` method of the client returns an :class:`AsyncResult`, for threads
    and for asyncio alike::

        value, stat = client.get_async("/app").get(timeout=10)  # in a thread
        value, stat = await client.get_async("/app")  # in a coroutine
        client.get_async("/app").rawlink(callback)  # calls callback(result)
        future = client.get_async("/app").as_future()  # a concurrent.futures.Future

    In a coroutine, call none of the methods that block: ``get()`` and ``wait()`` of a
    result, and those of the client without ``_async``.

Callbacks
    Callbacks of results run one after the other in one thread, watches in another. Both
    may block and may call ZooKeeper; what they raise is logged. State listeners run in
    the client's connection thread, which reads the replies, and must not wait for one.

Exceptions
    =========================== ====================================================
    :exc:`TimeoutError`         nothing came in time; ``except`` clauses for kazoo's
                                ``KazooTimeoutError`` and Python's ``TimeoutError``
                                catch it, too
    :exc:`BlockingCallError`    a call that could never return, in a state listener
    :exc:`BlockingCallWarning`  a call that blocks an asyncio event loop (in its
                                debug mode)
    =========================== ====================================================

    Requests fail with kazoo's own exceptions, as ever.

TLS
    Give the client kazoo's arguments, ``use_ssl=True``, ``ca``, ``certfile``,
    ``keyfile`` and so on; :meth:`SequentialThreadingHandler.create_connection` explains
    them. Or give the client ``use_ssl=True`` alone, and the handler an
    :class:`ssl.SSLContext` of your own as ``ssl_context``.

Stopping
    ``client.stop()`` stops the handler. What is queued runs first, for ``stop_timeout``
    seconds at the most. The same happens when the program ends.

Diagnosis
    ``client.handler.stats()`` returns a :class:`Stats` with the counters of all the
    handler's clients: a :class:`QueueStats` for each of the two threads, a
    :class:`ConnectionStats` for each client that is connected, how long requests took
    as :class:`RoundTrips`, each a :class:`Histogram`, and why connections were lost,
    each as a :class:`Disconnect`. ``client.handler.report()`` returns a text for a bug
    report, while everything hangs, too.

For applications on gevent or eventlet, kazoo has handlers of its own:
``kazoo.handlers.gevent`` and ``kazoo.handlers.eventlet``.
"""

from __future__ import annotations

from typing import get_type_hints

from ._disconnects import Disconnect
from ._errors import BlockingCallError, BlockingCallWarning, TimeoutError
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
    """Have pickles, help and tracebacks name *cls* as users import it."""
    # Its annotations are resolved before: only its own module knows their names.
    cls.__annotations__ = get_type_hints(cls)
    cls.__module__ = __name__


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
