"""What a handler has done so far: counters, and snapshots of them.

Each set of counters has one writer at a time, so that counting takes no lock: a
:class:`Tally` belongs to the worker that runs, a :class:`Traffic` to a connection
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ._disconnects import CAUSES, Disconnect
from ._round_trips import RoundTripCounters, RoundTrips


@dataclass(frozen=True)
class QueueStats:
    """One of the handler's two queues.

    :param depth: callbacks that wait for their turn
    :param runs: callbacks that have run
    :param failures: of these, those that raised
    :param current_callback: the name of the callback that runs now, or ``None``
    :param current_run_seconds: how long it has run
    :param run_seconds_total: the time that all callbacks took, together
    :param longest_run_seconds: the longest of these times
    :param wait_seconds_total: the time that all callbacks waited for their turn
    :param longest_wait_seconds: the longest of these times
    """

    depth: int
    runs: int
    failures: int
    current_callback: Optional[str]
    current_run_seconds: float
    run_seconds_total: float
    longest_run_seconds: float
    wait_seconds_total: float
    longest_wait_seconds: float


@dataclass(frozen=True)
class ConnectionStats:
    """A client's connection to a server.

    :param server: its address
    :param session_id: the session's id, 0 while there is none
    :param session_timeout_seconds: its time-out, as negotiated
    :param connected_seconds: how long the connection stands
    :param unheard_seconds: since when nothing has come from the server
    :param requests_unanswered: how many requests were sent, and not answered
    :param oldest_unanswered_seconds: since when the oldest of them waits
    :param round_trips: how long requests took
    """

    server: str
    session_id: int
    session_timeout_seconds: float
    connected_seconds: float
    unheard_seconds: float
    requests_unanswered: int
    oldest_unanswered_seconds: float
    round_trips: RoundTrips


@dataclass(frozen=True)
class Stats:
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
    :param disconnects: the last connections that were lost, and sessions that expired,
        the latest one last
    :param disconnects_by_cause: how many there were, for each of their causes
    :param round_trips: how long requests took, over all connections; sampled
    :param connections: those that stand now

    The counters only ever grow, over restarts, too.

    >>> stats = client.handler.stats()  # doctest: +SKIP
    >>> stats.replies, stats.completions.longest_run_seconds  # doctest: +SKIP
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
    disconnects: tuple[Disconnect, ...]
    disconnects_by_cause: dict[str, int]
    round_trips: RoundTrips
    connections: tuple[ConnectionStats, ...]


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
        self.disconnects = dict.fromkeys(CAUSES, 0)
        self.round_trips = RoundTripCounters()
