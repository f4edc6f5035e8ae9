"""What a handler has done so far: counters, and snapshots of them.

Each set of counters has one writer at a time, so that counting takes no lock: a
:class:`Tally` belongs to the worker that runs, a :class:`Traffic` to a connection or
a wake-up channel. The lock of a :class:`Ledger` guards which of them are open, and
the totals of those that are not.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Optional


class QueueStats(NamedTuple):
    """One of the handler's two queues; times are in seconds.

    :param depth: callbacks that wait for their turn
    :param run: callbacks that have run
    :param failed: of these, those that raised
    :param running: the name of the callback that runs now, or ``None``
    :param running_for: how long it has run
    :param run_time: the time that all callbacks took, together
    :param longest_run: the longest of these times
    :param waiting_time: the time that all callbacks waited for their turn, together
    :param longest_wait: the longest of these times
    """

    depth: int
    run: int
    failed: int
    running: Optional[str]
    running_for: float
    run_time: float
    longest_run: float
    waiting_time: float
    longest_wait: float


class Stats(NamedTuple):
    """A snapshot of what a handler has done, for all its clients together.

    :param running: whether the handler is started
    :param completions: the queue of the callbacks of results
    :param watches: the queue of watch events
    :param connections_made: connections to servers that were made
    :param connections_failed: attempts at one that failed
    :param requests: requests sent, heartbeats among them
    :param replies: replies received; watch events do not count
    :param bytes_sent: as they go over the network, with what TLS adds
    :param bytes_received: likewise
    :param wake_ups: how often a request had to wake a connection thread
    :param system_calls_saved: sends and receives that one by one would have taken
    :param spawned_threads: threads of ``spawn`` that live now, idle ones among them;
        connection threads do not count

    The counters only ever grow, over restarts, too.

    >>> stats = client.handler.stats()  # doctest: +SKIP
    >>> stats.replies, stats.completions.longest_run  # doctest: +SKIP
    (5318, 0.0021)
    """

    running: bool
    completions: QueueStats
    watches: QueueStats
    connections_made: int
    connections_failed: int
    requests: int
    replies: int
    bytes_sent: int
    bytes_received: int
    wake_ups: int
    system_calls_saved: int
    spawned_threads: int


class Tally:
    """The counters of one queue, written by its worker."""

    def __init__(self) -> None:
        self.run = self.failed = 0
        self.run_time = self.longest_run = 0.0
        self.waiting_time = self.longest_wait = 0.0

    def count(self, waited: float, took: float) -> None:
        """Count a callback that has run."""
        self.run += 1
        self.run_time += took
        self.waiting_time += waited
        if took > self.longest_run:
            self.longest_run = took
        if waited > self.longest_wait:
            self.longest_wait = waited


class Traffic:
    """What went over one connection, written by its thread."""

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = 0
        self.receives = self.sends = 0
        self.requests = self.replies = 0
        self.wake_ups = 0

    def add(self, other: Traffic) -> None:
        """Add another one's counters."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


class Ledger:
    """The traffic of all connections that a handler has or had."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._closed = Traffic()
        self._open: dict[int, Traffic] = {}
        self.made = self.failed = 0  # connection attempts

    def connected(self, made: bool) -> None:
        """Count a connection that was made, or was not."""
        with self._lock:
            if made:
                self.made += 1
            else:
                self.failed += 1

    def open(self) -> Traffic:
        """Return new counters."""
        traffic = Traffic()
        with self._lock:
            self._open[id(traffic)] = traffic
        return traffic

    def close(self, traffic: Traffic) -> None:
        """Add counters that change no more to the total, once."""
        with self._lock:
            if self._open.pop(id(traffic), None) is not None:
                self._closed.add(traffic)

    def total(self) -> Traffic:
        """Return the sum of all counters."""
        total = Traffic()
        with self._lock:
            total.add(self._closed)
            for traffic in self._open.values():
                total.add(traffic)
        return total

    def after_fork(self) -> None:
        """Forget a lock that another thread may have held."""
        self._lock = threading.RLock()
