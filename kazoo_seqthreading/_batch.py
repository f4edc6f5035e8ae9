"""Wake-ups in batches: a connection thread wakes callers together, and late.

A thread that is woken needs the interpreter's lock, which the connection thread holds.
So that thread collects the locks of the callers whose replies it has read, and releases
them before it sleeps.

1. Only a connection thread has a batch, between :func:`start_batch` and
   :func:`end_batch`; anywhere else a waiter is woken at once.
2. The batch is flushed before the thread sleeps, and before it runs code of kazoo that
   may call a user: when an event is set or cleared, or a result gets an exception.
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
    """Say whether this thread is one that calls :func:`flush_batch`."""
    end_batch()
    _batch.enabled = enabled


def start_batch() -> None:
    """Collect waiters in this thread from now on."""
    if _batch.enabled and _batch.waiters is None:
        _batch.waiters = []


def flush_batch() -> int:
    """Wake the waiters of this thread's batch; return how many they were."""
    waiters = _batch.waiters
    if not waiters:
        return 0
    _batch.waiters = []
    for waiter in waiters:
        release(waiter)
    return len(waiters)


def end_batch() -> None:
    """Wake them, and from now on every waiter at once."""
    flush_batch()
    _batch.waiters = None


def wake(waiter: LockType) -> None:
    """Wake who waits for *waiter*, at the latest with the next flush."""
    waiters = _batch.waiters
    if waiters is None:
        release(waiter)
    else:
        waiters.append(waiter)


def release(waiter: LockType) -> None:
    """Release *waiter*, unless somebody else has."""
    try:
        waiter.release()
    except RuntimeError:
        pass


@_fork.in_child
def _after_fork() -> None:
    global _batch
    _batch = _Batch()  # a connection thread may have forked
