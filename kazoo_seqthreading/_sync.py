"""Events and locks that survive a fork.

They are what kazoo and its recipes get from ``event_object()``, ``lock_object()`` and
``rlock_object()``. In a forked child a lock is free, unless the thread that forked
holds it, and an event that waited for the parent's threads says that they are gone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._batch import end_batch
from ._connection_threads import current_connection
from ._kazoo import is_set_by
from ._waiting import check_timeout, would_block_connection

if TYPE_CHECKING:
    from ._core import Core


class Condition(threading.Condition):
    """A reentrant condition that no signal handler leaves locked.

    A ``with`` statement calls the methods of its lock, which are not Python code: no
    signal handler can raise before one has released it, or when one has acquired it.
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
    """A :class:`threading.Event` that knows the threads which can set it.

    kazoo's connection thread sets an event when it ends. Waiting for that in the same
    thread would never end: it raises :exc:`~kazoo_seqthreading.BlockingCallError`. In
    a forked child that thread does not exist: the first look at an event that it has
    changed lets kazoo close its inherited client.

    The event's own lock is reentrant: a signal handler may set it in the middle of a
    ``set``.
    """

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._cond = Condition()
        self.__core = core
        self.__changed_by: Optional[int] = None  # who called set or clear last
        self.__inherited = False  # from a parent, and not looked at since
        self.__made_in = _fork.generation
        _fork.register(self)

    def is_set(self) -> bool:
        """Return ``True`` if the event is set."""
        if self.__inherited:
            self.__close_inherited()
        return super().is_set()

    def set(self) -> None:
        """Set the event and wake up all who wait for it."""
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

        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises BlockingCallError: if only this thread could set it
        :raises kazoo.exceptions.ConnectionClosedError: if, in a forked child, only the
            parent could set it
        """
        if isinstance(timeout, (int, float)) and timeout < 0:
            timeout = 0  # as threading has it
        limit = check_timeout(timeout)
        if self.is_set():
            return True
        if self.__made_in != _fork.generation:
            self.__core.check_fork()
        connection = current_connection()
        if connection is not None and is_set_by(connection, self, limit < 0):
            raise would_block_connection()
        return super().wait(timeout)

    def _after_fork(self) -> None:
        """Replace the event's own lock, which another thread may have held."""
        self._cond = Condition()
        self.__inherited = True

    def __close_inherited(self) -> None:
        self.__inherited = False
        if self.__changed_by in self.__core.connections.inherited:
            self.__core.close_inherited()


class Lock:
    """A lock, :class:`threading.Lock` by interface, that is free in a forked child."""

    def __init__(self) -> None:
        self.__lock = threading.Lock()
        self.__owner: Optional[int] = None
        _fork.register(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; *timeout* is in seconds, -1 waits for ever."""
        acquired = self.__lock.acquire(blocking, timeout)
        if acquired:
            self.__owner = threading.get_ident()
        return acquired

    def release(self) -> None:
        """Release the lock.

        :raises RuntimeError: if it is not held
        """
        owner = self.__owner
        self.__owner = None  # before that: the next owner sets it after acquiring
        try:
            self.__lock.release()
        except BaseException:
            self.__owner = owner
            raise

    def locked(self) -> bool:
        """Tell whether anybody holds the lock."""
        return self.__lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Lock {self.__lock!r}>"

    def _after_fork(self) -> None:
        """Be free, unless this thread, the one that forked, holds the lock."""
        if self.__owner != threading.get_ident():
            self.__lock = threading.Lock()


def make_rlock() -> threading.RLock:
    """Return a reentrant lock; in a forked child it is free, as :class:`Lock` is."""
    lock = threading.RLock()
    _rlocks.add(lock)
    return lock


_rlocks: weakref.WeakSet[Any] = weakref.WeakSet()


@_fork.in_child
def _after_fork() -> None:
    for lock in list(_rlocks):
        if not lock._is_owned():
            lock._at_fork_reinit()
