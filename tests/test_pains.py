"""What users of kazoo's threading handler ran into, one section for each.

Every test runs against either handler. Those marked ``stock_fails`` are red with
kazoo's own: ``pytest tests/test_pains.py --handler=kazoo``.
"""

from __future__ import annotations

import atexit
import gc
import logging
import socket
import subprocess
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.exceptions import ConnectionLoss
from kazoo.protocol.states import Callback, WatchedEvent

from tests.support import (
    RAISED,
    TIMEOUT,
    Gate,
    in_thread,
    make_exception,
    refcounted,
    run_python,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper

#: What is logged by a stop() that waits in vain, for 5 s.
GAVE_UP = "did not stop within"

Settle = Callable[..., None]

KINDS = ["completion", "watch"]
NO_EXCEPTIONS = [name for name in RAISED if name != "OSError"]


@pytest.fixture
def soon(request: pytest.FixtureRequest, stock: bool) -> float:
    """How long anything may take, in seconds; less where kazoo's handler hangs."""
    hangs = stock and request.node.get_closest_marker("stock_fails")
    return 4.0 if hangs else TIMEOUT


def retire(handler: Any) -> None:
    """Stop *handler*, unless it hangs."""
    stopper = threading.Thread(target=handler.stop, daemon=True)
    stopper.start()
    stopper.join(2.0)
    atexit.unregister(handler.stop)


@pytest.fixture
def handler(handler_class: type[Any]) -> Iterator[Any]:
    handler = handler_class()
    handler.start()
    yield handler
    retire(handler)


def dispatch(handler: Any, kind: str, function: Callable[[], Any]) -> None:
    """Have *function* run as a callback of *kind*."""
    if kind == "watch":
        handler.dispatch_callback(Callback("watch", lambda event: function(), (None,)))
    else:
        handler.completion_queue.put(function)


@pytest.fixture
def settle(soon: float) -> Settle:
    """Return a function that waits until a handler's queues are empty."""

    def settle(handler: Any, *kinds: str) -> None:
        """Wait until the callbacks that are queued have run."""
        for kind in kinds or KINDS:
            done = threading.Event()
            dispatch(handler, kind, done.set)
            assert done.wait(soon), f"the {kind} queue stands still"

    return settle


# -- 1: a callback that raises on a stopped handler ------------------------------------


@pytest.mark.stock_fails("set() raises, other callbacks are lost, waiters hang")
def test_callback_that_raises_on_a_stopped_handler(handler_class: type[Any]) -> None:
    handler = handler_class()
    result, calls = handler.async_result(), list[str]()
    result.rawlink(lambda _: calls.append("before"))
    result.rawlink(lambda one: one.get())
    result.rawlink(lambda _: calls.append("after"))
    result.set_exception(ConnectionLoss())

    assert calls == ["before", "after"]


@pytest.mark.stock_fails("the connection thread dies, none of the four wakes")
def test_callers_wake_when_the_server_goes_away(
    make_client: MakeClient, own_server: ZooKeeper, soon: float
) -> None:
    client, ended = make_client(hosts=own_server.hosts), threading.Semaphore(0)
    client.start()

    def ask() -> None:
        try:
            client.exists("/")
        except ConnectionLoss:
            ended.release()

    (node,) = own_server.nodes
    node.suspend()
    for _ in range(3):
        client.exists_async("/").rawlink(lambda one: one.get())
    for _ in range(4):
        threading.Thread(target=ask, daemon=True).start()
    wait_until(lambda: len(client._pending) + len(client._queue) >= 7)
    stopper = threading.Thread(target=client.stop, daemon=True)
    stopper.start()
    wait_until(lambda: not client.handler.running)
    node.kill()
    for count in range(4):
        assert ended.acquire(timeout=soon), f"{count} of 4 woke"
    stopper.join(soon)

    assert not stopper.is_alive()


# -- 2: a callback that blocks for ever ------------------------------------------------


BLOCKS = """
import importlib, sys, threading
from kazoo.protocol.states import Callback

handler = getattr(importlib.import_module(sys.argv[1]), "SequentialThreadingHandler")()
handler.start()
entered = threading.Event()

def block(event):
    entered.set()
    threading.Event().wait()

handler.dispatch_callback(Callback("watch", block, (None,)))
assert entered.wait(10)
print("main returns")
"""


@pytest.mark.stock_fails("the process never exits")
def test_process_exits_though_a_callback_blocks(handler_class: type[Any]) -> None:
    try:
        done = run_python(BLOCKS, handler_class.__module__, timeout=15.0)
    except subprocess.TimeoutExpired as error:
        raise AssertionError("the process does not exit") from error
    assert (done.stdout, done.returncode) == ("main returns\n", 0)
    assert f"{GAVE_UP} 5.0 s: still running __main__.block," in done.stderr


# -- 3: stop() in a callback -----------------------------------------------------------


@pytest.mark.stock_fails("RuntimeError: cannot join current thread")
@pytest.mark.parametrize("kind", KINDS)
def test_stop_in_a_callback(
    handler: Any,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    soon: float,
    settle: Settle,
) -> None:
    stopped = threading.Event()

    def stops() -> None:
        handler.stop()
        stopped.set()

    dispatch(handler, kind, stops)
    assert stopped.wait(soon)
    assert GAVE_UP not in caplog.text
    assert not handler.running
    handler.start()
    settle(handler)


@pytest.mark.stock_fails("RuntimeError: cannot join current thread")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["stop", "restart"])
def test_client_is_stopped_in_a_callback(
    client: Any,
    kind: str,
    method: str,
    caplog: pytest.LogCaptureFixture,
    soon: float,
    settle: Settle,
) -> None:
    done = threading.Event()

    def callback(argument: object) -> None:
        getattr(client, method)()
        done.set()

    client.create("/a")
    if kind == "watch":
        client.exists("/a", watch=callback)
        client.delete("/a")
    else:
        client.exists_async("/a").rawlink(callback)
    assert done.wait(soon)
    assert GAVE_UP not in caplog.text
    assert client.connected is (method == "restart")
    if method == "restart":
        settle(client.handler)
        assert client.get_children("/") is not None


# -- 4: calls in completion callbacks --------------------------------------------------


def nested(client: Any) -> None:
    client.create("/n/e/s/t/e/d", makepath=True)


def locked(client: Any) -> None:
    with client.Lock("/lock", "me"):
        pass


def committed(client: Any) -> None:
    transaction = client.transaction()
    transaction.create("/t")
    transaction.commit()


CALLS: list[Callable[[Any], Any]] = [
    lambda client: client.create("/new"),
    nested,
    lambda client: client.ensure_path("/ensure/path"),
    lambda client: client.sync("/"),
    locked,
]
WORKING_CALLS: list[Callable[[Any], Any]] = [
    lambda client: client.get("/"),
    lambda client: client.get_children("/"),
    lambda client: client.set("/", b"value"),
    committed,
]


def call_in_a_callback(client: Any, call: Callable[[Any], Any], soon: float) -> None:
    order, done = list[str](), threading.Event()

    def callback(result: object) -> None:
        call(client)
        order.append("call")

    def other(result: object) -> None:
        order.append("other")
        done.set()

    client.exists_async("/").rawlink(callback)
    client.exists_async("/").rawlink(other)
    assert done.wait(soon)
    assert order == ["call", "other"]


@pytest.mark.stock_fails("deadlock: its own callbacks wait behind the user's")
@pytest.mark.parametrize(
    "call", CALLS, ids=["create", "makepath", "ensure_path", "sync", "Lock"]
)
def test_call_in_a_completion_callback(
    client: Any, call: Callable[[Any], Any], soon: float
) -> None:
    call_in_a_callback(client, call, soon)


@pytest.mark.parametrize(
    "call", WORKING_CALLS, ids=["get", "get_children", "set", "transaction"]
)
def test_plain_call_in_a_completion_callback(
    client: Any, call: Callable[[Any], Any], soon: float
) -> None:
    call_in_a_callback(client, call, soon)


# -- 5: a blocking call in a state listener --------------------------------------------


@pytest.mark.stock_fails("it hangs silently, for ever")
def test_blocking_call_in_a_state_listener(
    make_client: MakeClient, soon: float
) -> None:
    client, raised, returned = make_client(), list[Exception](), threading.Event()

    def listener(state: str) -> None:
        try:
            client.exists("/")
        except Exception as error:
            raised.append(error)
        returned.set()

    client.add_listener(listener)
    client.start_async()
    assert returned.wait(soon)
    (error,) = raised

    assert f"listener ({__file__}:" in str(error)
    assert "_async" in str(error)
    assert client.exists("/") is not None


# -- 6: the wake-up channel ------------------------------------------------------------


@pytest.mark.stock_fails("blocks at the 279th unread byte")
def test_wake_up_channel_does_not_fill(make_client: MakeClient, soon: float) -> None:
    client, inside = make_client(), Gate()

    def send() -> None:
        for _ in range(100_000):
            client._connection._write_sock.send(b"\0")

    client.add_listener(inside)
    client.start_async()
    with inside:
        inside.wait_entered()  # the connection thread reads nothing
        in_thread(send, soon)
    client.remove_listener(inside)


@pytest.mark.stock_fails("the connection thread deadlocks")
def test_burst_from_a_listener(make_client: MakeClient, soon: float) -> None:
    client, results = make_client(), list[Any]()
    made = threading.Event()

    def listener(state: str) -> None:
        if state == "CONNECTED":
            results.extend(client.exists_async("/") for _ in range(2000))
            made.set()

    client.add_listener(listener)
    client.start_async()

    assert made.wait(soon)
    assert all(result.get(timeout=soon) is not None for result in results)


@pytest.mark.stock_fails("the 279th call blocks its caller")
def test_burst_while_suspended(
    make_client: MakeClient, own_server: ZooKeeper, soon: float
) -> None:
    retry = {"max_tries": -1, "delay": 0.1, "max_delay": 0.5}
    client = make_client(hosts=own_server.hosts, connection_retry=retry)
    suspended = threading.Event()

    def listener(state: str) -> None:
        if state == "SUSPENDED":
            suspended.set()

    client.add_listener(listener)
    client.start()
    (node,) = own_server.nodes
    node.kill()
    assert suspended.wait(soon)
    results = list[Any]()

    def burst() -> None:
        results.extend(client.exists_async("/") for _ in range(1000))

    in_thread(burst, soon)
    node.start()
    wait_until(lambda: all(result.ready() for result in results), 30.0)


# -- 7: a closed socket ----------------------------------------------------------------


@pytest.mark.stock_fails("TypeError or ValueError: the connection thread dies")
def test_select_on_a_closed_socket(handler: Any) -> None:
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    for obj in (closed, number):
        with pytest.raises(OSError):
            handler.select([obj], [], [], 0)


@pytest.mark.stock_fails("the connection thread dies")
def test_client_survives_that_its_socket_is_closed(
    make_client: MakeClient, soon: float
) -> None:
    client, states, back = make_client(timeout=20.0), list[str](), threading.Event()
    client.start()

    def listener(state: str) -> None:
        states.append(state)
        if state == "CONNECTED":
            back.set()

    client.add_listener(listener)
    client._connection._socket.close()

    assert back.wait(soon)
    assert states == ["SUSPENDED", "CONNECTED"]
    assert client.exists("/") is not None


# -- 8: what is no Exception -----------------------------------------------------------


@pytest.mark.stock_fails("the worker ends silently")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", NO_EXCEPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_ends_a_worker(
    handler: Any, kind: str, name: str, settle: Settle
) -> None:
    def fails() -> None:
        raise make_exception(name)

    dispatch(handler, kind, fails)
    settle(handler)


# -- 9: two stops at once --------------------------------------------------------------


@pytest.mark.stock_fails("deadlock")
@pytest.mark.parametrize("kind", KINDS)
def test_callback_and_main_stop_at_once(
    handler: Any, kind: str, caplog: pytest.LogCaptureFixture, soon: float
) -> None:
    entered, stopped = threading.Event(), threading.Event()

    def stops() -> None:
        entered.set()
        wait_until(lambda: not handler.running)  # main is in stop()
        handler.stop()
        stopped.set()

    dispatch(handler, kind, stops)
    assert entered.wait(soon)
    in_thread(handler.stop, soon)

    assert stopped.is_set()
    assert GAVE_UP not in caplog.text


# -- 10: slow callbacks ----------------------------------------------------------------


@pytest.mark.stock_fails("nothing is logged")
def test_slow_watch_is_logged_while_it_runs(
    client: Any, caplog: pytest.LogCaptureFixture, soon: float
) -> None:
    inside = Gate()

    def very_slow(event: object) -> None:
        inside()

    client.create("/slow")
    client.exists("/slow", watch=very_slow)
    client.delete("/slow")
    with inside:
        inside.wait_entered()
        wait_until(lambda: "very_slow (watch of /slow)" in caplog.text, soon)
        assert not inside.passed.is_set()


@pytest.mark.stock_fails("stop() takes as long as the callback")
def test_stop_does_not_wait_for_ever(handler: Any) -> None:
    with Gate() as inside:
        dispatch(handler, "watch", inside)
        inside.wait_entered()
        in_thread(handler.stop, 15.0)  # stop_timeout is 5 s, the gate opens after 20
        assert not inside.passed.is_set()


# -- 11: any number of spawned threads, without names ----------------------------------


@pytest.mark.stock_fails("has no such option")
def test_spawned_threads_are_bounded(handler_class: type[Any], soon: float) -> None:
    handler, counts = handler_class(max_spawned_threads=2), list[int]()
    both = threading.Barrier(2, timeout=soon)

    def work() -> None:
        both.wait()  # two of them run at once
        counts.append(handler.stats().spawned_threads)
        both.wait()

    threads = [handler.spawn(work) for _ in range(20)]
    for thread in threads:
        thread.join(soon)
        assert not thread.is_alive()

    assert counts == [2] * 20


@pytest.mark.stock_fails("Thread-1, Thread-2 ...")
def test_threads_are_named(handler: Any, soon: float, settle: Settle) -> None:
    names = list[str]()

    def my_work() -> None:
        names.append(threading.current_thread().name)

    handler.spawn(my_work).join(soon)
    for kind in KINDS:
        dispatch(handler, kind, my_work)
        settle(handler)

    assert "kazoo" in names[0]
    assert "my_work" in names[0]
    assert ["kazoo" in name for name in names] == [True] * 3
    assert "completion" in names[1]
    assert "watch" in names[2]


# -- 12: callbacks repeated, lost, stale -----------------------------------------------


@pytest.mark.stock_fails("a runs twice")
def test_late_link_repeats_no_other(handler: Any, settle: Settle) -> None:
    result, calls = handler.async_result(), list[str]()
    result.rawlink(lambda _: calls.append("a"))
    result.set(1)
    result.rawlink(lambda _: calls.append("b"))
    settle(handler)

    assert calls == ["a", "b"]


@pytest.mark.stock_fails("all callbacks run again, and the value changes")
def test_second_set_changes_nothing(handler: Any, settle: Settle) -> None:
    result, calls = handler.async_result(), list[Any]()
    result.rawlink(calls.append)
    result.set(1)
    result.set(2)
    result.set_exception(ConnectionLoss())
    settle(handler)

    assert calls == [result]
    assert result.get() == 1


@pytest.mark.stock_fails("a callback queued behind the end of a worker is lost")
def test_set_during_stop_loses_nothing(handler: Any, soon: float) -> None:
    result, calls, inside = handler.async_result(), list[str](), Gate()
    result.rawlink(lambda _: calls.append("link"))
    dispatch(handler, "completion", inside)
    inside.wait_entered()
    stopper = threading.Thread(target=handler.stop, daemon=True)
    stopper.start()
    wait_until(lambda: not handler.running)
    dispatch(handler, "completion", lambda: calls.append("queued"))
    result.set()
    inside.open()
    stopper.join(soon)

    assert not stopper.is_alive()
    assert sorted(calls) == ["link", "queued"]


def watched(handler: Any, make_client: MakeClient) -> tuple[Any, list[str]]:
    """Return a client with an event that came to its stopped handler, and what it saw.

    Another client of a handler may stop it.
    """
    client, seen = make_client(handler=handler), list[str]()
    client.start()
    client.create("/a")
    client.exists("/a", watch=lambda event: seen.append(event.path))
    handler.stop()
    client.delete("/a")  # the event comes before the reply
    return client, seen


@pytest.mark.stock_fails("it is delivered after the next start")
def test_nothing_stale_after_the_next_start(
    handler: Any, make_client: MakeClient, settle: Settle
) -> None:
    client, seen = watched(handler, make_client)
    client.stop()
    client.start()
    settle(handler)

    assert seen == []


def test_event_of_another_client_survives_a_stop(
    handler: Any, make_client: MakeClient, settle: Settle
) -> None:
    client, seen = watched(handler, make_client)
    assert seen == []
    handler.start()
    settle(handler)

    assert seen == ["/a"]
    assert client.connected


# -- 13: one exception for all ---------------------------------------------------------


@pytest.mark.stock_fails("its traceback grows with each get()")
def test_traceback_does_not_grow(handler: Any) -> None:
    error, lengths = ConnectionLoss(), set[int]()
    for _ in range(200):
        result = handler.async_result()
        result.set_exception(error)
        try:
            result.get()
        except ConnectionLoss as caught:
            lengths.add(len(traceback.extract_tb(caught.__traceback__)))
    assert len(lengths) == 1


@pytest.mark.stock_fails("the threads write into one traceback")
def test_threads_do_not_share_an_exception(handler: Any) -> None:
    result = handler.async_result()
    result.set_exception(ConnectionLoss())

    def get() -> Any:
        try:
            result.get()
        except ConnectionLoss as caught:
            return caught

    one, two = together(get, get)

    assert one is not two


@pytest.mark.stock_fails("they live as long as the result")
def test_locals_of_a_caller_are_let_go(handler: Any, soon: float) -> None:
    class Payload:
        pass

    def get() -> weakref.ref[Payload]:
        payload = Payload()
        try:
            result.get()
        except ConnectionLoss:
            pass
        return weakref.ref(payload)

    result = handler.async_result()
    result.set_exception(ConnectionLoss())
    reference = get()

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone, soon, "the locals of a caller, freed")

    assert not result.successful()


# -- 14: both directions of a descriptor -----------------------------------------------


@pytest.mark.stock_fails("readable twice, never writable")
def test_readable_and_writable(handler: Any) -> None:
    one, other = socket.socketpair()
    with one, other:
        other.send(b"x")
        assert handler.select([one], [one], [], 1) == ([one], [one], [])


# -- 15: the second thread fails to start ----------------------------------------------


@pytest.mark.stock_fails("an orphan is left, and then there are two for one queue")
def test_second_thread_fails_to_start(
    handler_class: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    soon: float,
    settle: Settle,
) -> None:
    handler, start = handler_class(), threading.Thread.start
    started = list[threading.Thread]()

    def fail(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            handler.start()
    try:
        assert not handler.running
        wait_until(lambda: not started[0].is_alive(), soon, "the end of the orphan")
        handler.start()
        settle(handler)
    finally:
        handler.completion_queue.put(sys_exit)  # ends an orphan of kazoo's
        retire(handler)


def sys_exit() -> None:
    raise SystemExit


# -- 16: the name of a failed callback -------------------------------------------------


@pytest.mark.stock_fails("Exception in worker queue thread")
def test_failed_callback_is_logged_with_its_name(
    handler: Any, caplog: pytest.LogCaptureFixture, settle: Settle
) -> None:
    def my_watch(event: WatchedEvent) -> None:
        raise ValueError(event.path)

    event = WatchedEvent("CHANGED", "CONNECTED", "/a/path")
    with caplog.at_level(logging.ERROR):
        handler.dispatch_callback(Callback("watch", my_watch, (event,)))
        settle(handler)
    (record,) = caplog.records

    assert f"{__name__}." in record.message
    assert "my_watch" in record.message
    assert "/a/path" in record.message


# -- 17: a closure over its own result -------------------------------------------------


@pytest.mark.stock_fails("it lives until the collector runs")
@refcounted
def test_closure_over_its_result_is_freed(handler_class: type[Any]) -> None:
    class Payload:
        pass

    def make() -> weakref.ref[Payload]:
        result, payload = handler_class().async_result(), Payload()
        result.rawlink(lambda _: (result, payload))
        result.set()
        return weakref.ref(payload)

    gc.disable()
    try:
        assert make()() is None
    finally:
        gc.enable()


# -- 18: late heartbeats ---------------------------------------------------------------


@pytest.mark.stock_fails("the session is lost without a word")
def test_late_heartbeat_is_logged(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, soon: float
) -> None:
    # It is late after 3 s, and the session expires after 6 s.
    client = make_client(timeout=6.0)

    def listener(state: str) -> None:
        if state == "CONNECTED":
            threading.Event().wait(3.2)  # a heartbeat is due every 2 s

    client.add_listener(listener)
    client.start()
    client.remove_listener(listener)
    wait_until(lambda: "a heartbeat is due every" in caplog.text, soon)

    assert "state listener" in caplog.text
