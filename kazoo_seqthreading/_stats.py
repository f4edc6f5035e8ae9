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
    """One of the handler's two queues. Times are in seconds."""

    depth: int  #: callbacks that wait
    run: int  #: callbacks that have run
    failed: int  #: of these, those that raised
    running: Optional[str]  #: the name of the callback that runs now
    running_for: float  #: how long it has run
    run_time: float  #: the time all callbacks took
    longest_run: float  #: the longest of these times
    waiting_time: float  #: the time all callbacks waited for their turn
    longest_wait: float  #: the longest of these times


class Stats(NamedTuple):
    """A snapshot of a handler. All but ``running`` and the depths only ever grow."""

    running: bool  #: whether the handler is started
    completions: QueueStats  #: callbacks linked to results
    watches: QueueStats  #: watch events
    connections_made: int
    connections_failed: int
    requests: int  #: requests sent, heartbeats among them
    replies: int  #: replies received; watch events do not count
    bytes_sent: int  #: as they go over the network, with what TLS adds
    bytes_received: int
    wake_ups: int  #: how often a request had to wake a connection thread
    system_calls_saved: int  #: sends and receives that one by one would have taken
    spawned_threads: int  #: threads of ``spawn`` that live now


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
