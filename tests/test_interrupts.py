"""A call that is interrupted costs that call, and nothing else.

Each call is interrupted at every bytecode. After that other threads go on as if
nothing had happened.

What holds no lock bears that anywhere: results, queues, requests. ``start`` and
``stop`` hold the handler's, which others use, too; they, and threads that are spawned,
are interrupted where a signal handler is run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Optional

import pytest
from kazoo.exceptions import ConnectionClosedError

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from tests.interrupts import Where, interrupt_everywhere
from tests.support import in_thread as _in_thread
from tests.support import wait_until

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="queue.SimpleQueue is Python code there, which holds a lock",
)

#: A shorter ``TIMEOUT``: a failure is waited for after each of many steps.
STEP_TIMEOUT = 5.0


def in_thread(function: Callable[[], Any], limit: float = STEP_TIMEOUT) -> Any:
    """Run *function* in another thread, which no interrupt has come to."""
    return _in_thread(function, limit)


class Shared:
    """A result that a thread waits for, and that has links, before the call."""

    def __init__(self, handler: SequentialThreadingHandler) -> None:
        self.handler = handler
        self.result: AsyncResult[int] = handler.async_result()
        self.got: list[Any] = []
        self.called: list[int] = []
        self.own: list[int] = []
        self.result.rawlink(self.callback)
        began = threading.Event()
        self.waiter = threading.Thread(target=self._wait, args=(began,), daemon=True)
        self.waiter.start()
        assert began.wait(STEP_TIMEOUT)

    def _wait(self, began: threading.Event) -> None:
        began.set()
        with suppress(OSError):
            self.got.append(self.result.get())

    def callback(self, result: AsyncResult[int]) -> None:
        self.called.append(1)

    def own_callback(self, result: AsyncResult[int]) -> None:
        self.own.append(1)

    def check(self) -> None:
        """Complete it in another thread: whoever waits goes on, and once."""
        in_thread(lambda: self.result.set(2))
        assert self.result.ready(), "it is not complete"
        self.waiter.join(STEP_TIMEOUT)
        assert not self.waiter.is_alive(), "who waits for it is not woken"
        flush(self.handler)
        assert self.called == [1], f"a callback ran {len(self.called)} times"
        assert len(self.own) <= 1, f"a callback ran {len(self.own)} times"
        in_thread(lambda: self.result.wait(STEP_TIMEOUT))


def flush(handler: SequentialThreadingHandler) -> None:
    """Return when what was put into the completion queue has run."""
    ran = threading.Event()
    in_thread(lambda: handler.completion_queue.put(ran.set))
    assert ran.wait(STEP_TIMEOUT), "what another thread has put does not run"


@pytest.fixture
def shared(handler: SequentialThreadingHandler) -> Any:
    return lambda: Shared(handler)


def test_set(shared: Any) -> None:
    interrupt_everywhere(shared, lambda state: state.result.set(1), Shared.check)


def test_set_exception(shared: Any) -> None:
    interrupt_everywhere(
        shared, lambda state: state.result.set_exception(OSError), Shared.check
    )


def test_get_that_times_out(shared: Any) -> None:
    def get(state: Shared) -> None:
        with suppress(TimeoutError):
            state.result.get(timeout=0.001)

    interrupt_everywhere(shared, get, Shared.check)


def test_wait(shared: Any) -> None:
    interrupt_everywhere(shared, lambda state: state.result.wait(0.001), Shared.check)


def test_rawlink(shared: Any) -> None:
    interrupt_everywhere(
        shared, lambda state: state.result.rawlink(state.own_callback), Shared.check
    )


def test_rawlink_to_a_ready_result(shared: Any) -> None:
    def ready() -> Shared:
        state: Shared = shared()
        state.result.set(1)
        return state

    interrupt_everywhere(
        ready, lambda state: state.result.rawlink(state.own_callback), Shared.check
    )


def test_unlink(shared: Any) -> None:
    def linked() -> Shared:
        state: Shared = shared()
        state.result.rawlink(state.own_callback)
        return state

    interrupt_everywhere(
        linked, lambda state: state.result.unlink(state.own_callback), Shared.check
    )


def test_as_future(shared: Any) -> None:
    def check(state: Shared) -> None:
        state.check()
        future = in_thread(state.result.as_future)
        assert future.result(STEP_TIMEOUT) == 2, "its future is not complete"

    interrupt_everywhere(shared, lambda state: state.result.as_future(), check)


def test_put(handler: SequentialThreadingHandler) -> None:
    def check(ran: list[int]) -> None:
        flush(handler)
        assert len(ran) <= 1, f"it ran {len(ran)} times"

    def put(ran: list[int]) -> None:
        handler.completion_queue.put(lambda: ran.append(1))

    interrupt_everywhere(list, put, check)


@pytest.fixture
def no_limbo() -> Iterator[None]:
    """Take out threads of an interrupted ``Thread.start``, which never come alive."""
    yield
    limbo: dict[Any, Any] = getattr(threading, "_limbo", {})
    for thread in list(limbo):
        if thread.ident is None:
            del limbo[thread]


@pytest.fixture
def handlers() -> Iterator[Any]:
    made = []

    def make() -> SequentialThreadingHandler:
        handler = SequentialThreadingHandler()
        made.append(handler)
        return handler

    yield make
    for one in made:
        one.stop()


def works(handler: SequentialThreadingHandler) -> None:
    """Check that it stops in time, and starts again."""
    in_thread(handler.start)
    flush(handler)
    in_thread(handler.stop, limit=3)
    in_thread(handler.start)
    flush(handler)
    in_thread(handler.stop, limit=3)


@pytest.mark.usefixtures("no_limbo")
def test_start(handlers: Any) -> None:
    interrupt_everywhere(
        handlers, SequentialThreadingHandler.start, works, Where.SIGNALS
    )


def test_stop(handlers: Any) -> None:
    def started() -> SequentialThreadingHandler:
        handler: SequentialThreadingHandler = handlers()
        handler.start()
        return handler

    interrupt_everywhere(started, SequentialThreadingHandler.stop, works, Where.SIGNALS)


@pytest.mark.usefixtures("no_limbo")
@pytest.mark.parametrize("limit", [None, 1])
def test_spawn(limit: Optional[int]) -> None:
    """The limit stays what it was: neither does one wait for ever, nor run too many."""
    handlers = []

    def limited() -> SequentialThreadingHandler:
        handlers.append(SequentialThreadingHandler(max_spawned_threads=limit))
        return handlers[-1]

    def check(handler: SequentialThreadingHandler) -> None:
        running: list[int] = []
        most: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def run() -> None:
            running.append(1)
            most.append(len(running))
            begun.set()
            go_on.wait(STEP_TIMEOUT)
            running.pop()

        threads = [in_thread(lambda: handler.spawn(run)) for _ in range(3)]
        assert begun.wait(STEP_TIMEOUT), "none of them begins"
        go_on.set()
        for thread in threads:
            in_thread(thread.join)
        assert limit is None or max(most) <= limit, "too many ran"
        assert (
            wait_until(lambda: not handler.stats().spawned_threads, STEP_TIMEOUT)
            is True
        )

    interrupt_everywhere(
        limited, lambda handler: handler.spawn(int), check, Where.SIGNALS
    )


def get_app(client: Any) -> None:
    """Make a request. kazoo takes what interrupts ``send`` for a closed connection."""
    with suppress(ConnectionClosedError):
        client.get_async("/app").get(timeout=STEP_TIMEOUT)


def test_request(client: Any) -> None:
    client.create("/app", b"1")

    def check(_: object) -> None:
        assert in_thread(lambda: client.get("/app"))[0] == b"1"

    interrupt_everywhere(lambda: None, lambda _: get_app(client), check)


def test_requests_that_are_interrupted_one_after_the_other(client: Any) -> None:
    """Nothing between them makes up for what an interrupt has left."""
    client.create("/app", b"1")
    interrupt_everywhere(lambda: None, lambda _: get_app(client), lambda _: None)
    assert in_thread(lambda: client.get("/app"))[0] == b"1"
