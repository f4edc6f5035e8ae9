"""Events and locks that survive a fork and refuse to wait for ever.

They are what kazoo and its recipes get from ``event_object()``, ``lock_object()`` and
``rlock_object()``. In a forked child a lock is free, unless the thread that forked
holds it, and an event that waited for the parent's threads says that they are gone.
The lock of an event is reentrant: a signal handler may set it in the middle of a
``set``.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._result import check_timeout, stop_collecting

if TYPE_CHECKING:
    from ._handler import SequentialThreadingHandler


#: Guards the step of an event or a lock into the child, where several threads may use
#: it for the first time. No other code runs under it.
_renewing = threading.RLock()


class Event(threading.Event):
    """A :class:`threading.Event` that knows the threads which can set it.

    kazoo's connection thread clears an event and sets it when it connects or ends.
    Waiting for it in that same thread would never end: it raises
    :exc:`~kazoo_seqthreading.BlockingCallError`. In a forked child that thread does
    not exist: the first look at such an event lets kazoo close its inherited client.
    """

    def __init__(self, handler: SequentialThreadingHandler) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())
        self._handler = handler
        self._changed_by: Optional[int] = None  # who called set or clear last
        self._born = self._generation = _fork.generation

    def is_set(self) -> bool:
        """Return ``True`` if the event is set."""
        if self._generation != _fork.generation:
            self._after_fork()
        return self._handler._connections.pretend_stopped() or super().is_set()

    def set(self) -> None:
        """Set the event and wake up all who wait for it."""
        if self._generation != _fork.generation:
            self._after_fork()
        stop_collecting()  # kazoo calls the state listeners next
        self._changed_by = threading.get_ident()
        super().set()

    def clear(self) -> None:
        """Reset the event."""
        if self._generation != _fork.generation:
            self._after_fork()
        stop_collecting()  # kazoo calls the state listeners next
        self._changed_by = threading.get_ident()
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
        check_timeout(timeout)
        if self.is_set():
            return True
        self._handler._check_event_wait(self._changed_by, self._born)
        return super().wait(timeout)

    def _after_fork(self) -> None:
        with _renewing:
            if self._generation == _fork.generation:
                return
            changed_by = self._changed_by
            # Another thread may have held the event's own lock.
            self._cond = threading.Condition(threading.RLock())
            self._generation = _fork.generation
        if changed_by in self._handler._connections.inherited:
            self._handler._close_inherited()


class Lock:
    """A lock, :class:`threading.Lock` by interface, that is free in a forked child."""

    _factory: Any = staticmethod(threading.Lock)

    def __init__(self) -> None:
        self._lock = self._factory()
        self._owner: Optional[int] = None
        self._generation = _fork.generation

    def _current(self) -> Any:
        if self._generation != _fork.generation:
            with _renewing:
                if self._generation != _fork.generation:
                    if self._owner != _fork.survivor:
                        self._lock = self._factory()
                    self._generation = _fork.generation
        return self._lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; *timeout* is in seconds, -1 waits for ever."""
        acquired: bool = self._current().acquire(blocking, timeout)
        if acquired:
            self._owner = threading.get_ident()
        return acquired

    def release(self) -> None:
        """Release the lock.

        :raises RuntimeError: if it is not held
        """
        lock, owner = self._current(), self._owner
        self._owner = None  # first: who acquires it next says so after that
        try:
            lock.release()
        except BaseException:
            self._owner = owner
            raise

    def locked(self) -> bool:
        """Tell whether anybody holds the lock."""
        held: bool = self._current().locked()
        return held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._current()!r}>"


class RLock(Lock):
    """A reentrant :class:`Lock`, :class:`threading.RLock` by interface."""

    _factory: Any = staticmethod(threading.RLock)

    def release(self) -> None:
        """Release the lock once.

        :raises RuntimeError: if another thread holds it, or none
        """
        super().release()
        if self._lock._is_owned():
            self._owner = threading.get_ident()

    def locked(self) -> bool:
        """Tell whether another thread holds the lock."""
        if self._current().acquire(blocking=False):
            self._current().release()
            return False
        return True

    # what threading.Condition asks of a reentrant lock

    def _is_owned(self) -> bool:
        owned: bool = self._current()._is_owned()
        return owned

    def _release_save(self) -> Any:
        self._owner = None
        return self._current()._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._current()._acquire_restore(state)
        self._owner = threading.get_ident()


@_fork.in_child
def _after_fork() -> None:
    global _renewing
    _renewing = threading.RLock()
