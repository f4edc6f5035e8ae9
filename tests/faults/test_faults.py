"""Servers and networks that fail, under clients that work.

Each test breaks something while ``load.py``'s clients are at work, and repairs it. What
must hold is said, and checked, there. The tests marked ``faults`` are left out by
default; ``tox -e faults`` runs all, and ``compare.py`` holds kazoo's handler against
ours.
"""

from __future__ import annotations

import struct
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.client import KazooClient

from tests.faults.load import BOUND, PAUSE, close, wait_for_state
from tests.faults.proxy import (
    FIN,
    HALF,
    RST,
    BlackHole,
    Cut,
    Delay,
    Garbage,
    Slices,
    Stall,
    Throttle,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.conftest import Ensemble, Proxies
    from tests.faults.load import Load

pytestmark = pytest.mark.timeout(240)

full = pytest.mark.faults

IN_ORDER = {"randomize_hosts": False}

causes = pytest.mark.causes
#: The end of a connection, as the system tells it.
cut = causes("closed", "reset")
cut_or_expired = causes("closed", "reset", also=("expired",))


def rare(value: str) -> Any:
    """Return a parameter that is left out by default."""
    return pytest.param(value, marks=full)


#: By default over TCP, and over TLS with all the rest.
short = pytest.mark.parametrize("new_ensemble", ["tcp", rare("tls")], indirect=True)


# -- servers ---------------------------------------------------------------------------


@short
@cut
def test_leader_killed(ensemble: Ensemble) -> None:
    """``kill -9`` of the leader"""
    leader = ensemble.zookeeper.leader()
    with ensemble.load(ensemble.hosts_from(leader), options=IN_ORDER) as load:
        load.progress()
        leader.kill()
        load.progress()
        leader.start()
        load.progress()


@full
@cut
def test_follower_killed(ensemble: Ensemble) -> None:
    """``kill -9`` of the follower that the clients are connected to"""
    follower = ensemble.zookeeper.followers()[0]
    with ensemble.load(ensemble.hosts_from(follower), options=IN_ORDER) as load:
        load.progress()
        follower.kill()
        load.progress()
        follower.start()
        load.progress()


@short
@cut_or_expired
def test_all_killed(ensemble: Ensemble) -> None:
    """``kill -9`` of all servers, and a restart"""
    with ensemble.load() as load:
        load.progress()
        lost = wait_for_state(load.clients[0], "SUSPENDED", "LOST")
        for node in ensemble.zookeeper.nodes:
            node.kill()
        lost()
        ensemble.restore()
        load.progress()


@full
@pytest.mark.parametrize("role", ["leader", "follower"])
@causes("silent", also=("closed", "reset", "expired"))
def test_server_suspended(ensemble: Ensemble, role: str) -> None:
    """``SIGSTOP`` of the server that the clients are connected to"""
    zookeeper = ensemble.zookeeper
    node = zookeeper.leader() if role == "leader" else zookeeper.followers()[0]
    with ensemble.load(ensemble.hosts_from(node), options=IN_ORDER) as load:
        load.progress()
        node.suspend()
        load.progress()
        node.resume()
        node.wait_ready()
        load.progress()


@full
@cut
def test_rolling_restart(ensemble: Ensemble) -> None:
    """A rolling restart"""
    with ensemble.load() as load:
        for node in ensemble.zookeeper.nodes:
            load.progress()
            node.stop()
            load.progress()
            node.start()
        load.progress()


# -- networks --------------------------------------------------------------------------


@short
@pytest.mark.parametrize("how", [RST, rare(FIN), rare(HALF)])
@cut
def test_cut(ensemble: Ensemble, proxies: Proxies, how: str) -> None:
    """All connections cut"""
    with ensemble.load(proxies.hosts) as load:
        for _ in range(5):
            load.progress()
            assert proxies.cut(how)
        load.progress()


@short
@pytest.mark.parametrize("how", [RST, rare(FIN)])
@cut
def test_cut_mid_frame(ensemble: Ensemble, proxies: Proxies, how: str) -> None:
    """Connections cut in the middle of a frame"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        for proxy in proxies:
            for after in (2, 11):
                proxy.up, proxy.down = Cut(after, how), Cut(3 * after, how)
                load.progress()
        assert any(proxy.down.fired.is_set() for proxy in proxies)


@short
@causes()
def test_byte_by_byte(ensemble: Ensemble, proxies: Proxies) -> None:
    """Everything arrives byte by byte"""
    proxies.up(Slices(1))
    proxies.down(Slices(1))
    # Whatever the proxy takes for a byte, no session expires.
    with ensemble.load(proxies.hosts, options={"timeout": 20.0}) as load:
        load.progress()


@full
@causes()
def test_joined_and_split(ensemble: Ensemble, proxies: Proxies) -> None:
    """Frames joined, and split elsewhere"""
    with ensemble.load(proxies.hosts) as load:
        for seconds in (0.02, 0.05):
            proxies.up(Delay(seconds))
            proxies.down(Delay(seconds))
            load.progress()
            proxies.up(Slices(53, 0.002))
            proxies.down(Slices(53, 0.002))
            load.progress()
        proxies.restore()


@full
@causes()
def test_delay(ensemble: Ensemble, proxies: Proxies) -> None:
    """A slow network: 200 ms each way"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        proxies.up(Delay(0.2))
        proxies.down(Delay(0.2))
        load.progress()
        proxies.restore()


@full
@causes()
def test_throttled(ensemble: Ensemble, proxies: Proxies) -> None:
    """A narrow network: 10 kB/s each way"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        proxies.up(Throttle(10_000))
        proxies.down(Throttle(10_000))
        load.progress()
        proxies.restore()
        load.progress()


@short
@pytest.mark.parametrize("way", ["both", rare("up"), rare("down")])
@causes("silent", also=("expired",))
def test_black_hole(ensemble: Ensemble, proxies: Proxies, way: str) -> None:
    """A network that swallows everything, one way or both"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        lost = wait_for_state(load.clients[0], "SUSPENDED", "LOST")
        if way != "down":
            proxies.up(BlackHole())
        if way != "up":
            proxies.down(BlackHole())
        lost()
        proxies.restore()
        load.progress()


@full
@causes("silent", also=("expired",))
def test_black_hole_under_a_flood(ensemble: Ensemble, proxies: Proxies) -> None:
    """A network that swallows everything while requests never cease"""
    client = ensemble.client(proxies.hosts)
    client.start(timeout=30.0)
    results = []
    try:
        lost = threading.Event()
        client.add_listener(lambda state: lost.set())
        proxies.up(BlackHole())
        proxies.down(BlackHole())
        deadline = time.monotonic() + 5 * client._session_timeout / 1000
        while not lost.wait(PAUSE):
            assert time.monotonic() < deadline, "the silence was not noticed"
            results.append(client.exists_async("/"))
        proxies.restore()
        for result in results:
            assert result.wait(BOUND)
        assert client.retry(client.exists, "/")
    finally:
        proxies.restore()
        assert not close(client)


@full
@causes("silent", "closed", "reset", also=("expired",))
def test_full_send_buffer(ensemble: Ensemble, proxies: Proxies) -> None:
    """A server that does not read, and large writes until nothing more goes out"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        client = load.clients[0]
        lost = wait_for_state(client, "SUSPENDED", "LOST")
        path = client.create(f"{load.root}/large")
        proxies.up(Stall())
        results = [client.set_async(path, bytes(900_000)) for _ in range(12)]
        lost()
        proxies.restore()
        for result in results:
            assert result.wait(load.bound)
        load.progress()


#: A length that no frame has, a header that answers nothing, a reply cut short, noise.
GARBAGE = {
    "negative": struct.pack("!i", -1) + bytes(20),
    "empty": bytes(64),
    "huge": struct.pack("!i", 2**31 - 1) + bytes(20),
    "unasked": struct.pack("!iiqi", 16, 987654, 1, 0),
    "text": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
}


@short
@pytest.mark.parametrize("kind", GARBAGE)
@causes("invalid", "tls")
def test_garbage(ensemble: Ensemble, proxies: Proxies, kind: str) -> None:
    """Garbage from the server"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        faults = [Garbage(GARBAGE[kind]) for _ in proxies]
        for proxy, fault in zip(proxies, faults):
            proxy.down = fault
        load.progress()
        assert any(fault.fired.is_set() for fault in faults)


@short
@causes("expired", also=("silent",))
def test_session_expires(ensemble: Ensemble, proxies: Proxies) -> None:
    """Sessions expire"""
    with ensemble.load(proxies.hosts) as load:
        load.progress()
        lost = [wait_for_state(client, "LOST") for client in load.clients]
        with expected_to_expire(ensemble, load):
            proxies.up(BlackHole())
            proxies.down(BlackHole())
        proxies.restore()
        for wait in lost:
            wait()
        load.progress()


@contextmanager
def expected_to_expire(ensemble: Ensemble, load: Load) -> Iterator[None]:
    """Wait, in the end, until the servers have ended the sessions of all clients."""
    witness = KazooClient(ensemble.zookeeper.hosts, timeout=30.0)
    witness.start(timeout=BOUND)
    gone: list[threading.Event] = []

    def watch_session(client: Any, name: str) -> bool:
        path = client.retry(
            client.create, f"{load.root}/{name}-", ephemeral=True, sequence=True
        )
        witness.sync(path)
        event = threading.Event()
        if not witness.exists(path, watch=lambda _: event.set()):
            return False  # it has expired already
        gone.append(event)
        return True

    try:
        for number, client in enumerate(load.clients):
            wait_until(partial(watch_session, client, f"alive-{number}"), BOUND)
        yield
        for event in gone:
            assert event.wait(BOUND), "the session did not expire"
    finally:
        witness.stop()
        witness.close()
