"""How long requests take: what the server needs, and what this side adds.

One request is sampled at a time, the last one of a batch that leaves, and not more
often than every ``SAMPLE_EVERY`` seconds: the rest costs a comparison per batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The least time between two samples, in seconds.
SAMPLE_EVERY = 0.02
#: How exactly it is known when a request was sent, in seconds.
MARK_EVERY = 0.05
#: The upper bounds of the histograms' buckets, in seconds.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_XIDS = 1 << 31  # kazoo begins anew after so many


@dataclass(frozen=True)
class Histogram:
    """Durations in seconds, counted in buckets.

    :param count: how many
    :param sum_seconds: all together
    :param longest_seconds: the longest one
    :param buckets: for each upper bound in seconds, how many were no longer; the last
        bound is infinite
    """

    count: int
    sum_seconds: float
    longest_seconds: float
    buckets: tuple[tuple[float, int], ...]

    @property
    def mean_seconds(self) -> float:
        """The mean, 0 if there is none."""
        return self.sum_seconds / self.count if self.count else 0.0


@dataclass(frozen=True)
class RoundTrips:
    """Samples of how long requests took.

    :param server: from the system call that sent a request to the one that received
        its reply: the network and the server
    :param client: from there until its result was set, and those of the replies that
        came with it: this process
    """

    server: Histogram
    client: Histogram


class _Durations:
    """Counters; one thread writes."""

    def __init__(self) -> None:
        self.total = self.longest = 0.0
        self.counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        self.counts[bisect_left(BOUNDS, seconds)] += 1


class RoundTripCounters:
    """What has been sampled, by one thread."""

    def __init__(self) -> None:
        self.server = _Durations()
        self.client = _Durations()


def total_round_trips(counters: list[RoundTripCounters]) -> RoundTrips:
    """Return the sum of *counters*."""
    return RoundTrips(
        _total([one.server for one in counters]),
        _total([one.client for one in counters]),
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
    """Samples the requests of a connection, in its thread.

    :param counters: where the durations go
    :param on_request: called now and then when a request was sent
    """

    def __init__(
        self, counters: list[RoundTripCounters], on_request: Callable[[], Any]
    ) -> None:
        self.due = 0.0  #: not before, :meth:`sent` is called
        self.xid = 0  #: of the request that is sampled, if there is one
        self.received_at = 0.0  #: when its reply came, while its result is not set
        self._counters = counters
        self._on_request = on_request
        self._sent_at = 0.0
        #: Which requests had been sent at which times.
        self._marks: deque[tuple[int, float]] = deque()

    def sent(self, pending: deque[tuple[Any, Any, int]], now: float) -> None:
        """Take note that requests, the last that are *pending*, have been sent."""
        self.due = now + SAMPLE_EVERY
        try:
            oldest, xid = pending[0][2], pending[-1][2]
        except IndexError:
            return
        if xid > 0 and not (self.xid or self.received_at):
            self.xid, self._sent_at = xid, now
        self.mark(oldest, xid, now)

    def mark(self, oldest: int, xid: int, now: float) -> None:
        """Remember when *xid* was sent; any thread may call it.

        :param oldest: of those that wait for a reply
        """
        marks = self._marks
        try:
            if now - marks[-1][1] < MARK_EVERY:
                return
            while _is_before(marks[0][0], oldest):
                marks.popleft()
        except IndexError:
            pass  # there is none
        marks.append((xid, now))
        self._on_request()

    def received(self, xid: int, now: float) -> None:
        """Take note that replies have come, *xid* being the last."""
        if not _is_before(xid, self.xid):
            self.xid, self.received_at = 0, now
            for counters in self._counters:
                counters.server.add(now - self._sent_at)

    def processed(self, now: float) -> None:
        """Take note that the results of all replies have been set."""
        for counters in self._counters:
            counters.client.add(now - self.received_at)
        self.received_at = 0.0

    def sent_since(self, xid: int) -> float:
        """Return when the request *xid*, an unanswered one, was sent; 0: not yet."""
        at = 0.0
        for marked, marked_at in self._marks.copy():
            at = marked_at
            if not _is_before(marked, xid):
                break
        return at


def _is_before(xid: int, other: int) -> bool:
    return 0 < (other - xid) % _XIDS < _XIDS // 2
