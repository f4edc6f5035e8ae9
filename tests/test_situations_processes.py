"""Signals, finalizers, forks, suspension, and the end of a process.

Every test runs with either handler, as in ``test_situations.py``; what needs a process
of its own is in ``tests/programs``.
"""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.proxy import Proxy, Record, Stall
from tests.forking import Child, call, in_child
from tests.support import TIMEOUT, refcounted, run_program, start_program, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.zookeeper import ZooKeeper

#: How long a session lasts while its process is suspended, in seconds.
SESSION = 5.0


@pytest.fixture
def run(
    request: pytest.FixtureRequest, hosts: str, handler_class: type[Any], stock: bool
) -> Callable[..., list[str]]:
    """Return a function that runs a program with the handler under test."""
    hangs = stock and request.node.get_closest_marker("stock_fails")

    def run(name: str, *arguments: str) -> list[str]:
        arguments = (hosts, handler_class.__module__, *arguments)
        done = run_program(name, *arguments, timeout=TIMEOUT if hangs else 4 * TIMEOUT)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


# -- signal handlers -------------------------------------------------------------------

two_for_one = pytest.mark.stock_fails("one wake-up for two requests: both wait for it")


@two_for_one
@pytest.mark.parametrize("what", ["call", "stop", "raise"])
def test_interrupt_after_a_request_was_queued(
    run: Callable[..., list[str]], what: str
) -> None:
    assert run("interrupts", f"{what}_after_append") == ["done"]


@two_for_one
@pytest.mark.parametrize("what", ["call_while_asking", "stop_while_asking"])
def test_signal_handler_uses_the_client_while_requests_are_made(
    run: Callable[..., list[str]], what: str
) -> None:
    assert run("interrupts", what) == ["done"]


@pytest.mark.stock_fails("a result's lock is held where its waiter is interrupted")
def test_signal_handler_calls_while_main_waits(run: Callable[..., list[str]]) -> None:
    assert run("interrupts", "call_while_waiting") == ["done"]


def test_signal_handler_stops_the_handler_while_requests_are_made(
    run: Callable[..., list[str]],
) -> None:
    assert run("interrupts", "stop_handler_while_asking") == ["done"]


@pytest.mark.stock_fails("the queue's lock is not reentrant, and a callback is lost")
def test_signal_handler_stops_the_handler_while_callbacks_are_queued(
    run: Callable[..., list[str]],
) -> None:
    assert run("interrupts", "stop_while_putting") == ["done"]


@pytest.mark.stock_fails("RuntimeError, or a request that is never sent")
def test_signal_handler_raises_while_calls_are_made(
    run: Callable[..., list[str]],
) -> None:
    assert run("interrupts", "raise_while_asking") == ["done"]


# -- finalizers ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["request", "complete"])
def test_finalizers(run: Callable[..., list[str]], what: str) -> None:
    assert run("finalizers", what) == ["done"]


@pytest.mark.ours_alone("it holds by luck: its locks are not all reentrant")
@pytest.mark.parametrize("what", ["call", "call back"])
def test_finalizers_that_need_locks(run: Callable[..., list[str]], what: str) -> None:
    assert run("finalizers", what) == ["done"]


# -- the end of a process --------------------------------------------------------------

endings = pytest.mark.parametrize("ending", ["return", "sys.exit"])


@endings
@pytest.mark.parametrize(
    ("what", "count"), [("completions", 8), ("watches", 5), ("replies", 20)]
)
def test_callbacks_run_at_exit(
    run: Callable[..., list[str]], what: str, count: int, ending: str
) -> None:
    assert run("leaves", what, ending) == ["ran"] * count


@endings
def test_requests_are_sent_at_exit(
    run: Callable[..., list[str]], client: Any, ending: str
) -> None:
    ran = run("leaves", "requests", ending)
    client.sync("/node")

    assert len(client.get_children("/node")) == 200
    assert ran == ["ran"]


@pytest.mark.stock_fails("it waits for ever")
@endings
def test_blocked_callbacks_do_not_keep_the_process(
    run: Callable[..., list[str]], ending: str
) -> None:
    assert run("leaves", "blocked", ending) == []


@pytest.mark.stock_fails("atexit refers to it")
@refcounted
def test_handler_that_nobody_needs_is_collected(handler_class: type[Any]) -> None:
    handler = handler_class()
    handler.start()
    result = handler.async_result()
    result.rawlink(print)
    reference = weakref.ref(handler)
    del handler, result

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone, TIMEOUT, "the handler, freed")


# -- forked children -------------------------------------------------------------------

USES: dict[str, Callable[[Any], object]] = {
    "connected": lambda client: client.connected,
    "client_id": lambda client: client.client_id,
    "exists_async": lambda client: client.exists_async("/"),
    "exists": lambda client: call(client.exists, "/"),
    "create": lambda client: call(client.create, "/a/b"),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
# Python 3.12 and later warn of what is the point here.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.stock_fails("an inherited client hangs")
@pytest.mark.parametrize("again", [["restart"], ["stop", "start"]], ids="+".join)
@pytest.mark.parametrize("first", USES)
def test_child_starts_an_inherited_client(
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    stock: bool,
    first: str,
    again: list[str],
) -> None:
    if stock:
        monkeypatch.setattr(Child, "limit", 4.0)
    session = client.client_id

    def use() -> list[Any]:
        USES[first](client)
        for name in again:
            getattr(client, name)()
        client.create("/child")
        children = [client.get_children("/") for _ in range(3)]
        other = client.client_id[0] != session[0]
        client.stop()
        return [*children, other]

    assert in_child(use) == [["child"]] * 3 + [True]
    assert client.get_children("/") == ["child"]
    assert client.client_id == session


# -- suspension ------------------------------------------------------------------------


def test_process_is_suspended_while_the_reply_comes(
    own_server: ZooKeeper, handler_class: type[Any], make_client: Callable[..., Any]
) -> None:
    (node,) = own_server.nodes
    keeper = make_client(hosts=own_server.hosts)
    keeper.start()
    keeper.create("/asked", b"answered")
    module = handler_class.__module__
    with Proxy(node.port) as proxy:
        process = start_program("suspended", proxy.address, module, str(SESSION))
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            proxy.down, proxy.up = Stall(), Record()
            process.stdin.write("\n")
            process.stdin.flush()
            streams = proxy.up.streams.values()
            wait_until(lambda: any(b"/asked" in bytes(one) for one in streams))
            os.kill(process.pid, signal.SIGSTOP)
            proxy.restore()  # the reply comes
            time.sleep(SESSION * 0.8)  # and nothing else happens
            os.kill(process.pid, signal.SIGCONT)
            output, errors = process.communicate(timeout=TIMEOUT)
            assert output == "answered\n[] True\n", errors
            assert proxy.accepted == 1
        finally:
            process.kill()
            process.communicate()
