"""Awaiting a result in an asyncio event loop.

The thread that completes a result does not wake the loop itself: that runs code of the
loop, which may block or raise. Each loop has a background thread for it, which calls
``call_soon_threadsafe`` once for all futures that are waiting.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from functools import partial

from . import _fork
from ._background import BackgroundThread
from ._callbacks import LinkedCallback

Link = Callable[[LinkedCallback], None]
Futures = list["asyncio.Future[None]"]

#: Each entry is only read and written by the loop's own thread.
_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, BackgroundThread]
_wakers = weakref.WeakKeyDictionary()


def wait_in_loop(
    result: object, link: Link, unlink: Link
) -> Generator[object, None, None]:
    """Suspend the running task until *result* is ready.

    :param link: links a callback to the result, *unlink* removes it
    :raises RuntimeError: if no event loop runs in this thread
    """
    loop = asyncio.get_running_loop()
    waker = _wakers.get(loop)
    if waker is None:
        waker = _wakers[loop] = BackgroundThread(
            "kazoo-seqthreading-loop", partial(_wake, weakref.ref(loop))
        )
    future: asyncio.Future[None] = loop.create_future()
    entry = LinkedCallback(partial(_submit, waker, future), None, result)
    link(entry)
    try:
        yield from future
    finally:
        unlink(entry)  # the task may have been cancelled


def _submit(
    waker: BackgroundThread, future: asyncio.Future[None], result: object
) -> None:
    waker.submit(future)


def _wake(reference: weakref.ref[asyncio.AbstractEventLoop], futures: Futures) -> None:
    loop = reference()
    if loop is not None:
        try:
            loop.call_soon_threadsafe(_complete, futures)
        except BaseException:
            pass  # the loop is closed, and runs no task


def _complete(futures: Futures) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


@_fork.run_in_child
def _after_fork() -> None:
    _wakers.clear()
