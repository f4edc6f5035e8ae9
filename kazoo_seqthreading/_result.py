"""The result of an asynchronous call.

Rules
-----
1. The first ``set`` or ``set_exception`` wins; later ones have no effect and raise
   nothing.
2. A linked callback runs exactly once. Equal callbacks that are linked before the
   result is complete count as one: they share a claim, which the first to run takes.
3. No lock is ever held: a signal handler or a finalizer that interrupts a method may
   call any other one, and wait for it. Each step is one atomic operation of a ``dict``
   or a ``list``, and may be repeated by the next thread:

   - ``_outcomes.setdefault`` elects the outcome, and publishes it in the same step, so
     that a thread that loses can complete the result in place of the winner.
   - ``value`` is stored before ``_exception``, which alone tells that a result is
     complete. Only then are the waiters woken.
   - A waiter appends itself to ``__waiting`` before it checks whether the result is
     complete; the thread that completes it checks ``__waiting`` after that. So one of
     them sees the other. Entries are removed after they were woken; waking one twice is
     harmless.

4. Waiters are woken before a user's callback is queued, also the waiters of results
   that this thread has completed before.
5. A complete result has no references to its waiters and callbacks.
6. Every ``get`` raises its own copy of the exception, so that tracebacks are not shared
   between threads and do not grow.
7. No method calls another one that a subclass may override, except that ``get_nowait``
   calls ``get``, as kazoo's does.

An entry of ``__waiting`` is the lock of a waiting thread, a ``Leader`` (see ``_turn``),
or a linked callback. Users' callbacks go to the handler's completion queue. Callbacks
without a context, which belong to kazoo or wake futures and event loops, run in the
thread that completes the result.
"""

from __future__ import annotations

import logging
import reprlib
from _thread import LockType, allocate_lock
from collections.abc import Callable, Generator
from contextvars import copy_context
from functools import partial
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar, Union

from ._bases import IAsyncResult, IHandler
from ._batch import flush_batch, release, wake
from ._callbacks import LinkedCallback, check_callable, describe
from ._exception_copy import private_copy
from ._exceptions import TimeoutError
from ._kazoo import in_flight, is_internal_callback, results_behind
from ._monitor import report
from ._surroundings import warn_in_event_loop
from ._waiting import (
    check_timeout,
    interrupts,
    make_blocking_call_error,
    raise_interrupt,
)
from ._worker import queue_callback
from ._zk_loop import current_connection

if TYPE_CHECKING:
    import concurrent.futures

    from kazoo.protocol.connection import ConnectionHandler

    from ._turn import Leader, Turn

T = TypeVar("T")
Callback = Callable[["AsyncResult[T]"], Any]

_log = logging.getLogger("kazoo_seqthreading.result")

#: Shortens values, which may be large, in logs.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


class _Pending:
    def __repr__(self) -> str:
        return "<pending>"


#: The value of ``_exception`` until the result is complete.
_PENDING: Any = _Pending()

#: Outcomes that are elected and may not be stored yet: result, value and exception, by
#: the result's id. The reference to the result keeps its id from being reused.
_Outcome = tuple[object, Any, Optional[BaseException]]
_outcomes: dict[int, _Outcome] = {}

#: Tables of claims that may not be stored yet, likewise.
_new_claims: dict[int, tuple[object, dict[object, LockType]]] = {}


class AsyncResult(IAsyncResult, Generic[T]):
    """A one-time event that stores a value or an exception.

    :param handler: the handler whose completion queue runs the linked callbacks

    Implements :class:`kazoo.interfaces.IAsyncResult`. Every method may be called from
    any thread. A result can be awaited in an asyncio event loop, and turned into a
    :class:`concurrent.futures.Future` with :meth:`as_future`::

        result = client.get_async("/app")
        result.rawlink(lambda result: print(result.get()))
        value, stat = result.get(timeout=10)

    ``value`` is the value given to :meth:`set`; ``None`` before that, and with an
    exception.
    """

    __slots__ = ("__claims", "__waiting", "_exception", "_handler", "value")

    value: Optional[T]

    def __init__(self, handler: IHandler) -> None:
        self._handler: Any = handler
        self.value = None
        self._exception: Any = _PENDING
        self.__waiting: list[Union[LockType, Leader, LinkedCallback]] = []
        self.__claims: Optional[dict[object, LockType]] = (
            None  # those of users' callbacks
        )

    def __repr__(self) -> str:
        exception = self._exception
        if exception is _PENDING:
            state = "pending"
        elif exception is None:
            state = f"value={_short.repr(self.value)}"
        else:
            state = f"exception={_short.repr(exception)}"
        return f"<{type(self).__name__} {state}>"

    # -- state -------------------------------------------------------------------

    def ready(self) -> bool:
        """Return whether the result has a value or an exception."""
        return self._exception is not _PENDING

    def successful(self) -> bool:
        """Return whether the result is ready and has a value."""
        return self._exception is None

    @property
    def exception(self) -> Optional[BaseException]:
        """The exception given to :meth:`set_exception`, else ``None``."""
        exception: Optional[BaseException] = self._exception
        return None if exception is _PENDING else exception

    # -- completion ----------------------------------------------------------------

    def set(self, value: Optional[T] = None) -> None:
        """Store the value, wake the waiters and dispatch the callbacks.

        Has no effect if the result is ready already.
        """
        if self._exception is _PENDING:
            self.__complete(value, None)

    def set_exception(
        self, exception: Union[BaseException, type[BaseException]]
    ) -> None:
        """Store the exception, wake the waiters and dispatch the callbacks.

        :param exception: an exception, or an exception class, which is instantiated
        :raises TypeError: if it is neither

        Has no effect if the result is ready already.
        """
        if not issubclass(type(exception), BaseException):
            exception = _make_exception(exception)
        if self._exception is _PENDING:
            flush_batch()
            self.__complete(None, exception)  # type: ignore[arg-type]

    def __complete(
        self, value: Optional[T], exception: Optional[BaseException]
    ) -> None:
        key = id(self)
        try:
            outcome = _outcomes.setdefault(key, (self, value, exception))
            self.__publish(outcome)
        finally:
            elected = _outcomes.get(key)
            if elected is not None:  # a signal handler has raised before that
                self.__publish(elected)

    def __publish(self, outcome: _Outcome) -> None:
        if self._exception is _PENDING:
            _, self.value, self._exception = outcome
        if self.__waiting:
            self.__wake()
        self.__claims = None
        _outcomes.pop(id(self), None)

    def __wake(self) -> None:
        waiting = self.__waiting
        for entry in tuple(waiting):
            if type(entry) is LockType:
                (wake if self._exception is None else release)(entry)
            elif type(entry) is not LinkedCallback:
                entry.wake()  # type: ignore[union-attr]
        while True:  # other threads may do this at the same time
            try:
                entry = waiting[0]
            except IndexError:
                return
            if type(entry) is LinkedCallback:
                self.__dispatch(entry)
            try:
                waiting.remove(entry)
            except ValueError:
                pass

    def __dispatch(self, link: LinkedCallback) -> None:
        if link.context is None:
            try:
                link()
            except BaseException as error:
                if not isinstance(error, Exception) and current_connection() is None:
                    raise  # from a signal handler
                report(
                    _log.error,
                    "Exception in %s",
                    partial(describe, link),
                    exc_info=error,
                )
            return
        flush_batch()
        queue_callback(self._handler, link)

    # -- waiting ---------------------------------------------------------------------

    def get(self, block: bool = True, timeout: Optional[float] = None) -> T:
        """Return the value or raise the exception.

        :param block: whether to wait
        :param timeout: how long to wait, in seconds; ``None`` waits forever
        :raises TimeoutError: if the result is not ready (in time)
        :raises TypeError, ValueError: if *timeout* is invalid
        :raises BlockingCallError: in a client's connection thread, if it would wait
            forever for a reply that only that thread can read
        :raises kazoo.exceptions.ConnectionClosedError: in a forked child, if it would
            wait for a reply that only the parent could receive
        """
        if interrupts:
            raise_interrupt()
        if self._exception is _PENDING and not (block and self.__wait(timeout)):
            raise TimeoutError("no result in time" if block else "no result yet")
        if self._exception is None:
            return self.value  # type: ignore[return-value]
        raise private_copy(self._exception)

    def get_nowait(self) -> T:
        """Return the value or raise the exception without blocking.

        :raises TimeoutError: if the result is not ready
        """
        return self.get(block=False)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Block until the result is ready, and return whether it is.

        :param timeout: how long to wait, in seconds; ``None`` waits forever
        :raises BlockingCallError: as :meth:`get`
        :raises kazoo.exceptions.ConnectionClosedError: as :meth:`get`
        """
        if interrupts:
            raise_interrupt()
        return self._exception is not _PENDING or self.__wait(timeout)

    def __wait(self, timeout: Optional[float]) -> bool:
        limit = check_timeout(timeout)
        core = getattr(self._handler, "_kazoo_seqthreading", None)
        if core is not None:  # it is, unless the handler is of another kind
            core.check_fork()
        if limit != 0:
            connection = current_connection()
            if connection is None:
                warn_in_event_loop()
            else:
                if limit < 0 and self.__needs(connection):
                    raise make_blocking_call_error()
                flush_batch()
            turn = None if core is None else core.connections.latest_turn
            if core is not None and turn is not None and turn.sender == get_ident():
                limit = self.__lead(turn, limit)
                if self._exception is not _PENDING:
                    return True
                core.check_fork()  # a signal handler may have forked
        waiter = allocate_lock()
        waiter.acquire()
        waiting = self.__waiting
        try:
            waiting.append(waiter)
            if self._exception is _PENDING:
                waiter.acquire(True, limit)
        finally:
            try:
                waiting.remove(waiter)
            except ValueError:
                pass  # it was woken
        return self._exception is not _PENDING

    def __lead(self, turn: Turn, limit: float) -> float:
        """Read replies in this thread; return the rest of *limit*."""
        begun = monotonic() if limit >= 0 else 0.0
        leader = turn.make_leader()
        try:
            self.__waiting.append(leader)
            turn.lead(leader, lambda: self._exception is not _PENDING, limit)
        finally:
            try:
                self.__waiting.remove(leader)
            except ValueError:
                pass  # it was woken
        return limit if limit < 0 else max(0.0, limit - (monotonic() - begun))

    def __needs(self, connection: ConnectionHandler) -> bool:
        """Return whether replies on *connection* complete this result.

        They may do so by way of the callbacks of other results.
        """
        todo, seen = in_flight(connection), set[int]()
        while todo:
            result = todo.pop()
            if result is self:
                return True
            if issubclass(type(result), AsyncResult) and id(result) not in seen:
                seen.add(id(result))
                for entry in tuple(result.__waiting):
                    if type(entry) is LinkedCallback and entry.context is None:
                        todo += results_behind(entry.func)
        return False

    # -- links -----------------------------------------------------------------------

    def rawlink(self, callback: Callback[T]) -> None:
        """Call ``callback(result)`` once the result is ready.

        :param callback: runs in the handler's completion thread, in the
            :class:`contextvars.Context` of this call; on a stopped handler in the
            thread that completes the result (or in this one, if it is ready)
        :raises TypeError: if it is not callable

        A callback equal to one that is linked already is not called again.
        """
        check_callable(callback)
        if is_internal_callback(callback):
            self.__link(LinkedCallback(callback, None, self))
            return
        claim = self.__claim_of(callback) if self._exception is _PENDING else None
        self.__link(LinkedCallback(callback, copy_context(), self, claim))

    def __claim_of(self, callback: Callback[T]) -> LockType:
        """Return the claim that all callbacks equal to *callback* share."""
        claims = self.__claims
        if claims is None:
            _, claims = _new_claims.setdefault(id(self), (self, {}))
            if self.__claims is None:  # else another thread has stored some
                self.__claims = claims
            _new_claims.pop(id(self), None)
            elected = self.__claims  # None if completed meanwhile
            claims = claims if elected is None else elected
        key: object = callback
        try:
            hash(callback)
        except Exception:
            key = _Unhashable(callback)
        return claims.setdefault(key, allocate_lock())

    def __link(self, link: LinkedCallback) -> None:
        self.__waiting.append(link)
        if self._exception is not _PENDING:
            self.__wake()
            self.__claims = None

    def unlink(self, callback: Callback[T]) -> None:
        """Remove a callback given to :meth:`rawlink`.

        Has no effect if it is not linked, or if the result is ready.
        """
        if self._exception is not _PENDING:
            return
        for entry in tuple(self.__waiting):
            if type(entry) is LinkedCallback and entry.func == callback:
                self.__unlink(entry)

    def __unlink(self, link: LinkedCallback) -> None:
        try:
            self.__waiting.remove(link)
        except ValueError:
            pass  # it was dispatched

    # -- asyncio and concurrent.futures ------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine, without blocking the event loop: ``await result``."""
        if self._exception is _PENDING:
            from ._asyncio import wait_in_loop

            yield from wait_in_loop(self, self.__link, self.__unlink)
        if self._exception is None:
            return self.value  # type: ignore[return-value]
        raise private_copy(self._exception)

    def as_future(self) -> concurrent.futures.Future[T]:
        """Return a future that completes with this result.

        Every call returns the same one. Cancelling it does not cancel the request. Its
        callbacks run in the handler's completion thread, like those of the result.
        """
        from ._futures import future_of

        return future_of(self, self.__link)


class _Unhashable:
    """A dictionary key for a callback that is not hashable."""

    def __init__(self, callback: object) -> None:
        self._callback = callback

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return type(other) is _Unhashable and bool(self._callback == other._callback)


def _make_exception(exception: Any) -> BaseException:
    """Return an instance of the exception class *exception*."""
    if isinstance(exception, type) and issubclass(exception, BaseException):
        try:
            return exception()
        except Exception as error:  # it needs arguments: that error is the result
            return error
    raise TypeError(f"not an exception, but of type {type(exception).__name__}")
