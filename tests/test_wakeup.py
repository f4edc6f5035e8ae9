"""The wake-up channel: the rules at the top of its module."""

from __future__ import annotations

import gc
import os
import select as system
import socket
from typing import TYPE_CHECKING

import pytest

from kazoo_seqthreading import SequentialThreadingHandler
from kazoo_seqthreading._wakeup import WakeUp
from tests.concurrency import LIMIT, frequent_switches, in_thread, together
from tests.support import descriptors, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def handler() -> SequentialThreadingHandler:
    return SequentialThreadingHandler()


@pytest.fixture(params=["eventfd", "socketpair"])
def make(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    handler: SequentialThreadingHandler,
) -> Iterator[Callable[[], WakeUp]]:
    """Make wake-ups of a handler, which are closed after the test."""
    if request.param == "socketpair":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("there is no eventfd")
    made = list[WakeUp]()

    def make() -> WakeUp:
        made.append(handler.create_socket_pair()[0])
        return made[-1]

    yield make
    for wakeup in made:
        wakeup.close()


def select(wakeup: WakeUp, timeout: float) -> bool:
    """Tell whether *wakeup* can be read within *timeout* seconds."""
    return SequentialThreadingHandler().select([wakeup], [], [], timeout)[0] == [wakeup]


def test_both_ends() -> None:
    reader, writer = SequentialThreadingHandler().create_socket_pair()
    assert writer.send(b"\0") == 1
    assert reader.recv(1) == b"\0"
    for end in (reader, writer, reader):
        end.close()
    assert reader.fileno() == writer.fileno() == -1


def test_counts_bytes(make: Callable[[], WakeUp]) -> None:
    wakeup = make()
    assert wakeup.send(b"\0\0\0") == 3
    assert wakeup.send(memoryview(b"\0")) == 1
    assert wakeup.pending() == 4
    for size in (1, 10, 1, 4096):  # a byte each time, as a socket may do
        assert wakeup.recv(size) == b"\0"
    assert wakeup.pending() == 0
    with pytest.raises(BlockingIOError):
        wakeup.recv(1)


def test_never_fills(make: Callable[[], WakeUp]) -> None:
    wakeup = make()

    def send() -> None:
        for _ in range(100_000):
            wakeup.send(b"\0")

    in_thread(send)
    assert wakeup.pending() == 100_000
    for _ in range(100_000):
        assert wakeup.recv(1) == b"\0"
    assert wakeup.pending() == 0


def test_bell_never_fills(
    make: Callable[[], WakeUp], handler: SequentialThreadingHandler
) -> None:
    wakeup = make()

    def ring() -> None:
        for _ in range(2000):
            assert wakeup.fall_asleep()
            wakeup.send(b"\0")
            wakeup.recv(1)
            wakeup.wake_up(rung=False)  # it still rings

    in_thread(ring)
    assert handler.stats().wake_ups == 2000
    wakeup.send(b"\0")
    assert select(wakeup, 0)


def test_no_system_call_unless_it_sleeps(
    make: Callable[[], WakeUp], handler: SequentialThreadingHandler
) -> None:
    wakeup = make()
    for _ in range(100):
        wakeup.send(b"\0")
    assert handler.stats().wake_ups == 0
    assert not wakeup.fall_asleep()
    for _ in range(100):
        wakeup.recv(1)
    assert wakeup.fall_asleep()
    for _ in range(100):
        wakeup.send(b"\0")
    assert handler.stats().wake_ups == 1
    wakeup.wake_up(rung=True)
    for _ in range(100):
        wakeup.send(b"\0")
    assert handler.stats().wake_ups == 1


def test_wakes_a_sleeper(make: Callable[[], WakeUp]) -> None:
    wakeup = make()
    for _ in range(100):
        results = together(lambda: select(wakeup, LIMIT), lambda: wakeup.send(b"\0"))
        assert results[0] is True
        assert wakeup.recv(10) == b"\0"
    assert not select(wakeup, 0)


def test_no_request_is_left_behind(make: Callable[[], WakeUp]) -> None:
    wakeup, count, threads = make(), 3000, 3
    handler = SequentialThreadingHandler()

    def send() -> None:
        for _ in range(count):
            wakeup.send(b"\0")

    def receive() -> None:
        left = count * threads
        while left:
            assert handler.select([wakeup], [], [], LIMIT)[0] == [wakeup]
            left -= len(wakeup.recv(7))

    with frequent_switches():
        together(receive, *[send] * threads)
    assert wakeup.pending() == 0


def test_signal_handler_in_the_middle_of_send(make: Callable[[], WakeUp]) -> None:
    wakeup = make()

    def interrupted() -> None:
        with wakeup._lock:  # here is where the signal arrives
            wakeup.send(b"\0")
            assert not wakeup.fall_asleep()

    in_thread(interrupted, 5.0)
    assert wakeup.pending() == 1


def test_closed(make: Callable[[], WakeUp]) -> None:
    wakeup = make()
    assert wakeup.fall_asleep()
    number = wakeup.fileno()
    wakeup.close()
    with socket.socket() as other:  # takes the number, and must get no ring
        assert other.fileno() == number
        with pytest.raises(OSError, match="closed"):  # so kazoo fails the request
            wakeup.send(b"\0")
        wakeup.wake_up(rung=True)
    assert wakeup.fileno() == -1
    with pytest.raises(OSError, match="closed"):
        select(wakeup, 0)


def test_two_sleepers(make: Callable[[], WakeUp]) -> None:
    """One that wakes up leaves the other one asleep, and to be rung for."""
    wakeup = make()
    assert wakeup.fall_asleep() and wakeup.fall_asleep()
    wakeup.wake_up(rung=True)
    wakeup.send(b"\0")
    assert wakeup._traffic.wake_ups == 1
    assert system.select([wakeup.fileno()], [], [], 0)[0]
    assert wakeup.recv(1) == b"\0"
    wakeup.wake_up(rung=True)
    assert not system.select([wakeup.fileno()], [], [], 0)[0]


def test_sends_racing_close(make: Callable[[], WakeUp]) -> None:
    """No ring goes to a descriptor that has been closed."""
    with frequent_switches():
        for _ in range(100):
            wakeup = make()

            def send(wakeup: WakeUp = wakeup) -> None:
                for _ in range(20):
                    wakeup.fall_asleep()
                    try:
                        wakeup.send(b"\0")
                    except OSError as error:
                        assert "closed" in str(error)
                    wakeup.recv(1)

            together(send, wakeup.close)
            assert wakeup.fileno() == -1


def test_descriptors_are_closed_when_collected(make: Callable[[], WakeUp]) -> None:
    before = set(descriptors())
    handler = SequentialThreadingHandler()
    pairs = [handler.create_socket_pair() for _ in range(10)]
    assert len(set(descriptors()) - before) >= len(pairs)
    pairs.clear()

    def closed() -> bool:
        gc.collect()
        return set(descriptors()) <= before

    wait_until(closed)
