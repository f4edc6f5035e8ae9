"""kazoo's steps, taken inside of ``select``: where they are, and where they are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from kazoo.protocol.connection import ConnectionHandler

from kazoo_seqthreading import SequentialThreadingHandler, _steps
from kazoo_seqthreading._kazoo import methods_are_known
from tests.background import in_background
from tests.faults.proxy import Lag, Proxy
from tests.support import TIMEOUT, MakeClient, run_python, wait_until

pytestmark = pytest.mark.skipif(not _steps.ENABLED, reason="they are switched off")

METHODS = ("_send_request", "_submit", "_write", "_read_response", "_read_watch_event")


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """The steps that go around kazoo's main loop."""
    calls: list[str] = []

    def note(name: str) -> Any:
        method = getattr(ConnectionHandler, name)

        def noted(self: Any, *args: Any) -> Any:
            calls.append(name)
            return method(self, *args)

        return mock.patch.object(ConnectionHandler, name, noted)

    with note("_read_socket"):
        yield calls


def use(client: Any) -> None:
    """Make requests, and have a watch event."""
    events: list[Any] = []
    results = [client.exists_async("/", events.append) for _ in range(100)]
    for result in results:
        result.get(timeout=TIMEOUT)
    client.create("/node")
    assert client.exists("/node", events.append)
    client.delete("/node")
    wait_until(lambda: events)


def test_kazoos_loop_rests(client: Any, calls: list[str]) -> None:
    use(client)
    assert len(calls) < 10  # heartbeats, and what comes with the handshake


@pytest.mark.parametrize("name", METHODS)
def test_subclass_of_kazoos_connection(
    make_client: MakeClient, name: str, calls: list[str]
) -> None:
    """Whatever it overrides is called."""
    overridden: list[str] = []

    def override(self: Any, *args: Any) -> Any:
        overridden.append(name)
        return getattr(ConnectionHandler, name)(self, *args)

    client = make_client()
    client._connection.__class__ = type("Mine", (ConnectionHandler,), {name: override})
    assert not methods_are_known(client._connection)
    client.start()
    use(client)

    assert overridden
    assert len(calls) > 100


@pytest.mark.parametrize("name", METHODS)
def test_method_that_is_not_known(
    make_client: MakeClient, name: str, calls: list[str]
) -> None:
    original = getattr(ConnectionHandler, name)

    def other(self: Any, *args: Any) -> Any:
        return original(self, *args)

    client = make_client()
    with mock.patch.object(ConnectionHandler, name, other):
        assert not methods_are_known(client._connection)
        client.start()
        use(client)

    assert len(calls) > 100


def test_method_of_an_instance(make_client: MakeClient, calls: list[str]) -> None:
    client = make_client()
    with mock.patch.object(
        client._connection, "_submit", wraps=client._connection._submit
    ) as submit:
        client.start()
        use(client)
        assert submit.call_count > 100
    assert len(calls) > 100


def test_method_of_an_instance_that_is_replaced_later(client: Any) -> None:
    with mock.patch.object(
        client._connection, "_read_response", wraps=client._connection._read_response
    ) as read:
        use(client)
        assert read.call_count > 100


def test_select_of_a_subclass_is_called(
    make_client: MakeClient, calls: list[str]
) -> None:
    class Handler(SequentialThreadingHandler):
        asked = 0

        def select(self, *args: Any, **kwargs: Any) -> Any:
            type(self).asked += 1
            return super().select(*args, **kwargs)

    client = make_client(handler=Handler())
    client.start()
    use(client)

    assert Handler.asked > 100
    assert len(calls) > 100


def test_select_of_an_instance_that_is_replaced_later(client: Any) -> None:
    """As kazoo's own tests do, to simulate time-outs."""
    select, asked = client.handler.select, list[Any]()

    def note(*args: Any) -> Any:
        asked.append(args)
        return select(*args)

    client.handler.select = note
    try:
        use(client)
    finally:
        del client.handler.select
    assert len(asked) > 100
    use(client)


def test_switch(hosts: str) -> None:
    """With it, kazoo goes around its loop."""
    program = """
import sys
from kazoo.client import KazooClient
from kazoo_seqthreading import SequentialThreadingHandler, _steps
client = KazooClient(sys.argv[1], handler=SequentialThreadingHandler())
client.start()
print(_steps.ENABLED, client.get_children("/") is not None)
print(client._connection._socket._turn, client._connection._socket._steps)
client.stop()
"""
    done = run_python(program, hosts, env={"KAZOO_SEQTHREADING_STEPS": "0"})
    assert done.stdout.split() == ["False", "True", "None", "None"]


@contextmanager
def asking(client: Any) -> Iterator[None]:
    """Make requests all the time."""

    def ask() -> None:
        results = []
        while not ended.wait(0.01):
            results.append(client.exists_async("/"))
        for result in results:
            result.get(timeout=TIMEOUT)

    ended = threading.Event()
    future = in_background(ask)
    yield
    ended.set()
    future.result(TIMEOUT)


def test_requests_act_as_heartbeats(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(timeout=4.0)
    pings: list[Any] = []
    send = client._connection._send_ping
    monkeypatch.setattr(
        client._connection, "_send_ping", lambda *args: pings.append(send(*args))
    )
    client.start()
    with asking(client):
        time.sleep(4.0)  # more than a server waits

    assert pings == []
    assert client.handler.stats().connections_made == 1


def test_replies_that_come_later_than_the_next_heartbeat(
    make_client: MakeClient, hosts: str
) -> None:
    """The heartbeat's comes after all of them; kazoo does not wait for it so long."""
    address, _, chroot = hosts.partition("/")
    with Proxy(int(address.rpartition(":")[2])) as proxy:
        client = make_client(hosts=f"{proxy.address}/{chroot}", timeout=4.0)
        client.start()
        proxy.down = Lag(1.6)  # heartbeats are due every 1.3 s
        with asking(client):
            time.sleep(6.0)
        client.stop()
    assert client.handler.stats().connections_made == 1
