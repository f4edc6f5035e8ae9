"""The wake-up channel: the rules at the top of its module."""

from __future__ import annotations

import gc
import select as system
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.exceptions import ConnectionClosedError

from kazoo_seqthreading import SequentialThreadingHandler
from kazoo_seqthreading._wakeup import attach
from tests.forking import in_child
from tests.internals import make_channel
from tests.support import (
    TIMEOUT,
    KazooClient,
    descriptors,
    frequent_switches,
    in_thread,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Python 3.12 and later warn of it.
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Channel:
    """A channel, and the client that it serves once it is attached."""

    def __init__(self, handler: SequentialThreadingHandler) -> None:
        self.handler = handler
        self.client = KazooClient(handler=handler)
        self.reader, self.writer = make_channel(handler)

    def attach(self) -> Channel:
        attach(self.reader, self.writer, self.client)
        self.reader.leave_plain()  # as the select() of the handler does
        return self

    def request(self, result: Any = None) -> None:
        """Queue a request as kazoo does."""
        self.client._queue.append((None, result))
        assert self.writer.send(b"\0") == 1

    def answer(self) -> None:
        """Take a request as kazoo does once it is written."""
        self.client._queue.popleft()
        assert self.reader.recv(1) == b"\0"

    def was_rung(self) -> bool:
        """Tell whether a byte was really sent."""
        return bool(system.select([self.reader.fileno()], [], [], 0)[0])

    def is_ready(self, timeout: float) -> bool:
        """Tell whether the reader can be read within *timeout* seconds."""
        return bool(self.handler.select([self.reader], [], [], timeout)[0])

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@pytest.fixture
def handler() -> SequentialThreadingHandler:
    return SequentialThreadingHandler()


@pytest.fixture
def make(handler: SequentialThreadingHandler) -> Iterator[Callable[[], Channel]]:
    """Make channels that are attached, and closed after the test."""
    with ExitStack() as stack:

        def make() -> Channel:
            channel = Channel(handler)
            stack.callback(channel.close)
            return channel.attach()

        yield make


@pytest.fixture
def channel(make: Callable[[], Channel]) -> Channel:
    return make()


def test_a_pair_of_sockets_without_a_client(
    handler: SequentialThreadingHandler,
) -> None:
    reader, writer = handler.create_socket_pair()
    with reader, writer:
        assert isinstance(reader, socket.socket)
        assert isinstance(writer, socket.socket)
        assert handler.select([reader], [], [], 0) == ([], [], [])
        assert writer.send(b"abc") == 3
        assert handler.select([reader], [writer], []) == ([reader], [writer], [])
        assert reader.recv(2) == b"ab"
        assert reader.recv(10) == b"c"
        writer.setblocking(False)
        with pytest.raises(BlockingIOError):  # it fills up, as any other
            while True:
                writer.send(bytes(65536))
    assert reader.fileno() == writer.fileno() == -1


def test_for_any_select_it_is_readable_while_a_request_waits(
    handler: SequentialThreadingHandler,
) -> None:
    """Until the handler's own ``select`` is called, which may be overridden."""
    channel = Channel(handler)
    with channel.reader, channel.writer:
        attach(channel.reader, channel.writer, channel.client)
        for _ in range(1000):  # more than the socket takes
            channel.request()
        for _ in range(1000):
            assert channel.was_rung()
            channel.answer()
        assert not channel.was_rung()
        channel.request()
        assert channel.was_rung()


def test_queue_says_what_waits(channel: Channel) -> None:
    assert not channel.is_ready(0)
    for count in range(1, 4):
        channel.request()
        assert len(channel.client._queue) == count
    while channel.client._queue:
        assert channel.is_ready(0)
        channel.answer()

    assert not channel.is_ready(0)
    assert channel.reader.recv(1) == b"\0"  # kazoo does so with an empty queue, too


def test_queue_is_looked_up_each_time(channel: Channel) -> None:
    """kazoo makes a new one when the session ends."""
    channel.request()
    assert channel.is_ready(0)
    channel.client._reset()
    assert not channel.is_ready(0)
    channel.request()

    assert channel.is_ready(0)


def test_never_fills(channel: Channel) -> None:
    assert channel.reader.begin_sleep()  # each request rings, and nobody listens

    def request() -> None:
        for _ in range(100_000):
            channel.request()

    in_thread(request)
    assert len(channel.client._queue) == 100_000
    channel.reader.end_sleep()
    channel.reader.drain()

    assert channel.is_ready(0)


def test_no_byte_is_sent_unless_it_sleeps(channel: Channel) -> None:
    channel.request()
    assert not channel.was_rung()
    assert not channel.reader.begin_sleep(), "a request waits"
    channel.request()
    assert not channel.was_rung()
    channel.client._queue.clear()
    assert channel.reader.begin_sleep()
    channel.request()
    assert channel.was_rung()
    channel.reader.end_sleep()
    channel.reader.drain()
    assert not channel.was_rung()
    channel.request()

    assert not channel.was_rung()


def test_wakes_a_sleeper(channel: Channel) -> None:
    for _ in range(100):
        results = together(lambda: channel.is_ready(TIMEOUT), channel.request)
        assert results[0] is True
        channel.answer()
    assert not channel.is_ready(0)


@pytest.mark.parametrize("of_a_connection", [False, True])
def test_no_request_is_left_behind(
    channel: Channel, handler: SequentialThreadingHandler, of_a_connection: bool
) -> None:
    """By ``select`` for anything, and by that of a connection."""
    count, threads = 3000, 3

    def request() -> None:
        for _ in range(count):
            channel.request()

    with ExitStack() as stack:
        polled: list[Any] = [channel.reader]
        if of_a_connection:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            polled.insert(0, handler.create_connection(server.getsockname()))
            stack.callback(polled[0].close)

        def receive() -> None:
            for _ in range(count * threads):
                ready = handler.select(polled, [], [], TIMEOUT)[0]
                assert ready == [channel.reader]
                channel.answer()
            if of_a_connection:
                polled[0].close()  # by its owner

        with frequent_switches():
            together(receive, *[request] * threads)

    assert not channel.client._queue


def test_caller_that_is_interrupted_delays_no_other(channel: Channel) -> None:
    def interrupted() -> None:
        wait_until(lambda: channel.reader.channel.sleep > 0)
        channel.client._queue.append((None, None))  # and does not get to send()
        in_thread(channel.request)

    assert together(lambda: channel.is_ready(TIMEOUT), interrupted)[0] is True
    assert len(channel.client._queue) == 2


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="it needs a timer")
def test_signal_handlers_that_make_requests(channel: Channel) -> None:
    """No lock is held that one of them could wait for."""
    total, from_main = 0, 0
    from_signals = list[None]()  # one of them may interrupt another

    def on_signal(number: int, frame: object) -> None:
        channel.request()
        from_signals.append(None)

    def receive() -> None:
        nonlocal total
        while channel.is_ready(TIMEOUT):
            request = channel.client._queue[0]
            channel.answer()
            if request[1] == "last":
                return
            total += 1

    receiver = threading.Thread(target=receive, daemon=True)
    before = signal.signal(signal.SIGALRM, on_signal)
    try:
        receiver.start()
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while len(from_signals) < 200:
            channel.request()
            from_main += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        channel.request("last")
    receiver.join(TIMEOUT)

    assert total == len(from_signals) + from_main


@pytest.mark.parametrize("attached", [False, True])
def test_closed(handler: SequentialThreadingHandler, attached: bool) -> None:
    channel = Channel(handler)
    if attached:
        channel.attach()
        assert channel.reader.begin_sleep()
    number = channel.writer.fileno()
    channel.writer.close()
    with socket.socket() as other:  # takes the number, and must get no byte
        assert other.fileno() == number
        with pytest.raises(OSError):  # so kazoo fails the request
            channel.writer.send(b"\0")
    channel.close()
    channel.reader.end_sleep()
    channel.reader.drain()
    with pytest.raises(OSError, match="closed"):
        channel.is_ready(0)


def test_sends_racing_close(make: Callable[[], Channel]) -> None:
    with frequent_switches():
        for _ in range(100):
            channel = make()
            channel.reader.begin_sleep()

            def send(channel: Channel = channel) -> None:
                with suppress(OSError):  # kazoo expects nothing else
                    while True:
                        channel.writer.send(b"\0")

            together(send, channel.writer.close)
            assert channel.writer.fileno() == -1


@forks
def test_send_in_a_forked_child(
    channel: Channel, handler: SequentialThreadingHandler
) -> None:
    assert channel.reader.begin_sleep()

    def request() -> Any:
        result = handler.async_result()
        channel.request(result)
        return type(result.exception), len(channel.client._queue)

    assert in_child(request) == (ConnectionClosedError, 0)
    assert not channel.was_rung(), "the parent's thread was woken"


@forks
def test_attached_anew_in_a_forked_child(channel: Channel) -> None:
    """kazoo goes on with the same ends; the parent's must hear nothing of it."""
    assert channel.reader.begin_sleep()

    def work() -> tuple[bool, bool]:
        channel.attach()
        woken = together(lambda: channel.is_ready(TIMEOUT), channel.request)[0]
        channel.answer()
        assert channel.reader.begin_sleep()
        channel.request()
        return woken, channel.was_rung()

    assert in_child(work) == (True, True)
    assert not channel.was_rung()
    channel.request()

    assert channel.was_rung()


def test_descriptors_are_closed_when_a_client_is_collected() -> None:
    before = set(descriptors())
    clients = list[Any]()
    for _ in range(10):
        client = KazooClient(handler=SequentialThreadingHandler())
        reader, writer = client.handler.create_socket_pair()
        client._connection._read_sock = reader
        client._connection._write_sock = writer
        attach(reader, writer, client)
        clients.append(client)
    assert len(set(descriptors()) - before) == 2 * len(clients)
    del client, reader, writer

    def closed() -> bool:
        gc.collect()
        return set(descriptors()) <= before

    with pytest.warns(ResourceWarning, match="unclosed"):  # as sockets have it
        clients.clear()
        wait_until(closed)
