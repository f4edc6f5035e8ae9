"""The background thread that writes logs and warns of slow callbacks.

A connection thread logs nothing itself: a log handler may block, raise, or wait for
ZooKeeper. It passes its messages to a background thread, which also warns of callbacks
that run for too long. A worker that starts a callback wakes that thread; it then checks
the workers whenever a callback may be overdue, until they are idle.
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

#: Minimum time between two checks of the workers, in seconds.
SHORTEST_DELAY = 0.01

_log = logging.getLogger("kazoo_seqthreading.watchdog")


def report(log: Callable[..., None], message: str, *args: Any, **kwargs: Any) -> None:
    """Call ``log(message, *args, **kwargs)`` in the background.

    Callable arguments are called there, and their results are logged.
    """
    _thread.submit(partial(_write, log, message, args, kwargs))


def _write(
    log: Callable[..., None], message: str, args: Iterable[Any], kwargs: dict[str, Any]
) -> None:
    log(message, *(arg() if callable(arg) else arg for arg in args), **kwargs)


def monitor_thread() -> Optional[threading.Thread]:
    """Return the background thread, if it is running."""
    return _thread.thread


class Watch:
    """A check that the background thread repeats while the watch is armed.

    No lock is taken: any thread may arm the watch, and the background thread disarms it
    before the last check.
    """

    def __init__(self) -> None:
        self._armed = False

    def arm(self) -> None:
        """Make the background thread check, until there is nothing to watch."""
        if not self._armed:
            self._armed = True
            _thread.submit(self)

    def disarm(self) -> None:
        """Disarm the watch in a forked child, which has no background thread yet."""
        self._armed = False

    def check(self, first: bool = False) -> Optional[float]:
        """Check; return the seconds until the next check, ``None`` for never.

        :param first: whether the watch has just been armed
        """
        delay = self._look(first)
        if delay is None:
            self._armed = False
            delay = self._look(first)  # something may have come just before
            if delay is not None:
                self._armed = True
        return delay

    def _look(self, first: bool) -> Optional[float]:
        raise NotImplementedError


class Watchdog(Watch):
    """Warns of callbacks that have been running for too long.

    :param workers: returns the workers to watch
    :param limit: how long a callback may run, in seconds; ``None`` for no limit
    """

    def __init__(
        self, workers: Callable[[], Iterable[Worker]], limit: Optional[float]
    ) -> None:
        super().__init__()
        self._workers = workers
        self._limit = limit

    def arm(self) -> None:
        """Watch the workers until they are idle; called by a worker."""
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
                remaining = self._limit  # a callback is about to start
            else:
                callback, since = running
                remaining = since + self._limit - monotonic()
                if remaining <= 0:
                    if worker.last_warned != since:
                        worker.last_warned = since
                        isolate(partial(self._warn, worker, callback, since))
                    remaining = self._limit  # for the next callback
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


_armed: set[Watch] = set()  # only used by the background thread


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
        # A watch that raises, with an unexpected version of kazoo, is dropped.
        delay = isolate(partial(watch.check, first=watch in armed))
        if delay is None:
            _armed.discard(watch)
        else:
            delays.append(delay)
    return min(delays, default=None)


def isolate(function: Callable[[], Any]) -> Any:
    """Call *function*; its exceptions do not end the background thread."""
    try:
        return function()
    except BaseException:  # a log handler that fails
        return None


_thread = BackgroundThread("kazoo-seqthreading-monitor", _handle)
_fork.run_in_child(_armed.clear)
