"""A drop-in threading handler for kazoo.

::

    from kazoo.client import KazooClient
    from kazoo_seqthreading import SequentialThreadingHandler

    client = KazooClient(hosts="...", handler=SequentialThreadingHandler())

.. warning::

    Not for applications on other event loops, such as gevent's or eventlet's. Use
    kazoo's own handlers, ``kazoo.handlers.gevent`` and ``kazoo.handlers.eventlet``,
    there.
"""

from __future__ import annotations

from ._errors import BlockingCallError, BlockingCallWarning, TimeoutError
from ._handler import SequentialThreadingHandler
from ._result import AsyncResult
from ._stats import QueueStats, Stats
from ._version import __version__

KazooTimeoutError = TimeoutError


__all__ = [
    "AsyncResult",
    "BlockingCallError",
    "BlockingCallWarning",
    "KazooTimeoutError",
    "QueueStats",
    "SequentialThreadingHandler",
    "Stats",
    "TimeoutError",
    "__version__",
]
