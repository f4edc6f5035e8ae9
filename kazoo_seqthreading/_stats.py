"""The counters of a handler, and snapshots of them.

Each set of counters has one writer at a time, so that counting takes no lock:
:class:`QueueCounters` are written by the current worker, :class:`TrafficCounters` by a
connection thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ._disconnects import CAUSES, Disconnect
from ._round_trips import RoundTripCounters, RoundTrips


@dataclass(frozen=True)
class QueueStats:
    """Statistics of one of the handler's two queues.

    :param depth: number of waiting callbacks
    :param runs: number of callbacks that have run
    :param failures: number of callbacks that have raised
    :param current_callback: the name of the callback that is running, or ``None``
    :param current_run_seconds: how long it has been running
    :param run_seconds_total: total run time of all callbacks
    :param longest_run_seconds: the longest run time
    :param wait_seconds_total: total time that callbacks have waited in the queue
    :param longest_wait_seconds: the longest waiting time
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

    :param server: the server's address
    :param session_id: the session's id, 0 while there is none
    :param session_timeout_seconds: the negotiated session timeout
    :param connected_seconds: age of the connection
    :param unheard_seconds: time since data was last received from the server
    :param requests_unanswered: number of requests sent and not answered
    :param oldest_unanswered_seconds: how long the oldest of them has been waiting
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
    """A snapshot of a handler's statistics, over all its clients.

    :param running: whether the handler is started
    :param completions: the queue of the callbacks of results
    :param watches: the queue of watch events
    :param connections_made: number of connections to servers that were established
    :param connections_failed: number of failed attempts to connect
    :param requests: number of requests sent, including heartbeats
    :param replies: number of replies received, without watch events
    :param bytes_sent: bytes sent over the network, including the overhead of TLS
    :param bytes_received: likewise
    :param wake_ups: how often a request had to wake a connection thread
    :param spawned_threads: number of running threads of ``spawn``, without connection
        threads
    :param disconnects: the last lost connections and expired sessions, the latest last
    :param disconnects_by_cause: the number of disconnects for each cause
    :param round_trips: how long requests took, over all connections; sampled
    :param connections: the current connections

    Counters are never reset, not even by a restart.

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


class QueueCounters:
    """The counters of one queue, written by its current worker."""

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


class TrafficCounters:
    """The counters of one connection thread, over all its connections."""

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = 0
        self.requests = self.replies = 0
        self.wake_ups = 0
        self.connections_made = self.connections_failed = 0
        self.disconnects = dict.fromkeys(CAUSES, 0)
        self.round_trips = RoundTripCounters()
