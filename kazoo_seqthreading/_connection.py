"""A connection to a server: a socket with buffers in both directions.

Data flow::

    kazoo -> send -> _send_queue -> [TLS] -> _unsent -> socket
    kazoo <- recv <- _frames <- _splitter <- [TLS] <- socket

kazoo calls ``pending()`` and ``handler.select()`` before it reads, and ``select()``
before it writes. Answering these from the buffers saves system calls: one ``recv``
reads dozens of replies, one ``send`` writes dozens of requests.

Rules
-----
1. kazoo reads complete frames. A connection is readable when a frame is complete (or
   the peer has closed), so a slow or incomplete frame delays neither requests nor
   heartbeats. A length that no server sends, or a reply without a request, raises an
   ``OSError``: kazoo then reconnects; its own exception would end its thread.
2. Written data is sent before the connection thread sleeps, and at the latest after
   ``MAX_BUFFERED_ANSWERS`` answers from the buffers. An error of that ``send`` is
   raised by the next ``select``: kazoo then takes the connection for lost, and fails
   the unanswered requests.
3. The directions do not block each other. If the send buffer of the socket is full, the
   rest is sent when it becomes writable; meanwhile replies are read. Above
   ``SEND_HIGH_WATER`` unsent bytes, no further request is taken from kazoo's queue.
4. If requests are unanswered and the server is silent for two heartbeat intervals, the
   connection is given up, also under a flood of requests, during which kazoo sends no
   heartbeats. The socket is read before that is decided, as the process may have been
   suspended.
5. Neither direction starves: ``select`` gives at most ``MAX_BUFFERED_ANSWERS`` answers
   from the buffers before it checks the socket, and it reports a waiting request along
   with every reply.
6. If another thread closes the connection, it shuts it down, which wakes the connection
   thread. Only the owner, the connection thread, closes the descriptor, so no thread
   uses a descriptor number that was reassigned.
7. Data that is unsent when the connection is closed is dropped: kazoo has failed its
   requests.
8. The end of a connection is recorded in ``facts`` where it is observed; ``_history``
   determines the cause.

All this begins with :meth:`Connection.wait`, which ``handler.select()`` calls in
kazoo's main loop. Before that, and if ``select`` or the wake-up channel is overridden,
the connection is a plain socket, with TLS as in :class:`ssl.SSLSocket`.

``close`` may be called by any thread; ``_closed_by`` is only ever set. Everything else
belongs to the owner: the thread that called ``setblocking(False)``, as kazoo's thread
does once it is connected.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Optional, Union

from kazoo.protocol.connection import PING_XID

from . import _fork, _select
from ._batch import flush_batch, start_batch
from ._frames import FrameSplitter, length_and_xid
from ._history import CLOCK_INTERVAL, Facts, log_late_heartbeat
from ._monitor import report
from ._round_trips import RoundTripCounters, Sampler
from ._stats import TrafficCounters
from ._steps import check_expected
from ._turn import SUPPORTED, Turn
from ._zk_loop import current_connection_thread

if TYPE_CHECKING:
    from ._steps import Steps
    from ._tls import Codec
    from ._wakeup import WakeupReader

Data = Union[bytes, bytearray, memoryview]
Ready = list[Any]

#: Maximum number of bytes to read with one ``recv``.
RECEIVE_SIZE = 65536
#: Number of unsent bytes above which requests have to wait.
SEND_HIGH_WATER = 1 << 20
#: How often ``select`` may answer from the buffers before it checks the socket.
MAX_BUFFERED_ANSWERS = 64
#: With so many requests in flight, replies are coalesced: the connection thread waits,
#: so many seconds per request and in total at most, so that one system call and one
#: thread switch serve many of them.
COALESCE_THRESHOLD = 64
COALESCE_DELAY_PER_REQUEST, MAX_COALESCE_DELAY = 7e-6, 0.002
#: Number of wake-ups after which an edge-triggered wake-up channel is drained.
DRAIN_EVERY = 64
#: How long an unbuffered TLS connection waits for the peer to read, in seconds.
SEND_TIMEOUT = 10.0

_log = logging.getLogger("kazoo_seqthreading.connection")


# The socket's own methods, which the connection's replace.
_receive = socket.socket.recv
_transmit = socket.socket.send


def _closed() -> OSError:
    return OSError(errno.EBADF, "the connection is closed")


class Connection(socket.socket):
    """A connected socket, with TLS if there is a codec, as kazoo uses it.

    :param sock: a connected socket; its descriptor is taken over
    :param codec: the connection's TLS codec, after the handshake
    """

    def __init__(self, sock: socket.socket, codec: Optional[Codec]) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        super().settimeout(timeout)
        self._poller: Optional[_select.Poller] = None
        self._codec = codec
        self._closed_by: Optional[int] = None  # the thread that closed it first
        self._owner: Optional[int] = None
        self.framed = False  # whether wait() has switched to whole frames
        # Received data:
        self._frames = b""  # whole frames, read by kazoo up to _read_pos
        self._read_pos = 0
        self._frames_end = 0
        self._frame_remaining = 0  # bytes left of the frame that kazoo is reading
        self._splitter = FrameSplitter()  # keeps the beginning of the next frame
        self._eof = False
        # Data to be sent:
        self._send_queue: list[Data] = []
        self._unsent_size = 0
        self._unsent: Optional[memoryview] = None  # not taken by the socket yet
        self._answers_left = 0  # from the buffers, before the socket is checked
        # Heartbeats:
        self.interval = 0.0
        self.sent_at = self.heard_at = self._waits_since = monotonic()
        self._traffic = TrafficCounters()
        self.sampler = Sampler([], int)
        self.round_trips = RoundTripCounters()
        self.facts = Facts()
        self._clocks_due = 0.0
        # While kazoo's main loop is running:
        self._client: Any = None
        self._steps: Optional[Steps] = None
        self._in_step = False
        self._turn: Optional[Turn] = None
        _fork.register(self)

    def __repr__(self) -> str:
        state = "open" if self._closed_by is None else "closed"
        return f"<Connection {state} {super().__repr__()}>"

    # -- as a socket -----------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor, -1 once the connection is closed."""
        return super().fileno() if self._closed_by is None else -1

    def settimeout(self, timeout: Optional[float]) -> None:
        """Set the timeout in seconds; 0 also makes this thread the owner."""
        if self._closed_by is None:  # else the next select() raises
            super().settimeout(timeout)
        self._owner = threading.get_ident() if timeout == 0 else None

    def setblocking(self, flag: bool) -> None:
        """Set the timeout to ``None``, or to 0."""
        self.settimeout(None if flag else 0)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that an :class:`ssl.SSLSocket` has in addition."""
        codec = self.__dict__.get("_codec")
        if codec is None:
            raise AttributeError(f"a connection has no attribute {name!r}")
        return getattr(codec.ssl, name)

    @property
    def ssl_object(self) -> Optional[ssl.SSLObject]:
        """The TLS object, which has the version, cipher and certificates."""
        return None if self._codec is None else self._codec.ssl

    def buffered(self) -> int:
        """Return the number of bytes that :meth:`recv` has in its buffer."""
        return self._frames_end - self._read_pos

    def unsent(self) -> int:
        """Return the number of bytes to be sent."""
        return self._unsent_size

    def pending(self) -> int:
        """Return the number of bytes left of a frame that was read in part.

        It is 0 at the beginning of a frame, so that kazoo calls ``handler.select()``,
        which may be overridden: a timeout there is one of the connection.
        """
        return self._frame_remaining if self.framed else self.buffered()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return up to *bufsize* bytes, ``b""`` if the peer has closed.

        :raises BlockingIOError: if there is nothing, and the connection does not block
        """
        if self._read_pos == self._frames_end:
            if not self.framed and self._codec is None:
                return self._recv_plain(bufsize, flags)
            while not self._fill():
                if self.framed:
                    raise BlockingIOError(errno.EAGAIN, "no whole frame is there")
                if self.gettimeout() == 0:
                    raise ssl.SSLWantReadError(
                        ssl.SSL_ERROR_WANT_READ, "no whole record is there"
                    )
        read = self._read_pos
        end = read + bufsize
        if end > self._frames_end:
            end = self._frames_end
        self._read_pos = end
        data = self._frames[read:end]
        if not self.framed:
            self.facts.note_connect_response(self, data)
        elif end > read:
            if not self._frame_remaining:
                length, xid = length_and_xid(self._frames, read)
                check_expected(self._client._pending, xid)
                self._frame_remaining = 4 + length
            self._frame_remaining -= end - read
        if end == self._frames_end:
            self._frames = b""  # it may be large
        return data

    def _recv_plain(self, bufsize: int, flags: int) -> bytes:
        try:
            data = super().recv(bufsize, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            self.facts.note_error(self, error)
            raise
        self.facts.note_connect_response(self, data)
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read into *buffer*, as :meth:`recv` does; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: Data, flags: int = 0) -> int:  # type: ignore[override]
        """Send *data*, or buffer it until the connection thread sleeps.

        :returns: the number of bytes
        """
        if not self.framed:
            if self._codec is None:
                return super().send(data, flags)
            self._send_queue.append(data)
            while self._flush():  # a TLS record must be sent completely
                if not _select.select([], [self], [], SEND_TIMEOUT)[1]:
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            return len(data)
        self._send_queue.append(data)
        self._unsent_size += len(data)
        if not self._client._pending:
            self._waits_since = monotonic()
        if len(data) >= 8 and length_and_xid(data)[1] == PING_XID:
            self.facts.ping_at = monotonic()
        return len(data)

    def sendall(self, data: Data, flags: int = 0) -> None:  # type: ignore[override]
        """Send *data* now; on a blocking socket, all of it."""
        if self._codec is None and not self.framed:
            super().sendall(data, flags)
            return
        self.send(data)
        self._flush()

    def close(self) -> None:
        """Close the connection; unsent data is dropped."""
        self.facts.closed(self)
        self._closed_by = threading.get_ident()
        self.abort()  # wakes the threads that poll
        if self._owner in (None, self._closed_by):
            if self._turn is None:
                self._release()
            else:
                self._turn.close(self._release)

    def _release(self) -> None:
        self._turn = None
        super().close()
        if self._poller is not None:
            self._poller.close()

    def __del__(self) -> None:
        try:
            self._release()
        except AttributeError:
            pass  # __init__ has failed

    def _after_fork(self) -> None:
        """Close the child's copy of the descriptor, which the peer does not notice."""
        self._closed_by = 0
        self._release()

    # -- for handler.select() ----------------------------------------------------------

    def ready_to_write(self) -> Ready:
        """Return the connection, which is always writable."""
        if self._closed_by is not None:
            raise _closed()
        return [self]

    def wait(self, wakeup: Optional[WakeupReader], timeout: Optional[float]) -> Ready:
        """Wait until the connection or *wakeup* is readable; return those that are.

        :param timeout: how long to wait, in seconds; ``None`` waits forever
        :raises OSError: if the connection is closed or broken
        """
        answers_left = self._answers_left
        if answers_left and self._steps is None:
            self._answers_left = answers_left - 1
            ready = self._ready(wakeup)
            if ready:
                return ready
        try:
            if not self.framed:
                assert wakeup is not None
                self._begin_frames(wakeup)
            check_socket = not answers_left or timeout == 0 or self._steps is not None
            return self._wait(wakeup, timeout, check_socket)
        except OSError as error:
            self.facts.note_error(self, error)
            raise
        except Exception as error:
            if self._in_step:
                raise  # kazoo raised it, and handles it
            # Any other exception would end kazoo's thread for good.
            report(
                _log.error,
                "Unexpected exception: the connection is given up. Please report it",
                exc_info=error,
            )
            self.facts.note_end(self, "internal", type(error).__name__)
            raise OSError(errno.EIO, "unexpected exception in select()") from error

    def _begin_frames(self, wakeup: WakeupReader) -> None:
        """Begin to buffer in both directions; this thread is the owner."""
        fd = self.fileno()
        if fd < 0:
            raise _closed()
        self._poller = _select.make_poller(fd)
        self._client = wakeup.client
        thread = current_connection_thread()
        if thread is not None:
            self._traffic = thread.traffic
            self._steps = thread.steps
            if thread.steps is not None and self._codec is None and SUPPORTED:
                self._turn = Turn(thread, self, wakeup.channel)
                wakeup.channel.turn = self._turn
            thread.history.in_transition = False
            self.round_trips = RoundTripCounters()
            self.sampler = Sampler(
                [self.round_trips, thread.traffic.round_trips], thread.on_request
            )
        wakeup.leave_plain()
        self.settimeout(0)
        self.framed = True
        self._waits_since = monotonic()
        data = self._frames[self._read_pos : self._frames_end]
        self._frames, self._read_pos, self._frames_end = b"", 0, 0
        if data:
            self._split(data)

    def _wait(
        self,
        wakeup: Optional[WakeupReader],
        timeout: Optional[float],
        check_socket: bool,
    ) -> Ready:
        """Wait, see :meth:`wait`; with *check_socket*, use the socket first."""
        self._answers_left = MAX_BUFFERED_ANSWERS
        now = began = monotonic()
        deadline = None if timeout is None else now + timeout
        if wakeup is not None and timeout is not None and timeout > self.interval:
            self.interval = timeout  # kazoo's heartbeat interval
        self._warn_if_heartbeat_late(now)
        start_batch()
        if check_socket:
            self._flush()
            flush_batch()  # with a constant flow of replies, it never sleeps
            if self._read_pos == self._frames_end and not self._fill():
                self._fail_if_silent()
        while True:
            if self._closed_by is not None:
                raise _closed()
            steps = self._steps
            if steps is not None and wakeup is not None and steps.allowed():
                self._take_steps(steps, wakeup.client._queue)
            if self.sampler.received_at and self._read_pos == self._frames_end:
                self.sampler.processed(monotonic())
            ready = self._ready(wakeup)
            if ready:
                return ready
            now = monotonic()
            remaining = None if deadline is None else deadline - now
            if remaining is not None and remaining <= 0 and self.sent_at > began:
                # A request serves as a heartbeat.
                remaining = self.sent_at + self.interval - now
            if remaining is not None and remaining <= 0:
                if self._steps is not None and self.heard_at > began:
                    self._steps.clear_outstanding_ping()
                return []
            self._warn_if_heartbeat_late(now)
            self._sleep(wakeup, remaining)

    def _ready(self, wakeup: Optional[WakeupReader]) -> Ready:
        """Return the objects that kazoo can read from, judging by the buffers."""
        readable = self._read_pos < self._frames_end or self._eof
        if (
            wakeup is not None
            and wakeup.client._queue
            and self._unsent_size < SEND_HIGH_WATER
        ):
            return [self, wakeup] if readable else [wakeup]
        return [self] if readable else []

    def _take_steps(self, steps: Steps, queue: Any) -> None:
        """Take a limited number of steps, alternating between the directions."""
        self._in_step = True
        for _ in range(MAX_BUFFERED_ANSWERS):
            idle = True
            if queue and self._unsent_size < SEND_HIGH_WATER and steps.send():
                idle = False
            read = self._read_pos
            if read < self._frames_end:
                end = steps.receive(self._frames, read)
                if end != read:
                    self._read_pos = end
                    idle = False
            if idle:
                break
        self._in_step = False
        if self._read_pos == self._frames_end:
            self._frames = b""  # it may be large

    def _sleep(self, wakeup: Optional[WakeupReader], timeout: Optional[float]) -> None:
        """Sleep until there is something to do; then read what is there."""
        if self._send_queue or self._unsent is not None:
            flush_batch()
            self._flush()
        if wakeup is not None and self._coalesce_replies():
            return
        if self._unsent_size >= SEND_HIGH_WATER:
            wakeup = None  # requests have to wait
        # As late as possible: the woken threads compete for the GIL.
        if flush_batch() > 1:
            sleep(0)  # yield it: they can make further requests without a wake-up
        if wakeup is not None and not wakeup.begin_sleep():
            return
        readable, woken = self._poll(wakeup, timeout)
        if woken and wakeup is not None:
            self._note_wakeup(wakeup)
        if self._read_pos < self._frames_end:
            return
        if woken and not readable:
            self._fail_if_silent()
            return
        # The process may have been suspended, and the poll may have missed a reply.
        if not self._fill() and not readable:
            self._fail_if_silent()

    def _coalesce_replies(self) -> bool:
        """Wait for replies to accumulate, if many are outstanding; then read them."""
        in_flight = len(self._client._pending)
        if in_flight < COALESCE_THRESHOLD or self._unsent is not None:
            return False
        flush_batch()
        sleep(min(in_flight * COALESCE_DELAY_PER_REQUEST, MAX_COALESCE_DELAY))
        return self._fill()

    def _poll(
        self, wakeup: Optional[WakeupReader], timeout: Optional[float]
    ) -> tuple[bool, bool]:
        """Sleep in the poller, with the connection lent to callers if possible."""
        poller: Any = self._poller
        turn = self._turn
        writing = self._unsent is not None
        if turn is None or wakeup is None or writing or self._splitter.partial:
            try:
                readable, woken = poller.poll(writing, wakeup, timeout)
                return readable, woken
            finally:
                if wakeup is not None:
                    wakeup.end_sleep()
        woken = False
        deadline = None if timeout is None else monotonic() + timeout
        turn.lend()
        try:
            while True:
                limit = turn.poll_timeout(timeout)
                readable, woken = poller.poll(False, wakeup, limit)
                if readable or woken or limit == timeout:
                    return readable, woken
                if deadline is not None:
                    timeout = max(0.0, deadline - monotonic())
        finally:
            wakeup.end_sleep()
            data = turn.claim(displaced=woken)
            if data:
                self._split(data)

    def _note_wakeup(self, wakeup: WakeupReader) -> None:
        poller: Any = self._poller
        self._traffic.wake_ups += 1
        if not poller.edge_triggered or self._traffic.wake_ups % DRAIN_EVERY == 0:
            wakeup.drain()

    # -- for callers with the turn ---------------------------------------------------

    def note_request(self, now: float) -> None:
        """Record that a request is sent, whose reply is awaited."""
        self.sent_at = self._waits_since = now

    def abort(self) -> None:
        """Shut the connection down; its thread notices, and kazoo reconnects."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # already disconnected

    def suspend_polling(self) -> None:
        """Stop the connection thread from waking when data arrives."""
        try:
            self._poller.suspend()  # type: ignore[union-attr]
        except (OSError, ValueError):
            pass  # closed

    def resume_polling(self) -> None:
        """Let the connection thread wake again when data arrives."""
        try:
            self._poller.resume()  # type: ignore[union-attr]
        except (OSError, ValueError):
            pass  # closed

    # -- the socket ------------------------------------------------------------------

    def _fill(self) -> bool:
        """Read from the socket once; return whether :meth:`recv` will not block."""
        if self._eof:
            return True
        try:
            data = _receive(self, RECEIVE_SIZE)
        except BlockingIOError:
            return False
        self._eof = not data
        if self._eof:
            self.facts.note_end(self, "closed", None)
        else:
            self.heard_at = monotonic()
        self._traffic.bytes_in += len(data)
        if self._codec is not None:
            data, ended = self._codec.decrypt(data)
            self._eof = self._eof or ended
            answer = self._codec.outgoing.read()
            if answer:
                self._unsent = memoryview(bytes(self._unsent or b"") + answer)
        if self.framed:
            self._split(data)
        else:
            self._frames, self._read_pos, self._frames_end = data, 0, len(data)
        return self._read_pos < self._frames_end or self._eof

    def _split(self, data: bytes) -> None:
        """Split received data; :meth:`recv` then returns the complete frames."""
        self._frames, self._frames_end, replies, last_xid = self._splitter.split(data)
        self._read_pos = 0
        self._traffic.replies += replies
        if last_xid and self.sampler.xid:
            self.sampler.received(last_xid, self.heard_at)

    def _flush(self) -> bool:
        """Send as much as the socket takes; return whether data is left."""
        while self._send_queue or self._unsent is not None:
            unsent = self._unsent
            if unsent is None:
                out, self._send_queue = self._send_queue, []
                data = out[0] if len(out) == 1 else b"".join(out)
                if self._codec is not None:
                    data = self._codec.encrypt(data)
                unsent = memoryview(data)
                self._traffic.requests += len(out)
            try:
                sent = _transmit(self, unsent)
            except BlockingIOError:
                sent = 0
            self._traffic.bytes_out += sent
            now = self.sent_at = monotonic()
            if self.framed and now >= self.sampler.due and self._client._pending:
                pending = self._client._pending
                self.sampler.sent(pending[0][2], pending[-1][2], now)
            if sent < len(unsent):
                self._unsent = unsent[sent:]
                self._unsent_size = len(self._unsent) + sum(map(len, self._send_queue))
                return True
            self._unsent = None
        self._unsent_size = 0
        return False

    def _fail_if_silent(self) -> None:
        """Raise an :exc:`OSError` if requests are unanswered and the server is silent.

        kazoo does not detect that while requests keep coming.
        """
        if not self._client._pending:
            return
        if self._is_silent() and not self._fill() and self._is_silent():
            silence = monotonic() - self.heard_at
            raise OSError(errno.ETIMEDOUT, f"nothing heard for {silence:.1f} s")

    def _is_silent(self) -> bool:
        since = max(self.heard_at, self._waits_since)
        return monotonic() - since > 2 * self.interval > 0

    def _warn_if_heartbeat_late(self, now: float) -> None:
        """Warn if a heartbeat is overdue because this thread was held up."""
        is_late = now - self.sent_at > 1.5 * self.interval > 0
        if now < self._clocks_due and not is_late:
            return
        self._clocks_due = now + CLOCK_INTERVAL
        held_up = self.facts.note_silence(self, now)
        if held_up is not None:
            report(log_late_heartbeat, self.facts.server, held_up, self.interval)

    def has_session(self) -> bool:
        """Return whether it is open and has a session."""
        return self._closed_by is None and self.facts.session_timeout > 0

    def unanswered(self) -> int:
        """Return the number of requests that were sent and not answered."""
        return 0 if self._client is None else len(self._client._pending)

    def sent_since(self, xid: int) -> float:
        """Return when the request *xid* was sent."""
        return self.sampler.sent_since(xid)

    def oldest_unanswered(self, now: float) -> float:
        """Return how long the oldest unanswered request has waited, in seconds."""
        try:
            since = self.sent_since(self._client._pending[0][2])
        except (AttributeError, IndexError):
            return 0.0
        return now - since if since else 0.0
