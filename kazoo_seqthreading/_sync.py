"""Events and locks that survive a fork.

kazoo and its recipes get them from ``event_object()``, ``lock_object()`` and
``rlock_object()``. In a forked child a lock is free, unless the thread that forked
holds it, and waiting for an event raises if only the parent's threads could set it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._batch import end_batch
from ._kazoo import is_set_by
from ._waiting import check_timeout, make_blocking_call_error
from ._zk_loop import current_connection

if TYPE_CHECKING:
    from ._core import Core


class Condition(threading.Condition):
    """A reentrant condition that no signal handler can leave locked.

    A ``with`` statement calls the lock's own methods, which are C functions: no signal
    handler can raise between acquiring the lock and entering the block, or before the
    lock is released.
    """

    def __init__(self) -> None:
        lock = threading.RLock()
        super().__init__(lock)
        self.__lock = lock

    @property
    def __enter__(self) -> Callable[[], bool]:
        return self.__lock.__enter__

    @property
    def __exit__(self) -> Callable[..., None]:  # noqa: PLE0302
        return self.__lock.__exit__


class Event(threading.Event):
    """A :class:`threading.Event` that detects deadlocks and forks.

    kazoo's connection thread sets an event when it ends. Waiting for that event in the
    same thread would never end, so it raises
    :exc:`~kazoo_seqthreading.BlockingCallError`. In a forked child that thread does not
    exist: the first use of an event that it has changed lets kazoo close the inherited
    client.

    The event's internal lock is reentrant, as a signal handler may interrupt ``set``
    and call it.
    """

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._cond = Condition()
        self.__core = core
        self.__changed_by: Optional[int] = None  # last thread that set or cleared it
        self.__inherited = False  # from a parent, and not used since
        self.__made_in = _fork.generation
        _fork.register(self)

    def is_set(self) -> bool:
        """Return whether the event is set."""
        if self.__inherited:
            self.__close_inherited()
        return super().is_set()

    def set(self) -> None:
        """Set the event and wake all waiting threads."""
        if self.__inherited:
            self.__close_inherited()
        end_batch()  # kazoo calls the state listeners next
        self.__changed_by = threading.get_ident()
        super().set()

    def clear(self) -> None:
        """Reset the event."""
        if self.__inherited:
            self.__close_inherited()
        end_batch()  # kazoo calls the state listeners next
        self.__changed_by = threading.get_ident()
        super().clear()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Block until the event is set, and return whether it is.

        :param timeout: how long to wait, in seconds; ``None`` waits forever
        :raises BlockingCallError: if only this thread could set it
        :raises kazoo.exceptions.ConnectionClosedError: in a forked child, if only the
            parent could set it
        """
        if isinstance(timeout, (int, float)) and timeout < 0:
            timeout = 0  # as in threading.Event
        limit = check_timeout(timeout)
        if self.is_set():
            return True
        if self.__made_in != _fork.generation:
            self.__core.check_fork()
        connection = current_connection()
        if connection is not None and is_set_by(connection, self, limit < 0):
            raise make_blocking_call_error()
        return super().wait(timeout)

    def _after_fork(self) -> None:
        """Replace the internal lock, which a thread of the parent may have held."""
        self._cond = Condition()
        self.__inherited = True

    def __close_inherited(self) -> None:
        self.__inherited = False
        if self.__changed_by in self.__core.connections.inherited:
            self.__core.close_inherited()


class Lock:
    """A lock like :class:`threading.Lock` that is free in a forked child."""

    def __init__(self) -> None:
        self.__lock = threading.Lock()
        self.__owner: Optional[int] = None
        _fork.register(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; *timeout* is in seconds, -1 waits forever."""
        acquired = self.__lock.acquire(blocking, timeout)
        if acquired:
            self.__owner = threading.get_ident()
        return acquired

    def release(self) -> None:
        """Release the lock.

        :raises RuntimeError: if it is not held
        """
        owner = self.__owner
        self.__owner = None  # before releasing: the next owner sets it after acquiring
        try:
            self.__lock.release()
        except BaseException:
            self.__owner = owner
            raise

    def locked(self) -> bool:
        """Return whether the lock is held."""
        return self.__lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Lock {self.__lock!r}>"

    def _after_fork(self) -> None:
        """Release the lock, unless the thread that forked, this one, holds it."""
        if self.__owner != threading.get_ident():
            self.__lock = threading.Lock()


def make_rlock() -> threading.RLock:
    """Return a reentrant lock that is free in a forked child, like :class:`Lock`."""
    lock = threading.RLock()
    _rlocks.add(lock)
    return lock


_rlocks: weakref.WeakSet[Any] = weakref.WeakSet()


@_fork.run_in_child
def _after_fork() -> None:
    for lock in list(_rlocks):
        if not lock._is_owned():
            lock._at_fork_reinit()
