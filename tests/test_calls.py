"""Calls from callbacks and state listeners: none hangs, none is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoNodeError,
    SessionExpiredError,
)
from kazoo.handlers.utils import wrap

from kazoo_seqthreading import AsyncResult, BlockingCallError
from tests.background import in_background
from tests.internals import waiting
from tests.support import TIMEOUT, MakeClient, wait_until

if TYPE_CHECKING:
    from tests.zookeeper import ZooKeeper

Call = Callable[[Any], Any]


def commit(client: Any) -> Any:
    transaction = client.transaction()
    transaction.create("/a/new")
    return transaction.commit()


def lock(client: Any) -> Any:
    with client.Lock("/lock"):
        return client.get_children("/lock") != []


def stop(client: Any) -> None:
    client.stop()


def stop_and_close(client: Any) -> None:
    client.stop()
    client.close()


def restart(client: Any) -> None:
    client.restart()
    assert client.get_children("/") is not None


chained = pytest.mark.stock_fails("kazoo's own callbacks wait behind the user's")

CALLS = {
    "get": (lambda client: client.get("/a")[0], b"1"),
    "set": (lambda client: client.set("/a", b"2").version, 1),
    "delete": (lambda client: client.delete("/a/b"), True),
    "get_children": (lambda client: client.get_children("/a"), ["b"]),
    "transaction": (commit, ["/a/new"]),
}
CHAINED_CALLS = {
    "create": (lambda client: client.create("/a/new"), "/a/new"),
    "create makepath": (
        lambda client: client.create("/x/y/z", makepath=True),
        "/x/y/z",
    ),
    "ensure_path": (lambda client: client.ensure_path("/x/y"), "/x/y"),
    "sync": (lambda client: client.sync("/a"), "/a"),
    "lock": (lock, True),
}


@pytest.mark.parametrize(
    ("call", "answer"),
    [pytest.param(*case, id=name) for name, case in CALLS.items()]
    + [
        pytest.param(*case, id=name, marks=chained)
        for name, case in CHAINED_CALLS.items()
    ],
)
def test_call_in_completion_callback(client: Any, call: Call, answer: Any) -> None:
    client.create("/a", b"1")
    client.create("/a/b")
    order: list[str] = []
    answered: Future[Any] = Future()
    behind = threading.Event()

    def first(result: Any) -> None:
        order.append("first")
        try:
            # Another user's callback waits for its turn, and goes on to do so.
            wait_until(lambda: not client.handler.completion_queue.empty())
            answered.set_result(call(client))
        except BaseException as error:
            answered.set_exception(error)
        order.append("first has returned")

    def second(result: Any) -> None:
        order.append("second")
        behind.set()

    client.get_async("/a").rawlink(first)
    client.get_async("/a").rawlink(second)

    assert answered.result(TIMEOUT) == answer
    assert behind.wait(TIMEOUT)
    assert order == ["first", "first has returned", "second"]


@chained
def test_calls_complete_while_a_callback_blocks(client: Any) -> None:
    client.ensure_path("/a")
    blocks, may_return = threading.Event(), threading.Event()

    def block(result: Any) -> None:
        blocks.set()
        may_return.wait(TIMEOUT)

    client.exists_async("/").rawlink(block)
    assert blocks.wait(TIMEOUT)
    try:
        for call, _ in CHAINED_CALLS.values():
            in_background(call, client).result(TIMEOUT / 2)
    finally:
        may_return.set()


@pytest.mark.stock_fails("kazoo's chains take another turn in the queue")
def test_callbacks_keep_the_order_of_requests(client: Any) -> None:
    client.create("/a")
    requests: list[Call] = [
        lambda client: client.get_async("/a"),
        lambda client: client.create_async("/a/n-", sequence=True),
        lambda client: client.sync_async("/a"),
        lambda client: client.exists_async("/none"),
        lambda client: client.create_async("/a"),  # fails
    ]
    order: list[int] = []
    for number in range(500):
        result = requests[number % len(requests)](client)
        result.rawlink(lambda result, number=number: order.append(number))
    wait_until(lambda: len(order) == 500)

    assert order == list(range(500))


def test_callbacks_run_exactly_once(client: Any) -> None:
    client.create("/seq")
    ran: Counter[Any] = Counter()

    def note(result: Any) -> None:
        ran[result.get()] += 1

    results = []
    for number in range(100):
        results += [
            client.create_async(f"/p{number}/q/r", makepath=True),
            client.create_async("/seq/n-", sequence=True),
            client.sync_async(f"/p{number}"),
        ]
        for result in results[-3:]:
            result.rawlink(note)
    paths = [result.get(timeout=TIMEOUT) for result in results]
    behind = threading.Event()
    client.exists_async("/").rawlink(lambda result: behind.set())

    assert behind.wait(TIMEOUT)
    assert ran == Counter(paths)
    # A chain that ran twice would have made more nodes.
    assert len(client.get_children("/seq")) == 100
    assert len(client.get_children("/")) == 101


def test_only_kazoos_own_chains_leave_the_queue(client: Any) -> None:
    outer = client.handler.async_result()

    def link(result: Any) -> str:
        return threading.current_thread().name

    client.exists_async("/").rawlink(wrap(outer)(link))  # as kazoo does
    connection = client._connection._connection_routine

    assert outer.get(timeout=TIMEOUT) != connection.name


# -- state listeners ---------------------------------------------------------------

hangs = pytest.mark.stock_fails("a blocking call in a state listener hangs")


@hangs
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.exists("/"), id="exists"),
        pytest.param(lambda client: client.create("/x"), id="create"),
        pytest.param(lambda client: client.get_async("/").wait(), id="wait"),
        pytest.param(lambda client: client.get_async("/").get(), id="get"),
        pytest.param(lambda client: client.Lock("/x").acquire(), id="lock"),
        pytest.param(lambda client: client.Counter("/x").value, id="counter"),
        pytest.param(lambda client: client.create_async("/x").get(), id="chain"),
    ],
)
def test_blocking_call_in_listener(make_client: MakeClient, call: Call) -> None:
    client = make_client()
    answered: Future[Any] = Future()

    def a_listener_that_blocks(state: str) -> None:
        if answered.done():
            return
        try:
            answered.set_result(call(client))
        except BaseException as error:
            answered.set_exception(error)

    client.add_listener(a_listener_that_blocks)
    client.start_async()
    with pytest.raises(BlockingCallError) as caught:
        answered.result(TIMEOUT)
    message = str(caught.value)
    assert "a_listener_that_blocks" in message or "<lambda>" in message
    assert __file__ in message
    assert "handler.spawn" in message
    assert "_async" in message
    wait_until(lambda: client.connected)

    assert client.get_children("/") is not None


def in_first_state(client: Any, call: Callable[[], Any]) -> Future[Any]:
    """Have *call* made in a state listener, once."""
    answered: Future[Any] = Future()

    def listener(state: str) -> None:
        if answered.done():
            return
        try:
            answered.set_result(call())
        except BaseException as error:
            answered.set_exception(error)

    client.add_listener(listener)
    return answered


def test_wait_with_a_timeout_in_listener(make_client: MakeClient) -> None:
    """It ends by itself, and the reply comes when the listener has returned."""
    client, results = make_client(), list[Any]()

    def wait() -> bool:
        results.extend((client.exists_async("/"), client.create_async("/a/b")))
        with pytest.raises(client.handler.timeout_exception):
            results[0].get(timeout=0.05)
        return any(result.wait(0.05) for result in results)

    waited = in_first_state(client, wait)
    client.start()
    assert waited.result(TIMEOUT) is False
    assert results[0].get(timeout=TIMEOUT) is not None
    with pytest.raises(NoNodeError):
        results[1].get(timeout=TIMEOUT)


@pytest.mark.parametrize("shared", [False, True], ids=["own handler", "same handler"])
def test_listener_calls_another_client(make_client: MakeClient, shared: bool) -> None:
    client = make_client()
    other = make_client(handler=client.handler) if shared else make_client()
    other.start()
    called = in_first_state(client, lambda: other.create("/a"))
    client.start()

    assert called.result(TIMEOUT) == "/a"


def test_listener_waits_for_what_another_thread_sets(make_client: MakeClient) -> None:
    client, waits = make_client(), threading.Event()
    result, event = client.handler.async_result(), client.handler.event_object()

    def wait() -> Any:
        waits.set()
        event.wait()
        return result.get()

    waited = in_first_state(client, wait)
    client.start_async()
    assert waits.wait(TIMEOUT)
    event.set()
    result.set("value")

    assert waited.result(TIMEOUT) == "value"


@hangs
def test_listener_waits_for_its_own_connection(make_client: MakeClient) -> None:
    """As for what ``start_async`` returns, which only this thread can set."""
    client = make_client()
    connected = client.start_async()
    assert connected.wait(TIMEOUT)
    client.get("/")  # the listeners of this connection have run
    waited = in_first_state(client, connected.wait)
    client._connection._socket.close()
    with pytest.raises(BlockingCallError, match=r"listener \("):
        waited.result(TIMEOUT)
    wait_until(lambda: client.connected)


def test_listener_hands_over_a_result_and_waits(make_client: MakeClient) -> None:
    """Who waits for a result that a listener completes is not kept from waking."""
    client, consumed = make_client(), threading.Event()
    mine = client.handler.async_result()

    def consume() -> None:
        mine.get(timeout=TIMEOUT)
        consumed.set()

    def hand_over() -> bool:
        if isinstance(mine, AsyncResult):  # that of kazoo does not tell who waits
            wait_until(lambda: waiting(mine))
        mine.set("value")
        return consumed.wait(TIMEOUT / 2)

    consumer = in_background(consume)
    handed_over = in_first_state(client, hand_over)
    client.start()
    consumer.result(TIMEOUT)

    assert handed_over.result(TIMEOUT) is True


def test_look_at_a_result_in_listener(make_client: MakeClient) -> None:
    client, looks = make_client(), list[bool]()
    client.add_listener(lambda state: looks.append(client.exists_async("/").wait(0)))
    client.start()
    wait_until(lambda: looks)

    assert looks == [False]


@hangs
def test_listener_that_raises_is_logged(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()

    def a_listener_that_blocks(state: str) -> None:
        client.exists("/")

    client.add_listener(a_listener_that_blocks)
    in_background(client.start, TIMEOUT / 2).result(TIMEOUT)
    in_background(client.exists, "/").result(TIMEOUT)
    (error,) = (record.exc_info for record in caplog.records if record.exc_info)

    assert error is not None
    assert error[0] is BlockingCallError
    assert "a_listener_that_blocks" in str(error[1])


@hangs
@pytest.mark.parametrize("call", [stop, restart])
def test_stop_in_listener(make_client: MakeClient, call: Call) -> None:
    client = make_client()
    answered: Future[float] = Future()

    def listener(state: str) -> None:
        if answered.done():
            return
        began = time.monotonic()
        with pytest.raises(BlockingCallError, match="listener"):
            call(client)
        answered.set_result(time.monotonic() - began)

    client.add_listener(listener)
    client.start_async()
    assert answered.result(TIMEOUT) < 5.0
    # The client is stopped all the same, as soon as the listener has returned.
    wait_until(client._connection.connection_stopped.is_set)
    assert not client.connected
    client.start()

    assert client.get_children("/") is not None


@pytest.mark.parametrize("call", [stop_and_close, restart])
def test_stop_spawned_by_listener(make_client: MakeClient, call: Call) -> None:
    client = make_client()
    spawned: Future[Any] = Future()

    def listener(state: str) -> None:
        if not spawned.done():
            spawned.set_result(client.handler.spawn(call, client))

    client.add_listener(listener)
    client.start_async()
    thread = spawned.result(TIMEOUT)
    thread.join(TIMEOUT)

    assert not thread.is_alive()
    assert client.connected == (call is restart)


@pytest.mark.stock_fails("278 bytes fill the wake-up channel")
def test_listener_may_make_any_number_of_requests(make_client: MakeClient) -> None:
    client = make_client()
    made: Future[list[Any]] = Future()

    def listener(state: str) -> None:
        if not made.done():
            made.set_result([client.exists_async("/") for _ in range(20000)])

    client.add_listener(listener)
    client.start_async()
    for result in made.result(TIMEOUT):
        assert result.get(timeout=TIMEOUT) is not None


@pytest.mark.stock_fails("278 bytes fill the wake-up channel")
def test_requests_while_suspended(
    make_client: MakeClient, own_server: ZooKeeper
) -> None:
    retry = {"max_tries": -1, "delay": 0.1, "max_delay": 0.5}
    client = make_client(hosts=own_server.hosts, timeout=3.0, connection_retry=retry)
    client.start()
    (node,) = own_server.nodes
    made_while_connected = 0
    ran: list[Any] = []

    def request() -> list[Any]:
        nonlocal made_while_connected
        results = []
        for _ in range(20000):
            result = client.exists_async("/")
            if client._state == "CONNECTED":  # all of the first, unless it is slow
                made_while_connected += 1
            result.rawlink(ran.append)
            results.append(result)
        return results

    node.suspend()
    results = in_background(request).result(TIMEOUT)  # nobody reads them
    wait_until(lambda: client.state == "SUSPENDED")
    results += in_background(request).result(TIMEOUT)  # there is no connection
    node.resume()
    outcomes = Counter(type(outcome_of(result)) for result in results)
    lost = outcomes[ConnectionLoss] + outcomes[SessionExpiredError]
    assert outcomes[ConnectionLoss] >= made_while_connected > 0
    assert outcomes[type(None)] + lost == 40000
    wait_until(lambda: len(ran) == 40000, 3 * TIMEOUT)
    assert Counter(map(id, ran)) == Counter(map(id, results))  # once each
    wait_until(lambda: client.connected, 3 * TIMEOUT)

    assert client.exists("/") is not None


def outcome_of(result: Any) -> BaseException | None:
    """Return the exception of *result*, ``None`` for a value."""
    assert result.wait(TIMEOUT)
    exception: BaseException | None = result.exception
    return exception


# -- stop, close and restart from callbacks ----------------------------------------

joins_itself = pytest.mark.stock_fails("cannot join the current thread")


def call_in_callback(client: Any, kind: str, call: Call) -> Future[Any]:
    """Have *call* made in a watch or completion callback."""
    future: Future[Any] = Future()

    def callback(argument: Any) -> None:
        try:
            future.set_result(call(client))
        except BaseException as error:
            future.set_exception(error)

    if kind == "completion":
        client.exists_async("/").rawlink(callback)
    else:
        client.exists("/node", watch=callback)
        client.create_async("/node")
    return future


@joins_itself
@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_stop_in_callback(client: Any, kind: str) -> None:
    call_in_callback(client, kind, stop_and_close).result(TIMEOUT)
    assert not client.connected
    assert not client.handler.running
    with pytest.raises(ConnectionClosedError):
        client.get("/")
    client.start()

    assert client.get_children("/") is not None


@joins_itself
@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_restart_in_callback(client: Any, kind: str) -> None:
    before = client.client_id
    call_in_callback(client, kind, restart).result(TIMEOUT)
    assert client.client_id != before
    assert client.get_children("/") is not None
    # Both workers of the new run are alive.
    call_in_callback(client, "completion", str).result(TIMEOUT)
    client.delete("/node") if client.exists("/node") else None
    call_in_callback(client, "watch", str).result(TIMEOUT)


@joins_itself
def test_callbacks_behind_one_that_restarts(client: Any) -> None:
    order: list[str] = []
    behind, ahead = threading.Event(), threading.Event()

    def first(result: Any) -> None:
        wait_until(lambda: not client.handler.completion_queue.empty())
        restart(client)
        client.exists_async("/").rawlink(lambda result: ahead.set())
        client.exists("/")
        order.append("first")

    def second(result: Any) -> None:
        assert not ahead.is_set()
        order.append("second")
        behind.set()

    client.exists_async("/").rawlink(first)
    client.exists_async("/").rawlink(second)

    assert ahead.wait(TIMEOUT)
    assert behind.is_set()
    assert order == ["first", "second"]


@joins_itself
def test_stops_at_once(client: Any) -> None:
    barrier = threading.Barrier(3, timeout=TIMEOUT)

    def meet_and_stop(client: Any) -> None:
        barrier.wait()
        client.stop()

    stops = [
        call_in_callback(client, "watch", meet_and_stop),
        call_in_callback(client, "completion", meet_and_stop),
        in_background(meet_and_stop, client),
    ]
    for future in stops:
        future.result(TIMEOUT)
    wait_until(lambda: not client.connected)
    client.start()

    assert client.get_children("/") is not None
