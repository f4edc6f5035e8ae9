"""What connection threads are at, as the background thread sees it.

It looks at them while requests wait, or a state listener may be at work. So a request
that is slow is named while it waits; and what holds up a connection thread is known
when that thread can ask for it.
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
from ._history import Sighting
from ._monitor import Watch, isolate

if TYPE_CHECKING:
    from ._connection_threads import ConnectionThread

#: How often a thread is looked at while requests wait, at the least, and while a state
#: listener may be at work, in seconds.
LOOK_EVERY, LOOK_AT_LISTENERS_EVERY = 0.5, 0.25

_log = logging.getLogger("kazoo_seqthreading.requests")


class Waiting(NamedTuple):
    """The request that has waited for the longest time.

    :param request: kazoo's
    :param result: what waits for its reply
    :param since: since when it waits, as far as it is known
    :param behind: how many wait behind it
    :param sent: whether it was sent
    """

    request: object
    result: object
    since: float
    behind: int
    sent: bool


class ConnectionWatch(Watch):
    """Looks after connection threads.

    :param threads: those that run now, by ident
    :param limit: for how long a request may be unanswered, in seconds; ``None`` for no
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
        self._due = 0.0  # when to look again
        self._period = LOOK_EVERY if limit is None else min(limit / 4, LOOK_EVERY)

    def arm_for_request(self) -> None:
        """Look after the threads while requests wait; a connection thread calls it."""
        if self._limit is not None:
            self.arm()

    def _look(self, first: bool) -> Optional[float]:
        now = monotonic()
        if first:
            self._due = now + min(self._period, LOOK_AT_LISTENERS_EVERY)
        if now < self._due:  # something else has woken the background thread
            return self._due - now
        delays = []
        for thread in list(self._threads.values()):
            waiting = None if self._limit is None else oldest_request(thread)
            in_transition = thread.history.in_transition
            delay = LOOK_AT_LISTENERS_EVERY if in_transition else self._period
            if _sight(thread, delay) or in_transition or waiting:
                delays.append(delay)
            self._judge(thread, waiting)
        if not delays:
            return None
        self._due = now + min(delays)
        return min(delays)

    def _judge(self, thread: ConnectionThread, waiting: Optional[Waiting]) -> None:
        if waiting is None or self._limit is None:
            return
        age = monotonic() - waiting.since
        if age >= self._limit and thread.last_slow() is not waiting.result:
            thread.last_slow = _reference(waiting.result)
            isolate(partial(_warn, thread, waiting, age))


def _sight(thread: ConnectionThread, period: float) -> bool:
    """Tell whether the thread is in foreign code; if so, remember which."""
    now = monotonic()
    frame = sys._current_frames().get(thread.history.ident)
    found = _kazoo.foreign_code(frame)
    del frame
    if found is None:
        thread.call_seen = None
        return False
    key, name, is_listener = found
    seen = thread.history.sighting
    since = now
    if seen is not None and thread.call_seen == key:
        since = seen.since
    thread.call_seen = key
    thread.history.sighting = Sighting(name, is_listener, since, now, period)
    return True


def oldest_request(thread: ConnectionThread) -> Optional[Waiting]:
    """Return the request that the thread's client has waited for the longest time."""
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
    if not since:  # it is not known: take what was seen
        if thread.head_seen[0]() is not result:
            thread.head_seen = (_reference(result), monotonic())
        since = thread.head_seen[1]
    behind = len(client._pending) + len(client._queue) - 1
    return Waiting(request, result, since, max(behind, 0), sent)


def _reference(result: object) -> Callable[[], object]:
    """Return what returns *result*, as long as somebody else has it."""
    try:
        return weakref.ref(result)
    except TypeError:  # None, that of a Close
        return lambda: result


def _warn(thread: ConnectionThread, waiting: Waiting, age: float) -> None:
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
