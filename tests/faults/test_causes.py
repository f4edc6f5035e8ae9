"""What is wrong is this side: a connection is lost, and its cause is named.

The marks say which cause; ``conftest.py`` checks it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

import pytest
from kazoo.client import KazooClient

from tests.faults.load import BOUND, wait_for_state
from tests.faults.proxy import RST, Garbage
from tests.faults.test_bytes import tls_only
from tests.support import start_program, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.conftest import Ensemble
    from tests.faults.proxy import Proxy

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.ours_alone("kazoo's handler names no cause"),
]

Connect = Callable[..., Any]

causes = pytest.mark.causes
plain = pytest.mark.parametrize("new_ensemble", ["tcp"], indirect=True)

#: Time-out of the sessions, in seconds.
SESSION = 1.5


@contextmanager
def witness_of(server: Ensemble, paths: list[str]) -> Iterator[Callable[[], None]]:
    """Yield what waits until the nodes at *paths* are gone, as their session is."""
    witness, gone = KazooClient(server.zookeeper.hosts), list[threading.Event]()
    witness.start(timeout=BOUND)
    try:
        for path in paths:
            event = threading.Event()
            witness.sync(path)
            assert witness.exists(path, watch=lambda _, event=event: event.set())
            gone.append(event)

        def wait() -> None:
            for event in gone:
                assert event.wait(BOUND), "the session did not expire"

        yield wait
    finally:
        witness.stop()
        witness.close()


def last_causes(client: Any) -> list[str]:
    return [one.cause for one in client.handler.stats().disconnects]


@plain
@causes("listener", also=("reset", "expired"))
def test_slow_listener(server: Ensemble, proxy: Proxy, connect: Connect) -> None:
    """A state listener that blocks for longer than a session"""
    client = connect(proxy, timeout=SESSION)
    client.create("/alive", ephemeral=True)
    with witness_of(server, ["/alive"]) as wait_for_expiry:

        def blocks(state: str) -> bool:
            if state == "CONNECTED":
                wait_for_expiry()
                return True
            return False

        client.add_listener(blocks)
        lost = wait_for_state(client, "LOST")
        proxy.cut(RST)
        lost()
    wait_until(lambda: last_causes(client) == ["reset", "listener", "expired"], BOUND)
    _, held_up, expired = client.handler.stats().disconnects

    assert "blocks (" in held_up.held_up_by
    assert held_up.held_up_seconds >= held_up.session_timeout_seconds == SESSION
    assert f"state listener {held_up.held_up_by} held up" in str(held_up)
    assert expired.first_cause == "listener"
    assert expired.session_id == held_up.session_id
    assert expired.unheard_seconds >= SESSION


@plain
@causes("thread")
def test_closed_by_another_thread(proxy: Proxy, connect: Connect) -> None:
    """Another thread closes the socket"""
    client = connect(proxy)
    lost = wait_for_state(client, "SUSPENDED")
    connection = client._connection._socket
    closer = threading.Thread(target=connection.close, name="closer", daemon=True)
    closer.start()
    lost()
    closer.join(BOUND)
    client.retry(client.exists, "/")
    (disconnect,) = client.handler.stats().disconnects

    assert "thread closer of this process closed its socket" in str(disconnect)


@tls_only
@causes("tls")
def test_tls_fails(proxy: Proxy, connect: Connect) -> None:
    """What arrives is not TLS"""
    client = connect(proxy)
    lost = wait_for_state(client, "SUSPENDED")
    proxy.down = Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.exists_async("/")
    lost()
    client.retry(client.exists, "/")
    (disconnect,) = client.handler.stats().disconnects

    assert "[SSL: " in disconnect.error  # the words of OpenSSL


@plain
@causes()
def test_stopped(proxy: Proxy, connect: Connect) -> None:
    """The client is stopped"""
    client = connect(proxy)
    client.stop()
    client.start()
    client.restart()
    client.exists("/")


@plain
@causes("authentication")
def test_authentication_fails(proxy: Proxy, connect: Connect) -> None:
    """The server refuses the credentials"""
    client = connect(proxy)
    lost = wait_for_state(client, "LOST", "SUSPENDED")
    client.add_auth_async("no-such-scheme", "secret")
    lost()
    wait_until(lambda: last_causes(client) == ["authentication"], BOUND)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP")
@plain
@causes("suspended", in_process=True)
def test_suspended_process(server: Ensemble, proxy: Proxy, handler_class: Any) -> None:
    """``SIGSTOP`` of the client, for longer than a session"""
    hold_up(server, proxy, handler_class, "suspended")


@plain
@causes("busy", in_process=True)
def test_busy_process(server: Ensemble, proxy: Proxy, handler_class: Any) -> None:
    """The client's process keeps the interpreter's lock for longer than a session"""
    hold_up(server, proxy, handler_class, "busy")


def hold_up(server: Ensemble, proxy: Proxy, handler_class: Any, how: str) -> None:
    module = handler_class.__module__
    process = start_program("held_up", proxy.address, module, str(SESSION), how)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        path = process.stdout.readline().strip()
        with witness_of(server, [path]) as wait_for_expiry:
            if how == "suspended":
                os.kill(process.pid, signal.SIGSTOP)
                wait_for_expiry()
                os.kill(process.pid, signal.SIGCONT)
                process.stdin.write("\n")
                process.stdin.flush()
            else:
                process.stdin.write("\n")
                process.stdin.flush()
                wait_for_expiry()
        output, errors = process.communicate(timeout=BOUND)
    finally:
        process.kill()
        process.communicate()
    assert output.split() == [how, "expired", how], errors


@plain
@causes("closed", "reset")
def test_reconnection(
    proxy: Proxy, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A reconnection tells of the attempts before it."""
    caplog.set_level("INFO", "kazoo_seqthreading")
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refused = f"127.0.0.1:{refusing.getsockname()[1]}"
    client = connect(proxy)
    client.set_hosts(f"{proxy.address},{refused}")
    proxy.cut(RST)
    client.retry(client.exists, "/")

    def reconnections() -> list[Any]:
        return [one for one in caplog.records if "Connected to" in one.getMessage()]

    (record,) = wait_until(reconnections, BOUND)
    assert record.getMessage().startswith(f"Connected to {proxy.address} after ")
    assert record.same_session is True
    for server, _, why in record.attempts:
        assert (server, why) == (refused, "Connection refused")
