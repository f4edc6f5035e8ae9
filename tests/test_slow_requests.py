"""A request that waits for too long is named while it waits."""

from __future__ import annotations

import gc
import logging
import re
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler
from tests.internals import core_of
from tests.support import ROOT, TIMEOUT, Gate, wait_until

if TYPE_CHECKING:
    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper

REQUESTS = "kazoo_seqthreading.requests"
#: When it is warned of a request, in seconds.
SLOW = 0.2


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == REQUESTS]


@pytest.fixture
def client(make_client: MakeClient, own_server: ZooKeeper) -> Any:
    handler = SequentialThreadingHandler(slow_request_duration=SLOW)
    client = make_client(hosts=own_server.hosts, timeout=30.0, handler=handler)
    client.start()
    client.ensure_path("/node")
    return client


@contextmanager
def suspended(server: ZooKeeper) -> Iterator[None]:
    server.nodes[0].suspend()
    try:
        yield
    finally:
        server.nodes[0].resume()


def normal(message: str) -> str:
    """Return *message* with the numbers in DIAGNOSIS.rst."""
    message = re.sub(r"127\.0\.0\.1:\d+", "10.0.0.1:2181", message)
    return re.sub(r"\d+\.\d s", "5.1 s", message)


def assert_documented(message: str) -> None:
    path = ROOT / "kazoo_seqthreading/DIAGNOSIS.rst"
    assert normal(message) in " ".join(path.read_text(encoding="utf-8").split())


def test_named_once_while_it_waits(
    client: Any, own_server: ZooKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    client.ensure_path("/app/config")
    with suspended(own_server):
        results = [client.get_async("/app/config") for _ in range(5)]
        wait_until(lambda: warnings(caplog))
        again = client.handler.stats().connections[0].oldest_unanswered_seconds
        wait_until(
            lambda: (
                client.handler.stats().connections[0].oldest_unanswered_seconds
                > again + 3 * SLOW
            )
        )
        assert not any(result.ready() for result in results)
    for result in results:
        result.get(timeout=TIMEOUT)
    (record,) = warnings(caplog)
    assert record.levelname == "WARNING"
    assert_documented(record.message)
    fields = vars(record)

    assert fields["operation"] == "GetData"
    assert fields["path"] == "/app/config"
    assert fields["server"] == own_server.hosts
    assert fields["age_seconds"] >= SLOW
    assert fields["queued_behind"] == 4


def test_request_that_is_not_sent(
    make_client: MakeClient, own_server: ZooKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    handler = SequentialThreadingHandler(slow_request_duration=SLOW)
    client = make_client(hosts=own_server.hosts, timeout=4.0, handler=handler)
    client.start()
    own_server.nodes[0].kill()
    wait_until(lambda: client._state == "CONNECTING")
    results = [client.get_async("/app/config") for _ in range(5)]
    wait_until(lambda: warnings(caplog))
    own_server.restore()
    assert all(result.wait(TIMEOUT) for result in results)
    assert_documented(warnings(caplog)[0].message)


def test_request_that_is_not_sent_yet(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection thread is held up."""

    def hold_up(request: Any, timeout: float) -> Any:
        inside()
        return send(request, timeout)

    client.ensure_path("/app/config")
    send, client._connection._send_request = client._connection._send_request, hold_up
    with Gate() as inside:
        results = [client.get_async("/app/config") for _ in range(5)]
        inside.wait_entered()
        core_of(client.handler).connections.watch.arm()
        wait_until(lambda: warnings(caplog))
    for result in results:
        result.get(timeout=TIMEOUT)
    assert_documented(warnings(caplog)[0].message)


def test_quick_requests_are_no_news(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However long they keep coming, with results that have the same addresses."""
    until = time.monotonic() + 5 * SLOW
    while time.monotonic() < until:
        results = [client.exists_async("/node") for _ in range(50)]
        for result in results:
            result.get(timeout=TIMEOUT)
    assert warnings(caplog) == []


def test_the_watch_keeps_no_result(
    client: Any, own_server: ZooKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    with suspended(own_server):
        result = client.exists_async("/node")
        wait_until(lambda: warnings(caplog))
    assert result.get(timeout=TIMEOUT) is not None
    kept = weakref.ref(result)
    del result
    caplog.clear()
    wait_until(lambda: gc.collect() >= 0 and kept() is None)


@pytest.mark.parametrize("limit", [None, 1000.0])
def test_limit(
    make_client: MakeClient,
    own_server: ZooKeeper,
    caplog: pytest.LogCaptureFixture,
    limit: float | None,
) -> None:
    handler = SequentialThreadingHandler(slow_request_duration=limit)
    client = make_client(hosts=own_server.hosts, timeout=30.0, handler=handler)
    client.start()
    with suspended(own_server):
        result = client.exists_async("/")
        wait_until(
            lambda: handler.stats().connections[0].oldest_unanswered_seconds > SLOW
        )
    result.get(timeout=TIMEOUT)

    assert warnings(caplog) == []


@pytest.mark.parametrize("value", [0, -1.0, True, "5"])
def test_nonsense(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="slow_request_duration"):
        SequentialThreadingHandler(slow_request_duration=value)


def test_neither_data_nor_credentials(
    client: Any, own_server: ZooKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    with suspended(own_server):
        results = [
            client.add_auth_async("digest", "me:s3cret"),
            client.set_async("/node", b"s3cret"),
        ]
        wait_until(lambda: warnings(caplog))
    for result in results:
        result.get(timeout=TIMEOUT)
    (record,) = warnings(caplog)

    assert record.message.startswith("Slow request: Auth has been waiting for ")
    assert "s3cret" not in str(vars(record))
