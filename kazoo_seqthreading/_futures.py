"""The :class:`concurrent.futures.Future` of a result.

A future's lock is shared with its waiters, so a connection thread does not complete it
itself; a background thread does. The future's callbacks are user code and go to the
handler's completion queue.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from ._background import BackgroundThread
from ._callbacks import LinkedCallback
from ._exception_copy import private_copy
from ._worker import queue_callback
from ._zk_loop import current_connection

if TYPE_CHECKING:
    from ._result import AsyncResult

T = TypeVar("T")
_NAME = "_kazoo_seqthreading_future"


class _Future(Future[T]):
    """A future that queues its callbacks instead of calling them."""

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self._kazoo_handler = handler

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        super().add_done_callback(
            lambda future: queue_callback(self._kazoo_handler, partial(fn, future))
        )


def future_of(
    result: AsyncResult[T], link: Callable[[LinkedCallback], None]
) -> Future[T]:
    """Return the future that completes with *result*.

    :param link: links a callback to the result
    """
    attributes = vars(result)
    future: Optional[Future[T]] = attributes.get(_NAME)
    if future is None:
        new = _Future[T](result._handler)
        # Link first: if a signal handler raises, no incomplete future remains.
        link(LinkedCallback(partial(_deliver, new), None, result))
        future = attributes.setdefault(_NAME, new)
    return future


def _deliver(future: Future[T], result: AsyncResult[T]) -> None:
    if current_connection() is None:
        _complete(future, result)
    else:
        _thread.submit(partial(_complete, future, result))


def _complete(future: Future[T], result: AsyncResult[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # the future was cancelled; the request was not
    exception = result._exception
    if exception is None:
        future.set_result(result.value)  # type: ignore[arg-type]
    else:
        future.set_exception(private_copy(exception))


def _handle(completions: list[Callable[[], None]]) -> None:
    for complete in completions:
        try:
            complete()
        except Exception:
            pass  # the future was completed by other code


_thread = BackgroundThread("kazoo-seqthreading-futures", _handle)
