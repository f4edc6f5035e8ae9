"""The way of the bytes, when they come and go in the worst of ways."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable

import pytest
from kazoo.exceptions import ConnectionLoss

from tests.faults.load import BOUND, wait_for_state
from tests.faults.proxy import (
    FIN,
    RST,
    Cut,
    Delay,
    Fault,
    Record,
    Slices,
    Split,
    Stall,
    Throttle,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy

pytestmark = pytest.mark.timeout(120)

Connect = Callable[..., Any]

full = pytest.mark.faults
causes = pytest.mark.causes
plain_by_default = pytest.mark.parametrize(
    "new_ensemble", ["tcp", pytest.param("tls", marks=full)], indirect=True
)
tls_only = pytest.mark.parametrize("new_ensemble", ["tls"], indirect=True)

VALUE = bytes(range(40))
#: More bytes than a reply with VALUE has, with or without TLS.
FRAME = 4 + 16 + 4 + len(VALUE) + 68 + 40
#: Less than what a request to create a node has.
REQUEST = 60
#: As large as a server takes, with the path.
LARGE = 1_000_000


def states_of(client: Any) -> list[str]:
    """Return a list of the states that *client* will go through."""
    states: list[str] = []
    client.add_listener(states.append)
    return states


def frames_in(stream: bytearray) -> list[bytes]:
    """Return the frames of *stream*, of which the last may be there in part."""
    frames, start = [], 0
    while len(stream) >= start + 4:
        end = start + 4 + int.from_bytes(stream[start : start + 4], "big")
        frames.append(bytes(stream[start + 4 : end]))
        start = end
    return frames


@plain_by_default
@pytest.mark.parametrize("way", ["down", pytest.param("up", marks=full)])
@causes()
def test_split_at_every_offset(proxy: Proxy, connect: Connect, way: str) -> None:
    """Frames split at every offset"""
    client = connect(proxy)
    states = states_of(client)
    path = client.create("/split-", VALUE, sequence=True)
    for offset in range(1, FRAME):
        setattr(proxy, way, Split(offset))
        results = [client.get_async(path) for _ in range(3)]
        assert [result.get(timeout=BOUND)[0] for result in results] == [VALUE] * 3

    assert not states


@full
@pytest.mark.parametrize("how", [FIN, RST])
@pytest.mark.parametrize("way", ["up", "down"])
@causes("closed", "reset")
def test_cut_at_every_offset(
    proxy: Proxy, connect: Connect, way: str, how: str
) -> None:
    """Connections cut at every offset of a frame"""
    client = connect(proxy)
    folder = client.create("/cut-", sequence=True)
    acknowledged = set()
    for offset in range(REQUEST if way == "up" else FRAME):
        assert client.retry(client.exists, folder)
        setattr(proxy, way, Cut(offset, how))
        try:
            acknowledged.add(client.create(f"{folder}/{offset}-", sequence=True))
        except ConnectionLoss:
            pass
    proxy.restore()
    names = client.retry(client.get_children, folder)
    found = {f"{folder}/{name}" for name in names}
    written = Counter(name.partition("-")[0] for name in names)
    assert acknowledged <= found
    assert max(written.values(), default=1) == 1, "a request was sent twice"
    if way == "up":  # nothing that was cut is a request
        assert acknowledged == found


@plain_by_default
@causes()
def test_large_replies(proxy: Proxy, connect: Connect) -> None:
    """Replies as large as a buffer, and larger"""
    client = connect(proxy)
    states = states_of(client)
    path = client.create("/large-", sequence=True)
    head = 4 + 16 + 4 + 68
    sizes = [size + delta for size in (65536, 131072) for delta in (-head, 0, 1)]
    for size in (*sizes, 65536 - head - 1, 65536 - head + 1, LARGE):
        value = random.Random(size).randbytes(size)
        client.set(path, value)
        results = [client.get_async(path) for _ in range(4)]
        assert all(result.get(timeout=BOUND)[0] == value for result in results), size

    assert not states


@plain_by_default
@causes()
def test_large_both_ways(proxy: Proxy, connect: Connect) -> None:
    """Values of 1 MB in both directions at once"""
    client = connect(proxy)
    states = states_of(client)
    value = random.Random(1).randbytes(LARGE)
    source = client.create("/source-", value, sequence=True)
    target = client.create("/target-", sequence=True)
    writes, reads = [], []
    for _ in range(12):
        writes.append(client.set_async(target, value))
        reads.append(client.get_async(source))
    versions = [write.get(timeout=BOUND).version for write in writes]

    assert versions == list(range(1, 13))
    assert all(read.get(timeout=BOUND)[0] == value for read in reads)
    assert not states


@plain_by_default
@causes()
def test_reads_while_it_cannot_write(own_tls_proxy: Proxy, connect: Connect) -> None:
    """Replies arrive while the send buffer is full"""
    proxy = own_tls_proxy
    client = connect(proxy)
    states = states_of(client)
    value = bytes(LARGE)
    source = client.create("/source-", value, sequence=True)
    target = client.create("/target-", sequence=True)
    proxy.down, proxy.up = Stall(), (seen := Record())
    reads = [client.get_async(source) for _ in range(6)]
    wait_until(lambda: sum(len(frames_in(s)) for s in seen.streams.values()) >= 6)
    proxy.up = Stall()
    writes = [client.set_async(target, value) for _ in range(12)]
    proxy.down = Fault()
    for read in reads:
        assert read.get(timeout=BOUND / 2)[0] == value
    assert not writes[-1].ready()
    proxy.up = Fault()
    versions = [write.get(timeout=BOUND).version for write in writes]

    assert versions == list(range(1, 13))
    assert not states


@plain_by_default
@causes()
def test_peer_that_reads_slowly(proxy: Proxy, connect: Connect) -> None:
    """Large writes to a peer that reads slowly"""
    client = connect(proxy, timeout=15.0)
    states = states_of(client)
    target = client.create("/target-", sequence=True)
    proxy.up = Throttle(2_000_000)
    writes = [client.set_async(target, bytes(LARGE)) for _ in range(8)]
    reads = [client.exists_async(target) for _ in range(8)]
    versions = [write.get(timeout=BOUND).version for write in writes]

    assert versions == list(range(1, 9))
    assert [read.get(timeout=BOUND).version for read in reads] == [8] * 8
    assert not states


@pytest.mark.parametrize("new_ensemble", ["tls"], indirect=True)
@pytest.mark.parametrize("size", [1, 13, 100, 16384])
@causes()
def test_records(own_tls_proxy: Proxy, connect: Connect, size: int) -> None:
    """TLS records that hold a byte, half a frame, a hundred frames"""
    client = connect(own_tls_proxy)
    states = states_of(client)
    path = client.create("/records-", VALUE, sequence=True)
    for pause in (0.0, 0.05):
        own_tls_proxy.down = Delay(pause)
        for _ in range(3):
            results = [client.get_async(path) for _ in range(100)]
            values = [result.get(timeout=BOUND)[0] for result in results]
            assert values == [VALUE] * 100
        own_tls_proxy.down = Slices(size)

    assert not states


@plain_by_default
@causes()
def test_nothing_is_sent_twice(own_tls_proxy: Proxy, connect: Connect) -> None:
    """Each request is sent once and in order, however little the socket takes"""
    own_tls_proxy.up = seen = Record(pause=0.01)
    client = connect(own_tls_proxy)
    states = states_of(client)
    target = client.create("/target-", sequence=True)
    sizes = [1, 70_000, 900_000, 3, 17] * 6
    random.Random(2).shuffle(sizes)
    results = [client.set_async(target, b"x" * size) for size in sizes]
    versions = [result.get(timeout=BOUND).version for result in results]
    assert versions == list(range(1, len(sizes) + 1))
    assert not states
    (stream,) = seen.streams.values()
    frames = frames_in(stream)[1:]  # the first is the connect request
    xids = [int.from_bytes(frame[:4], "big", signed=True) for frame in frames]
    requests = [xid for xid in xids if xid > 0]  # the others are heartbeats
    assert requests == list(range(1, len(requests) + 1))
    writes = [frame.count(b"x") for frame in frames if len(frame) > 4 + 4]

    assert writes[-len(sizes) :] == sizes


@plain_by_default
@causes("closed", "reset")
def test_late_errors(proxy: Proxy, connect: Connect) -> None:
    """A connection that breaks while requests leave: each one succeeds or is lost"""
    client = connect(proxy)
    folder = client.create("/late-", sequence=True)
    results, failed = {}, 0
    for round_ in range(30):
        assert client.retry(client.exists, folder)
        lost = wait_for_state(client, "SUSPENDED")
        for number in range(40):
            token = f"{round_}.{number}"
            results[token] = client.create_async(f"{folder}/{token}-", sequence=True)
            if number == round_:
                proxy.cut(RST)
        lost()
    names = client.retry(client.get_children, folder)
    written = Counter(name.partition("-")[0] for name in names)
    for token, result in results.items():
        assert result.wait(BOUND), f"{token} has no answer"
        try:
            path = result.get(block=False)
        except ConnectionLoss:
            failed += 1
            assert written[token] <= 1
        else:
            assert path.rpartition("/")[2] in names
            assert written[token] == 1

    assert failed
