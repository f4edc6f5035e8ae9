"""The turn: callers and the connection thread at the same time.

The connection thread, the socket and the wake-up channel are stand-ins here: what is
explored is the turn, and how a result is waited for.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable
from threading import get_ident
from types import SimpleNamespace
from typing import Any, Optional

from kazoo.protocol.serialization import Delete

from tests.races import doubles
from tests.races.bugs import finds
from tests.races.copies import Copy
from tests.races.explorer import access

Explore = Callable[..., None]

SOCKET, CALLER_END = 1, 2


class Wire:
    """The socket and the wake-up channel: what may be polled."""

    def __init__(self) -> None:
        #: Whether the socket can be read, and the ends for callers and for the
        #: connection thread; whether that one leaves the socket to callers.
        self.state = {"socket": 0, "caller": 0, "connection": 0, "suspended": 0}
        self.replies: list[bytes] = []

    def change(self, **changes: int) -> None:
        access(self, writes=True)
        self.state = {**self.state, **changes}

    # as the functions of a socket

    def send(self, _: object, data: bytes) -> int:
        (xid,) = struct.unpack_from("!i", data, 4)
        access(self, writes=True, what="sends into")
        self.replies.append(struct.pack("!iiqi", 16, xid, 1, 0))
        self.state = {**self.state, "socket": 1}
        return len(data)

    def recv(self, *_: object) -> Optional[bytes]:
        access(self, writes=True, what="receives from")
        if not self.replies:
            return None
        data = b"".join(self.replies)
        self.replies.clear()
        self.state = {**self.state, "socket": 0}
        return data

    # as select.poll()

    def register(self, fd: int, mask: int) -> None:
        pass

    def poll(self, _: Optional[float]) -> list[tuple[int, int]]:
        access(
            self,
            writes=False,
            possible=lambda state: state["socket"] or state["caller"],
            what="polls",
        )
        ready = {SOCKET: self.state["socket"], CALLER_END: self.state["caller"]}
        return [(fd, 1) for fd, is_ready in ready.items() if is_ready]

    def poll_as_connection(self) -> None:
        access(
            self,
            writes=False,
            possible=lambda state: (
                state["connection"] or (state["socket"] and not state["suspended"])
            ),
            what="sleeps on",
        )


class Tokens(type(doubles.tracked([]))):  # type: ignore[misc]
    @property
    def state(self) -> int:
        return list.__len__(self)


class Served:
    """A client, its connection thread and the results of its callers."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.wire = wire = Wire()
        self.finished = doubles.tracked([])
        self.results: list[Any] = []
        copy._turn._transmit = wire.send
        copy._turn._make_poller = lambda: wire
        copy._turn.sleep = self.wait_for_token
        copy._turn._is_interrupt = lambda error: False
        self.client = SimpleNamespace(
            _queue=doubles.deque(), _pending=doubles.deque(), last_zxid=0
        )
        handler = SimpleNamespace(
            client=self.client, logger=logging.Logger("", logging.INFO), _xid=0
        )
        self.connections = SimpleNamespace(
            caller_traffic=copy._stats.TrafficCounters(), latest_turn=None
        )
        thread = SimpleNamespace(
            connection=handler,
            owner=self.connections,
            steps=SimpleNamespace(allowed=lambda: True),
        )
        # what the turn asks of its socket, of its channel, and a result of its handler
        self.writer = SimpleNamespace(fileno=lambda: CALLER_END)
        self.turn = copy._turn.Turn(thread, self, self)
        self.turn._tokens, self.turn._receive = Tokens(), wire.recv
        self._kazoo_seqthreading = self

    def wait_for_token(self, _: float) -> None:
        access(self.turn._tokens, writes=False, possible=bool, what="waits for")

    # the socket

    def fileno(self) -> int:
        return SOCKET

    heard_at = 0.0
    sampler = SimpleNamespace(due=math.inf, xid=0, received_at=0.0)

    def note_request(self, now: float) -> None:
        pass

    def abort(self) -> None:
        raise AssertionError("given up")

    def suspend_polling(self) -> None:
        self.wire.change(suspended=1)

    def resume_polling(self) -> None:
        self.wire.change(suspended=0)

    # the channel

    def wake_caller(self) -> None:
        self.wire.change(caller=1)

    def drain_caller(self) -> None:
        self.wire.change(caller=0)

    def wake_connection_thread(self) -> None:
        self.wire.change(connection=1)

    # the handler's core

    def check_fork(self) -> None:
        pass

    # the threads

    def request(self) -> Any:
        result = self.copy._result.AsyncResult(self)
        self.results.append(result)
        self.client._queue.append((Delete("/", -1), result))
        if not self.turn.send():
            self.wake_connection_thread()
        return result

    def finish(self) -> None:
        self.finished.append(1)
        self.wake_connection_thread()

    def serve(self, callers: int) -> None:
        """Be the connection thread, until so many callers have got what they want."""
        turn, client = self.turn, self.client
        while True:
            finished = len(self.finished) == callers
            while client._queue:
                request, result = client._queue.popleft()
                client._pending.append((request, result, 0))
                self.wire.send(None, struct.pack("!ii", 0, 0))
            if self.wire.state["socket"]:
                self.read(self.wire.recv())
                continue
            if finished:
                return
            self.wire.change(connection=0)
            if client._queue or len(self.finished) == callers:
                continue
            turn.lend()
            self.sleep()

    def sleep(self) -> None:
        self.wire.poll_as_connection()
        self.read(self.turn.claim(displaced=False))
        self.resume_polling()

    def read(self, data: Optional[bytes]) -> None:
        for _ in range(len(data or b"") // 20):
            _, result, _ = self.client._pending.popleft()
            result.set(True)

    def all_ready(self, count: int) -> bool:
        return (
            [result.ready() for result in self.results] == [True] * count
            and not self.client._queue
            and not self.client._pending
            and not self.turn._leaders
            and not self.turn._completed
            and not self.wire.replies
        )


class Sent(Served):
    """A caller has sent its request, while the connection thread sleeps."""

    def __init__(self, copy: Copy) -> None:
        super().__init__(copy)
        self.turn.lend()
        self.request()
        assert self.client._pending

    def wait(self) -> None:
        self.turn.sender = get_ident()
        self.results[0].get()
        self.finish()

    def serve(self, callers: int) -> None:
        self.sleep()
        super().serve(callers)


def call(state: Served) -> None:
    state.request().get()
    state.finish()


def request(state: Served) -> None:
    """Make a request, and wait for nothing."""
    state.request()
    state.finish()


def serve(callers: int) -> Callable[[Served], None]:
    return lambda state: state.serve(callers)


def wait(state: Sent) -> None:
    state.wait()


@finds(("_turn", "partial(tokens.remove, token),", "partial(list),"))
def test_wait_while_the_connection_thread_wakes(explore: Explore) -> None:
    explore(
        Sent,
        wait,
        serve(1),
        then=lambda state: state.all_ready(1),
        complete=False,  # there are some ten thousand orders
    )


def set_it(state: Sent) -> None:
    state.results[0].set(True)


def unanswered(copy: Copy) -> Sent:
    state = Sent(copy)
    state.wire.recv()
    return state


@finds(("_result", "                entry.wake()", "                pass"))
def test_wait_for_what_another_thread_sets(explore: Explore) -> None:
    def is_left(state: Sent) -> bool:
        return state.results[0].ready() and not state.turn._leaders

    explore(unanswered, wait, set_it, then=is_left)


def test_request_that_nobody_waits_for(explore: Explore) -> None:
    def ready(state: Served) -> bool:
        state.read(state.wire.recv() if state.wire.replies else b"")
        return state.all_ready(1)

    explore(Served, request, serve(1), then=ready)


def test_two_callers(explore: Explore) -> None:
    explore(Served, call, call, serve(2), then=lambda state: state.all_ready(2))


def test_call_beside_a_request(explore: Explore) -> None:
    def ready(state: Served) -> bool:
        state.read(state.wire.recv() if state.wire.replies else b"")
        return state.all_ready(2)

    explore(Served, call, request, serve(2), then=ready)
