"""Measures kazoo's own handler and this package's on one server; see ``__main__.py``.

Rules
-----
1. Both clients use the same server, never at the same time: in each round, every kind
   of work is done with one and then with the other. Figures are medians of the rounds.
2. The first, short round is for warming up and does not count.
3. One node is created, by a session that does nothing else. It is ephemeral: the server
   removes it even if the process is killed.
4. Failures are fatal at once: nothing waits for a reconnection. Work runs in a thread,
   which is abandoned when a connection is lost, or when no answer comes within the
   session timeout. So its own waits need no timeout.
5. Closing has a timeout, too: with kazoo's handler it may never end.
"""

from __future__ import annotations

import atexit
import inspect
import platform
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import Any, NamedTuple, Optional, Union

import kazoo.client
import kazoo.handlers.threading
import kazoo.hosts
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NoNodeError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState
from kazoo.security import CREATOR_ALL_ACL
from kazoo.version import __version__ as kazoo_version

from ._handler import SequentialThreadingHandler
from ._version import __version__

#: The node's data.
DATA = b"x" * 100
THREADS = 8
READS = 256  #: outstanding at once, also those with callbacks
WRITES = 64
#: The length of the warm-up, as a share of a round.
WARM_UP = 0.3
#: Number of attempts at a first connection, for each server.
ATTEMPTS = 2

KAZOO, OURS = "kazoo", "ours"
LOST = "the connection was lost"

Note = Callable[[float], None]
Listener = Callable[[str], None]
Report = Callable[[float, str, str], None]

# kazoo has no types, and strict code must not call untyped functions.
_make_client: Callable[..., Any] = kazoo.client.KazooClient
_collect_hosts: Callable[..., Any] = kazoo.hosts.collect_hosts


class CompareError(Exception):
    """Measuring is not possible; the message is for the user."""


class Figures(NamedTuple):
    """The figures of one handler for one kind of work."""

    operations_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_operation: float

    def ratio(self, other: Figures) -> Figures:
        """Return each figure divided by that of *other*."""
        return Figures(*(a / b if b else 0.0 for a, b in zip(self, other)))


class Comparison(NamedTuple):
    """All figures, with the environment."""

    surroundings: dict[str, Any]
    work: dict[str, dict[str, Figures]]  #: the figures of each handler


def compare(
    hosts: str,
    *,
    seconds: float,
    timeout: float,
    options: Mapping[str, Any],
    report: Report,
) -> Comparison:
    """Measure for *seconds*.

    :param timeout: for the sessions, and for connecting, in seconds
    :param options: arguments for ``KazooClient``
    :param report: called with the share that is done, the next kind of work, and whose
        handler does it; both are empty at the end
    :raises CompareError: if that is not possible
    """
    work = _Work(timeout)
    with ExitStack() as stack:
        try:
            server, chroot, path = stack.enter_context(
                _node(hosts, timeout, options, work.listener)
            )
            connected = partial(
                _connected, server + chroot, timeout, options, work.listener
            )
            handlers: dict[str, Callable[[], Any]] = {
                KAZOO: kazoo.handlers.threading.SequentialThreadingHandler,
                OURS: SequentialThreadingHandler,
            }
            clients = {
                name: stack.enter_context(connected(handler()))
                for name, handler in handlers.items()
            }
            rounds = 5 if seconds >= 5 else 3
            figures = _rounds(work, clients, path, rounds, seconds, report)
        except (KazooException, OSError) as error:
            raise CompareError(_describe(error)) from error
    surroundings = {
        "kazoo_seqthreading": __version__,
        "kazoo": kazoo_version,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": server,
        "seconds": seconds,
        "rounds": rounds,
    }
    return Comparison(surroundings, figures)


class _Work:
    """Runs work as long as no connection is lost.

    :param timeout: how long there may be no answer, in seconds
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._ends: SimpleQueue[Union[Figures, BaseException]] = SimpleQueue()

    def listener(self, state: str) -> None:
        """Record a client's state; called in its connection thread."""
        if state != KazooState.CONNECTED:
            self._ends.put(CompareError(LOST))

    def run(self, work: Callable[[], Figures], seconds: float) -> Figures:
        """Return the figures of *work*, which takes *seconds*.

        :raises CompareError: if a connection is or was lost, or no answer comes
        """
        threading.Thread(target=self._run, args=(work,), daemon=True).start()
        try:
            end = self._ends.get(timeout=seconds + self._timeout)
        except Empty:
            raise CompareError(f"{LOST}: no answer for {self._timeout:g} s") from None
        if isinstance(end, BaseException):
            raise end
        return end

    def _run(self, work: Callable[[], Figures]) -> None:
        try:
            self._ends.put(work())
        except BaseException as error:
            self._ends.put(error)


def _rounds(
    work: _Work,
    clients: Mapping[str, Any],
    path: str,
    rounds: int,
    seconds: float,
    report: Report,
) -> dict[str, dict[str, Figures]]:
    figures: dict[str, dict[str, list[Figures]]] = {
        what: {name: [] for name in clients} for what in WORK
    }
    share = seconds / (rounds + WARM_UP) / len(WORK) / len(clients)
    done = 0.0
    for number in range(rounds + 1):
        slice_ = share if number else share * WARM_UP
        # Alternate which one comes first.
        names = sorted(clients, reverse=bool(number % 2))
        for what, kind in WORK.items():
            for name in names:
                report(done / seconds, what, TITLES[name])
                task = partial(kind, clients[name], path)
                figure = work.run(partial(_measure, task, slice_), slice_)
                done += slice_
                if number:
                    figures[what][name].append(figure)
    report(1.0, "", "")
    return {
        what: {
            name: Figures(*(median(column) for column in zip(*samples)))
            for name, samples in of_work.items()
        }
        for what, of_work in figures.items()
    }


def _measure(work: Callable[[float, Note], None], seconds: float) -> Figures:
    latencies: list[float] = []
    cpu, began = process_time(), perf_counter()
    work(began + seconds, latencies.append)
    took, cpu = perf_counter() - began, process_time() - cpu
    latencies.sort()
    count = len(latencies)
    return Figures(
        count / took,
        latencies[count // 2] * 1e3,
        latencies[count * 99 // 100] * 1e3,
        cpu / count * 1e6,
    )


# -- kinds of work: they run until *end*, and call *note* with each latency ----------


def _read(client: Any, path: str, end: float, note: Note) -> None:
    now = perf_counter()
    while True:
        client.get(path)
        began, now = now, perf_counter()
        note(now - began)
        if now >= end:
            return


def _read_in_threads(client: Any, path: str, end: float, note: Note) -> None:
    ended: deque[Optional[BaseException]] = deque()
    one_more = threading.Semaphore(0)

    def run() -> None:
        try:
            _read(client, path, end, note)
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)
        one_more.release()

    for _ in range(THREADS):
        threading.Thread(target=run, daemon=True).start()
    for _ in range(THREADS):
        one_more.acquire()
        error = ended.popleft()
        if error is not None:  # the others end when their client is closed
            raise error


def _pipeline(
    outstanding: int,
    begin: Callable[[Any, str], Any],
    client: Any,
    path: str,
    end: float,
    note: Note,
) -> None:
    began = perf_counter()
    results: deque[tuple[float, Any]] = deque()
    for _ in range(outstanding):
        results.append((began, begin(client, path)))
    while results:
        began, result = results.popleft()
        result.get()
        now = perf_counter()
        note(now - began)
        if now < end:
            results.append((now, begin(client, path)))


def _begin_read(client: Any, path: str) -> Any:
    return client.get_async(path)


def _begin_write(client: Any, path: str) -> Any:
    return client.set_async(path, DATA)


def _read_in_callbacks(client: Any, path: str, end: float, note: Note) -> None:
    left = READS
    failure: Optional[BaseException] = None
    ended = threading.Event()

    def begin() -> None:
        client.get_async(path).rawlink(partial(complete, perf_counter()))

    def complete(began: float, result: Any) -> None:
        nonlocal left, failure
        try:
            result.get()
            now = perf_counter()
            note(now - began)
            if now < end:
                begin()
                return
            left -= 1
        except BaseException as error:
            failure = error
            ended.set()
        if not left:
            ended.set()

    for _ in range(READS):
        begin()
    ended.wait()
    if failure is not None:
        raise failure


WORK: dict[str, Callable[[Any, str, float, Note], None]] = {
    "synchronous reads, 1 thread": _read,
    f"synchronous reads, {THREADS} threads": _read_in_threads,
    f"pipelined reads, {READS} at once": partial(_pipeline, READS, _begin_read),
    f"reads with callbacks, {READS} at once": _read_in_callbacks,
    f"pipelined writes, {WRITES} at once": partial(_pipeline, WRITES, _begin_write),
}
TITLES = {KAZOO: "kazoo's handler", OURS: "kazoo_seqthreading"}


# -- connecting ------------------------------------------------------------------------


class _Attempts(SequentialThreadingHandler):
    """Records the outcome of attempts to connect."""

    def __init__(self, timeout: float) -> None:
        super().__init__(connect_timeout=timeout)
        self.failures = 0
        self.failure: Optional[BaseException] = None
        self.server = ""

    def create_connection(  # type: ignore[override]
        self, address: Any, *args: Any, **kwargs: Any
    ) -> Any:
        try:
            connection = super().create_connection(address, *args, **kwargs)
        except Exception as error:
            self.failure = error
            self.failures += 1
            raise
        host, port = address[0], address[1]
        if kwargs.get("use_ssl") and isinstance(kwargs.get("hostname"), str):
            host = kwargs["hostname"]  # the name in the certificate
        self.server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return connection


@contextmanager
def _node(
    hosts: str, timeout: float, options: Mapping[str, Any], listener: Listener
) -> Iterator[tuple[str, str, str]]:
    """Create a node, and remove it at the end.

    :returns: the server of the connection, the chroot, and the node's path
    """
    addresses, chroot = _resolve(hosts)
    handler = _Attempts(timeout)
    without = {name: value for name, value in options.items() if name != "auth_data"}
    client = _new_client(hosts, handler, timeout, without)
    with _closing(client, timeout):
        connected = client.start_async()
        deadline = monotonic() + timeout
        while not connected.wait(0.05):
            if handler.failures >= ATTEMPTS * addresses and handler.failure:
                raise CompareError(f"cannot connect: {_describe(handler.failure)}")
            if monotonic() > deadline:
                raise CompareError(
                    f"no session within {timeout:g} s: "
                    + _reason(handler, bool(options.get("use_ssl")))
                )
        # As an argument of the client, a failure might show as a lost connection.
        for scheme, credential in options.get("auth_data") or ():
            _get(client.add_auth_async(scheme, credential), timeout)
        path = f"/kazoo-seqthreading-{secrets.token_hex(8)}"
        acl = CREATOR_ALL_ACL if options.get("auth_data") else None
        try:
            _get(client.create_async(path, DATA, acl=acl, ephemeral=True), timeout)
        except NoNodeError:
            raise CompareError(f"the chroot {chroot} does not exist") from None
        client.add_listener(listener)
        try:
            yield handler.server, chroot, path
        finally:
            if client.connected:  # else the server removes the node
                client.delete_async(path).wait(timeout)


def _get(result: Any, timeout: float) -> None:
    try:
        result.get(timeout=timeout)
    except KazooTimeoutError:
        raise CompareError(f"{LOST}: no answer for {timeout:g} s") from None


@contextmanager
def _connected(
    hosts: str,
    timeout: float,
    options: Mapping[str, Any],
    listener: Listener,
    handler: Any,
) -> Iterator[Any]:
    client = _new_client(hosts, handler, timeout, options)
    client.add_listener(listener)
    with _closing(client, timeout):
        if not client.start_async().wait(timeout):
            raise CompareError(f"no second session on {hosts} within {timeout:g} s")
        yield client


@contextmanager
def _closing(client: Any, timeout: float) -> Iterator[None]:
    try:
        yield
    finally:
        closing = threading.Thread(target=_close, args=(client,), daemon=True)
        closing.start()
        closing.join(timeout)
        if closing.is_alive():
            # At exit kazoo's own handler would wait for that again, forever.
            atexit.unregister(client.handler.stop)


def _close(client: Any) -> None:
    with suppress(Exception):  # fails if the connection is lost
        client.stop()
        client.close()


def _new_client(
    hosts: str, handler: Any, timeout: float, options: Mapping[str, Any]
) -> Any:
    accepted = inspect.signature(kazoo.client.KazooClient).parameters
    for name in options:
        if name not in accepted:
            raise CompareError(f"kazoo {kazoo_version} has no option {name}")
    return _make_client(hosts, timeout=timeout, handler=handler, **options)


def _resolve(hosts: str) -> tuple[int, str]:
    """Return the number of addresses of *hosts*, and its chroot."""
    try:
        servers, chroot = _collect_hosts(hosts)
    except ValueError as error:
        raise CompareError(f"bad hosts {hosts!r}: {error}") from None
    addresses = 0
    failure = ""
    for host, port in servers:
        try:
            infos = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failure = f"{host}: {_describe(error)}"
        else:
            addresses += len(infos)
    if not addresses:
        raise CompareError(f"cannot connect: {failure}")
    return addresses, (chroot or "").rstrip("/")


def _reason(handler: _Attempts, use_ssl: bool) -> str:
    if handler.failure is not None:
        return _describe(handler.failure)
    if not handler.server:
        return "no server has answered"
    if use_ssl:
        return f"{handler.server} accepts connections, but no session"
    return f"{handler.server} accepts connections, but no session (without --use-ssl)"


def _describe(error: BaseException) -> str:
    """Return *error* as one line."""
    if isinstance(error, AuthFailedError):
        return "the authentication failed"
    if isinstance(error, NoAuthError):
        return "not allowed to create and read a node: give --auth, or a chroot"
    if isinstance(error, (ConnectionLoss, SessionExpiredError)):
        return LOST
    text = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, OSError) and text:
        return getattr(error, "strerror", None) or text
    return f"{name}: {text}" if text else name
