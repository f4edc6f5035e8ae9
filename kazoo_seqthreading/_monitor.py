"""What there is to say about connection threads and slow callbacks.

A connection thread writes no log: a log handler may block, raise, or wait for
ZooKeeper. It hands its messages to a background thread, which also warns of callbacks
that run for too long. A worker that gets to work wakes that thread; it then looks again
whenever a callback may be overdue, until the workers are idle.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._background import BackgroundThread
from ._callbacks import describe, stack_of

if TYPE_CHECKING:
    from ._worker import Worker

#: The least time between two looks at the workers, in seconds.
SHORTEST_DELAY = 0.01

_log = logging.getLogger("kazoo_seqthreading.watchdog")


def report(log: Callable[..., None], message: str, *args: Any, **kwargs: Any) -> None:
    """Call ``log(message, *args, **kwargs)`` in the background.

    Arguments that are callable are called there, and their results are logged.
    """
    _thread.submit(partial(_write, log, message, args, kwargs))


def _write(
    log: Callable[..., None], message: str, args: Iterable[Any], kwargs: dict[str, Any]
) -> None:
    log(message, *(arg() if callable(arg) else arg for arg in args), **kwargs)


def monitor_thread() -> Optional[threading.Thread]:
    """Return the thread, if it runs."""
    return _thread.thread


class Watch:
    """Something that the background thread looks at again and again, while it is armed.

    It takes no lock: a thread arms it, and the background thread disarms it before it
    looks for the last time.
    """

    def __init__(self) -> None:
        self._armed = False

    def arm(self) -> None:
        """Have the background thread look, until there is nothing to look after."""
        if not self._armed:
            self._armed = True
            _thread.submit(self)

    def disarm(self) -> None:
        """Forget the parent's background thread, in a forked child."""
        self._armed = False

    def check(self, first: bool = False) -> Optional[float]:
        """Look; return in how many seconds to do so again, ``None`` for never.

        :param first: whether it was armed just now
        """
        delay = self._look(first)
        if delay is None:
            self._armed = False
            delay = self._look(first)  # something may have come just before that
            if delay is not None:
                self._armed = True
        return delay

    def _look(self, first: bool) -> Optional[float]:
        raise NotImplementedError


class Watchdog(Watch):
    """Warns of callbacks that have run for too long, while they run.

    :param workers: returns the workers to look at
    :param limit: how long a callback may run, in seconds; ``None`` for no limit
    """

    def __init__(
        self, workers: Callable[[], Iterable[Worker]], limit: Optional[float]
    ) -> None:
        super().__init__()
        self._workers = workers
        self._limit = limit

    def arm(self) -> None:
        """Look after the workers until they are idle; a worker calls it."""
        if self._limit is not None:
            super().arm()

    def _look(self, first: bool) -> Optional[float]:
        if self._limit is None:
            return None
        delay: Optional[float] = None
        for worker in self._workers():
            running = worker.running
            if running is None:
                if worker.ended or worker.empty():
                    continue
                remaining = self._limit  # it is about to begin
            else:
                callback, since = running
                remaining = since + self._limit - monotonic()
                if remaining <= 0:
                    if worker.last_warned != since:
                        worker.last_warned = since
                        isolate(partial(self._warn, worker, callback, since))
                    remaining = self._limit  # for the callback after this one
            if delay is None or remaining < delay:
                delay = remaining
        return delay if delay is None else max(delay, SHORTEST_DELAY)

    def _warn(self, worker: Worker, callback: object, since: float) -> None:
        _log.warning(
            "Slow callback: %s has been running for %.1f s in %s, %d queued behind "
            "it. Stack:\n%s",
            describe(callback),
            monotonic() - since,
            worker.name,
            worker.qsize(),
            stack_of(worker.ident),
        )


_armed: set[Watch] = set()  # used by the background thread alone


def _handle(entries: list[Any]) -> Optional[float]:
    armed = set[Watch]()
    for entry in entries:
        if isinstance(entry, Watch):
            armed.add(entry)
        else:
            isolate(entry)
    _armed.update(armed)
    delays = []
    for watch in tuple(_armed):
        # A watch that fails, on a kazoo that is not as expected, is not armed again.
        delay = isolate(partial(watch.check, first=watch in armed))
        if delay is None:
            _armed.discard(watch)
        else:
            delays.append(delay)
    return min(delays, default=None)


def isolate(function: Callable[[], Any]) -> Any:
    """Call *function*; nothing that it raises ends the background thread."""
    try:
        return function()
    except BaseException:  # a log handler that fails
        return None


_thread = BackgroundThread("kazoo-seqthreading-monitor", _handle)
_fork.in_child(_armed.clear)
