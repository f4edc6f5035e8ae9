"""Situations in which kazoo's own handler holds, so that ours has to.

Every test runs with either handler. ``tests/README.rst`` has them in a table; those in
which threads, subclasses and processes differ are in ``test_situations_*.py``, too.
"""

from __future__ import annotations

import asyncio
import logging
import reprlib
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.connection import ConnectionHandler

from tests.background import in_background
from tests.faults.proxy import RST, Proxy, Stall
from tests.support import TIMEOUT, Gate, in_thread, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper

#: A session that is lost soon, in seconds.
SESSION = 3.0


@pytest.fixture
def new_handler(handler_class: type[Any], stock: bool) -> Callable[..., Any]:
    """Return a function that makes handlers, with options that only ours has."""
    return lambda **options: handler_class(**({} if stock else options))


@pytest.fixture
def watched_client(
    make_client: MakeClient, new_handler: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that starts clients whose handlers warn of callbacks soon."""

    def make(**options: Any) -> Any:
        handler = new_handler(slow_callback_duration=0.05, stop_timeout=TIMEOUT)
        client = make_client(handler=handler, **options)
        client.start(TIMEOUT)
        return client

    return make


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    """Have *handler* get what applications usually log, warnings and worse."""
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def soon(function: Callable[..., Any], *args: Any) -> Any:
    """Call *function*, which must not hang."""
    return in_thread(lambda: function(*args), TIMEOUT)


# -- what a connection thread runs: log handlers ---------------------------------------


class NodeHandler(logging.Handler):
    """Writes records into nodes, but none that it causes itself."""

    def __init__(self, client: Any) -> None:
        super().__init__(logging.WARNING)
        self._client = client
        self._guard = threading.local()
        self.names: list[str] = []
        self.failures: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self._guard, "busy", False):
            return
        self._guard.busy = True
        try:
            result = self._client.create_async(
                "/log/record-", record.getMessage().encode(), sequence=True
            )
            result.get(timeout=TIMEOUT)  # else it would block for ever where it hangs
            self.names.append(record.name)
        except Exception as error:
            self.failures.append(f"{record.name}: {error!r}")
        finally:
            self._guard.busy = False


def test_log_handler_that_writes_to_zookeeper(
    watched_client: Callable[..., Any], stock: bool
) -> None:
    client, log = watched_client(), logging.getLogger("application")
    client.ensure_path("/log")
    nodes = NodeHandler(client)
    with logging_to(nodes), Gate() as slow:
        client.get_children("/log", watch=slow)
        client.create("/log/first")
        slow.wait_entered()
        for number in range(500):
            log.warning("record %d", number)
            assert nodes.failures == []
        if not stock:  # which does not warn of the callback
            wait_until(lambda: set(nodes.names) > {"application"})

    assert nodes.names.count("application") == 500
    assert len(client.get_children("/log")) == len(nodes.names) + 1


class BrokenHandler(logging.Handler):
    """Blocks, or raises."""

    def __init__(self, how: str) -> None:
        super().__init__(logging.WARNING)
        self.emitted = threading.Semaphore(0)
        self.gate = Gate()
        self._how = how

    def emit(self, record: logging.LogRecord) -> None:
        self.emitted.release()
        if self._how == "raises":
            raise ValueError("the disk is full")
        self.gate()


@pytest.mark.parametrize("how", ["blocks", "raises"])
def test_log_handler_that_is_broken(
    watched_client: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    stock: bool,
    how: str,
) -> None:
    client, states = watched_client(timeout=SESSION), list[str]()
    pings = threading.Semaphore(0)
    session, send_ping = client.client_id, client._connection._send_ping
    client.add_listener(states.append)

    def count_ping(*args: Any) -> None:
        send_ping(*args)
        pings.release()

    monkeypatch.setattr(client._connection, "_send_ping", count_ping)
    broken = BrokenHandler(how)
    with logging_to(broken), Gate() as slow, broken.gate:
        client.exists_async("/").rawlink(slow)
        slow.wait_entered()
        if not stock:  # which does not warn of the callback
            assert broken.emitted.acquire(timeout=TIMEOUT)
        assert soon(client.exists, "/") is not None
        for _ in range(4):  # for longer than the session lasts without
            assert pings.acquire(timeout=SESSION), "no heartbeat"

    assert soon(client.exists, "/") is not None
    assert client.client_id == session
    assert states == []


@pytest.mark.ours_alone("it does not warn of slow callbacks")
def test_warnings_go_on_after_a_log_handler_has_raised(
    watched_client: Callable[..., Any],
) -> None:
    client, broken = watched_client(), BrokenHandler("raises")
    with logging_to(broken):
        for _ in range(2):
            with Gate() as slow:
                client.exists_async("/").rawlink(slow)
                slow.wait_entered()
                assert broken.emitted.acquire(timeout=TIMEOUT)
                assert soon(client.exists, "/") is not None


# -- callbacks whose attributes raise --------------------------------------------------


class Nameless:
    """Raises whatever it is asked, as a ``LocalProxy`` does outside of its context."""

    def __init__(self, function: Callable[..., Any]) -> None:
        calls[id(self)] = function

    def __call__(self, *args: Any) -> None:
        calls[id(self)](*args)

    def _raise(self, *args: Any) -> Any:
        raise RuntimeError("working outside of the context")

    __getattr__ = __repr__ = __str__ = __format__ = __dir__ = _raise
    __class__ = __module__ = __doc__ = __dict__ = property(_raise)


class Named(Nameless):
    """Has but the name that Python gives a thread that runs it."""

    __name__ = "named"


#: What they call: they have no attributes.
calls: dict[int, Callable[..., Any]] = {}

KINDS = ["completion", "watch", "spawn"]


@pytest.fixture
def run_as(stock: bool) -> Iterator[Callable[..., None]]:
    """Return a function that has a client call a callback that has no name."""

    def run(client: Any, kind: str, function: Callable[..., Any]) -> None:
        # kazoo's handler leaves it to Python to name the thread.
        callback = Named(function) if stock and kind == "spawn" else Nameless(function)
        if kind == "completion":
            client.exists_async("/").rawlink(callback)
        elif kind == "spawn":
            client.handler.spawn(callback)
        else:
            path = client.create("/node-", sequence=True)
            client.exists(path, watch=callback)
            client.delete(path)

    yield run
    calls.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_callback_whose_attributes_raise(
    watched_client: Callable[..., Any], run_as: Callable[..., None], kind: str
) -> None:
    client, states = watched_client(), list[str]()
    client.add_listener(states.append)
    with Gate() as slow:
        run_as(client, kind, slow)
        slow.wait_entered()
        until = time.monotonic() + 0.2  # with ours, it is warned of meanwhile
        while time.monotonic() < until:
            assert soon(client.exists, "/") is not None
        assert repr(client.handler)
        if hasattr(client.handler, "stats"):
            assert client.handler.stats().running
    assert slow.passed.wait(TIMEOUT)
    assert states == []
    soon(client.stop)

    assert not client.handler.running


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_callback_whose_attributes_raise_fails(
    watched_client: Callable[..., Any], run_as: Callable[..., None], kind: str
) -> None:
    client, failed, next_one = watched_client(), Gate(), Gate()

    def fails(*args: Any) -> None:
        failed()
        raise ValueError

    with failed, next_one:
        run_as(client, kind, fails)
        failed.wait_entered()
        failed.open()
        run_as(client, kind, next_one)
        next_one.wait_entered()
        assert soon(client.exists, "/") is not None


@pytest.mark.ours_alone("stop() waits for ever for a callback that blocks")
@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_callback_whose_attributes_raise_is_given_up(
    make_client: MakeClient,
    new_handler: Callable[..., Any],
    run_as: Callable[..., None],
    kind: str,
) -> None:
    client = make_client(handler=new_handler(stop_timeout=0.1))
    client.start()
    with Gate() as slow:
        run_as(client, kind, slow)
        slow.wait_entered()
        for _ in range(3):
            run_as(client, kind, slow)
        client.get_children("/")  # so that they are queued
        soon(client.stop)
    soon(client.start)

    assert client.exists("/") is not None


# -- event loops -----------------------------------------------------------------------


class Unreachable(asyncio.SelectorEventLoop):
    """An event loop that other threads do not reach, once it is broken."""

    broken: Callable[[], object] | None = None

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore
        if self.broken is not None:
            self.broken()
        return super().call_soon_threadsafe(*args, **kwargs)


class LoopThread:
    """Awaits results in an event loop, in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, results: list[Any]) -> None:
        self.loop = loop
        self._results = results
        self._waiting = threading.Event()
        self._task = loop.create_task(self._wait())
        self.values = in_background(self._run)
        assert self._waiting.wait(TIMEOUT)

    def _run(self) -> Any:
        try:
            with suppress(asyncio.CancelledError):
                return self.loop.run_until_complete(self._task)
        finally:
            self.loop.close()

    async def _wait(self) -> Any:
        async def wait(result: Any) -> Any:
            return await result

        tasks = [asyncio.create_task(wait(result)) for result in self._results]
        await asyncio.sleep(0)
        self._waiting.set()
        return await asyncio.gather(*tasks)

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(self._task.cancel)
        self.values.result(TIMEOUT)


@pytest.mark.ours_alone("its results cannot be awaited")
@pytest.mark.parametrize("how", ["raises", "blocks"])
def test_event_loop_that_cannot_be_reached(
    make_client: MakeClient, own_server: ZooKeeper, how: str
) -> None:
    client, states, gate = make_client(hosts=own_server.hosts), list[str](), Gate()
    client.start()
    client.add_listener(states.append)

    def fail() -> None:
        if how == "blocks":
            gate()
        raise ValueError("this loop is gone")

    (node,) = own_server.nodes
    node.suspend()  # so that all wait before the first reply comes
    results = [client.exists_async("/") for _ in range(40)]
    gone, good = Unreachable(), asyncio.SelectorEventLoop()
    with LoopThread(gone, results[::4]), LoopThread(good, results[1::4]) as others:
        threads = [in_background(result.get, timeout=60) for result in results[2::4]]
        futures = [result.as_future() for result in results[3::4]]
        gone.broken = fail
        try:
            with gate:
                node.resume()
                for future in [*threads, *futures, others.values]:
                    assert future.result(TIMEOUT) is not None
                assert soon(client.exists, "/") is not None
        finally:
            gone.broken = None

    assert states == []


@pytest.mark.ours_alone("its results are no futures")
def test_callbacks_of_a_future_do_not_hold_up_the_client(client: Any) -> None:
    with Gate() as inside:
        client.exists_async("/").as_future().add_done_callback(inside)
        inside.wait_entered()
        assert soon(client.exists, "/") is not None


# -- the rule --------------------------------------------------------------------------


class Traps:
    """Explode in a client's connection thread, and remember it."""

    def __init__(self, stock: bool) -> None:
        self.sprung: list[str] = []
        self._stock = stock
        self._thread = threading.local()

    def arm(self) -> None:
        """From now on, this thread is a connection thread."""
        self._thread.armed = True

    def spring(self, what: str) -> None:
        """Explode, in a connection thread."""
        if getattr(self._thread, "armed", False):
            stack = "".join(traceback.format_stack(sys._getframe(1)))
            self.sprung.append(f"{what} in a connection thread:\n{stack}")
            raise RuntimeError(what)

    def callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a callback that may be called, and nothing else."""
        spring, stock = self.spring, self._stock

        class Trapped:
            def __call__(self, *args: Any) -> Any:
                if not stock:  # with it, those of a stopped handler run there
                    spring("a call")
                return function(*args)

            def __getattribute__(self, name: str) -> Any:
                spring(f"a look at {name}")
                return super().__getattribute__(name)

            def __repr__(self) -> str:
                spring("repr")
                return "<Trapped>"

            def __eq__(self, other: object) -> bool:
                spring("a comparison")
                return self is other

            __hash__ = object.__hash__

        return Trapped()


@pytest.fixture
def traps(monkeypatch: pytest.MonkeyPatch, stock: bool) -> Traps:
    """Traps where our loggers and ``reprlib`` are used."""
    traps = Traps(stock)
    connect_loop: Any = ConnectionHandler._connect_loop
    handle, short_repr = logging.Logger.handle, reprlib.Repr.repr

    def armed(self: Any, *args: Any) -> Any:
        traps.arm()
        return connect_loop(self, *args)

    def trapped_handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if self.name.startswith("kazoo_seqthreading"):
            traps.spring(f"logging {record.msg!r}")
        handle(self, record)

    def trapped_repr(self: reprlib.Repr, obj: Any) -> str:
        traps.spring("reprlib")
        return short_repr(self, obj)

    monkeypatch.setattr(ConnectionHandler, "_connect_loop", armed)
    monkeypatch.setattr(logging.Logger, "handle", trapped_handle)
    monkeypatch.setattr(reprlib.Repr, "repr", trapped_repr)
    return traps


class TrappedLoop(asyncio.SelectorEventLoop):
    """Must not be called by a connection thread."""

    traps: Traps

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore
        self.traps.spring("a call of an event loop")
        return super().call_soon_threadsafe(*args, **kwargs)


class Situations:
    """What a client does in its life, with callbacks that are trapped."""

    def __init__(self, client: Any, proxy: Proxy, traps: Traps, stock: bool) -> None:
        self._client = client
        self._proxy = proxy
        self._traps = traps
        self._stock = stock

    def calls(self) -> None:
        client = self._client
        client.create("/node", b"0")
        client.set("/node", b"1")
        client.add_auth("digest", "user:password")
        assert client.get("/node")[0] == b"1"
        with pytest.raises(NoNodeError):
            client.get("/no/node")
        transaction = client.transaction()
        transaction.check("/node", 99)
        transaction.commit()

    def chains(self) -> None:
        client = self._client
        client.create("/a/b/c", makepath=True)
        client.ensure_path("/d/e/f")
        client.sync("/")
        with suppress(NoNodeError):
            client.create("/no/node")

    def links(self) -> None:
        def fails(result: Any) -> None:
            raise ValueError(result)

        gate, trapped = Gate(), self._traps.callback
        result = self._client.exists_async("/")
        for function in (fails, gate):
            result.rawlink(trapped(function))
            result.rawlink(trapped(function))
        taken_back = trapped(fails)
        result.rawlink(taken_back)
        result.unlink(taken_back)
        with gate:
            gate.wait_entered()
            result.rawlink(trapped(fails))
            assert repr(result)

    def watches(self) -> None:
        client, seen = self._client, threading.Semaphore(0)
        callback = self._traps.callback(lambda *args: seen.release())
        client.ensure_path("/watched")
        client.get_children("/watched", watch=callback)
        client.DataWatch("/watched", callback)
        client.create("/watched/child")
        client.set("/watched", b"1")
        for _ in range(3):
            assert seen.acquire(timeout=TIMEOUT)

    def futures(self) -> None:
        if self._stock:
            return
        futures = [self._client.exists_async("/").as_future() for _ in range(100)]
        for future in futures:
            assert future.result(TIMEOUT) is not None
        with pytest.raises(NoNodeError):
            self._client.get_async("/no/node").as_future().result(TIMEOUT)

    def awaits(self) -> None:
        if self._stock:
            return
        loop = TrappedLoop()
        loop.traps = self._traps
        results = [self._client.exists_async("/") for _ in range(100)]
        with LoopThread(loop, results) as waiting:
            assert len(waiting.values.result(TIMEOUT)) == 100

    def slow_callback(self) -> None:
        client = self._client
        with Gate() as completion, Gate() as watch:
            client.exists("/slow", watch=self._traps.callback(watch))
            client.create("/slow")
            client.exists_async("/").rawlink(self._traps.callback(completion))
            for gate in (completion, watch):
                gate.wait_entered()
            until = time.monotonic() + 0.3  # with ours, they are warned of meanwhile
            while time.monotonic() < until:
                client.get_children("/")

    def late_heartbeat(self) -> None:
        client, held_up = self._client, threading.Event()

        def listener(state: str) -> bool:
            if state != "CONNECTED":
                return False
            threading.Event().wait(SESSION * 0.6)  # one is due after a third
            held_up.set()
            return True

        client.add_listener(listener)
        self._proxy.cut(RST)
        assert held_up.wait(TIMEOUT)
        wait_until(lambda: client.connected)
        client.retry(client.exists, "/")

    def lost_connection(self) -> None:
        client, ended = self._client, threading.Semaphore(0)
        callback = self._traps.callback(lambda *args: ended.release())
        client.get("/node", watch=callback)
        for _ in range(50):
            client.exists_async("/").rawlink(callback)
            client.create_async("/x/y/z", makepath=True)
        self._proxy.cut(RST)
        for _ in range(51):
            assert ended.acquire(timeout=TIMEOUT)
        wait_until(lambda: client.connected)

    def restart(self) -> None:
        client, ended = self._client, threading.Semaphore(0)
        for _ in range(50):
            client.exists_async("/").rawlink(
                self._traps.callback(lambda result: ended.release())
            )
        client.restart()
        for _ in range(50):
            assert ended.acquire(timeout=TIMEOUT)

    def stop(self) -> None:
        client, ended = self._client, threading.Semaphore(0)
        callback = self._traps.callback(lambda result: ended.release())
        pending = client.handler.async_result()
        pending.rawlink(callback)
        client.stop()
        pending.set()
        pending.rawlink(callback)
        client.exists_async("/").rawlink(callback)
        for _ in range(3):
            assert ended.acquire(timeout=TIMEOUT)


SITUATIONS = [name for name in vars(Situations) if not name.startswith("_")]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_of_others_runs_in_a_connection_thread(
    watched_client: Callable[..., Any],
    own_server: ZooKeeper,
    traps: Traps,
    stock: bool,
    situation: str,
) -> None:
    (node,) = own_server.nodes
    with Proxy(node.port) as proxy:
        options: dict[str, Any] = {"timeout": SESSION, "hosts": proxy.address}
        if situation == "calls":
            options["auth_data"] = [("digest", "me:secret")]
        client = watched_client(**options)
        try:
            with suppress(KazooException):  # what the traps break
                soon(getattr(Situations(client, proxy, traps, stock), situation))
        finally:
            assert not traps.sprung, traps.sprung[0]
            soon(client.stop)
            client.close()
    assert not traps.sprung, traps.sprung[0]


# -- one handler for two clients -------------------------------------------------------


@pytest.fixture
def pair(make_client: MakeClient, handler_class: type[Any]) -> tuple[Any, Any]:
    """Two clients with one handler, not started."""
    handler = handler_class()
    return make_client(handler=handler), make_client(handler=handler)


def test_watches_outlive_the_stop_of_another_client(
    pair: tuple[Any, Any], client: Any
) -> None:
    one, other = pair
    one.start()
    other.start()
    client.create("/node", b"0")
    seen = list[bytes]()
    one.DataWatch("/node", lambda data, stat: seen.append(data))
    wait_until(lambda: seen == [b"0"])
    other.stop()
    client.set("/node", b"1")
    assert one.get("/node")[0] == b"1"  # it comes after the event
    other.start()
    wait_until(lambda: seen[-1] == b"1")
    client.set("/node", b"2")
    wait_until(lambda: seen[-1] == b"2")

    assert seen == [b"0", b"1", b"2"]


def listen(client: Any, function: Callable[[], Any]) -> Any:
    """Start *client*; return what *function* returns in its state listener."""
    outcomes, done = list[Any](), threading.Event()

    def listener(state: str) -> bool:
        try:
            outcomes.append(function())
        except Exception as error:
            outcomes.append(error)
        done.set()
        return True

    client.add_listener(listener)
    client.start_async()
    assert done.wait(TIMEOUT)
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize("handlers", ["one", "two"])
def test_listener_calls_another_client(
    pair: tuple[Any, Any], client: Any, handlers: str
) -> None:
    one, other = pair
    if handlers == "two":
        other = client
    other.start()

    def call() -> Any:
        other.create("/a/b", b"value", makepath=True)
        with other.Lock("/lock"):
            return other.get("/a/b")[0]

    assert listen(one, call) == b"value"
    assert one.get("/a/b")[0] == b"value"


@pytest.mark.parametrize("timeout", [None, TIMEOUT])
@pytest.mark.parametrize("what", ["event", "cleared event", "result"])
def test_listener_waits_for_another_thread(
    make_client: MakeClient, what: str, timeout: float | None
) -> None:
    client = make_client()
    waiting = threading.Event()
    event, result = client.handler.event_object(), client.handler.async_result()

    def wait() -> Any:
        if what == "cleared event":
            event.clear()
        waiting.set()
        return (result.get if what == "result" else event.wait)(timeout=timeout)

    listening = in_background(listen, client, wait)
    assert waiting.wait(TIMEOUT)
    event.set()
    result.set(True)

    assert listening.result(TIMEOUT) is True
    assert client.exists("/") is not None


def test_listener_waits_with_a_timeout(make_client: MakeClient) -> None:
    client, results = make_client(), list[Any]()

    def wait() -> Any:
        result = client.exists_async("/")
        results.append(result)
        with pytest.raises(KazooTimeoutError):
            result.get(timeout=0.2)
        return result.wait(0.1), client.handler.event_object().wait(0.1)

    assert listen(client, wait) == (False, False)
    assert results[0].get(timeout=TIMEOUT) is not None


# -- results of a handler that is stopped ----------------------------------------------


@pytest.mark.parametrize("started_before", [False, True])
@pytest.mark.parametrize("method", ["set", "set_exception"])
def test_callbacks_on_a_stopped_handler(
    handler_class: type[Any], method: str, started_before: bool
) -> None:
    handler, threads = handler_class(), list[int]()
    if started_before:
        handler.start()
        handler.stop()
    result = handler.async_result()
    me = threading.get_ident()
    result.rawlink(lambda _: threads.append(threading.get_ident()))
    getattr(result, method)(NoNodeError())
    assert threads == [me]
    late = handler.async_result()
    late.set()
    late.rawlink(lambda _: threads.append(threading.get_ident()))

    assert threads == [me, me]


@pytest.fixture
def stopped_with_callbacks(
    make_client: MakeClient, own_server: ZooKeeper, request: pytest.FixtureRequest
) -> Any:
    """Which threads ran callbacks when a client had stopped; its own; and how many.

    Its requests are in flight when it stops: they are answered then, or lost.
    """
    (node,) = own_server.nodes
    threads, connection = list[int](), list[int]()

    def callback(result: Any) -> None:
        time.sleep(0.05)
        threads.append(threading.get_ident())

    with Proxy(node.port) as proxy:
        client = make_client(hosts=proxy.address)
        client.add_listener(lambda state: connection.append(threading.get_ident()))
        client.start()
        proxy.down = Stall()
        for _ in range(5):
            client.exists_async("/").rawlink(callback)
        stopping = in_background(client.stop)
        wait_until(lambda: not client.handler.running)
        if request.param == "lost":
            proxy.cut(RST)
        proxy.restore()
        stopping.result(TIMEOUT)
    return list(threads), connection[0], 5


in_flight = pytest.mark.parametrize(
    "stopped_with_callbacks", ["answered", "lost"], indirect=True
)


@in_flight
def test_callbacks_have_run_when_the_client_has_stopped(
    stopped_with_callbacks: tuple[list[int], int, int],
) -> None:
    threads, _, count = stopped_with_callbacks
    assert len(threads) == count


@pytest.mark.ours_alone("they run in the connection thread")
@in_flight
def test_callbacks_of_a_stopped_client_do_not_run_in_the_connection_thread(
    stopped_with_callbacks: tuple[list[int], int, int],
) -> None:
    threads, connection, count = stopped_with_callbacks
    assert len(threads) == count
    assert connection not in threads
