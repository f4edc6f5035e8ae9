"""Awaiting a result in an asyncio event loop.

A result that completes hands the future that waits for it to its loop. Few of them
call ``call_soon_threadsafe``:

1. A connection thread collects the futures of values, as it does the waiting threads,
   and hands them over before it sleeps.
2. Futures that are handed over until the loop has made the call, by whatever thread,
   join those that have scheduled it.

The loop alone keeps the futures that it is to complete: one that is closed before it
does leaves nothing behind. ``_lock`` guards them and the table of the loops.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Optional

from . import _fork, _result

if TYPE_CHECKING:
    from ._result import AsyncResult


class _Futures:
    """Futures of one loop, to be completed together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.futures: list[asyncio.Future[None]] = []

    def release(self) -> None:
        """Have the loop complete them soon; callable in any thread."""
        with _lock:
            reference = _scheduled.get(self.loop)
            scheduled = None if reference is None else reference()
            if scheduled is not None:
                scheduled.futures += self.futures
                return
            _scheduled[self.loop] = weakref.ref(self)
        try:
            self.loop.call_soon_threadsafe(self._complete)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _complete(self) -> None:
        with _lock:
            _scheduled.pop(self.loop, None)
        for future in self.futures:
            if not future.done():
                future.set_result(None)


_scheduled: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, weakref.ref[_Futures]
] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def wait_in_loop(result: AsyncResult[Any]) -> Generator[Any, None, None]:
    """Suspend the running task until *result* is ready.

    :raises RuntimeError: if no event loop runs in this thread
    """
    future = asyncio.get_running_loop().create_future()
    link = partial(_wake, future)
    result.link(link, None)
    try:
        yield from future
    finally:
        result.unlink(link)  # the task may have been cancelled


def _wake(future: asyncio.Future[None], result: AsyncResult[Any]) -> None:
    loop = future.get_loop()
    collected: Optional[list[Any]] = None
    if result.successful():
        collected = _result._batch.waiters
    if collected:
        last = collected[-1]
        if type(last) is _Futures and last.loop is loop:
            last.futures.append(future)
            return
    futures = _Futures(loop)
    futures.futures.append(future)
    if collected is None:
        futures.release()
    else:
        collected.append(futures)


@_fork.in_child
def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    _scheduled.clear()
