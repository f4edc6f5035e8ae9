"""Warns of callbacks that run too long, while they run.

It has no thread. A connection thread asks it before it sleeps or connects, and sleeps
no longer than it is told: it is the connection thread that gives the workers their
work, so it knows when to look again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Optional

from ._describe import describe, stack_of
from ._worker import Item, Worker

_log = logging.getLogger("kazoo_seqthreading.watchdog")


class Watchdog:
    """Looks after the callbacks that run.

    :param workers: the workers to look at, a list that their owner keeps
    :param limit: how long a callback may run, in seconds; ``None`` for ever
    """

    def __init__(self, workers: Sequence[Worker], limit: Optional[float]) -> None:
        self._workers = workers
        self._limit = limit

    def check(self) -> Optional[float]:
        """Warn of what is overdue; return in how many seconds to look again."""
        limit = self._limit
        if limit is None:
            return None
        patience: Optional[float] = None
        for worker in tuple(self._workers):
            running = worker.running
            if running is None:
                if worker.empty():
                    continue
                left = limit  # it is about to begin
            else:
                if running[1] == worker.warned_of:
                    continue
                left = running[1] + limit - monotonic()
                if left <= 0:
                    if worker.may_warn_of(running[1]):
                        self._warn(worker, running)
                    continue
            if patience is None or left < patience:
                patience = left
        return patience

    def _warn(self, worker: Worker, running: tuple[Item, float]) -> None:
        callback, since = running
        _log.warning(
            "%s runs for %.1f s already in %s, and %d more wait behind it. It stands "
            "at:\n%s",
            describe(callback),
            monotonic() - since,
            worker.name,
            worker.qsize(),
            stack_of(worker.ident),
        )
