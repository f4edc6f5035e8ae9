"""Patroni's subclass of the handler, and what Patroni does with it: tox -e neighbours.

Its class is built on the handler under test, and everything else is as it is there.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import kazoo.handlers.threading
import pytest

from tests.background import in_background
from tests.support import TIMEOUT, Address, make_dead, wait_until
from tests.zookeeper import ZooKeeper

pytest.importorskip("patroni", reason="Patroni is not installed: tox -e neighbours")

MakeDCS = Callable[..., Any]


@pytest.fixture(scope="module")
def patroni(handler_class: type[Any]) -> Iterator[Any]:
    """Patroni's module, imported where kazoo has the handler under test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kazoo.handlers.threading, "SequentialThreadingHandler", handler_class
        )
        patch.delitem(sys.modules, "patroni.dcs.zookeeper", raising=False)
        module = importlib.import_module("patroni.dcs.zookeeper")
        assert issubclass(module.PatroniSequentialThreadingHandler, handler_class)
        yield module


@pytest.fixture
def make_dcs(patroni: Any) -> Iterator[MakeDCS]:
    """Return a function that makes what Patroni has of ZooKeeper, connected.

    It takes what differs from Patroni's default configuration.
    """
    get_mpp = importlib.import_module("patroni.postgresql.mpp").get_mpp

    def make(**options: Any) -> Any:
        config = {
            "scope": "batman",
            "name": "one",
            "ttl": 30,
            "retry_timeout": 10,
            "loop_wait": 10,
            **options,
        }
        dcs = patroni.ZooKeeper(config, get_mpp({}))
        clients.callback(dcs._client.close)
        clients.callback(dcs._client.stop)
        return dcs

    with ExitStack() as clients:
        yield make


@pytest.fixture
def dead() -> Iterator[Address]:
    """An address that answers nothing, not even an attempt to connect."""
    with ExitStack() as stack:
        yield make_dead(stack, "127.0.0.1")


def follow(dcs: Any) -> list[str]:
    """Return the list of states that the client takes from now on."""
    states: list[str] = []
    dcs._client.add_listener(states.append)
    return states


def test_two_members(make_dcs: MakeDCS, hosts: str, handler_class: type[Any]) -> None:
    one, two = make_dcs(hosts=hosts), make_dcs(hosts=hosts, name="two")
    assert isinstance(one._client.handler, handler_class)
    assert one.set_config_value("{}")
    assert one.attempt_to_acquire_leader()
    assert not two.attempt_to_acquire_leader()
    cluster = two.get_cluster()  # watches the leader, too
    assert cluster.leader.name == "one"
    assert cluster.config.data == {}
    watch = in_background(two.watch, None, 2 * TIMEOUT)

    assert one.delete_leader(cluster.leader)  # restarts its client
    assert watch.result(TIMEOUT)
    assert two.attempt_to_acquire_leader()
    assert one.get_cluster().leader.name == "two"


@pytest.mark.parametrize(
    ("setting", "session", "limit"),
    [(4, 10, 2.0), (1, 10, 1.0), (1, 20, 2.0)],
    ids=["setting", "least", "session"],
)
def test_connect_timeout(
    patroni: Any, dead: Address, setting: float, session: float, limit: float
) -> None:
    """An attempt lasts for half the setting, a second, or a tenth of the session."""
    handler = patroni.PatroniSequentialThreadingHandler(60)
    handler.set_connect_timeout(setting)
    began = time.monotonic()
    with pytest.raises(OSError):
        handler.create_connection(address=dead, hostname="dead", timeout=session)

    # A busy machine may take longer, but not until the session's, or the first, limit.
    assert limit <= time.monotonic() - began < TIMEOUT


def test_client_with_a_dead_host(
    monkeypatch: pytest.MonkeyPatch, make_dcs: MakeDCS, hosts: str, dead: Address
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda hosts: None)  # kazoo takes it first
    began = time.monotonic()
    dcs = make_dcs(hosts=[f"127.0.0.1:{dead[1]}", hosts], ttl=20, retry_timeout=1)

    assert 2.0 <= time.monotonic() - began < TIMEOUT
    assert dcs.set_config_value("{}")


def test_search_for_a_server_that_writes(make_dcs: MakeDCS, hosts: str) -> None:
    """kazoo, connected to one that only reads, asks with nothing but an address."""
    client = make_dcs(hosts=hosts)._client
    address = client._connection._socket.getpeername()
    with closing(client.handler.create_connection(address)) as connection:
        connection.sendall(b"isro")
        assert connection.recv(2) == b"rw"


def test_lost_connection(
    patroni: Any, make_dcs: MakeDCS, own_server: ZooKeeper
) -> None:
    dcs = make_dcs(hosts=own_server.hosts, retry_timeout=1)
    assert dcs.set_config_value("{}")
    assert dcs.attempt_to_acquire_leader()
    session = dcs._client.client_id
    states = follow(dcs)
    (server,) = own_server.nodes
    server.kill()
    wait_until(lambda: states == ["SUSPENDED"])
    with pytest.raises(patroni.ZooKeeperError):
        dcs.get_cluster()
    server.start()
    # A server that starts may accept a connection and never answer: kazoo waits for
    # as long as for a session, 20 s, and tries again.
    wait_until(lambda: states == ["SUSPENDED", "CONNECTED"], 45.0)

    assert dcs.get_cluster().leader.name == "one"
    assert dcs._client.client_id == session
    assert dcs.set_config_value("{}")


def test_reload_closes_the_socket(make_dcs: MakeDCS, hosts: str) -> None:
    """Another thread than the connection's closes it, to have other heartbeats."""
    dcs = make_dcs(hosts=hosts)
    assert dcs.attempt_to_acquire_leader()
    session = dcs._client.client_id
    states = follow(dcs)
    for times, loop_wait in enumerate((5, 10, 5), 1):
        dcs.reload_config({"ttl": 30, "retry_timeout": 10, "loop_wait": loop_wait})
        wait_until(lambda times=times: states == ["SUSPENDED", "CONNECTED"] * times)  # type: ignore[misc]
        assert dcs.get_cluster().leader.name == "one"

    assert dcs._client.client_id == session


def test_reload_restarts(make_dcs: MakeDCS, hosts: str) -> None:
    """With another ttl there is a new session."""
    dcs = make_dcs(hosts=hosts)
    session = dcs._client.client_id
    dcs.reload_config({"ttl": 20, "retry_timeout": 10, "loop_wait": 10})

    assert dcs.ttl == 20
    assert dcs._client.client_id != session
    assert dcs.attempt_to_acquire_leader()
    assert dcs.get_cluster().leader.name == "one"
