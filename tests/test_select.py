"""``select`` has the meaning of ``select.select``, without its limit."""

from __future__ import annotations

import errno
import math
import os
import select as system
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler, _select
from kazoo_seqthreading._wakeup import attach
from tests.internals import make_channel
from tests.support import TIMEOUT, KazooClient, in_thread, together

if TYPE_CHECKING:
    from collections.abc import Iterator

fcntl = pytest.importorskip("fcntl", reason="it needs POSIX descriptors")


class Select:
    """``handler.select``, with and without ``select.poll``."""

    def __init__(self, by_poll: bool) -> None:
        self.by_poll = by_poll
        self.handler = SequentialThreadingHandler()

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[list[Any], ...]:
        return self.handler.select(*args, **kwargs)


@pytest.fixture(params=["poll", "no poll"])
def select(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Select:
    by_poll = request.param == "poll"
    if by_poll and not _select.HAVE_POLL:
        pytest.skip("there is no select.poll")
    monkeypatch.setattr(_select, "HAVE_POLL", by_poll)
    return Select(by_poll)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass


def hang_up(sock: socket.socket, other: socket.socket) -> None:
    other.close()


def half_close(sock: socket.socket, other: socket.socket) -> None:
    other.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket, other: socket.socket) -> None:
    other.send(b"x")


def receive_and_fill(sock: socket.socket, other: socket.socket) -> None:
    receive(sock, other)
    fill(sock)


def only_fill(sock: socket.socket, other: socket.socket) -> None:
    fill(sock)


def nothing(sock: socket.socket, other: socket.socket) -> None:
    pass


SITUATIONS = [nothing, receive, only_fill, receive_and_fill, hang_up, half_close]


@pytest.mark.parametrize("wanted", range(1, 8))
@pytest.mark.parametrize("situation", SITUATIONS)
def test_same_answer_as_select(
    select: Select, pair: Pair, situation: Any, wanted: int
) -> None:
    sock, other = pair
    situation(sock, other)
    lists = [[sock] if wanted & 1 << number else [] for number in range(3)]
    expected = system.select(lists[0], lists[1], lists[2], 0)

    assert select(*lists, 0) == expected


def test_both_directions_of_one_descriptor(select: Select, pair: Pair) -> None:
    sock, other = pair
    other.send(b"x")
    assert select([sock], [sock], [], 0) == ([sock], [sock], [])
    assert select([sock], [sock], [sock], 1) == ([sock], [sock], [])
    fill(sock)

    assert select([sock], [sock], [], 0) == ([sock], [], [])


def test_numbers_and_objects(select: Select, pair: Pair) -> None:
    sock, other = pair
    number = sock.fileno()
    other.send(b"x")

    assert select([number], [sock], [], 0) == ([number], [sock], [])
    assert select([sock, number, sock], [], []) == ([sock, number, sock], [], [])
    assert select((sock, other), (), ()) == ([sock], [], [])


def test_order_is_that_of_the_lists(select: Select) -> None:
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(10)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
            pair[1].send(b"x")
        ready = [one for one, _ in reversed(pairs)]
        assert select(ready, [], [], 0) == (ready, [], [])


def test_urgent_data(select: Select) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(server.getsockname()))
        peer = stack.enter_context(server.accept()[0])
        peer.send(b"!", socket.MSG_OOB)
        assert select([], [], [client], TIMEOUT) == ([], [], [client])


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01, 0.0001, True])
def test_timeout_passes(select: Select, pair: Pair, timeout: float) -> None:
    began = time.monotonic()
    assert select([pair[0]], [], [], timeout) == ([], [], [])
    assert time.monotonic() - began >= timeout * 0.9


@pytest.mark.parametrize("timeout", [None, TIMEOUT, 3_000_000, 2**31 / 1000, 4e9])
def test_timeout_is_no_delay(select: Select, pair: Pair, timeout: float | None) -> None:
    sock, other = pair
    results = together(
        lambda: select([sock], [], [], timeout), lambda: other.send(b"x")
    )
    assert results[0] == ([sock], [], [])


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_nothing_to_wait_for(select: Select, timeout: float) -> None:
    began = time.monotonic()
    assert select([], [], [], timeout) == ([], [], [])
    assert time.monotonic() - began >= timeout * 0.9


def test_hung_up_is_not_urgent(select: Select, pair: Pair) -> None:
    sock, other = pair
    other.close()
    began = time.monotonic()

    assert select([], [], [sock], 0.05) == ([], [], [])
    assert time.monotonic() - began >= 0.045


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        ("1", TypeError),
        ([], TypeError),
        (-1, ValueError),
        (-0.5, ValueError),
        (math.nan, ValueError),
    ],
)
def test_timeout_must_make_sense(
    select: Select, pair: Pair, timeout: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="timeout must be"):
        select([pair[0]], [], [], timeout)


class Strange:
    def __init__(self, number: object) -> None:
        self.number = number

    def fileno(self) -> object:
        return self.number


@pytest.mark.parametrize("obj", [None, "1", object(), 1.0, Strange("1"), Strange(None)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_descriptor_must_be_one(select: Select, obj: Any, place: int) -> None:
    lists: list[list[Any]] = [[], [], []]
    lists[place].append(obj)
    with pytest.raises(TypeError, match=r"descriptor|fileno"):
        select(*lists, 0)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_closed_descriptor(select: Select, pair: Pair, place: int) -> None:
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    for obj in (closed, number, -1, Strange(-1), Strange(number)):
        lists: list[list[Any]] = [[pair[0]], [], []]
        lists[place].append(obj)
        with pytest.raises(OSError, match="descriptor") as caught:
            select(*lists, 0)
        assert caught.value.errno == errno.EBADF


@pytest.mark.skipif(
    "not _select.HAVE_POLL", reason="select's limit is that of the system"
)
def test_many_descriptors(pair: Pair) -> None:
    """More than 1024 of them, with numbers above 1024, which is select's limit."""
    import resource

    sock, other = pair
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    numbers = list[int]()
    try:
        while len(numbers) < 1100:
            numbers.append(fcntl.fcntl(sock, fcntl.F_DUPFD, 1024))
        handler = SequentialThreadingHandler()
        with pytest.raises(ValueError, match="out of range"):
            system.select(numbers, [], [], 0)
        assert handler.select(numbers, numbers, [], 0) == ([], numbers, [])
        other.send(b"x")
        assert handler.select([numbers[-1], other], [], []) == ([numbers[-1]], [], [])
        assert handler.select(numbers, [], []) == (numbers, [], [])
    finally:
        for number in numbers:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_is_pending_is_readable(select: Select, pair: Pair) -> None:
    class Buffered:
        def __init__(self, sock: socket.socket, size: int) -> None:
            self.fileno = sock.fileno
            self.pending = lambda: size

    full, empty = Buffered(pair[0], 7), Buffered(pair[1], 0)
    assert select([empty, full], [], [], None) == ([full], [], [])
    pair[0].send(b"x")

    assert select([empty, full], [pair[0]], []) == ([empty, full], [pair[0]], [])


@pytest.mark.parametrize("attached", [False, True])
def test_wake_up_of_a_handler(select: Select, attached: bool) -> None:
    reader, writer = make_channel(select.handler)
    client = KazooClient(handler=select.handler)
    if attached:
        attach(reader, writer, client)

    def request() -> None:
        client._queue.append((None, None))
        writer.send(b"\0")

    def answer() -> None:
        client._queue.popleft()
        reader.recv(1)

    try:
        assert select([reader], [], [], 0) == ([], [], [])
        request()
        assert select([reader], [], []) == ([reader], [], [])
        answer()
        results = together(lambda: select([reader], [], [], TIMEOUT), request)
        assert results[0] == ([reader], [], [])
        answer()
        assert select([reader], [], [], 0) == ([], [], [])
    finally:
        writer.close()
        reader.close()
    with pytest.raises(OSError, match="closed"):
        select([reader], [], [], 0)


def test_wake_up_among_others(select: Select, pair: Pair) -> None:
    """In the order of the list; a request is ready without a poll."""
    reader, writer = make_channel(select.handler)
    client = KazooClient(handler=select.handler)
    attach(reader, writer, client)
    try:
        client._queue.append((None, None))
        assert select([reader, pair[0]], [], []) == ([reader], [], [])
        pair[1].send(b"x")
        assert select([pair[0], reader], [], []) == ([pair[0], reader], [], [])
        client._queue.clear()
        assert select([reader, pair[0]], [reader], []) == ([pair[0]], [reader], [])
    finally:
        writer.close()
        reader.close()


def test_plain_connection(select: Select) -> None:
    """Before kazoo's main loop, and where that is overridden, it is a socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with select.handler.create_connection(server.getsockname()) as connection:
            peer, _ = server.accept()
            with peer:
                assert select([connection], [], [], 0) == ([], [], [])
                both = select([connection], [connection], [], 0)
                assert both == ([], [connection], [])
                peer.send(b"some")
                assert select([connection], [], [], TIMEOUT) == ([connection], [], [])
                assert connection.recv(1) == b"s"
                assert select([connection], [], [], TIMEOUT) == ([connection], [], [])
                assert connection.recv(10) == b"ome"
                assert select([connection], [], [], 0) == ([], [], [])
        with pytest.raises(OSError, match="closed"):
            select([connection], [], [], 0)


POLLERS = [
    cls
    for cls, needed in (
        (getattr(_select, "EpollPoller", None), hasattr(system, "epoll")),
        (_select.PollPoller, hasattr(system, "poll")),
        (_select.SelectPoller, True),
    )
    if cls is not None and needed
]


@pytest.mark.parametrize("cls", POLLERS)
def test_poller(cls: type[_select.Poller], pair: Pair) -> None:
    """What a connection waits with."""
    sock, other = pair
    poller = cls(sock.fileno())
    wakeup, writer = make_channel(SequentialThreadingHandler())

    def poll(
        writing: bool, wakes: bool, timeout: float, sends: bool = False
    ) -> tuple[bool, bool]:
        waited_for = wakeup if wakes else None
        if sends:
            writer.send(b"\0")
        ready: tuple[bool, bool] = in_thread(
            lambda: poller.poll(writing, waited_for, timeout), TIMEOUT / 2
        )
        return ready

    try:
        assert poll(False, True, 0) == (False, False)
        assert poll(False, True, 0.01) == (False, False)
        # It can be written, and not be read.
        assert poll(True, True, TIMEOUT) == (False, False)
        assert poll(True, False, TIMEOUT) == (False, False)
        for _ in range(3):
            assert poll(False, True, TIMEOUT, sends=True) == (False, True)
            assert poll(False, False, 0) == (False, False)
            assert wakeup.recv(1) == b"\0"
            began = time.monotonic()
            assert poll(False, True, 0.05) == (False, False)  # it was woken once
            assert time.monotonic() - began >= 0.045
        other.send(b"x")
        assert poll(False, True, TIMEOUT) == (True, False)
        assert poll(True, False, TIMEOUT) == (True, False)
        assert poll(True, True, TIMEOUT, sends=True) == (True, True)
        wakeup.recv(1)
        sock.recv(1)
        assert poll(False, False, 0) == (False, False)
        other.close()
        assert poll(False, True, TIMEOUT) == (True, False)
    finally:
        writer.close()
        wakeup.close()
        poller.close()


def test_best_poller_is_made(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    made = list[type[Any]]()
    for missing in (None, "epoll", "poll"):
        if missing is not None:
            monkeypatch.delattr(system, missing, raising=False)
        monkeypatch.setattr(_select, "HAVE_POLL", hasattr(system, "poll"))
        poller = _select.make_poller(pair[0].fileno())
        made.append(type(poller))
        poller.close()
    lacking = 3 - len(POLLERS)  # before any was hidden

    assert made == [POLLERS[0]] * lacking + POLLERS


def test_selects_of_many_threads(select: Select, pair: Pair) -> None:
    def wait() -> Any:
        return select([pair[0]], [], [], TIMEOUT)

    results = together(wait, wait, lambda: pair[1].send(b"x"))
    assert results[:2] == [([pair[0]], [], [])] * 2
