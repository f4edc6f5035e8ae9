"""What there is to say about connection threads and slow callbacks.

A connection thread writes no log: a log handler may block, raise, or wait for
ZooKeeper. It hands its messages to a background thread, which also warns of callbacks
that run for too long. A worker that gets to work wakes that thread; it then looks again
whenever a callback may be overdue, until the workers are idle.
"""

from __future__ import annotations

import logging
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


class Watchdog:
    """Warns of callbacks that have run for too long, while they run.

    :param workers: returns the workers to look at
    :param limit: how long a callback may run, in seconds; ``None`` for no limit
    """

    def __init__(
        self, workers: Callable[[], Iterable[Worker]], limit: Optional[float]
    ) -> None:
        self._workers = workers
        self._limit = limit
        self._armed = False

    def arm(self) -> None:
        """Look after the workers until they are idle; a worker calls it."""
        if not self._armed and self._limit is not None:
            self._armed = True
            _thread.submit(self)

    def disarm(self) -> None:
        """Forget the parent's background thread, in a forked child."""
        self._armed = False

    def check(self) -> Optional[float]:
        """Warn of what is overdue; return in how many seconds to look again."""
        delay = self._check()
        if delay is None:
            self._armed = False
            delay = self._check()  # a worker may have got to work just before that
            if delay is not None:
                self._armed = True
        return delay

    def _check(self) -> Optional[float]:
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
                        _isolate(partial(self._warn, worker, callback, since))
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


_armed: set[Watchdog] = set()  # used by the background thread alone


def _handle(entries: list[Any]) -> Optional[float]:
    for entry in entries:
        if type(entry) is Watchdog:
            _armed.add(entry)
        else:
            _isolate(entry)
    delays = []
    for watchdog in tuple(_armed):
        delay = watchdog.check()
        if delay is None:
            _armed.discard(watchdog)
        else:
            delays.append(delay)
    return min(delays, default=None)


def _isolate(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except BaseException:  # a log handler that fails
        return None


_thread = BackgroundThread("kazoo-seqthreading-monitor", _handle)
_fork.in_child(_armed.clear)
