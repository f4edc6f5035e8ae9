"""Wake-ups in batches: a connection thread wakes callers together, as late as possible.

A thread that is woken needs the GIL, which the connection thread holds. So that thread
collects the locks of the callers whose replies it has read, and releases them before it
sleeps.

1. Only a connection thread has a batch, between :func:`start_batch` and
   :func:`end_batch`; in other threads a waiter is woken at once.
2. The batch is flushed before the thread sleeps, and before it runs code of kazoo that
   may call user code: when an event is set or cleared, or a result gets an exception.
"""

from __future__ import annotations

import threading
from _thread import LockType
from typing import Optional

from . import _fork


class _Batch(threading.local):
    enabled = False
    waiters: Optional[list[LockType]] = None  # None: wake at once


_batch = _Batch()


def enable_batches(enabled: bool) -> None:
    """Set whether this thread may have batches; it then calls :func:`flush_batch`."""
    end_batch()
    _batch.enabled = enabled


def start_batch() -> None:
    """Begin to collect waiters in this thread."""
    if _batch.enabled and _batch.waiters is None:
        _batch.waiters = []


def flush_batch() -> int:
    """Wake the waiters of this thread's batch; return their number."""
    waiters = _batch.waiters
    if not waiters:
        return 0
    _batch.waiters = []
    for waiter in waiters:
        release(waiter)
    return len(waiters)


def end_batch() -> None:
    """Flush the batch; from now on, wake each waiter at once."""
    flush_batch()
    _batch.waiters = None


def wake(waiter: LockType) -> None:
    """Release *waiter*, now or with the next flush."""
    waiters = _batch.waiters
    if waiters is None:
        release(waiter)
    else:
        waiters.append(waiter)


def release(waiter: LockType) -> None:
    """Release *waiter*, unless another thread has done so."""
    try:
        waiter.release()
    except RuntimeError:
        pass


@_fork.run_in_child
def _after_fork() -> None:
    global _batch
    _batch = _Batch()  # a connection thread may have forked
