"""``handler.report()``: it tells the state, of whatever hangs, and no secret."""

from __future__ import annotations

import gc
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import kazoo_seqthreading
from kazoo_seqthreading import SequentialThreadingHandler
from tests.internals import core_of
from tests.support import (
    TIMEOUT,
    Gate,
    in_thread,
    interrupt,
    run_python,
    wait_until,
)

if TYPE_CHECKING:
    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper


def test_new_handler() -> None:
    handler = SequentialThreadingHandler(connect_timeout=2.5)
    lines = handler.report().splitlines()

    assert lines[0].startswith(
        f"kazoo-seqthreading {kazoo_seqthreading.__version__}, kazoo "
    )
    assert ", stopped" in lines[2]
    assert "connect_timeout=2.5" in lines[3]
    assert "ssl_context=None" in lines[3]
    assert "Disconnects: none" in lines
    assert all(not line.startswith("  (") for line in lines), "a section has failed"


def test_all_options_are_told() -> None:
    report = SequentialThreadingHandler().report()
    defaults = SequentialThreadingHandler.__init__.__kwdefaults__
    assert defaults
    for name in defaults:
        assert f"{name}=" in report


def test_clients_and_queues(client: Any) -> None:
    def slow(argument: object) -> None:
        inside()

    def waits(argument: object) -> None:
        pass

    client.create("/node", b"s3cret-value")
    with Gate() as inside:
        client.get_async("/node").rawlink(slow)
        inside.wait_entered()
        client.get_async("/node").rawlink(waits)
        client.get("/node")
        report = client.handler.report()
    server = client._connection._socket.getpeername()

    assert "  1. CONNECTED, hosts " in report
    assert f"     {server[0]}:{server[1]} for " in report
    assert f"session {client.client_id[0]:#x}, time-out 10.0 s" in report
    assert "slow" in line_after(report, "  completions: ")
    assert "waits" in line_after(report, "    runs for ")
    assert "test_report.py" in report  # where the callback stands
    assert "s3cret" not in report


def line_after(text: str, beginning: str) -> str:
    lines = text.splitlines()
    (number,) = (n for n, line in enumerate(lines) if line.startswith(beginning))
    return lines[number + 1]


def test_requests_in_flight(make_client: MakeClient, own_server: ZooKeeper) -> None:
    client = make_client(hosts=own_server.hosts, timeout=30.0)
    client.start()
    client.create("/slow-node", b"s3cret-value")
    node = own_server.nodes[0]
    node.suspend()
    try:
        results = [client.set_async("/slow-node", b"s3cret-data") for _ in range(20)]
        wait_until(lambda: len(client._pending) == 20)
        report = client.handler.report()
    finally:
        node.resume()
    for result in results:
        result.get(timeout=TIMEOUT)

    assert "requests in flight: 20, not sent yet: 0" in report
    assert report.count("       SetData /slow-node, for ") == 10
    assert "s3cret" not in report


def test_requests_that_are_not_sent(make_client: MakeClient) -> None:
    client = make_client(hosts="127.0.0.1:1", auth_data=[("digest", "me:s3cret")])
    client.start_async()
    wait_until(lambda: client.handler.stats().connections_failed)
    client._state = "CONNECTING"
    client.create_async("/new", b"s3cret-value")
    report = client.handler.report()

    assert "     no connection" in report
    assert "       Create /new, not sent" in report
    assert "s3cret" not in report


def test_disconnects_are_told(client: Any) -> None:
    lost = threading.Event()
    client.add_listener(lambda state: lost.set())
    in_thread(client._connection._socket.close)
    assert lost.wait(TIMEOUT)
    wait_until(lambda: client.handler.stats().disconnects)
    report = client.handler.report()

    assert "Disconnects: thread: 1" in report
    assert str(client.handler.stats().disconnects[0]) in report


def test_every_lock_is_held_by_somebody_else(client: Any) -> None:
    limbo: Any = vars(threading)["_active_limbo_lock"]
    held = Gate()

    def hold() -> None:
        with core_of(client.handler)._changed, limbo:
            held()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    with held:
        held.wait_entered()
        report = client.handler.report()
        assert not held.passed.is_set()
    holder.join(TIMEOUT)

    assert "  1. CONNECTED, hosts " in report


def test_in_a_signal_handler_at_every_step(handler: SequentialThreadingHandler) -> None:
    """A report interrupts starts, stops and calls wherever they are."""
    reports = list[str]()

    def work() -> None:
        result = handler.async_result()
        result.rawlink(print)
        result.set(None)
        handler.spawn(int).join(TIMEOUT)
        handler.stop()
        handler.start()

    number = 1
    while interrupt(work, number, lambda: reports.append(handler.report())):
        number += 13

    assert reports
    assert all("Threads:" in report for report in reports)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no SIGUSR1")
def test_signal_of_a_process_that_hangs(hosts: str) -> None:
    program = run_python(
        """
import os, signal, sys, threading
from kazoo_seqthreading import SequentialThreadingHandler
from tests.support import KazooClient

handler = SequentialThreadingHandler(stop_timeout=0.1, slow_callback_duration=None)
reported = threading.Event()

def report(number, frame):
    print(handler.report())
    reported.set()

signal.signal(signal.SIGUSR1, report)
client = KazooClient(sys.argv[1], handler=handler)
client.start()
entered, never = threading.Event(), threading.Event()

def hangs(result):
    entered.set()
    never.wait()

client.exists_async("/").rawlink(hangs)
assert entered.wait(20)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
assert reported.wait(20)
client.stop()
sys.stdout.flush()
os._exit(0)
""",
        hosts,
    )
    assert program.returncode == 0, program.stderr
    assert "hangs" in line_after(program.stdout, "  completions: ")


def test_what_waits_first_is_found(handler: SequentialThreadingHandler) -> None:
    """Also after many others have run."""
    with Gate() as inside:
        for _ in range(3):
            for _ in range(100):
                handler.completion_queue.put(gc.isenabled)
            handler.completion_queue.join()
        handler.completion_queue.put(inside)
        inside.wait_entered()
        for callback in (partial(int, "1"), str, str):
            handler.completion_queue.put(callback)
        report = handler.report()
    assert "builtins.int" in line_after(report, "    runs for ")


def test_kazoo_that_is_not_as_expected(client: Any) -> None:
    """What fails costs its section alone."""
    hosts, client.hosts = client.hosts, [1, 2]
    try:
        report = client.handler.report()
    finally:
        client.hosts = hosts

    assert "  (TypeError: " in report
    assert "Queues:" in report
    assert "Threads:" in report
