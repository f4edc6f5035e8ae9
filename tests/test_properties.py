"""Properties that hold for every sequence of events, found by hypothesis."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from kazoo.protocol.states import Callback

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler, TimeoutError
from kazoo_seqthreading._connection import Connection
from kazoo_seqthreading._stats import QueueCounters
from kazoo_seqthreading._tls import Codec
from kazoo_seqthreading._worker import Worker
from tests.internals import begin_frames
from tests.support import TIMEOUT, Gate, frequent_switches, together

if TYPE_CHECKING:
    from collections.abc import Iterator

bounded = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


# -- AsyncResult -----------------------------------------------------------------------


class Boom(Exception):
    pass


class Link:
    """Equal to every link of the same number."""

    def __init__(self, number: int, calls: list[int], fails: bool) -> None:
        self.number, self.calls, self.fails = number, calls, fails

    def __call__(self, result: AsyncResult[Any]) -> None:
        assert result.ready()
        self.calls.append(self.number)
        if self.fails:
            raise SystemExit(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Link) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


class ResultMachine(RuleBasedStateMachine):
    """A result of a stopped handler, which runs links where they are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.result: AsyncResult[Any] = SequentialThreadingHandler().async_result()
        self.calls: list[int] = []
        self.expected: list[int] = []
        self.linked: list[int] = []
        self.outcome: Any = None

    def complete(self, outcome: Any) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.expected += self.linked
            self.linked.clear()

    @rule(value=st.integers())
    def set(self, value: int) -> None:
        self.result.set(value)
        self.complete(("value", value))

    @rule(as_class=st.booleans())
    def set_exception(self, as_class: bool) -> None:
        self.result.set_exception(Boom if as_class else Boom())
        self.complete(("exception", Boom))

    @rule(number=st.integers(0, 4), fails=st.booleans())
    def rawlink(self, number: int, fails: bool) -> None:
        self.result.rawlink(Link(number, self.calls, fails))
        if self.outcome is not None:
            self.expected.append(number)
        elif number not in self.linked:
            self.linked.append(number)

    @rule(number=st.integers(0, 4))
    def unlink(self, number: int) -> None:
        self.result.unlink(Link(number, self.calls, False))
        if number in self.linked:
            self.linked.remove(number)

    @rule()
    def give_up_waiting(self) -> None:
        assert self.result.wait(0) is (self.outcome is not None)

    @invariant()
    def agrees(self) -> None:
        assert self.calls == self.expected
        assert self.result.ready() is (self.outcome is not None)
        try:
            got = ("value", self.result.get_nowait())
        except Boom:
            got = ("exception", Boom)
        except TimeoutError:
            got = None
        assert got == self.outcome
        assert self.result.successful() is (got is not None and got[0] == "value")


TestResult = ResultMachine.TestCase
TestResult.settings = bounded


# -- the handler -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_threads_that_start_stop_and_put(seed: int) -> None:
    """Whatever they do at once: links and watches run once each, one at a time."""
    handler, rounds = SequentialThreadingHandler(), 60
    links: list[int] = []
    watched: list[int] = []
    overlaps: list[int] = []
    inside = threading.Lock()

    def link(number: int, result: AsyncResult[Any]) -> None:
        links.append(number)

    def watch(number: int) -> None:
        if not inside.acquire(blocking=False):
            overlaps.append(number)
            return
        watched.append(number)
        inside.release()

    def act(thread: int) -> None:
        choose = random.Random(f"{seed} {thread}").choice
        for number in range(thread * rounds, (thread + 1) * rounds):
            result = handler.async_result()
            result.rawlink(partial(link, number))
            result.set()
            handler.dispatch_callback(Callback("watch", watch, (number,)))
            choose([handler.start, handler.stop, result.get])()

    with frequent_switches():
        together(*(partial(act, thread) for thread in range(3)), limit=60.0)
    handler.start()  # for the watches that came while it was stopped
    handler.stop()

    assert sorted(links) == list(range(3 * rounds))
    assert sorted(watched) == list(range(3 * rounds))
    assert overlaps == []


class HandlerMachine(RuleBasedStateMachine):
    """A handler that is started and stopped, by itself and by its callbacks."""

    results = Bundle("results")

    def __init__(self) -> None:
        super().__init__()
        self.handler = SequentialThreadingHandler()
        self.running = False
        self.watched: list[int] = []
        self.completed: list[int] = []
        self.expected_watches: list[int] = []
        self.held: list[int] = []  # by the stopped handler
        self.expected_completions: list[int] = []
        self.number = 0

    def next(self) -> int:
        self.number += 1
        return self.number

    @rule()
    def start(self) -> None:
        self.handler.start()
        self.running = True
        self.held.clear()

    @rule()
    def stop(self) -> None:
        self.handler.stop()
        self.running = False
        self.agrees()

    @rule()
    def watch(self) -> None:
        number = self.next()
        self.handler.dispatch_callback(
            Callback("watch", self.watched.append, (number,))
        )
        self.expected_watches.append(number)
        if not self.running:
            self.held.append(number)

    @rule()
    def complete(self) -> None:
        number, result = self.next(), self.handler.async_result()
        result.rawlink(lambda _: self.completed.append(number))
        result.set()
        self.expected_completions.append(number)

    @precondition(lambda self: self.running)
    @rule(watch=st.booleans(), restart=st.booleans())
    def stop_in_a_callback(self, watch: bool, restart: bool) -> None:
        done = threading.Event()

        def callback(*_: object) -> None:
            self.handler.stop()
            if restart:
                self.handler.start()
            done.set()

        if watch:
            self.handler.dispatch_callback(Callback("watch", callback, ()))
        else:
            self.handler.completion_queue.put(callback)
        assert done.wait(3.0)  # less than stop_timeout
        self.running = restart

    @precondition(lambda self: self.running)
    @rule()
    def settle(self) -> None:
        for queue in (self.handler.callback_queue, self.handler.completion_queue):
            done = threading.Event()
            queue.put(done.set)
            assert done.wait(TIMEOUT)
        self.agrees()

    def agrees(self) -> None:
        assert self.watched + self.held == self.expected_watches
        assert self.completed == self.expected_completions

    @invariant()
    def says_whether_it_runs(self) -> None:
        assert self.handler.running is self.running

    def teardown(self) -> None:
        self.handler.start()
        self.held.clear()
        self.handler.stop()
        self.agrees()


TestHandler = HandlerMachine.TestCase
TestHandler.settings = settings(bounded, max_examples=40)


# -- a worker, and threads that put while it ends --------------------------------------

THREAD = st.lists(
    st.sampled_from(["put", "put", "put", "close", "refuse", "abandon"]), max_size=12
)


@bounded
@given(threads=st.lists(THREAD, min_size=1, max_size=3), blocked=st.booleans())
def test_whatever_is_put_runs_once_or_is_handed_over_once(
    threads: list[list[str]], blocked: bool
) -> None:
    ran, handed = list[Any](), list[Any]()
    changed, inside = threading.Condition(threading.RLock()), Gate()
    worker = Worker(
        "kazoo-seqthreading-test",
        changed,
        when_closed=handed.append,
        counters=QueueCounters(),
        on_busy=lambda: None,
    )
    worker.start()
    if blocked:
        worker.put(inside)
        inside.wait_entered()

    def act(thread: int, actions: list[str]) -> None:
        for number, action in enumerate(actions):
            if action == "put":
                worker.put(partial(ran.append, (thread, number)))
            elif action == "abandon":
                worker.abandon()
            else:
                worker.close(refuse=action == "refuse")

    with frequent_switches():
        together(*(partial(act, *one) for one in enumerate(threads)))
    worker.close()
    inside.open()
    with changed:
        assert changed.wait_for(lambda: worker.ended, TIMEOUT)
    elsewhere = [item.args[0] for item in handed]
    expected = [
        (thread, number)
        for thread, actions in enumerate(threads)
        for number, action in enumerate(actions)
        if action == "put"
    ]
    assert sorted([*ran, *elsewhere]) == expected
    for thread in range(len(threads)):
        own = [number for one, number in ran if one == thread]
        assert own == sorted(own)


# -- a connection's frames -------------------------------------------------------------


class Ends(NamedTuple):
    """A connection, and what its peer sends and encrypts with."""

    connection: Connection
    peer: socket.socket
    tls: ssl.SSLObject | None
    outgoing: ssl.MemoryBIO | None

    def encode(self, data: bytes) -> bytes:
        """Return what goes over the wire for *data*."""
        if self.tls is None or self.outgoing is None:
            return data
        if data:
            self.tls.write(data)
        return self.outgoing.read()


class Certificates(NamedTuple):
    client: ssl.SSLContext
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    authority = pytest.importorskip("trustme").CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return Certificates(client, server)


def connect(certificates: Certificates | None) -> Ends:
    ours, peer = socket.socketpair()
    peer.settimeout(TIMEOUT)
    codec = tls = incoming = outgoing = None
    if certificates is not None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificates.server.wrap_bio(incoming, outgoing, server_side=True)
        codec = Codec(certificates.client, "server.test")
        together(
            partial(codec.handshake, ours.recv, ours.sendall),
            partial(shake_hands, tls, incoming, outgoing, peer),
        )
    connection = Connection(ours, codec)
    begin_frames(connection)
    return Ends(connection, peer, tls, outgoing)


def shake_hands(
    tls: ssl.SSLObject,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    peer: socket.socket,
) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            peer.sendall(outgoing.read())
            incoming.write(peer.recv(65536))
        else:
            peer.sendall(outgoing.read())
            return


def frame(number: int, size: int) -> bytes:
    """Return a frame of *size* bytes that answers no request, as one to a connect."""
    body = bytes(4) + number.to_bytes(4, "big") + bytes(8)
    body += bytes([number % 256]) * (size - 16)
    return len(body).to_bytes(4, "big") + body


def read_one(connection: Connection) -> bytes:
    """Read a frame as kazoo does."""
    head = connection.recv(4)
    assert len(head) == 4
    length = int.from_bytes(head, "big")
    assert connection.pending() >= length, "kazoo would have to wait for the rest"
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head + body


def read_all(connection: Connection) -> Iterator[bytes]:
    """Read all frames that are there."""
    while connection.wait(None, 0):
        yield read_one(connection)


@pytest.fixture(params=["plain", "TLS"])
def wire(request: pytest.FixtureRequest) -> Certificates | None:
    if request.param == "plain":
        return None
    found: Certificates = request.getfixturevalue("certificates")
    return found


def send_in_parts(ends: Ends, wire: bytes, cuts: list[int]) -> list[bytes]:
    """Send *wire*, cut at *cuts*; return the frames read after each part."""
    received = list[bytes]()
    edges = [0, *sorted(cuts), len(wire)]
    for begin, end in zip(edges, edges[1:]):
        ends.peer.sendall(wire[begin:end])
        received += read_all(ends.connection)
    return received


def test_frames_cut_at_every_offset(wire: Certificates | None) -> None:
    frames = [frame(1, 16), frame(2, 40), frame(3, 17)]
    ends = connect(wire)
    with ends.connection, ends.peer:
        joined = ends.encode(b"".join(frames))
        first = ends.encode(b"".join(frames))
        assert len(joined) == len(first)
        ends.peer.sendall(joined)
        assert list(read_all(ends.connection)) == frames
        ends.peer.sendall(first)
        assert list(read_all(ends.connection)) == frames
        for cut in range(len(joined) + 1):
            received = send_in_parts(ends, ends.encode(b"".join(frames)), [cut])
            assert received == frames
        in_bytes = ends.encode(b"".join(frames))
        every = list(range(len(in_bytes)))
        assert send_in_parts(ends, in_bytes, every) == frames


SIZES = st.lists(
    st.one_of(st.integers(16, 80), st.sampled_from([65_500, 65_532, 65_536, 150_000])),
    min_size=1,
    max_size=12,
)


@bounded
@given(sizes=SIZES, data=st.data())
def test_frames_cut_and_joined(
    wire: Certificates | None, sizes: list[int], data: st.DataObject
) -> None:
    frames = [frame(number, size) for number, size in enumerate(sizes)]
    ends = connect(wire)
    with ends.connection, ends.peer:
        # in records of their own, or many in one
        joined = data.draw(st.lists(st.booleans(), max_size=len(frames)))
        batches, batch = list[bytes](), b""
        for number, one in enumerate(frames):
            batch += one
            if number < len(joined) and joined[number]:
                continue
            batches.append(batch)
            batch = b""
        encoded = b"".join(map(ends.encode, [*batches, batch]))
        cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=8))
        received = list[bytes]()

        def send() -> None:
            edges = [0, *sorted(cuts), len(encoded)]
            for begin, end in zip(edges, edges[1:]):
                ends.peer.sendall(encoded[begin:end])

        def receive() -> None:
            while len(received) < len(frames):
                assert ends.connection.wait(None, TIMEOUT)
                received.append(read_one(ends.connection))

        together(send, receive)
        assert received == frames
        assert ends.connection.buffered() == 0
        assert ends.connection.wait(None, 0) == []


@bounded
@given(sizes=SIZES, whole=st.integers(0, 12), data=st.data())
def test_a_peer_that_closes_in_the_middle(
    wire: Certificates | None, sizes: list[int], whole: int, data: st.DataObject
) -> None:
    """What has arrived whole can be read; then the connection is at its end."""
    frames = [frame(number, size) for number, size in enumerate(sizes)]
    whole = min(whole, len(frames) - 1)
    cut = data.draw(st.integers(0, len(frames[whole]) - 1))
    sent = b"".join(frames[:whole]) + frames[whole][:cut]
    ends, received = connect(wire), list[bytes]()
    with ends.connection, ends.peer:

        def send() -> None:
            ends.peer.sendall(ends.encode(sent))
            ends.peer.close()

        def receive() -> None:
            while True:
                assert ends.connection.wait(None, TIMEOUT)
                if not ends.connection.buffered():
                    break
                received.append(read_one(ends.connection))
            assert ends.connection.recv(4) == b""

        together(send, receive)

    assert received == frames[:whole]
