"""The result of an asynchronous call.

Rules
-----
1. The first ``set`` or ``set_exception`` wins; a later one changes nothing and raises
   nothing.
2. A link runs exactly once: it is either taken by the one that completes the result,
   or, when it comes later, dispatched by the one that links it. A callback that
   equals one still waiting is the same link.
3. ``_lock`` guards the step from pending to complete, and ``_waiting`` until then: a
   tuple, replaced and never changed, of the locks of the threads that wait and of the
   links. Under it nothing is called, compared or freed that is not ours. It is
   reentrant because a signal handler or a finalizer may complete another result in
   the middle of it.
4. Threads are woken before a user's link is dispatched, also those whose results this
   thread has completed before.
5. ``value`` is stored before ``_exception``, which alone tells that a result is
   complete, so that readers need no lock.
6. A complete result holds nothing that waited for it.
7. Every ``get`` raises an exception of its own, a copy, so that tracebacks of several
   threads never meet and never grow.

A link is a callback and a context. With a context, the callback is a user's: it goes
to the handler's completion queue, to run in that context. Without, it is short, never
blocks, and runs where the result is completed: kazoo's own chains, and what wakes
futures and event loops.
"""

from __future__ import annotations

import logging
import reprlib
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar, Union

from kazoo.interfaces import IAsyncResult

from . import _fork
from ._describe import describe
from ._errors import TimeoutError
from ._exceptions import private_copy
from ._kazoo import is_chain_link

if TYPE_CHECKING:
    import concurrent.futures

    from kazoo.interfaces import IHandler

T = TypeVar("T")
Callback = Callable[["AsyncResult[T]"], Any]
_Link = tuple["Callback[T]", Optional[Context]]

_log = logging.getLogger("kazoo_seqthreading.result")

_new = object.__new__
#: A value may be large, and is not to fill a log.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200

#: What ``_exception`` holds until the result is complete.
_PENDING: Any = type("_Pending", (), {"__repr__": lambda self: "<pending>"})()

_lock = threading.RLock()
_acquire, _release = _lock.acquire, _lock.release


class _Batch(threading.local):
    """The threads that a connection thread is about to wake."""

    allowed = False  # in a connection thread alone
    waiters: Optional[list[LockType]] = None  # None: they are woken at once


_batch = _Batch()


def allow_batches(allowed: bool) -> None:
    """Say whether this thread is one that calls :func:`release_waiters`."""
    stop_collecting()
    _batch.allowed = allowed


def collect_waiters() -> None:
    """From now on in this thread, wake in :func:`release_waiters` who waits for values.

    A thread that is woken at once would only wait for the interpreter's lock.
    """
    if _batch.allowed and _batch.waiters is None:
        _batch.waiters = []


def release_waiters() -> int:
    """Wake those whose results this thread has completed; return how many."""
    waiters = _batch.waiters
    if not waiters:
        return 0
    _batch.waiters = []
    for waiter in waiters:
        waiter.release()
    return len(waiters)


def stop_collecting() -> None:
    """Wake them, and from now on at once: user code may run in this thread."""
    release_waiters()
    _batch.waiters = None


def check_timeout(timeout: Optional[float]) -> float:
    """Return *timeout*, seconds or ``None``, as ``Lock.acquire`` wants it.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative or not a number of seconds at all
    """
    if timeout is None:
        return -1
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be non-negative, not {timeout!r}")
    return min(timeout, threading.TIMEOUT_MAX)


class AsyncResult(IAsyncResult, Generic[T]):
    """A one-time event that stores a value or an exception.

    :param handler: the handler whose completion queue runs the linked callbacks

    Implements :class:`kazoo.interfaces.IAsyncResult`. Every method may be called from
    any thread. A result can be awaited in an asyncio event loop, and turned into a
    :class:`concurrent.futures.Future` with :meth:`as_future`::

        result = client.get_async("/app")
        result.rawlink(lambda result: print(result.get()))
        value, stat = result.get(timeout=10)

    ``value`` is what was given to :meth:`set`; ``None`` before, and after an exception.
    """

    __slots__ = ("_exception", "_handler", "_waiting", "value")

    value: Optional[T]

    def __init__(self, handler: IHandler) -> None:
        if isinstance(handler, type) or not hasattr(handler, "completion_queue"):
            raise TypeError(f"an AsyncResult needs a handler, not {handler!r}")
        self._handler: Any = handler
        self.value = None
        self._exception: Any = _PENDING
        self._waiting: Optional[tuple[Union[LockType, _Link[T]], ...]] = None

    @classmethod
    def _of(cls, handler: IHandler) -> AsyncResult[T]:
        """Return a result of what certainly is a handler, in less time."""
        result: AsyncResult[T] = _new(cls)
        result._handler = handler
        result.value = None
        result._exception = _PENDING
        result._waiting = None
        return result

    def __repr__(self) -> str:
        if self._exception is _PENDING:
            state = "pending"
        elif self._exception is None:
            state = f"value={_short.repr(self.value)}"
        else:
            state = f"exception={_short.repr(self._exception)}"
        return f"<{type(self).__name__} {state}>"

    # -- state -------------------------------------------------------------------

    def ready(self) -> bool:
        """Return ``True`` if it holds a value or an exception."""
        return self._exception is not _PENDING

    def successful(self) -> bool:
        """Return ``True`` if it is ready and holds a value."""
        return self._exception is None

    @property
    def exception(self) -> Optional[BaseException]:
        """The exception given to :meth:`set_exception`, else ``None``."""
        exception: Optional[BaseException] = self._exception
        return None if exception is _PENDING else exception

    # -- completion ----------------------------------------------------------------

    def set(
        self, value: Optional[T] = None, _exception: Optional[BaseException] = None
    ) -> None:
        """Store the value, wake up the waiters, dispatch the callbacks.

        On a result that is ready already, nothing happens.
        """
        try:  # twice as quick as a with statement, and this is the hottest of all
            _acquire()
            if self._exception is not _PENDING:
                return
            self.value = value
            self._exception = _exception
            waiting, self._waiting = self._waiting, None
        finally:
            try:
                _release()
            except RuntimeError:
                pass  # a signal handler raised while it was waited for
        if waiting is not None:
            self._wake(waiting)

    def set_exception(
        self, exception: Union[BaseException, type[BaseException]]
    ) -> None:
        """Store the exception, wake up the waiters, dispatch the callbacks.

        :param exception: an exception, or a class of which one is made
        :raises TypeError: if it is neither

        On a result that is ready already, nothing happens.
        """
        if isinstance(exception, type) and issubclass(exception, BaseException):
            try:
                exception = exception()
            except Exception as error:  # it wants arguments: let that be seen
                exception = error
        if not isinstance(exception, BaseException):
            raise TypeError(f"not an exception: {exception!r}")
        self.set(None, exception)

    def _wake(self, waiting: tuple[Union[LockType, _Link[T]], ...]) -> None:
        batch = _batch.waiters if self._exception is None else None
        for waiter in waiting:
            if type(waiter) is LockType:
                if batch is None:
                    waiter.release()
                else:
                    batch.append(waiter)
        for link in waiting:
            if type(link) is tuple:
                self._dispatch(link)

    # -- waiting ---------------------------------------------------------------------

    def get(self, block: bool = True, timeout: Optional[float] = None) -> T:
        """Return the value or raise the exception.

        :param block: whether to wait for it
        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises TimeoutError: if there is nothing (in time)
        :raises TypeError, ValueError: if *timeout* makes no sense
        :raises BlockingCallError: if it would wait in the client's connection thread
        :raises kazoo.exceptions.ConnectionClosedError: if it would wait, in a forked
            child, for what only the parent could deliver
        """
        if self._exception is _PENDING and not (block and self._wait(timeout)):
            raise TimeoutError("no result in time" if block else "no result yet")
        if self._exception is None:
            return self.value  # type: ignore[return-value]
        raise private_copy(self._exception)

    def get_nowait(self) -> T:
        """Return the value or raise the exception without blocking.

        :raises TimeoutError: if there is nothing yet
        """
        return self.get(block=False)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Block until the result is ready, and tell whether it is.

        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises BlockingCallError: as :meth:`get`
        :raises kazoo.exceptions.ConnectionClosedError: as :meth:`get`
        """
        return self._exception is not _PENDING or self._wait(timeout)

    def _wait(self, timeout: Optional[float]) -> bool:
        limit = check_timeout(timeout)
        check = getattr(self._handler, "_check_wait", None)  # not every handler has it
        if check is not None:
            check(blocks=limit != 0)
        waiter = allocate_lock()
        waiter.acquire()
        with _lock:
            if self._exception is not _PENDING:
                return True
            self._waiting = (*(self._waiting or ()), waiter)
        try:
            waiter.acquire(True, limit)
        finally:
            if self._exception is _PENDING:
                self._forget(waiter)
        return self._exception is not _PENDING

    def _forget(self, waiter: LockType) -> None:
        with _lock:
            waiting = self._waiting
            if waiting is not None:
                self._waiting = tuple(one for one in waiting if one is not waiter)

    # -- links -----------------------------------------------------------------------

    def rawlink(self, callback: Callback[T]) -> None:
        """Call ``callback(result)`` once the result is ready.

        :param callback: runs in the handler's completion worker, in the
            :class:`contextvars.Context` of this call; on a stopped handler in the
            thread that completes the result (or in this one, if it is ready)
        :raises TypeError: if it is not callable
        """
        if not callable(callback):
            raise TypeError(f"a callback must be callable, not {callback!r}")
        self.link(callback, None if is_chain_link(callback) else copy_context())

    def link(self, callback: Callback[T], context: Optional[Context]) -> None:
        """Link *callback*; without a *context* it runs where the result completes."""
        while self._exception is _PENDING:
            waiting = self._waiting
            if waiting is not None and any(
                type(one) is tuple and one[0] == callback for one in waiting
            ):
                return
            link = (callback, context)
            with _lock:
                if self._exception is _PENDING and self._waiting is waiting:
                    self._waiting = (link,) if waiting is None else (*waiting, link)
                    return
        self._dispatch((callback, context))

    def unlink(self, callback: Callback[T]) -> None:
        """Take back a callback given to :meth:`rawlink`.

        A callback that is not linked, or whose result is ready, is left alone.
        """
        while self._exception is _PENDING:
            waiting = self._waiting
            if waiting is None:
                return
            kept = tuple(
                one
                for one in waiting
                if not (type(one) is tuple and one[0] == callback)
            )
            with _lock:
                if self._waiting is waiting:
                    self._waiting = kept
                    return

    def _dispatch(self, link: _Link[T]) -> None:
        callback, context = link
        if context is not None:
            release_waiters()
            self._handler.completion_queue.put(partial(context.run, callback, self))
            return
        try:
            callback(self)
        except BaseException:
            _log.exception("Exception in %s", describe(callback))

    # -- other worlds ------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in an asyncio event loop; see ``_asyncio.py``."""
        if self._exception is _PENDING:
            from ._asyncio import wait_in_loop

            yield from wait_in_loop(self)
        return self.get(block=False)

    def as_future(self) -> concurrent.futures.Future[T]:
        """Return a future that completes as this result does.

        It is the same one at every call. Cancelling it leaves the request alone. Its
        own callbacks run in the thread that completes the result, usually the
        client's connection thread: they must not block.
        """
        from ._futures import future_of

        return future_of(self)


@_fork.in_child
def _after_fork() -> None:
    global _lock, _acquire, _release, _batch
    _lock = threading.RLock()  # another thread may have held it
    _acquire, _release = _lock.acquire, _lock.release
    _batch = _Batch()  # a connection thread may have forked
