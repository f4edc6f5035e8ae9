"""Watches connection threads, in the background thread.

It inspects them while requests are outstanding, or a state listener may be running. So
a slow request is logged while it is still waiting, and the code that holds up a
connection thread is on record when that thread asks for it.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Optional

from . import _kazoo
from ._history import StackSample
from ._monitor import Watch, isolate

if TYPE_CHECKING:
    from ._zk_loop import ConnectionThread

#: Maximum interval between two checks of a thread while requests are outstanding, and
#: the interval while a state listener may be running, in seconds.
CHECK_INTERVAL, LISTENER_CHECK_INTERVAL = 0.5, 0.25

_log = logging.getLogger("kazoo_seqthreading.requests")


class WaitingRequest(NamedTuple):
    """A client's oldest outstanding request.

    :param request: kazoo's request
    :param result: its result
    :param since: when it was made or sent, as far as that is known
    :param behind: number of requests queued behind it
    :param sent: whether it was sent
    """

    request: object
    result: object
    since: float
    behind: int
    sent: bool


class ConnectionWatch(Watch):
    """Watches connection threads.

    :param threads: the threads that are running, by ident
    :param limit: how long a request may be unanswered, in seconds; ``None`` for no
        limit
    """

    def __init__(
        self,
        threads: Mapping[int, ConnectionThread],
        limit: Optional[float],
    ) -> None:
        super().__init__()
        self._threads = threads
        self._limit = limit
        self._due = 0.0  # the time of the next check
        self._period = (
            CHECK_INTERVAL if limit is None else min(limit / 4, CHECK_INTERVAL)
        )

    def arm_for_request(self) -> None:
        """Watch the threads while requests are outstanding; called by one of them."""
        if self._limit is not None:
            self.arm()

    def _look(self, first: bool) -> Optional[float]:
        now = monotonic()
        if first:
            self._due = now + min(self._period, LISTENER_CHECK_INTERVAL)
        if now < self._due:  # the background thread was woken for something else
            return self._due - now
        delays = []
        for thread in list(self._threads.values()):
            waiting = None if self._limit is None else oldest_request(thread)
            in_transition = thread.history.in_transition
            delay = LISTENER_CHECK_INTERVAL if in_transition else self._period
            if _sample_stack(thread, delay) or in_transition or waiting:
                delays.append(delay)
            self._warn_if_slow(thread, waiting)
        if not delays:
            return None
        self._due = now + min(delays)
        return min(delays)

    def _warn_if_slow(
        self, thread: ConnectionThread, waiting: Optional[WaitingRequest]
    ) -> None:
        if waiting is None or self._limit is None:
            return
        age = monotonic() - waiting.since
        if age >= self._limit and thread.last_slow() is not waiting.result:
            thread.last_slow = _reference(waiting.result)
            isolate(partial(_warn, thread, waiting, age))


def _sample_stack(thread: ConnectionThread, period: float) -> bool:
    """Record the foreign code that the thread is in; return whether there is any."""
    now = monotonic()
    frame = sys._current_frames().get(thread.history.ident)
    found = _kazoo.foreign_code(frame)
    del frame
    if found is None:
        thread.call_seen = None
        return False
    key, name, is_listener = found
    seen = thread.history.stack_sample
    since = now
    if seen is not None and thread.call_seen == key:
        since = seen.since
    thread.call_seen = key
    thread.history.stack_sample = StackSample(name, is_listener, since, now, period)
    return True


def oldest_request(thread: ConnectionThread) -> Optional[WaitingRequest]:
    """Return the oldest outstanding request of the thread's client."""
    connection = thread.connection
    if not _kazoo.has_queues(connection):
        return None
    client = connection.client
    since, sent = 0.0, True
    try:
        request, result, xid = client._pending[0]
        since = thread.sent_since(xid)
    except IndexError:
        sent = False
        try:
            request, result = client._queue[0]
        except IndexError:
            return None
    if not since:  # unknown: use the time when it was first seen
        if thread.head_seen[0]() is not result:
            thread.head_seen = (_reference(result), monotonic())
        since = thread.head_seen[1]
    behind = len(client._pending) + len(client._queue) - 1
    return WaitingRequest(request, result, since, max(behind, 0), sent)


def _reference(result: object) -> Callable[[], object]:
    """Return a weak reference to *result*."""
    try:
        return weakref.ref(result)
    except TypeError:  # None, the result of a Close
        return lambda: result


def _warn(thread: ConnectionThread, waiting: WaitingRequest, age: float) -> None:
    server = thread.server()
    if server is None:
        where = "not sent, there is no connection"
    elif waiting.sent:
        where = f"sent to {server}"
    else:
        where = f"not sent to {server} yet"
    _log.warning(
        "Slow request: %s has been waiting for %.1f s, %s, %d queued behind it",
        _kazoo.operation_of(waiting.request),
        age,
        where,
        waiting.behind,
        extra={
            "operation": type(waiting.request).__name__,
            "path": getattr(waiting.request, "path", None),
            "server": server,
            "sent": waiting.sent,
            "age_seconds": age,
            "queued_behind": waiting.behind,
        },
    )
