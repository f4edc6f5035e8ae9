"""Latencies of requests: the server's part, and this process's part.

One request is sampled at a time, the last one of a batch that is sent, and at most one
every ``SAMPLE_INTERVAL`` seconds. Other batches cost a comparison.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Minimum time between two samples, in seconds.
SAMPLE_INTERVAL = 0.02
#: Resolution of the times when requests were sent, in seconds.
MARK_INTERVAL = 0.05
#: The upper bounds of the histograms' buckets, in seconds.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_XIDS = 1 << 31  # xids wrap around


@dataclass(frozen=True)
class Histogram:
    """A histogram of durations.

    :param count: number of samples
    :param sum_seconds: their sum
    :param longest_seconds: the longest one
    :param buckets: each upper bound in seconds, with the number of samples up to it;
        the last bound is infinite
    """

    count: int
    sum_seconds: float
    longest_seconds: float
    buckets: tuple[tuple[float, int], ...]

    @property
    def mean_seconds(self) -> float:
        """The mean, 0 without samples."""
        return self.sum_seconds / self.count if self.count else 0.0


@dataclass(frozen=True)
class RoundTrips:
    """Latencies of requests, sampled.

    :param server: from the system call that sent a request to the one that received
        its reply: the network and the server
    :param client: from there until the results of all replies that were received with
        it were set: this process
    """

    server: Histogram
    client: Histogram


class _Durations:
    """The counters of a histogram, written by one thread."""

    def __init__(self) -> None:
        self.total = self.longest = 0.0
        self.counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        self.counts[bisect_left(BOUNDS, seconds)] += 1


class RoundTripCounters:
    """The samples of one thread."""

    def __init__(self) -> None:
        self.server = _Durations()
        self.client = _Durations()


def total_round_trips(counters: list[RoundTripCounters]) -> RoundTrips:
    """Return the sum of *counters*."""
    return RoundTrips(
        _total([each.server for each in counters]),
        _total([each.client for each in counters]),
    )


def _total(parts: list[_Durations]) -> Histogram:
    buckets, count = [], 0
    each = [tuple(part.counts) for part in parts]
    for number, bound in enumerate((*BOUNDS, float("inf"))):
        count += sum(counts[number] for counts in each)
        buckets.append((bound, count))
    return Histogram(
        count,
        sum(part.total for part in parts),
        max((part.longest for part in parts), default=0.0),
        tuple(buckets),
    )


class Sampler:
    """Samples the requests of a connection.

    Whoever has the turn calls it: the connection thread, or a caller. Two calls at the
    same time may cost a sample.

    :param counters: where the durations are counted
    :param on_request: called when requests were sent, once per ``MARK_INTERVAL``
    """

    def __init__(
        self, counters: list[RoundTripCounters], on_request: Callable[[], Any]
    ) -> None:
        self.due = 0.0  #: the time from which :meth:`sent` is to be called
        self.xid = 0  #: the xid of the sampled request, if there is one
        self.received_at = 0.0  #: when its reply came, until :meth:`processed`
        self._counters = counters
        self._on_request = on_request
        self._sent_at = 0.0
        #: Pairs of an xid and the time when it was the last one sent.
        self._marks: deque[tuple[int, float]] = deque()

    def sent(self, oldest: int, xid: int, now: float) -> None:
        """Record that requests are sent, *xid* being the last of them.

        :param oldest: the xid of the oldest unanswered request
        """
        self.due = now + SAMPLE_INTERVAL
        if xid > 0 and not (self.xid or self.received_at):
            self.xid, self._sent_at = xid, now
        marks = self._marks
        try:
            if now - marks[-1][1] < MARK_INTERVAL:
                return
            while _is_before(marks[0][0], oldest):
                marks.popleft()
        except IndexError:
            pass  # no marks
        marks.append((xid, now))
        self._on_request()

    def received(self, xid: int, now: float) -> None:
        """Record that replies up to *xid* were received."""
        if self.xid and not _is_before(xid, self.xid):
            self.xid, self.received_at = 0, now
            for counters in self._counters:
                counters.server.add(now - self._sent_at)

    def processed(self, now: float) -> None:
        """Record that the results of all received replies were set."""
        received_at, self.received_at = self.received_at, 0.0
        if received_at:
            for counters in self._counters:
                counters.client.add(now - received_at)

    def sent_since(self, xid: int) -> float:
        """Return when the unanswered request *xid* was sent, 0 if it was not."""
        at = 0.0
        for marked, marked_at in self._marks.copy():
            at = marked_at
            if not _is_before(marked, xid):
                break
        return at


def _is_before(xid: int, other: int) -> bool:
    return 0 < (other - xid) % _XIDS < _XIDS // 2
