"""What code finds that subclasses a handler, looks at it, or counts on its details.

Every test runs with either handler, as in ``test_situations.py``.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import itertools
import pickle
import queue
import re
import select
import socket
import threading
import time
import weakref
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import kazoo.handlers.threading
import pytest
from kazoo.exceptions import NoNodeError

from tests.background import in_background
from tests.support import TIMEOUT, in_thread, refcounted, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper


@pytest.fixture
def handler(handler_class: type[Any]) -> Iterator[Any]:
    """A handler of the class under test, started."""
    handler = handler_class()
    handler.start()
    yield handler
    handler.stop()


def use(client: Any) -> None:
    """Start *client*, do of everything a little, and start it again."""
    client.start(TIMEOUT)
    ended = threading.Semaphore(0)

    def done(argument: object) -> None:
        ended.release()

    for _ in range(2):
        path = client.create("/node-", b"x" * 100_000, sequence=True)
        client.create("/a/b/c", makepath=True)
        client.get(path, watch=done)
        client.delete(path)
        client.delete("/a", recursive=True)
        for result in [client.exists_async("/") for _ in range(300)]:
            assert result.get(timeout=TIMEOUT) is not None
        with pytest.raises(NoNodeError):
            client.get("/no/node")
        client.exists_async("/").rawlink(done)
        client.handler.spawn(done, None).join(TIMEOUT)
        for _ in range(3):
            assert ended.acquire(timeout=TIMEOUT)
        client.restart()
    client.stop()


def soon(function: Callable[..., Any], *args: Any) -> Any:
    """Call *function*, which must not hang."""
    return in_thread(lambda: function(*args), 2 * TIMEOUT)


# -- results ---------------------------------------------------------------------------


def counting(base: type[Any], calls: Counter[str]) -> type[Any]:
    """Return a subclass, with kazoo's signatures, that counts calls."""

    class Result(base):  # type: ignore[misc]
        def set(self, value: Any = None) -> None:
            calls["set"] += 1
            super().set(value)

        def set_exception(self, exception: Any) -> None:
            calls["set_exception"] += 1
            super().set_exception(exception)

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            calls["get"] += 1
            return super().get(block, timeout)

        def wait(self, timeout: float | None = None) -> bool:
            calls["wait"] += 1
            ready: bool = super().wait(timeout)
            return ready

        def rawlink(self, callback: Any) -> None:
            calls["rawlink"] += 1
            super().rawlink(callback)

        def unlink(self, callback: Any) -> None:
            calls["unlink"] += 1
            super().unlink(callback)

    return Result


@pytest.fixture
def counts() -> Counter[str]:
    """How often methods of results were called."""
    return Counter()


@pytest.fixture
def counting_handler(handler_class: type[Any], counts: Counter[str]) -> type[Any]:
    """A subclass of the handler under test; its results count their calls."""
    base = type(handler_class().async_result())
    result_class = counting(base, counts)

    class Handler(handler_class):  # type: ignore[misc]
        def async_result(self) -> Any:
            return result_class(self)

    return Handler


def test_methods_of_a_result_do_not_call_each_other(
    counting_handler: type[Any], counts: Counter[str]
) -> None:
    handler, ran = counting_handler(), list[Any]()
    arguments: dict[str, tuple[Any, ...]] = {
        "set": (1,),
        "set_exception": (NoNodeError(),),
        "wait": (0,),
        "rawlink": (ran.append,),
        "unlink": (ran.append,),
    }
    for name, values in arguments.items():
        for ready in (False, True):
            result = handler.async_result()
            if ready:
                result.set(1)
            counts.clear()
            getattr(result, name)(*values)
            assert counts == {name: 1}, f"ready: {ready}"
    result = handler.async_result()
    result.set(1)
    counts.clear()

    assert result.get() == 1
    assert counts == {"get": 1}


def test_methods_of_a_result_are_overridden(
    make_client: MakeClient, counting_handler: type[Any], counts: Counter[str]
) -> None:
    client = make_client(handler=counting_handler())
    client.start()
    counts.clear()
    assert client.exists_async("/").get(timeout=TIMEOUT) is not None
    assert counts == {"set": 1, "get": 1}
    counts.clear()
    with pytest.raises(NoNodeError):
        client.get_async("/no/node").get(timeout=TIMEOUT)
    assert counts == {"set_exception": 1, "get": 1}
    soon(use, client)


def test_results_of_kazoos_class(
    make_client: MakeClient, handler_class: type[Any]
) -> None:
    class Handler(handler_class):  # type: ignore[misc]
        def async_result(self) -> Any:
            return kazoo.handlers.threading.AsyncResult(self)

    soon(use, make_client(handler=Handler()))


def test_results_take_attributes_and_weak_references(handler: Any) -> None:
    result = handler.async_result()
    result.tag = "mine"

    assert weakref.ref(result)() is result
    assert vars(result)["tag"] == "mine"


# -- names -----------------------------------------------------------------------------

#: What a subclass may call its own: what kazoo's handler has, and others.
NAMES = re.findall(
    r"\w+",
    """
    _accepting _atexit _bell _callback_queue _callbacks _changed _client _closed
    _completion_queue _completions _condition _config _connect_timeout _connection
    _connections _contexts _core _create_thread_worker _event _events _executor _fork
    _forked _handler _hostnames _hosts _idle _impl _items _ledger _limit _lock _log
    _logger _loop _max_spawned_threads _name _options _parent _pid _pool _prefix _queue
    _queues _reader _ready _result _results _retry _running _select _selector _session
    _slow_callback_duration _socket _spawn _spawned _ssl_context _start _started _state
    _state_change _stats _stop _stop_timeout _stopped _stopping _tally _tcp_keepalive
    _thread _threads _timeout _tls _wait _wake _wakeup _warned _watchdog _watches
    _worker _workers _writer
    after_fork client connect_timeout connection hosts lock log logger loop options pool
    retry session ssl_context state stop_timeout thread threads timeout workers
    """,
)

MANGLED = "_SequentialThreadingHandler__"


class Junk:
    """Tells when it is used for anything."""

    def __init__(self, name: str, used: list[str]) -> None:
        self._junk = name, used

    def _use(self, *args: Any) -> Any:
        name, used = self._junk
        used.append(name)
        raise AssertionError(f"{name} of the subclass is used")

    __getattr__ = __call__ = __bool__ = __len__ = __iter__ = __getitem__ = _use
    __enter__ = __exit__ = __lt__ = __gt__ = __eq__ = __add__ = __float__ = _use
    __hash__ = __int__ = __index__ = __contains__ = __next__ = __setitem__ = _use


def names_in_use(handler: Any) -> set[str]:
    """Return the plain private names of *handler*'s own."""
    return {
        name
        for name in dir(handler)
        if name.startswith("_")
        and not name.startswith(("__", MANGLED))
        and "seqthreading" not in name
    }


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["names", "mangled names"])
def test_names_of_a_subclass(
    make_client: MakeClient,
    handler_class: type[Any],
    stock: bool,
    what: str,
    when: str,
) -> None:
    used = list[str]()
    names = set(NAMES)
    if what == "mangled names":  # of a subclass that is called as its base
        names = {MANGLED + name.lstrip("_") for name in NAMES}
    elif stock:  # its own are not free
        names -= set(dir(handler_class()))
    else:
        names |= names_in_use(handler_class())
    junk = {name: Junk(name, used) for name in sorted(names)}

    class Handler(handler_class):  # type: ignore[misc]
        def __init__(self) -> None:
            if when == "before":
                self.litter()
            super().__init__()
            if when == "after":
                self.litter()

        def litter(self) -> None:
            for name, value in junk.items():
                setattr(self, name, value)

    handler = Handler()
    soon(use, make_client(handler=handler))

    assert used == []
    assert repr(handler)
    assert [name for name in junk if getattr(handler, name) is not junk[name]] == []


# -- methods ---------------------------------------------------------------------------


def plain_socket_pair(self: Any) -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def plain_select(
    self: Any, rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None
) -> Any:
    return select.select(rlist, wlist, xlist, timeout)


def plain_connection(
    self: Any, address: Any, hostname: Any = None, timeout: Any = None, **options: Any
) -> socket.socket:
    return socket.create_connection(address, timeout)


METHODS: dict[str, Callable[..., Any]] = {
    "create_socket_pair": plain_socket_pair,
    "select": plain_select,
    "create_connection": plain_connection,
}


@pytest.mark.parametrize(
    "names",
    [names for size in (1, 2, 3) for names in itertools.combinations(METHODS, size)],
    ids="+".join,
)
def test_overridden_methods(
    make_client: MakeClient, handler_class: type[Any], names: tuple[str, ...]
) -> None:
    methods = {name: METHODS[name] for name in names}
    soon(use, make_client(handler=type("Handler", (handler_class,), methods)()))


class CountingQueue(queue.Queue[Any]):
    """Counts what is put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def put(self, *args: Any, **kwargs: Any) -> None:
        self.count += 1
        super().put(*args, **kwargs)


@pytest.mark.parametrize("name", ["completion_queue", "callback_queue"])
def test_queue_of_ones_own(
    make_client: MakeClient, handler_class: type[Any], name: str
) -> None:
    handler, mine = handler_class(), CountingQueue()
    order, done = list[int](), threading.Semaphore(0)
    setattr(handler, name, mine)
    assert getattr(handler, name) is mine

    def append(number: int, argument: object = None) -> None:
        order.append(number)
        done.release()

    mine.put(partial(append, 0))
    client = make_client(handler=handler)
    client.start()
    client.create_async("/node").get(timeout=TIMEOUT)
    before = mine.count
    if name == "completion_queue":
        client.exists_async("/").rawlink(partial(append, 1))
    else:
        client.exists("/node", watch=partial(append, 1))
        client.delete("/node")
    assert all(done.acquire(timeout=TIMEOUT) for _ in range(2))
    assert mine.count > before
    mine.put(partial(append, 2))
    assert done.acquire(timeout=TIMEOUT)
    assert order == [0, 1, 2]
    soon(use, client)


def test_handler_is_one_of_kazoos(handler: Any) -> None:
    kazoos: type[Any] = kazoo.handlers.threading.SequentialThreadingHandler
    assert isinstance(handler, kazoos)
    assert issubclass(type(handler), kazoos)


@pytest.mark.ours_alone("a copy shares its lock, or has none to pickle")
@pytest.mark.parametrize(
    "function", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda one: one.__name__
)
def test_handler_is_not_copied(handler: Any, function: Callable[[Any], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"SequentialThreadingHandler.*(copied|pickled)"
    ):
        function(handler)
    gc.collect()  # the copy, if there is one
    ran = threading.Event()
    handler.completion_queue.put(ran.set)

    assert ran.wait(TIMEOUT)


# -- threads and sockets ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the older names
def test_spawn_returns_a_thread(handler: Any) -> None:
    inside, leave, seen = threading.Event(), threading.Event(), list[Any]()

    def function() -> None:
        seen.append(threading.current_thread())
        seen.append((threading.get_ident(), threading.get_native_id()))
        inside.set()
        assert leave.wait(TIMEOUT)

    thread = handler.spawn(function)
    try:
        assert isinstance(thread, threading.Thread)
        assert inside.wait(TIMEOUT)
        assert seen == [thread, (thread.ident, thread.native_id)]
        assert thread in threading.enumerate()
        assert thread.is_alive()
        assert thread.daemon
        assert thread.isDaemon()
        assert thread.getName() == thread.name
        thread.join(0.01)
        assert thread.is_alive()
        with pytest.raises(RuntimeError):
            thread.start()
        thread.name = "mine"
        assert thread.getName() == "mine"
    finally:
        leave.set()
    thread.join(TIMEOUT)

    assert not thread.is_alive()
    assert "mine" in repr(thread)


def is_socket(obj: Any) -> bool:
    return isinstance(obj, socket.socket)


@pytest.fixture
def connection(handler: Any) -> Iterator[tuple[Any, socket.socket]]:
    """What ``create_connection`` returns, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = handler.create_connection(listener.getsockname(), timeout=TIMEOUT)
        peer, address = listener.accept()
        with connection, peer:
            assert connection.getsockname() == address
            assert connection.getpeername() == listener.getsockname()
            yield connection, peer


def test_connection_is_a_socket(connection: tuple[Any, socket.socket]) -> None:
    sock, peer = connection
    assert is_socket(sock)
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert sock.proto == socket.IPPROTO_TCP
    assert sock.getblocking()
    assert 0 < sock.timeout == sock.gettimeout() <= TIMEOUT
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not sock.get_inheritable()
    peer.settimeout(TIMEOUT)
    buffer = bytearray(8)
    peer.sendall(b"received")
    assert sock.recv_into(buffer, 4) == 4
    assert sock.recv(8, socket.MSG_PEEK) == b"ived"
    assert sock.recv(8) == b"ived"
    assert bytes(buffer) == b"rece\0\0\0\0"
    sock.sendall(b"sent\n")
    assert peer.recv(8) == b"sent\n"
    with sock.makefile("rwb") as file:
        peer.sendall(b"line\n")
        assert file.readline() == b"line\n"
        file.write(b"written")
        file.flush()
        assert peer.recv(8) == b"written"
    sock.settimeout(0.01)
    with pytest.raises(socket.timeout):
        sock.recv(1)
    sock.setblocking(False)
    assert not sock.getblocking()
    assert sock.timeout == 0.0
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    sock.close()

    assert sock.fileno() == -1
    assert peer.recv(8) == b""


def test_connection_is_a_socket_with_tls(handler: Any, tls_server: ZooKeeper) -> None:
    assert tls_server.tls is not None
    (node,) = tls_server.nodes
    sock = handler.create_connection(
        (node.host, node.tls_port),
        timeout=TIMEOUT,
        use_ssl=True,
        ca=tls_server.tls.ca,
    )
    with sock:
        assert is_socket(sock)
        assert sock.version().startswith("TLS")
        assert sock.cipher()
        assert ("DNS", "localhost") in sock.getpeercert()["subjectAltName"]
        assert sock.pending() == 0
        sock.sendall(b"ruok")
        assert sock.recv(8) == b"imok"


def test_socket_pair_is_two_sockets(handler: Any) -> None:
    one, other = handler.create_socket_pair()
    with one, other:
        assert one is not other
        assert one.fileno() != other.fileno()
        for sock in (one, other):
            assert isinstance(sock, socket.socket)
            assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            assert sock.proto == 0
            assert isinstance(sock.getblocking(), bool)
            assert sock.timeout == sock.gettimeout()
            sock.getsockname()
        assert handler.select([one], [], [], 0) == ([], [], [])
        assert other.send(b"\0") == 1
        assert handler.select([one], [], [], TIMEOUT) == ([one], [], [])
        assert select.select([one], [], [], TIMEOUT) == ([one], [], [])
        assert one.recv(1) == b"\0"
        assert handler.select([one], [], [], 0) == ([], [], [])
        other.sendall(b"\0")
        assert one.recv_into(bytearray(1)) == 1
        with other.makefile("wb") as file:
            file.write(b"\0")
        assert handler.select([one], [], [], TIMEOUT) == ([one], [], [])
        assert one.recv(1) == b"\0"
    assert one.fileno() == other.fileno() == -1


# -- functions that are spawned --------------------------------------------------------


def test_spawned_functions_start_clean(handler: Any) -> None:
    local, variable = threading.local(), contextvars.ContextVar[str]("variable")
    found, loops = list[Any](), list[asyncio.AbstractEventLoop]()

    def look_and_leave() -> None:
        found.append(vars(local).copy())
        found.append(variable.get("empty"))
        try:
            found.append(asyncio.get_event_loop())
        except RuntimeError:
            found.append("no loop")
        local.value = 1
        variable.set("full")
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])

    for _ in range(3):
        handler.spawn(look_and_leave).join(TIMEOUT)
    for loop in loops:
        loop.close()

    assert found == [{}, "empty", "no loop"] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exceptions_of_spawned_functions_reach_the_hook(
    handler: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    caught = list[tuple[Any, ...]]()

    def hook(args: Any) -> None:
        caught.append((args.exc_type, str(args.exc_value), args.thread.ident))

    def fails() -> None:
        raise error("spawned")

    monkeypatch.setattr(threading, "excepthook", hook)
    thread = handler.spawn(fails)
    thread.join(TIMEOUT)

    assert caught == [(error, "spawned", thread.ident)]


# -- connections -----------------------------------------------------------------------


@pytest.fixture
def attempts(tls_server: ZooKeeper) -> Iterator[dict[str, dict[str, Any]]]:
    """Arguments with which ``create_connection`` fails."""
    (node,) = tls_server.nodes
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        yield {
            "refused": {"address": bound.getsockname()},
            "unknown host": {"address": ("no-such-host.invalid", 2181)},
            "TLS": {"address": (node.host, node.tls_port), "use_ssl": True},
        }


@refcounted
@pytest.mark.parametrize("failure", ["refused", "unknown host", "TLS"])
def test_failed_attempts_leave_no_cycle(
    handler: Any,
    attempts: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
) -> None:
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "no-such-host.invalid":  # no name server is asked
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **kwargs)

    def attempt() -> None:
        try:
            handler.create_connection(timeout=TIMEOUT, **attempts[failure])
        except OSError:
            return
        pytest.fail("it is connected")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    attempt()  # so that what it needs is imported
    threads = threading.active_count()
    gc.collect()
    gc.disable()
    try:
        attempt()
        wait_until(lambda: threading.active_count() <= threads)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        assert [type(one).__name__ for one in gc.garbage] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_certfile_without_keyfile_is_ignored(
    make_client: MakeClient, tls_server: ZooKeeper
) -> None:
    assert tls_server.tls is not None
    client = make_client(
        hosts=tls_server.tls_hosts,
        use_ssl=True,
        ca=tls_server.tls.ca,
        certfile=tls_server.tls.client_cert,
    )
    client.start(TIMEOUT)

    assert client.exists("/") is not None


# -- many links and awaits -------------------------------------------------------------

MANY = 10_000


def time_links(handler: Any) -> float:
    """Return how long it takes to link many callbacks to a result, and to run them."""
    result, ran = handler.async_result(), list[int]()
    callbacks = [lambda _, number=number: ran.append(number) for number in range(MANY)]
    began = time.thread_time()
    for callback in callbacks:
        result.rawlink(callback)
    result.set()
    took = time.thread_time() - began
    assert ran == list(range(MANY))
    return took


def test_time_of_many_links(handler_class: type[Any]) -> None:
    kazoos: type[Any] = kazoo.handlers.threading.SequentialThreadingHandler
    took, limit = time_links(handler_class()), 3 * time_links(kazoos())
    assert took < limit


def time_awaits(handler: Any, count: int) -> float:
    """Return how long it takes to await a result many times."""

    async def wait(result: Any) -> Any:
        return await result

    async def main() -> float:
        result = handler.async_result()
        tasks = [asyncio.ensure_future(wait(result)) for _ in range(count)]
        began = time.process_time()
        await asyncio.sleep(0)
        result.set(1)
        assert await asyncio.gather(*tasks) == [1] * count
        return time.process_time() - began

    return asyncio.run(main())


@pytest.mark.ours_alone("its results cannot be awaited")
def test_time_of_many_awaits(handler: Any) -> None:
    few, many = (
        min(time_awaits(handler, count) for _ in range(3))
        for count in (MANY // 4, MANY)
    )
    assert many < 10 * few  # 16 times as long would be a square


@pytest.mark.ours_alone("its results cannot be awaited")
def test_callback_whose_comparison_raises(handler: Any) -> None:
    class Incomparable:
        def __call__(self, result: Any) -> None:
            ran.set()

        def __eq__(self, other: object) -> bool:
            raise TypeError("not comparable")

        __hash__ = None  # type: ignore[assignment]

    async def main() -> Any:
        task = asyncio.ensure_future(wait())
        cancelled = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        futures = [result.as_future(), result.as_future()]
        in_background(result.set, "value")
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return [await task, *(future.result(TIMEOUT) for future in futures)]

    async def wait() -> Any:
        return await result

    result, ran = handler.async_result(), threading.Event()
    result.rawlink(Incomparable())

    assert asyncio.run(main()) == ["value"] * 3
    assert ran.wait(TIMEOUT)


# -- locks -----------------------------------------------------------------------------


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a call returns, or which exception it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error)


def use_lock(lock: Any, has_locked: bool) -> list[Any]:
    """Return what comes of everything that can be done with a lock."""

    def state() -> list[Any]:
        """Whether it is locked, here and for another thread."""
        outcomes: list[Any] = in_thread(state_for_another)
        return [*outcomes, lock.locked()] if has_locked else outcomes

    def state_for_another() -> list[Any]:
        outcomes = [lock.locked()] if has_locked else []
        outcomes += [lock.acquire(False), outcome(lock.acquire, timeout=0.01)]
        return outcomes + [outcome(lock.release) for held in outcomes[-2:] if held]

    outcomes = [outcome(lock.release), *state(), lock.acquire(), *state()]
    outcomes += [lock.acquire(False), lock.acquire(True, 0.01), *state()]
    outcomes += [outcome(lock.acquire, timeout=bad) for bad in (-2, 1e99, "1")]
    outcomes += [outcome(lock.acquire, False, 1), *state()]
    outcomes += [(outcome(lock.release), *state()) for _ in range(4)]
    with lock as entered:
        outcomes += [bool(entered), *state()]  # PyPy returns the lock
    with suppress(KeyError), lock:
        raise KeyError
    outcomes += state()
    condition = threading.Condition(lock)
    with condition:
        waiting = in_background(notify, condition)
        outcomes.append(condition.wait(TIMEOUT))
    waiting.result(TIMEOUT)
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        lock.acquire()
        held.set()
        leave.wait(TIMEOUT)

    holding = in_background(hold)
    assert held.wait(TIMEOUT)
    outcomes += [*state(), outcome(lock.release), lock.acquire(False), *state()]
    leave.set()
    holding.result(TIMEOUT)
    return outcomes


def notify(condition: threading.Condition) -> None:
    with condition:
        condition.notify()


@pytest.mark.parametrize("name", ["lock_object", "rlock_object"])
def test_locks_are_those_of_threading(handler: Any, name: str) -> None:
    threadings: Any = threading.Lock if name == "lock_object" else threading.RLock
    has_locked = hasattr(threadings(), "locked")  # reentrant ones: since Python 3.14
    expected = use_lock(threadings(), has_locked)

    assert use_lock(getattr(handler, name)(), has_locked) == expected
