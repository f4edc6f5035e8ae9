"""Nothing grows over a thousand reconnections, and no buffer without bound."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import tracemalloc
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import pytest
from kazoo.exceptions import ConnectionLoss

from tests.faults import proxy as proxies
from tests.faults.load import BOUND, wait_for_state
from tests.faults.proxy import FIN, RST, Fault, Stall
from tests.support import descriptors, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("no_log")]

Connect = Callable[..., Any]

full = pytest.mark.faults
plain_by_default = pytest.mark.parametrize(
    "new_ensemble", ["tcp", pytest.param("tls", marks=full)], indirect=True
)

RETRY = {"max_tries": -1, "delay": 0.001, "max_delay": 0.1}

#: The size of a value, as large as a server takes.
LARGE = 1_000_000
#: What kazoo itself, and the allocator, may keep more or less of, in bytes.
TOLERANCE = 60_000
#: The proxy's memory does not count: a chunk may be on its way through it.
WITHOUT_PROXY = [
    tracemalloc.Filter(False, os.path.join(os.path.dirname(asyncio.__file__), "*")),
    tracemalloc.Filter(False, proxies.__file__),
]


def reconnect(client: Any, proxy: Proxy) -> None:
    """Have the connection of *client* cut, and wait until there is another."""
    accepted = proxy.accepted
    assert proxy.cut(FIN if accepted % 2 else RST)
    wait_until(
        lambda: proxy.accepted != accepted and works(client), BOUND, "a new connection"
    )


def works(client: Any) -> bool:
    """Tell whether a call succeeds; while there is no connection, it waits."""
    try:
        return client.exists_async("/").get(timeout=BOUND) is not None
    except ConnectionLoss:
        return False


@pytest.fixture(autouse=True)
def tracing() -> Iterator[None]:
    """Trace memory from before the client is made: else what replaces it counts."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@contextmanager
def no_growth() -> Iterator[None]:
    """Fail if there are more threads, descriptors or memory afterwards."""
    threads, files = threading.active_count(), len(descriptors())
    gc.collect()
    before = tracemalloc.take_snapshot().filter_traces(WITHOUT_PROXY)
    yield
    wait_until(lambda: threading.active_count() <= threads, BOUND, "ends of threads")
    wait_until(lambda: len(descriptors()) <= files, BOUND, "closed descriptors")
    gc.collect()
    after = tracemalloc.take_snapshot().filter_traces(WITHOUT_PROXY)
    differences = after.compare_to(before, "lineno")
    grown = sum(one.size_diff for one in differences)
    assert grown < TOLERANCE, "\n".join(map(str, differences[:20]))


@pytest.mark.parametrize("times", [40, pytest.param(1000, marks=full)])
@plain_by_default
@pytest.mark.causes("closed", "reset")
def test_reconnections(proxy: Proxy, connect: Connect, times: int) -> None:
    """No more threads, descriptors or memory after a thousand reconnections"""
    client = connect(proxy, connection_retry=RETRY)
    path = client.create("/watched-", b"-1", sequence=True)
    seen = [deque([-1], maxlen=1) for _ in range(5)]
    changed = threading.Condition()

    def watch(numbers: deque[int], data: bytes, stat: Any) -> None:
        with changed:
            numbers.append(int(data))
            changed.notify_all()

    for numbers in seen:  # read again by threads of their own, each time
        client.DataWatch(path, partial(watch, numbers))
    count = itertools.count()

    def all_have_seen(number: int) -> bool:
        return all(number in last for last in seen)

    def cut_and_change(times: int) -> None:
        for number in itertools.islice(count, times):
            reconnect(client, proxy)
            client.set(path, str(number).encode())
            with changed:
                done = changed.wait_for(partial(all_have_seen, number), BOUND)
                assert done, f"a watch has not seen {number}: {seen}"
        # The recipe's watches fire at each cut: those that still wait are no growth.
        wait_until(client.handler.callback_queue.empty, BOUND, "an empty queue")

    cut_and_change(20)
    with no_growth():
        cut_and_change(times)


@pytest.mark.parametrize("times", [20, pytest.param(300, marks=full)])
@plain_by_default
@pytest.mark.causes()
def test_restarts(proxy: Proxy, connect: Connect, times: int) -> None:
    """No more threads, descriptors or memory after hundreds of restarts"""
    client = connect(proxy)
    for _ in range(10):
        client.restart()
    assert works(client)  # so that the connection has all its descriptors
    with no_growth():
        for _ in range(times):
            client.restart()
            assert works(client)


@plain_by_default
@pytest.mark.causes("silent")
def test_memory(proxy: Proxy, connect: Connect) -> None:
    """Buffers are bounded, and given back"""
    client = connect(proxy, timeout=4.0)
    value = bytes(LARGE)
    path = client.create("/memory-", value, sequence=True)

    def traced() -> int:
        assert client.retry(client.exists, path)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    def peak() -> int:
        memory = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.reset_peak()
        return memory

    before = traced()
    peak()
    lost = wait_for_state(client, "SUSPENDED")
    proxy.up = Stall()
    writes = [client.set_async(path, value) for _ in range(60)]
    lost()  # no heartbeat leaves: until now it took what it could
    assert all(write.wait(BOUND) for write in writes)
    del writes
    unsent = peak()
    proxy.up = Fault()
    for _ in range(30):
        assert client.retry(client.get, path)[0] == value
    received = peak()
    kept = traced() - before

    assert unsent < 8 * LARGE
    assert received < 8 * LARGE
    assert kept < LARGE // 10
