"""A :class:`concurrent.futures.Future` for a result, one and the same for each."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from . import _fork
from ._exceptions import private_copy
from ._result import AsyncResult, stop_collecting
from ._worker import run_isolated

T = TypeVar("T")


class _Future(Future[T]):
    """A future no callback of which harms another one, whatever it raises."""

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        super().add_done_callback(lambda future: run_isolated(partial(fn, future)))


# Guarded by _lock. A future lives as long as its result.
_futures: weakref.WeakKeyDictionary[AsyncResult[Any], Future[Any]]
_futures = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def future_of(result: AsyncResult[T]) -> Future[T]:
    """Return the future that completes as *result* does."""
    with _lock:
        future = _futures.get(result)
        if future is not None:
            return future
        future = _futures[result] = _Future()
    result.link(partial(_complete, future), None)
    return future


def _complete(future: Future[T], result: AsyncResult[T]) -> None:
    stop_collecting()  # the future's own callbacks may take their time
    if not future.set_running_or_notify_cancel():
        return  # the future was cancelled; the request was not
    exception = result.exception
    if exception is None:
        future.set_result(result.get(block=False))
    else:
        future.set_exception(private_copy(exception))


@_fork.in_child
def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
