"""Many at once: watches that all read again, requests that all wait."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.exceptions import ConnectionLoss

from tests.background import in_background
from tests.faults.proxy import Fault, Proxy, Stall
from tests.support import TIMEOUT, MakeClient, wait_until

if TYPE_CHECKING:
    from tests.zookeeper import ZooKeeper

full = pytest.mark.faults


class Spawned:
    """Counts what the ``spawn`` of a handler runs, at once and in all."""

    def __init__(self, handler: Any) -> None:
        self._handler, self._spawn = handler, handler.spawn
        self._lock = threading.Lock()
        self._running = 0
        self.most = self.most_threads = self.done = 0
        handler.spawn = self.spawn

    def spawn(self, func: Callable[..., Any], *args: Any) -> Any:
        if func.__name__ == "zk_loop":  # the connection thread does not count
            return self._spawn(func, *args)
        return self._spawn(self._run, func, *args)

    def _run(self, func: Callable[..., Any], *args: Any) -> None:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
            threads = self._handler.stats().spawned_threads
            self.most_threads = max(self.most_threads, threads)
        func(*args)
        with self._lock:
            self._running -= 1
            self.done += 1


@pytest.mark.stock_fails("has no such option")
@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=full)])
def test_watches_with_few_threads(
    make_client: MakeClient,
    handler_class: type[Any],
    own_server: ZooKeeper,
    count: int,
) -> None:
    handler = handler_class(max_spawned_threads=8)
    spawned, seen = Spawned(handler), Counter[bytes]()
    changed, suspended = threading.Condition(), threading.Event()

    def watch(data: bytes, stat: Any) -> None:
        with changed:
            seen[data] += 1
            changed.notify_all()

    def wait_until_all_see(data: bytes) -> None:
        with changed:
            assert changed.wait_for(lambda: seen[data] == count, 3 * TIMEOUT), seen

    def listen(state: str) -> None:
        if state == "SUSPENDED":
            suspended.set()

    writer = make_client(hosts=own_server.hosts)
    writer.start(TIMEOUT)
    paths = [writer.create("/node-", b"0", sequence=True) for _ in range(10)]
    with Proxy(own_server.nodes[0].port) as proxy:
        client = make_client(hosts=proxy.address, handler=handler, timeout=30.0)
        client.start(TIMEOUT)
        client.add_listener(listen)
        for number in range(count):
            client.DataWatch(paths[number % len(paths)], watch)
        assert seen == {b"0": count}
        values = [b"1", b"2", b"3"]
        for value in values:
            suspended.clear()
            proxy.up = Stall()  # nobody connects until all nodes have changed
            assert proxy.cut() == 1
            assert suspended.wait(TIMEOUT)
            for path in paths:
                writer.set(path, value)
            proxy.up = Fault()
            wait_until_all_see(value)
        wait_until(lambda: spawned.done == len(values) * count)
        assert spawned.most == spawned.most_threads == 8
        for path in paths:  # the watches are set again, too
            writer.set(path, b"4")
        wait_until_all_see(b"4")
        assert seen == dict.fromkeys([b"0", *values, b"4"], count)
        client.stop()


@pytest.mark.timeout(900)
@pytest.mark.stock_fails("the 279th call blocks its caller")
@pytest.mark.parametrize("server", ["comes back", "stays away"])
@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=full)])
def test_many_requests_while_suspended(
    make_client: MakeClient, own_server: ZooKeeper, count: int, server: str
) -> None:
    limit = TIMEOUT + count / 4000
    suspended, all_ran, ran = threading.Event(), threading.Event(), Counter[int]()

    def listen(state: str) -> None:
        if state == "SUSPENDED":
            suspended.set()

    def note(number: int, result: Any) -> None:
        ran[number] += 1
        if len(ran) == count:
            all_ran.set()

    def request() -> list[Any]:
        results = []
        for number in range(count):
            result = client.exists_async("/")
            result.rawlink(partial(note, number))
            results.append(result)
        return results

    (node,) = own_server.nodes
    with Proxy(node.port) as proxy:
        client = make_client(hosts=proxy.address, timeout=60.0)
        client.start(TIMEOUT)
        client.add_listener(listen)
        if server == "comes back":
            proxy.up = Stall()
            proxy.cut()
        else:
            node.kill()
        assert suspended.wait(TIMEOUT)
        results = in_background(request).result(limit)
        assert not any(result.ready() for result in results)
        if server == "comes back":
            proxy.up = Fault()
        else:
            in_background(client.stop).result(limit)
        assert all_ran.wait(limit), f"{len(ran)} of {count}"
        client.stop()
    outcomes = Counter(type(result.exception) for result in results)
    answer = type(None) if server == "comes back" else ConnectionLoss

    assert outcomes == {answer: count}
    assert set(ran.values()) == {1}
