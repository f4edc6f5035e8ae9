"""The turn: a caller sends its request, and reads the reply, itself.

A call that waits would switch threads twice: to the connection thread, which sends and
reads, and back. While that thread sleeps, its connection is *lent*: who makes the only
request sends it, and if it then waits, it polls the socket and reads the reply.

Rules
-----
1. One token says whose turn it is. The connection thread has it while it is awake, and
   puts it into ``_tokens`` for as long as it sleeps.
2. A caller never holds it. Each of its steps is computed first, without any effect, and
   then takes effect in a transaction: one C call that takes the token, changes the
   state and puts a fresh token back. No other code runs in between, neither a signal
   handler nor an exception, so that a caller may be broken off, held up or called again
   at any bytecode, and another one may go on. The transaction fails if the token is not
   the one that was seen when the step was computed: somebody else was faster.
3. What is taken off the connection, and not delivered yet, stands in ``_received`` and
   ``_completed``, where the next who comes by finds it. Delivering twice does no harm.
4. A caller does what is ordinary, for its own requests alone: nothing is in flight when
   it sends. With a second request, a watch event, a frame cut in two, an error of the
   socket it wakes the connection thread, and waits as everybody does.
5. While a caller polls the socket, the connection thread does not. It takes the token
   when it wakes, for a heartbeat or another thread's request, and never waits for the
   caller. That one leaves when its result is ready, whoever has completed it. After two
   threads have made requests at once, callers do without for a while.
6. Nobody closes a descriptor that a caller polls: it does that itself when it leaves.

A caller that polls is in ``_leaders`` before it asks for the descriptors; who closes
one looks at them after it has said so. One of them sees the other. There may be two for
a moment, when one leaves, and with signal handlers. A byte wakes them; it is taken out
when none is left, and sent again if one has come meanwhile.
"""

from __future__ import annotations

import select
import socket
import sys
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from logging import DEBUG, Logger
from threading import get_ident
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._kazoo import ORDINARY
from ._result import AsyncResult
from ._round_trips import SAMPLE_EVERY, RoundTripCounters
from ._steps import HEADER_SIZE, frame_of, length_and_header, outcome_of
from ._waiting import interrupts

if TYPE_CHECKING:
    from ._connection import Connection
    from ._connection_threads import ConnectionThread
    from ._wakeup import Channel

#: Transactions are C calls in CPython alone, and polling needs what Linux has.
SUPPORTED = sys.implementation.name == "cpython" and hasattr(select, "epoll")

#: How many bytes one ``recv`` asks for.
RECEIVE_SIZE = 65536
#: How many calls wait as everybody does after two threads have made requests at once.
REST = 64
#: After how many seconds the connection thread polls, too: the caller that does may be
#: held up, by a signal handler.
LEAD_SECONDS = 0.1
#: After how many seconds a token is taken for lost.
TOKEN_SECONDS = 1.0

_receive = socket.socket.recv
_transmit = socket.socket.send
_call: Any = partial.__call__
_consume = deque[Any](maxlen=0).extend


class Turn:
    """The turn of one connection.

    :param thread: the connection thread
    :param sock: the connection; its poller is one that can be suspended
    :param channel: wakes the connection thread
    """

    def __init__(
        self, thread: ConnectionThread, sock: Connection, channel: Channel
    ) -> None:
        handler, self._owner = thread.connection, thread.owner
        self._handler_state = vars(handler)
        self._attributes = len(self._handler_state)
        self._client: Any = handler.client
        self._client_state = vars(handler.client)
        self._logger: Any = handler.logger
        self._sock = sock
        self._channel = channel
        self._traffic = self._owner.caller_traffic
        self._on_request = thread.on_request
        self._sample_due = 0.0
        self.round_trips = RoundTripCounters()
        self._tokens: list[object] = []
        self._received: list[bytes] = []
        self._completed: list[tuple[Any, Any, Any]] = []  # result, value, exception
        # Callers that poll. One that was interrupted may not have left by itself.
        self._leaders: set[weakref.ref[Leader]] = set()
        self._woken = False  # whether a byte was sent to them
        self._closers: list[Callable[[], Any]] = []
        self._rest = 0
        # of the request that was sent last: its number, and when
        self.xid = 0
        self.sent_at = 0.0
        self.sender: Optional[int] = None  #: the thread that sent last
        self._led = False  # whether a caller has polled since the last sleep
        _fork.register(self)

    def _after_fork(self) -> None:
        """Forget the turn: the connection is the parent's."""
        self._tokens.clear()
        self._received.clear()
        self._completed.clear()

    # -- the connection thread -------------------------------------------------------

    def lend(self) -> None:
        """Let callers use the connection while this thread sleeps."""
        self._tokens.append(object())

    def limit(self, timeout: Optional[float]) -> Optional[float]:
        """Return how long the connection thread may leave polling to callers.

        :param timeout: how long it would sleep, in seconds; ``None``: for ever
        """
        if not self._led:
            return timeout
        self._led = False
        return LEAD_SECONDS if timeout is None else min(timeout, LEAD_SECONDS)

    def claim(self, displaced: bool) -> bytes:
        """Take the connection back.

        :param displaced: whether another thread's request is the reason
        :returns: what a caller has received, and not read
        :raises OSError: if the token is lost: a caller was interrupted twice
        """
        tokens = self._tokens
        deadline: Optional[float] = None
        while True:
            try:
                tokens.pop()
                break
            except IndexError:  # a transaction, of some microseconds
                if deadline is None:
                    deadline = monotonic() + TOKEN_SECONDS
                elif monotonic() > deadline:
                    raise OSError(
                        "a caller was interrupted in the wrong place"
                    ) from None
                sleep(0)
        if displaced and self._leaders:
            self._rest = REST
            self.wake_leaders()
        self._complete()
        data = b"".join(self._received)
        self._received.clear()
        return data

    def wake_leaders(self) -> None:
        """Have callers that poll look whether they still may, and have to."""
        if self._leaders and not self._woken:
            self._woken = True
            self._channel.wake_caller()

    def close(self, close: Callable[[], Any]) -> None:
        """Call *close*, which closes a descriptor, when nobody polls it any more."""
        self._closers.append(close)
        if not self._leaders:
            self._run_closers()

    def _run_closers(self) -> None:
        while self._closers:
            try:
                close = self._closers.pop()
            except IndexError:
                return  # another thread was faster
            close()

    # -- a caller: to send -----------------------------------------------------------

    def send(self) -> bool:
        """Send this thread's request, if it is the only one.

        :returns: ``False`` if the connection thread has to be woken
        """
        try:
            return self._send()
        except BaseException as error:
            # kazoo would take it for a closed connection. get() raises it.
            interrupts[get_ident()] = error
            return False

    def _send(self) -> bool:
        client = self._client
        queue, pending = client._queue, client._pending
        try:
            token = self._tokens[0]
            request, result = queue[0]
        except IndexError:
            return False
        logger = self._logger
        if (
            pending
            or len(queue) > 1
            or len(self._handler_state) != self._attributes  # a method was replaced
            or not _is_direct(request, result)
            or type(logger) is not Logger
            or logger.isEnabledFor(DEBUG)
        ):
            return False
        xid = self._handler_state["_xid"] % 2147483647 + 1
        data = frame_of(request, xid)
        sent: list[int] = []
        entry = request, result, xid
        now = monotonic()
        self._sock.note_request(now)
        try:
            done = self._transact(
                token,
                partial(queue.popleft),
                partial(pending.append, entry),
                partial(self._handler_state.__setitem__, "_xid", xid),
                partial(sent.extend, map(partial(_transmit, self._sock), (data,))),
            )
            broken = done and sent != [len(data)]  # it had room for all of it
        except _Failed:
            done = broken = True
        if broken:
            self._sock.give_up()
        if broken or not done:
            return False
        self.xid, self.sent_at = xid, now
        self.sender = get_ident()
        self._owner.latest_turn = self
        traffic = self._traffic
        traffic.requests += 1
        traffic.sends += 1
        traffic.bytes_out += len(data)
        if now >= self._sample_due:
            self._on_request()
        return not queue

    def _transact(self, token: object, *steps: Callable[[], Any]) -> bool:
        """Take *steps*, which are C calls, if *token* is still there; tell whether.

        :raises _Failed: if one of them has failed
        """
        tokens, taken = self._tokens, list[object]()
        try:
            _consume(
                map(
                    _call,
                    (
                        partial(tokens.remove, token),
                        partial(taken.append, token),
                        *steps,
                        partial(taken.clear),
                        partial(tokens.append, object()),
                    ),
                )
            )
        except BaseException as error:
            if taken:
                tokens.append(object())
            if _is_interrupt(error):
                raise
            if taken:
                raise _Failed from error
            return False
        return True

    # -- a caller: to wait -----------------------------------------------------------

    def make_leader(self) -> Leader:
        """Return what stands for this thread while it polls."""
        return Leader(self)

    def lead(
        self, leader: Leader, is_ready: Callable[[], bool], timeout: float
    ) -> None:
        """Read replies in this thread until a result is ready.

        Returns earlier when the time is up, or when somebody else has to do it.

        :param leader: this thread
        :param is_ready: whether the result is
        :param timeout: in seconds; negative: there is no limit
        """
        if not self._tokens or not self._is_due():
            return
        if self._rest:
            self._rest -= 1
            return
        leaders = self._leaders
        reference = weakref.ref(leader, leaders.discard)
        try:
            leaders.add(reference)
            self._led = True
            self._poll(leader, is_ready, timeout)
        finally:
            leaders.discard(reference)
            if not leaders:
                self._leave()
            self._sock.resume_polling()
            if self._received or self._completed or self._client._queue:
                self._channel.wake_connection_thread()

    def _is_due(self) -> bool:
        """Tell whether the next reply is that to a request which a caller has sent."""
        try:
            return bool(self._client._pending[0][2] == self.xid)
        except IndexError:
            return False

    def _leave(self) -> None:
        """Tidy up as the last that has polled."""
        if self._woken:
            self._woken = False
            self._channel.drain_caller()
            self.wake_leaders()  # one may have come, whose byte that was
        self._run_closers()

    def _poll(
        self, leader: Leader, is_ready: Callable[[], bool], timeout: float
    ) -> None:
        sock, caller_end = self._sock, self._channel.writer
        fds = sock.fileno(), caller_end.fileno()
        if min(fds) < 0:
            return
        sock.suspend_polling()
        poller = select.poll()
        poller.register(fds[0], select.POLLIN)
        poller.register(fds[1], select.POLLIN)
        deadline = None if timeout < 0 else monotonic() + timeout
        left = None
        while not is_ready() and self._is_due():
            if deadline is not None:
                left = deadline - monotonic()
                if left <= 0:
                    return
                left = min(left * 1000, 0x7FFFFFFF)
            leader.polls = True
            if is_ready():
                return  # a signal handler has completed it
            events = poller.poll(left)
            leader.polls = False
            if any(fd == fds[1] for fd, _ in events):
                self._woken = True
                return
            if events and not self._read():
                return

    def _read(self) -> bool:
        """Read a reply; ``False`` if the connection thread has to."""
        received = self._received
        try:
            token = self._tokens[0]
        except IndexError:
            return False
        data_there = map(partial(_receive, self._sock), (RECEIVE_SIZE,))
        try:
            if not self._transact(token, partial(received.extend, data_there)):
                return False
        except _Failed as failed:
            return isinstance(failed.__cause__, BlockingIOError)
        try:
            token = self._tokens[0]
            data = received[0]
            request, result, expected = self._client._pending[0]
        except IndexError:
            return False
        if expected != self.xid or len(received) > 1 or len(data) < HEADER_SIZE:
            return False
        length, xid, zxid, err = length_and_header(data)
        if xid != expected or length + 4 != len(data):
            return False
        value, exception = outcome_of(self._client, request, err, data)
        steps = [
            partial(received.clear),
            partial(self._client._pending.popleft),
            partial(self._completed.append, (result, value, exception)),
        ]
        if zxid > 0:
            steps.append(partial(self._client_state.__setitem__, "last_zxid", zxid))
        if not self._transact(token, *steps):
            return False
        now = self._sock.heard_at = monotonic()
        traffic = self._traffic
        traffic.receives += 1
        traffic.replies += 1
        traffic.bytes_in += len(data)
        self._complete()
        if now >= self._sample_due:
            self._sample_due = now + SAMPLE_EVERY
            for counters in (self.round_trips, traffic.round_trips):
                counters.server.add(now - self.sent_at)
                counters.client.add(monotonic() - now)
        return True

    def _complete(self) -> None:
        """Deliver what was read."""
        for entry in tuple(self._completed):
            result, value, exception = entry
            if exception is None:
                result.set(value)
            else:
                result.set_exception(exception)
            try:
                self._completed.remove(entry)
            except ValueError:
                pass  # another thread has done the same


def _is_direct(request: Any, result: Any) -> bool:
    """Tell whether a caller may send *request* and read its reply.

    A watch that it sets would have to be registered in the same transaction.
    """
    return (
        type(result) is AsyncResult
        and type(request) in ORDINARY
        and getattr(request, "watcher", None) is None
    )


class Leader:
    """A caller that polls: this thread."""

    __slots__ = ("__weakref__", "_ident", "_turn", "polls")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._ident = get_ident()
        self.polls = False  #: and does nothing else

    def wake(self) -> None:
        """Have it look whether its result is ready, unless it does so by itself."""
        if self.polls or self._ident != get_ident():
            self._turn.wake_leaders()


class _Failed(Exception):
    """A step of a transaction has raised an exception, which is the cause."""


def _is_interrupt(error: BaseException) -> bool:
    """Tell whether *error* is none of a C function that was called where it is caught.

    Then it is of a signal handler, or of ``PyThreadState_SetAsyncExc``, which makes an
    exception without arguments.
    """
    traceback = error.__traceback__
    return traceback is None or traceback.tb_next is not None or not error.args
