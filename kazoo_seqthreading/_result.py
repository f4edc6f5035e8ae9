"""The result of an asynchronous call.

Rules
-----
1. The first ``set`` or ``set_exception`` wins; a later one changes nothing and raises
   nothing.
2. A linked callback runs exactly once; equal ones, linked before the result is
   complete, are one: they share a claim, which the first to run takes.
3. No lock is held, by anybody, ever: a signal handler or a finalizer that interrupts a
   method may call any other, and wait for it. Every step is one atomic operation of a
   ``dict`` or a ``list``, and may be done again by the next who comes by:

   - ``_outcomes.setdefault`` elects the outcome, and publishes it in the same step, so
     that whoever loses can complete the result in place of the winner.
   - ``value`` is stored before ``_exception``, which alone tells that a result is
     complete. Only then are those who wait woken.
   - Who waits appends itself to ``__waiting`` before it looks whether the result is
     complete; who completes it looks at ``__waiting`` after that. One of them sees the
     other. Entries are removed after they were woken: waking twice does no harm.

4. Threads are woken before a user's callback is queued, also those whose results this
   thread has completed before.
5. A complete result holds nothing that waited for it.
6. Every ``get`` raises an exception of its own, a copy, so that tracebacks of several
   threads never meet and never grow.
7. No method calls another one that a subclass may override, but for ``get_nowait``,
   which calls ``get`` as kazoo's does.

An entry of ``__waiting`` is the lock of a thread that waits, such a thread that polls
the connection itself, or a linked callback.
Users' callbacks go to the handler's completion queue. Those without a context, kazoo's
own chains and what wakes futures and event loops, run where the result is completed.
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
from ._connection_threads import current_connection
from ._errors import TimeoutError
from ._exceptions import private_copy
from ._kazoo import in_flight, is_chain_link, results_behind
from ._monitor import report
from ._surroundings import warn_in_event_loop
from ._waiting import (
    check_timeout,
    interrupts,
    raise_interrupt,
    would_block_connection,
)
from ._worker import queue_callback

if TYPE_CHECKING:
    import concurrent.futures

    from kazoo.protocol.connection import ConnectionHandler

    from ._turn import Leader, Turn

T = TypeVar("T")
Callback = Callable[["AsyncResult[T]"], Any]

_log = logging.getLogger("kazoo_seqthreading.result")

#: A value may be large, and is not to fill a log.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


class _Pending:
    def __repr__(self) -> str:
        return "<pending>"


#: What ``_exception`` holds until the result is complete.
_PENDING: Any = _Pending()

#: Outcomes that are elected and perhaps not stored yet: result, value and exception, by
#: the result's id. The result is in it so that its id is not given to another one.
_Outcome = tuple[object, Any, Optional[BaseException]]
_outcomes: dict[int, _Outcome] = {}

#: Tables of claims that are made and perhaps not stored yet, likewise.
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

    ``value`` is what was given to :meth:`set`; ``None`` before, and after an exception.
    """

    __slots__ = ("__claims", "__waiting", "_exception", "_handler", "value")

    value: Optional[T]

    def __init__(self, handler: IHandler) -> None:
        self._handler: Any = handler
        self.value = None
        self._exception: Any = _PENDING
        self.__waiting: list[Union[LockType, Leader, LinkedCallback]] = []
        self.__claims: Optional[dict[object, LockType]] = None  # of users' callbacks

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

    def set(self, value: Optional[T] = None) -> None:
        """Store the value, wake up the waiters, dispatch the callbacks.

        On a result that is ready already, nothing happens.
        """
        if self._exception is _PENDING:
            self.__complete(value, None)

    def set_exception(
        self, exception: Union[BaseException, type[BaseException]]
    ) -> None:
        """Store the exception, wake up the waiters, dispatch the callbacks.

        :param exception: an exception, or a class of which one is made
        :raises TypeError: if it is neither

        On a result that is ready already, nothing happens.
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
            if elected is not None:  # a signal handler has raised in the middle of it
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
        while True:  # another thread may do the same
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
                    raise  # a signal handler's
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

        :param block: whether to wait for it
        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises TimeoutError: if there is nothing (in time)
        :raises TypeError, ValueError: if *timeout* makes no sense
        :raises BlockingCallError: if it would wait for ever, in a client's connection
            thread, for what only that thread can bring
        :raises kazoo.exceptions.ConnectionClosedError: if it would wait, in a forked
            child, for what only the parent could deliver
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

        :raises TimeoutError: if there is nothing yet
        """
        return self.get(block=False)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Block until the result is ready, and tell whether it is.

        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises BlockingCallError: as :meth:`get`
        :raises kazoo.exceptions.ConnectionClosedError: as :meth:`get`
        """
        if interrupts:
            raise_interrupt()
        return self._exception is not _PENDING or self.__wait(timeout)

    def __wait(self, timeout: Optional[float]) -> bool:
        limit = check_timeout(timeout)
        core = getattr(self._handler, "_kazoo_seqthreading", None)
        if core is not None:  # another handler has none
            core.check_fork()
        if limit != 0:
            connection = current_connection()
            if connection is None:
                warn_in_event_loop()
            else:
                if limit < 0 and self.__needs(connection):
                    raise would_block_connection()
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
        """Read replies in this thread; return what is left of *limit*."""
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
        """Tell whether a reply to *connection* completes this result, or a chain."""
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

        :param callback: runs in the handler's completion worker, in the
            :class:`contextvars.Context` of this call; on a stopped handler in the
            thread that completes the result (or in this one, if it is ready)
        :raises TypeError: if it is not callable

        A callback that equals one that is linked already is the same link.
        """
        check_callable(callback)
        if is_chain_link(callback):
            self.__link(LinkedCallback(callback, None, self))
            return
        claim = self.__claim_of(callback) if self._exception is _PENDING else None
        self.__link(LinkedCallback(callback, copy_context(), self, claim))

    def __claim_of(self, callback: Callback[T]) -> LockType:
        """Return the claim that all links equal to *callback* share."""
        claims = self.__claims
        if claims is None:
            _, claims = _new_claims.setdefault(id(self), (self, {}))
            if self.__claims is None:  # else another thread has done the same
                self.__claims = claims
            _new_claims.pop(id(self), None)
            elected = self.__claims  # which may be empty yet
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
        """Take back a callback given to :meth:`rawlink`.

        A callback that is not linked, or whose result is ready, is left alone.
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

    # -- other worlds ------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine, without blocking its event loop: ``await result``."""
        if self._exception is _PENDING:
            from ._asyncio import wait_in_loop

            yield from wait_in_loop(self, self.__link, self.__unlink)
        if self._exception is None:
            return self.value  # type: ignore[return-value]
        raise private_copy(self._exception)

    def as_future(self) -> concurrent.futures.Future[T]:
        """Return a future that completes as this result does.

        It is the same one at every call. Cancelling it leaves the request alone. Its
        own callbacks run in the handler's completion worker, as those of the result.
        """
        from ._futures import future_of

        return future_of(self, self.__link)


class _Unhashable:
    """A callback that cannot be a key, as one."""

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
        except Exception as error:  # it wants arguments: let that be seen
            return error
    raise TypeError(f"not an exception, but of type {type(exception).__name__}")
