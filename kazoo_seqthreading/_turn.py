"""Direct calls: a caller sends its request, and reads the reply, itself.

Otherwise a blocking call takes two thread switches: to the connection thread, which
sends the request and reads the reply, and back. So the connection thread *lends* its
connection while it sleeps in the poller: a caller that makes the only request sends it,
and, if it then waits for the result, polls the socket and reads the reply. A caller
that polls is a *leader*, as in the leader/followers pattern.

Rules
-----
1. A token stands for the right to use the connection, the *turn*. The connection thread
   holds it while it runs, and puts it into ``_tokens`` while it sleeps.
2. A caller never holds the token. It computes each of its steps first, without side
   effects, and then commits the step in a transaction: one C call that removes the
   token, changes the state and puts a new token back. No other code runs in between,
   neither a signal handler nor an exception. So a caller can be interrupted, suspended
   or re-entered at any bytecode while another one proceeds. A transaction fails if the
   token is not the one that was read before the step was computed: another thread has
   changed the state since.
3. Data that was received and not parsed yet is in ``_received``, and results that were
   read and not delivered yet are in ``_completed``; whichever thread comes next
   continues from there. Delivering a result twice is harmless.
4. A caller handles the ordinary case only, and only its own request: it sends while
   nothing else is in flight. On a second request, a watch event, an incomplete frame or
   a socket error, it wakes the connection thread and waits as other callers do.
5. While a caller polls the socket, the connection thread does not, for up to
   ``LEADER_TIMEOUT`` seconds. It takes the token when it wakes, for a heartbeat or
   another thread's request, and never waits for the caller. The caller stops polling
   when its result is ready, whichever thread has completed it. After two threads have
   made requests at the same time, the next ``BACKOFF_CALLS`` calls leave the work to
   the connection thread.
6. A descriptor is not closed while callers poll it: the last of them closes it when it
   stops.

A caller adds itself to ``_leaders`` before it reads the descriptors; a thread that
closes a descriptor announces that before it checks ``_leaders``. So one of them sees
the other. There can be two leaders for a moment: when one stops, and with signal
handlers. A byte wakes them. The last leader drains it, and sends it again if another
leader has come in the meantime.
"""

from __future__ import annotations

import io
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
from ._frames import HEADER_SIZE, length_and_header
from ._kazoo import ORDINARY
from ._result import AsyncResult
from ._select import milliseconds
from ._steps import frame_of, outcome_of
from ._waiting import interrupts

if TYPE_CHECKING:
    from ._connection import Connection
    from ._wakeup import Channel
    from ._zk_loop import ConnectionThread

#: Transactions are C calls in CPython alone, and polling needs what Linux has.
SUPPORTED = sys.implementation.name == "cpython" and hasattr(select, "epoll")

#: Maximum number of bytes to read at once.
RECEIVE_SIZE = 65536
#: After two threads have made requests at once, so many calls are not made directly.
BACKOFF_CALLS = 64
#: The connection thread leaves polling to a caller for so many seconds at most: the
#: caller may be blocked in a signal handler.
LEADER_TIMEOUT = 0.1
#: A token that is missing for so many seconds is lost.
TOKEN_TIMEOUT = 1.0

# Saved at import, as gevent may remove some of them later.
_make_poller: Any = getattr(select, "poll", None)
_READABLE = getattr(select, "POLLIN", 0)
_transmit = socket.socket.send
_call: Any = partial.__call__
_consume = deque[Any](maxlen=0).extend


class Turn:
    """Passes one connection between the connection thread and callers.

    :param thread: the connection thread
    :param sock: the connection; its poller can be suspended
    :param channel: wakes the connection thread
    """

    def __init__(
        self, thread: ConnectionThread, sock: Connection, channel: Channel
    ) -> None:
        handler, self._owner = thread.connection, thread.owner
        self._handler_state = vars(handler)
        self._attributes = len(self._handler_state)
        self._steps_allowed: Any = thread.steps.allowed  # type: ignore[union-attr]
        self._client: Any = handler.client
        self._client_state = vars(handler.client)
        self._logger: Any = handler.logger
        self._sock = sock
        # Unlike recv() it does not raise when nothing is there. An exception in a
        # transaction, and a signal handler at the same time, would hold the token.
        self._receive = io.FileIO(sock.fileno(), closefd=False).read
        self._channel = channel
        self._traffic = self._owner.caller_traffic
        self._tokens: list[object] = []
        self._received: list[bytes] = []
        self._completed: list[tuple[Any, Any, Any]] = []  # result, value, exception
        # Callers that poll. Weak, as an interrupted one may not have removed itself.
        self._leaders: set[weakref.ref[Leader]] = set()
        self._woken = False  # whether a byte was sent to the leaders
        self._closers: list[Callable[[], Any]] = []
        self._backoff = 0
        # The last request that a caller has sent: its xid, and by which thread.
        self._xid = 0
        self.sender: Optional[int] = None
        # Whether a caller has polled since poll_timeout(), and whether that has limited
        # the current sleep.
        self._led = self._is_limited = False
        _fork.register(self)

    def _after_fork(self) -> None:
        """Take the connection from callers in a forked child: it is the parent's."""
        self._tokens.clear()
        self._received.clear()
        self._completed.clear()

    # -- the connection thread -------------------------------------------------------

    def lend(self) -> None:
        """Let callers use the connection; called before this thread sleeps."""
        self._tokens.append(object())

    def poll_timeout(self, timeout: Optional[float]) -> Optional[float]:
        """Return how long the connection thread may sleep, in seconds.

        Limits *timeout*, once, if a caller has polled since the last call.
        """
        self._is_limited, self._led = self._led, False
        if not self._is_limited:
            return timeout
        return LEADER_TIMEOUT if timeout is None else min(timeout, LEADER_TIMEOUT)

    def claim(self, displaced: bool) -> bytes:
        """Take the connection back.

        :param displaced: whether this thread was woken by a request
        :returns: data that a caller has received and not parsed
        :raises OSError: if the token is lost: a caller was interrupted twice
        """
        tokens = self._tokens
        deadline: Optional[float] = None
        while True:
            try:
                tokens.pop()
                break
            except IndexError:  # in a caller's transaction, for some microseconds
                if deadline is None:
                    deadline = monotonic() + TOKEN_TIMEOUT
                elif monotonic() > deadline:
                    raise OSError(
                        "a caller was interrupted in the wrong place"
                    ) from None
                sleep(0)
        if displaced and self._leaders:
            self._backoff = BACKOFF_CALLS
            self.wake_leaders()
        self._complete()
        data = b"".join(self._received)
        self._received.clear()
        return data

    def wake_leaders(self) -> None:
        """Make the leaders check whether to go on polling."""
        if self._leaders and not self._woken:
            self._woken = True
            self._channel.wake_caller()

    def close(self, close: Callable[[], Any]) -> None:
        """Call *close*, which closes a descriptor, once no caller polls it."""
        self._closers.append(close)
        if not self._leaders:
            self._run_closers()

    def _run_closers(self) -> None:
        while self._closers:
            try:
                close = self._closers.pop()
            except IndexError:
                return  # another thread has run it
            close()

    # -- callers: sending ------------------------------------------------------------

    def send(self) -> bool:
        """Send this thread's request, if it is the only one.

        :returns: ``False`` if the connection thread must be woken
        """
        try:
            return self._send()
        except BaseException as error:
            # kazoo would take it for a closed connection; get() raises it instead.
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
        if self._backoff:
            self._backoff -= 1
            return False
        logger = self._logger
        if (
            pending
            or len(queue) > 1
            or len(self._handler_state) != self._attributes  # a method was replaced
            or not self._steps_allowed()
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
        sock = self._sock
        sock.note_request(now)
        if now >= sock.sampler.due:
            sock.sampler.sent(xid, xid, now)
        try:
            done = self._transact(
                token,
                partial(queue.popleft),
                partial(pending.append, entry),
                partial(self._handler_state.__setitem__, "_xid", xid),
                partial(sent.extend, map(partial(_transmit, sock), (data,))),
            )
            broken = done and sent != [len(data)]  # the send buffer was empty
        except _StepFailed:
            done = broken = True
        if broken:
            sock.abort()
        if broken or not done:
            return False
        self._xid = xid
        self.sender = get_ident()
        self._owner.latest_turn = self
        traffic = self._traffic
        traffic.requests += 1
        traffic.bytes_out += len(data)
        return not queue

    def _transact(self, token: object, *steps: Callable[[], Any]) -> bool:
        """Run *steps*, which must be C calls, if *token* is still there.

        :returns: whether they have run
        :raises _StepFailed: if one of them has raised
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
                raise _StepFailed from error
            return False
        return True

    # -- callers: waiting ------------------------------------------------------------

    def make_leader(self) -> Leader:
        """Return an object that represents this thread while it polls."""
        return Leader(self)

    def lead(
        self, leader: Leader, is_ready: Callable[[], bool], timeout: float
    ) -> None:
        """Read replies in this thread until a result is ready.

        Returns earlier on a timeout, or if the connection thread has to read them.

        :param leader: represents this thread
        :param is_ready: tells whether the result is ready
        :param timeout: in seconds; negative for no limit
        """
        if not self._tokens or not self._is_due():
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
        """Return whether the next reply is for a request that a caller has sent."""
        try:
            return bool(self._client._pending[0][2] == self._xid)
        except IndexError:
            return False

    def _leave(self) -> None:
        """Clean up after the last leader."""
        if self._woken:
            self._woken = False
            self._channel.drain_caller()
            self.wake_leaders()  # the byte may have been for one that has just come
        self._run_closers()

    def _poll(
        self, leader: Leader, is_ready: Callable[[], bool], timeout: float
    ) -> None:
        sock, caller_end = self._sock, self._channel.writer
        fds = sock.fileno(), caller_end.fileno()
        if min(fds) < 0:
            return
        if self._is_limited:  # else the connection thread might sleep for long
            sock.suspend_polling()
        poller = _make_poller()
        for fd in fds:
            poller.register(fd, _READABLE)
        deadline = None if timeout < 0 else monotonic() + timeout
        remaining = None
        while not is_ready() and self._is_due():
            if deadline is not None:
                remaining = deadline - monotonic()
                if remaining <= 0:
                    return
            leader.polls = True
            if is_ready():
                return  # a signal handler has completed it
            events = poller.poll(milliseconds(remaining))
            leader.polls = False
            if fds[1] in dict(events):
                self._woken = True
                return
            if events and not self._read():
                return

    def _read(self) -> bool:
        """Read a reply; return ``False`` if the connection thread has to."""
        received = self._received
        try:
            token = self._tokens[0]
        except IndexError:
            return False
        # Nothing is None, the end b"": the connection thread will see that itself.
        data_there = filter(None, map(self._receive, (RECEIVE_SIZE,)))
        try:
            if not self._transact(token, partial(received.extend, data_there)):
                return False
        except _StepFailed:
            return False
        try:
            token = self._tokens[0]
            data = received[0]
            request, result, expected = self._client._pending[0]
        except IndexError:
            return False
        if expected != self._xid or len(received) > 1 or len(data) < HEADER_SIZE:
            return False
        length, xid, zxid, err = length_and_header(data)
        if xid != expected or length + 4 != len(data):
            return False
        outcome = outcome_of(self._client, request, err, data)
        if outcome is None:
            return False
        steps = [
            partial(received.clear),
            partial(self._client._pending.popleft),
            partial(self._completed.append, (result, *outcome)),
        ]
        if zxid > 0:
            steps.append(partial(self._client_state.__setitem__, "last_zxid", zxid))
        if not self._transact(token, *steps):
            return False
        now = self._sock.heard_at = monotonic()
        sampler = self._sock.sampler
        if sampler.xid:
            sampler.received(xid, now)
        traffic = self._traffic
        traffic.replies += 1
        traffic.bytes_in += len(data)
        self._complete()
        if sampler.received_at:
            sampler.processed(monotonic())
        return True

    def _complete(self) -> None:
        """Set the results that were read."""
        for entry in tuple(self._completed):
            result, value, exception = entry
            if exception is None:
                result.set(value)
            else:
                result.set_exception(exception)
            try:
                self._completed.remove(entry)
            except ValueError:
                pass  # another thread has delivered it, too


def _is_direct(request: Any, result: Any) -> bool:
    """Return whether a caller may send *request* and read its reply.

    Not if it sets a watch, which would have to be registered in the same transaction.
    """
    return (
        type(result) is AsyncResult
        and type(request) in ORDINARY
        and getattr(request, "watcher", None) is None
    )


class Leader:
    """Represents the current thread, a caller that polls."""

    __slots__ = ("__weakref__", "_ident", "_turn", "polls")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._ident = get_ident()
        self.polls = False  #: whether the thread is in poll()

    def wake(self) -> None:
        """Make it check its result, unless it is about to do so anyway."""
        if self.polls or self._ident != get_ident():
            self._turn.wake_leaders()


class _StepFailed(Exception):
    """A step of a transaction has raised; the exception is the cause."""


def _is_interrupt(error: BaseException) -> bool:
    """Return whether *error* was not raised by a C function of the transaction itself.

    It then comes from a signal handler, which has a frame of its own, or from
    ``PyThreadState_SetAsyncExc``, which makes exceptions without arguments.
    """
    traceback = error.__traceback__
    return traceback is None or traceback.tb_next is not None or not error.args
