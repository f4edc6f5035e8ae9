"""What a handler has done so far: counters, and snapshots of them.

Each set of counters has one writer at a time, so that counting takes no lock: a
:class:`Tally` belongs to the worker that runs, a :class:`Traffic` to a connection
thread.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    :param connections_made: connections to servers that connection threads made
    :param connections_failed: their attempts that failed
    :param requests: requests sent, heartbeats among them
    :param replies: replies received; watch events do not count
    :param bytes_sent: as they go over the network, with what TLS adds
    :param bytes_received: likewise
    :param wake_ups: how often a request had to wake a connection thread
    :param spawned_threads: threads of ``spawn`` that run now; connection threads do
        not count

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
    """What a connection thread did, over all its connections."""

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = 0
        self.receives = self.sends = 0
        self.requests = self.replies = 0
        self.wake_ups = 0
        self.connections_made = self.connections_failed = 0

    @classmethod
    def total(cls, traffics: Iterable[Traffic]) -> Traffic:
        """Return the sum of the counters."""
        total = cls()
        for traffic in traffics:
            for name, count in vars(traffic).items():
                setattr(total, name, getattr(total, name) + count)
        return total
