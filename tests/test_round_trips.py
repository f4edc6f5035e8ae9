"""Round trips: what is sampled is what happened, and not more than is said."""

from __future__ import annotations

import math
import time
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler
from kazoo_seqthreading._round_trips import (
    BOUNDS,
    MARK_INTERVAL,
    SAMPLE_INTERVAL,
    RoundTripCounters,
    Sampler,
    total_round_trips,
)
from tests.faults.proxy import Delay, Proxy
from tests.support import TIMEOUT, MakeClient, wait_until


def make_sampler() -> tuple[Sampler, RoundTripCounters]:
    counters = RoundTripCounters()
    return Sampler([counters], int), counters


def send(sampler: Sampler, *unanswered: int, now: float) -> None:
    """Send the last of the requests that are *unanswered* then."""
    sampler.sent(unanswered[0], unanswered[-1], now)


def test_a_sample() -> None:
    """The last request of a batch: until it is answered, until its result is set."""
    sampler, counters = make_sampler()
    send(sampler, 7, 8, 9, now=10.0)
    sampler.received(7, 10.1)
    assert total_round_trips([counters]).server.count == 0
    sampler.received(9, 10.25)
    sampler.processed(10.5)
    trips = total_round_trips([counters])

    assert (trips.server.count, trips.server.sum_seconds) == (1, 0.25)
    assert (trips.client.count, trips.client.longest_seconds) == (1, 0.25)


def test_one_sample_at_a_time() -> None:
    sampler, counters = make_sampler()
    send(sampler, 1, now=10.0)
    send(sampler, 1, 2, now=11.0)
    sampler.received(1, 12.0)  # the second one is not sampled
    send(sampler, 2, 3, now=12.5)  # nor this one: the result is not set yet
    sampler.processed(13.0)

    assert total_round_trips([counters]).server.sum_seconds == 2.0
    assert (sampler.xid, sampler.received_at) == (0, 0.0)


def test_a_reply_that_is_no_sample() -> None:
    sampler, counters = make_sampler()
    send(sampler, 7, now=10.0)
    send(sampler, 8, now=10.0 + SAMPLE_INTERVAL)  # the other one is not answered
    sampler.received(7, 10.5)
    sampler.processed(10.5)
    assert total_round_trips([counters]).server.sum_seconds == 0.5
    sampler.received(8, 20.0)
    sampler.processed(20.0)
    trips = total_round_trips([counters])

    assert (trips.server.count, trips.client.count) == (1, 1)


def test_xids_begin_anew() -> None:
    """kazoo counts to 2147483647, and on with 1."""
    sampler, counters = make_sampler()
    send(sampler, 2147483647, now=10.0)
    sampler.received(1, 11.0)

    assert total_round_trips([counters]).server.count == 1


def test_not_more_often_than_is_said() -> None:
    sampler, _ = make_sampler()
    send(sampler, 1, now=10.0)
    assert sampler.due == 10.0 + SAMPLE_INTERVAL


def test_when_a_request_was_sent() -> None:
    sampler, _ = make_sampler()
    assert sampler.sent_since(1) == 0.0
    for xid, now in ((1, 10.0), (5, 10.0 + MARK_INTERVAL / 2), (9, 10.1)):
        send(sampler, 1, xid, now=now)

    assert sampler.sent_since(1) == 10.0
    assert 10.0 <= sampler.sent_since(5) <= 10.1
    assert sampler.sent_since(9) == 10.1
    assert sampler.sent_since(10) == 10.1  # sent a moment after that


def test_histograms() -> None:
    counters = RoundTripCounters(), RoundTripCounters()
    for seconds in (0.0, BOUNDS[0], 0.7, 11.0):
        counters[0].server.add(seconds)
    counters[1].server.add(0.7)
    histogram = total_round_trips(list(counters)).server
    buckets = dict(histogram.buckets)
    assert (buckets[BOUNDS[0]], buckets[0.5], buckets[1.0], buckets[10.0]) == (
        *(2, 2, 4, 4),
    )
    assert buckets[math.inf] == histogram.count == 5
    assert histogram.longest_seconds == 11.0
    assert histogram.mean_seconds == pytest.approx(histogram.sum_seconds / 5)
    assert [bound for bound, _ in histogram.buckets] == [*BOUNDS, math.inf]
    with pytest.raises(FrozenInstanceError):
        histogram.count = 1  # type: ignore[misc]


def test_nothing_sampled() -> None:
    trips = SequentialThreadingHandler().stats().round_trips
    assert (trips.server.count, trips.server.mean_seconds) == (0, 0.0)


def test_a_slow_network_is_the_servers_part(
    make_client: MakeClient, hosts: str
) -> None:
    address, _, chroot = hosts.partition("/")
    with Proxy(int(address.rpartition(":")[2])) as proxy:
        client = make_client(hosts=f"{proxy.address}/{chroot}")
        client.start()
        client.exists("/")
        before = client.handler.stats().round_trips
        proxy.down = Delay(0.2)
        for _ in range(3):
            client.exists("/")
        after = client.handler.stats().round_trips
        client.stop()
    server, ours = after.server, after.client
    count = server.count - before.server.count

    assert count >= 2  # the first one may come too soon after another sample
    assert server.sum_seconds - before.server.sum_seconds >= count * 0.2
    assert server.longest_seconds >= 0.2
    assert ours.longest_seconds < server.longest_seconds


def test_what_kazoo_does_with_replies_is_our_part(client: Any) -> None:
    read = client._connection._read_response

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return read(*args)

    client.exists("/")
    client._connection._read_response = slow
    time.sleep(SAMPLE_INTERVAL)
    client.exists("/")
    wait_until(lambda: longest(client, "client") >= 0.2)

    assert longest(client, "server") < longest(client, "client")


def longest(client: Any, part: str) -> float:
    histogram = getattr(client.handler.stats().round_trips, part)
    return float(histogram.longest_seconds)


def test_of_each_connection_and_in_total(client: Any, make_client: MakeClient) -> None:
    other = make_client(handler=client.handler)
    other.start()
    for one in (client, other):
        for _ in range(20):
            one.exists("/")
    wait_until(
        lambda: all(
            one.round_trips.client.count for one in client.handler.stats().connections
        ),
        TIMEOUT,
    )
    stats = client.handler.stats()
    assert len(stats.connections) == 2
    for part in ("server", "client"):
        counts = [getattr(one.round_trips, part).count for one in stats.connections]
        assert min(counts) > 0
        assert sum(counts) == getattr(stats.round_trips, part).count
    other.stop()
    total = client.handler.stats().round_trips.server.count

    assert total >= stats.round_trips.server.count
    assert len(client.handler.stats().connections) == 1
