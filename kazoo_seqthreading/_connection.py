"""A connection to a server: a socket with buffers on both sides.

Data flow::

    kazoo -> send -> _out -> [TLS] -> _wire -> socket
    kazoo <- recv <- _frames <- _partial <- [TLS] <- socket

kazoo asks ``pending()`` and ``handler.select()`` before it reads, and ``select()``
before it writes. So a connection that answers from its buffers saves the system
calls: one ``recv`` brings dozens of replies, one ``send`` takes dozens of requests.

Rules
-----
1. kazoo gets whole frames. A connection is readable when a frame is complete (or the
   peer has closed), so a slow or cut frame holds up neither requests nor heartbeats.
   A length that no server sends, or a reply that was not asked for, is an
   ``OSError``: kazoo reconnects, where it would end its thread.
2. What was written leaves before the connection thread sleeps, and at the latest after
   ``TURNS`` answers from memory. Errors of a late ``send`` are raised by the next
   ``select``: kazoo takes the connection for lost, and fails what was not answered.
3. Both directions go on when one is stuck. A full socket is finished when it is
   writable again, meanwhile replies are read; above ``HIGH_WATER`` unsent bytes no
   further request is taken from kazoo's queue.
4. A server that is silent while requests are unanswered is given up after two intervals
   of heartbeats, also under a flood of requests, where kazoo sends no heartbeat. The
   socket is read before that is judged: the process may have been suspended.
5. Neither direction starves: at most ``TURNS`` answers are given from memory before
   the socket is looked at, and a request that waits is reported with every reply.
6. Another thread that closes the connection shuts it down, which wakes the connection
   thread; only that one, its owner, closes the descriptor. So no thread ever uses a
   descriptor that has become somebody else's.
7. What is not sent when the connection is closed is dropped: kazoo has failed it.
8. How it ended is noted in ``facts`` where that is seen; ``_history`` says why.

All this begins with :meth:`Connection.wait`, which ``handler.select()`` calls in
kazoo's main loop. Before, and where ``select`` is overridden, or the wake-up channel,
the connection is a plain socket, with TLS as :class:`ssl.SSLSocket` has it.

``close`` may be called by any thread; ``_closed_by`` is only ever set. Everything else
belongs to the owner: the thread that called ``setblocking(False)``, as kazoo's does
once it is connected.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import threading
from struct import Struct
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _fork, _select
from ._batch import flush_batch, start_batch
from ._connection_threads import current_connection_thread
from ._history import CLOCKS_EVERY, Facts, log_late_heartbeat
from ._monitor import report
from ._round_trips import RoundTripCounters, Sampler
from ._stats import Traffic
from ._steps import check_expected
from ._turn import SUPPORTED, Turn

if TYPE_CHECKING:
    from ._steps import Steps
    from ._tls import Codec
    from ._wakeup import WakeupReader

Data = Union[bytes, bytearray, memoryview]
Ready = list[Any]

#: How many bytes one ``recv`` asks for.
RECEIVE_SIZE = 65536
#: How many bytes may wait to be sent before requests have to wait.
HIGH_WATER = 1 << 20
#: How often ``select`` answers from memory before it looks at the socket.
TURNS = 64
#: With so many requests in flight, replies are collected, so that one system call and
#: one switch of threads serve many: for so many seconds per request, and at the most.
BUSY = 64
DWELL, MAX_DWELL = 7e-6, 0.002
#: After how many wake-ups their bytes are taken out, where that is not needed at once.
DRAIN_EVERY = 64
#: How long a plain TLS connection waits for the peer to read, in seconds.
SEND_TIMEOUT = 10.0
#: A reply has a header of this size, the answer to a connect request is longer.
MIN_FRAME = 16
#: More than any server's ``jute.maxbuffer`` can sensibly be.
MAX_FRAME = 1 << 28

_length_and_xid = Struct("!ii").unpack_from
_WATCH_EVENT = -1  # its xid: the one frame that answers no request
_PING = -2
_log = logging.getLogger("kazoo_seqthreading.connection")


# The socket's own methods, which the connection's replace.
_receive = socket.socket.recv
_transmit = socket.socket.send


def _closed() -> OSError:
    return OSError(errno.EBADF, "the connection is closed")


class Connection(socket.socket):
    """A connected socket, with TLS if a codec is given, as kazoo uses it.

    :param sock: connected; the connection takes it over
    :param codec: the TLS of the connection, after its handshake
    """

    def __init__(self, sock: socket.socket, codec: Optional[Codec]) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        super().settimeout(timeout)
        self._poller: Optional[_select.Poller] = None
        self._codec = codec
        self._closed_by: Optional[int] = None  # the thread that closed it first
        self._owner: Optional[int] = None
        self.framed = False  # by wait()
        # in
        self._frames = b""  # whole frames, of which kazoo has read up to _read
        self._read = 0
        self._end = 0
        self._left = 0  # of the frame that kazoo reads
        self._partial = bytearray()  # the beginning of the next frame
        self._needed = 8  # how much it takes to get on with it
        self._eof = False
        # out
        self._out: list[Data] = []
        self._out_size = 0
        self._wire: Optional[memoryview] = None  # what the socket did not take
        self._turns = 0  # answers from memory before the socket is looked at
        # heartbeats
        self.interval = 0.0
        self.sent_at = self.heard_at = self._waits_since = monotonic()
        self._traffic = Traffic()
        self.sampler = Sampler([], int)
        self.round_trips = RoundTripCounters()
        self.facts = Facts()
        self._clocks_due = 0.0
        # kazoo's, while its main loop is served
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
        """Set the limit of a blocking call, in seconds; 0: this thread is the owner."""
        if self._closed_by is None:  # else select() is to say so
            super().settimeout(timeout)
        self._owner = threading.get_ident() if timeout == 0 else None

    def setblocking(self, flag: bool) -> None:
        """Set the limit of a blocking call to ``None``, or to 0."""
        self.settimeout(None if flag else 0)

    def __getattr__(self, name: str) -> Any:
        """Look up what an :class:`ssl.SSLSocket` has, and a socket has not."""
        codec = self.__dict__.get("_codec")
        if codec is None:
            raise AttributeError(f"a connection has no attribute {name!r}")
        return getattr(codec.ssl, name)

    @property
    def ssl_object(self) -> Optional[ssl.SSLObject]:
        """What tells of the connection's TLS: its version, cipher, certificates."""
        return None if self._codec is None else self._codec.ssl

    def buffered(self) -> int:
        """Return how many bytes :meth:`recv` has without asking the socket."""
        return self._end - self._read

    def unsent(self) -> int:
        """Return how many bytes wait to be sent."""
        return self._out_size

    def pending(self) -> int:
        """Return how many bytes of a frame that was begun are left to read.

        At the beginning of a frame kazoo is to ask ``handler.select()``, which may be
        overridden: a time-out there is one of the connection.
        """
        return self._left if self.framed else self.buffered()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return up to *bufsize* bytes, ``b""`` if the peer has closed.

        :raises BlockingIOError: if nothing is there, and the connection does not block
        """
        if self._read == self._end:
            if not self.framed and self._codec is None:
                return self._recv_plain(bufsize, flags)
            while not self._fill():
                if self.framed:
                    raise BlockingIOError(errno.EAGAIN, "no whole frame is there")
                if self.gettimeout() == 0:
                    raise ssl.SSLWantReadError(
                        ssl.SSL_ERROR_WANT_READ, "no whole record is there"
                    )
        read = self._read
        end = read + bufsize
        if end > self._end:
            end = self._end
        self._read = end
        data = self._frames[read:end]
        if not self.framed:
            self.facts.note_hello(self, data)
        elif end > read:
            if not self._left:
                length, xid = _length_and_xid(self._frames, read)
                check_expected(self._client._pending, xid)
                self._left = 4 + length
            self._left -= end - read
        if end == self._end:
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
        self.facts.note_hello(self, data)
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read into *buffer* as :meth:`recv` does; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: Data, flags: int = 0) -> int:  # type: ignore[override]
        """Send *data*, or take it to be sent when the connection thread sleeps.

        :returns: the number of bytes
        """
        if not self.framed:
            if self._codec is None:
                return super().send(data, flags)
            self._out.append(data)
            while self._flush():  # a record cannot be sent by halves
                if not _select.select([], [self], [], SEND_TIMEOUT)[1]:
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            return len(data)
        self._out.append(data)
        self._out_size += len(data)
        if not self._client._pending:
            self._waits_since = monotonic()
        if len(data) >= 8 and _length_and_xid(data)[1] == _PING:
            self.facts.ping_at = monotonic()
        return len(data)

    def sendall(self, data: Data, flags: int = 0) -> None:  # type: ignore[override]
        """Send *data* now; a blocking socket has taken it all on return."""
        if self._codec is None and not self.framed:
            super().sendall(data, flags)
            return
        self.send(data)
        self._flush()

    def close(self) -> None:
        """Close the connection; what was not sent is dropped."""
        self.facts.closed(self)
        self._closed_by = threading.get_ident()
        try:
            self.shutdown(socket.SHUT_RDWR)  # wakes whoever polls
        except OSError:
            pass  # not connected any more
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
            pass  # it was never made

    def _after_fork(self) -> None:
        """Close the child's copy of the descriptor; the peer does not notice."""
        self._closed_by = 0
        self._release()

    # -- as kazoo's select asks for it -------------------------------------------------

    def ready_to_write(self) -> Ready:
        """Return the connection: it always takes what is written."""
        if self._closed_by is not None:
            raise _closed()
        return [self]

    def wait(self, wakeup: Optional[WakeupReader], timeout: Optional[float]) -> Ready:
        """Return which of the connection and *wakeup* can be read.

        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises OSError: if the connection is closed, or broken
        """
        turns = self._turns
        if turns and self._steps is None:
            self._turns = turns - 1
            ready = self._ready(wakeup)
            if ready:
                return ready
        try:
            if not self.framed:
                assert wakeup is not None
                self._begin_frames(wakeup)
            look = not turns or timeout == 0 or self._steps is not None
            return self._wait(wakeup, timeout, look)
        except OSError as error:
            self.facts.note_error(self, error)
            raise
        except Exception as error:
            if self._in_step:
                raise  # it is kazoo's
            # any other one would end kazoo's thread for good
            report(
                _log.error,
                "Unexpected exception: the connection is given up. Please report it",
                exc_info=error,
            )
            self.facts.note_end(self, "internal", type(error).__name__)
            raise OSError(errno.EIO, "unexpected exception in select()") from error

    def _begin_frames(self, wakeup: WakeupReader) -> None:
        """Buffer in both directions from now on; this thread is the owner."""
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
        data = self._frames[self._read : self._end]
        self._frames, self._read, self._end = b"", 0, 0
        if data:
            self._split(data)

    def _wait(
        self, wakeup: Optional[WakeupReader], timeout: Optional[float], look: bool
    ) -> Ready:
        """Wait as :meth:`wait`; *look* at the socket first, if that is due."""
        self._turns = TURNS
        now = began = monotonic()
        deadline = None if timeout is None else now + timeout
        if wakeup is not None and timeout is not None and timeout > self.interval:
            self.interval = timeout  # heartbeats are due as often
        self._check_heartbeat(now)
        start_batch()
        if look:
            self._flush()
            flush_batch()  # under a flood of replies it never sleeps
            if self._read == self._end and not self._fill():
                self._check_silence()
        while True:
            if self._closed_by is not None:
                raise _closed()
            if self._steps is not None and wakeup is not None:
                self._take_steps(self._steps, wakeup.client._queue)
            if self.sampler.received_at and self._read == self._end:
                self.sampler.processed(monotonic())
            ready = self._ready(wakeup)
            if ready:
                return ready
            now = monotonic()
            left = None if deadline is None else deadline - now
            if left is not None and left <= 0 and self.sent_at > began:
                left = self.sent_at + self.interval - now  # requests are heartbeats
            if left is not None and left <= 0:
                if self._steps is not None and self.heard_at > began:
                    self._steps.server_is_alive()
                return []
            self._check_heartbeat(now)
            self._sleep(wakeup, left)

    def _ready(self, wakeup: Optional[WakeupReader]) -> Ready:
        """Return what kazoo can read."""
        readable = self._read < self._end or self._eof
        if wakeup is not None and wakeup.client._queue and self._out_size < HIGH_WATER:
            return [self, wakeup] if readable else [wakeup]
        return [self] if readable else []

    def _take_steps(self, steps: Steps, queue: Any) -> None:
        """Take steps in both directions in turn, a limited number of them."""
        self._in_step = True
        for _ in range(TURNS):
            idle = True
            if queue and self._out_size < HIGH_WATER and steps.send():
                idle = False
            read = self._read
            if read < self._end:
                end = steps.receive(self._frames, read)
                if end != read:
                    self._read = end
                    idle = False
            if idle:
                break
        self._in_step = False
        if self._read == self._end:
            self._frames = b""  # it may be large

    def _sleep(self, wakeup: Optional[WakeupReader], timeout: Optional[float]) -> None:
        """Sleep until something happens, and read if it is that."""
        if self._out or self._wire is not None:
            flush_batch()
            self._flush()
        if wakeup is not None and self._collect_replies():
            return
        if self._out_size >= HIGH_WATER:
            wakeup = None  # its requests have to wait
        # As late as possible: who is woken needs the interpreter's lock.
        if flush_batch() > 1:
            sleep(0)  # they get it, and need not ring for their next requests
        if wakeup is not None and not wakeup.begin_sleep():
            return
        readable, woken = self._poll(wakeup, timeout)
        if woken and wakeup is not None:
            self._note_wake_up(wakeup)
        if self._read < self._end:
            return
        if woken and not readable:
            self._check_silence()
            return
        # A poll that was interrupted, by a suspended process, may have missed it.
        if not self._fill() and not readable:
            self._check_silence()

    def _collect_replies(self) -> bool:
        """Wait a little for many replies, if there are many to come."""
        in_flight = len(self._client._pending)
        if in_flight < BUSY or self._wire is not None:
            return False
        flush_batch()
        sleep(min(in_flight * DWELL, MAX_DWELL))
        return self._fill()

    def _poll(
        self, wakeup: Optional[WakeupReader], timeout: Optional[float]
    ) -> tuple[bool, bool]:
        """Sleep, with the connection lent to callers if nothing is in the middle."""
        poller: Any = self._poller
        turn = self._turn
        writing = self._wire is not None
        if turn is None or wakeup is None or writing or self._partial:
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
                limit = turn.limit(timeout)
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

    def _note_wake_up(self, wakeup: WakeupReader) -> None:
        poller: Any = self._poller
        self._traffic.wake_ups += 1
        if not poller.edge_triggered or self._traffic.wake_ups % DRAIN_EVERY == 0:
            wakeup.drain()

    # -- for callers that have the turn ----------------------------------------------

    def note_request(self, now: float) -> None:
        """Expect an answer from now on."""
        self.sent_at = self._waits_since = now

    def give_up(self) -> None:
        """End the connection; its thread notices, and kazoo reconnects."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended

    def suspend_polling(self) -> None:
        """Have the connection thread not wake for what comes."""
        try:
            self._poller.suspend()  # type: ignore[union-attr]
        except (OSError, ValueError):
            pass  # closed

    def resume_polling(self) -> None:
        """Have the connection thread wake for what comes."""
        try:
            self._poller.resume()  # type: ignore[union-attr]
        except (OSError, ValueError):
            pass  # closed

    # -- the socket ------------------------------------------------------------------

    def _fill(self) -> bool:
        """Read from the socket once; tell whether :meth:`recv` has an answer now."""
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
        self._traffic.receives += 1
        self._traffic.bytes_in += len(data)
        if self._codec is not None:
            data, ended = self._codec.decrypt(data)
            self._eof = self._eof or ended
            answer = self._codec.outgoing.read()
            if answer:
                self._wire = memoryview(bytes(self._wire or b"") + answer)
        if self.framed:
            self._split(data)
        else:
            self._frames, self._read, self._end = data, 0, len(data)
        return self._read < self._end or self._eof

    def _split(self, data: bytes) -> None:
        """Divide what was received into whole frames, and the rest."""
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._needed:
                return
            data = bytes(partial)
            partial.clear()
        end, size, answers, last = 0, len(data), 0, 0
        self._needed = 8
        while size - end >= 8:
            length, xid = _length_and_xid(data, end)
            if not MIN_FRAME <= length <= MAX_FRAME:
                raise OSError(
                    errno.EPROTO, f"the server sent a frame of {length} bytes"
                )
            if size - end < 4 + length:
                self._needed = 4 + length
                break
            end += 4 + length
            if xid != _WATCH_EVENT:
                answers += 1
            if xid > 0:
                last = xid
        if last and self.sampler.xid:
            self.sampler.received(last, self.heard_at)
        partial += data[end:]
        self._frames, self._read, self._end = data, 0, end
        self._traffic.replies += answers

    def _flush(self) -> bool:
        """Give the socket what it takes; tell whether something is left."""
        while self._out or self._wire is not None:
            wire = self._wire
            if wire is None:
                out, self._out = self._out, []
                data = out[0] if len(out) == 1 else b"".join(out)
                if self._codec is not None:
                    data = self._codec.encrypt(data)
                wire = memoryview(data)
                self._traffic.requests += len(out)
            try:
                sent = _transmit(self, wire)
            except BlockingIOError:
                sent = 0
            self._traffic.sends += 1
            self._traffic.bytes_out += sent
            now = self.sent_at = monotonic()
            if self.framed and now >= self.sampler.due:
                self.sampler.sent(self._client._pending, now)
            if sent < len(wire):
                self._wire = wire[sent:]
                self._out_size = len(self._wire) + sum(map(len, self._out))
                return True
            self._wire = None
        self._out_size = 0
        return False

    def _check_silence(self) -> None:
        """Give the connection up where kazoo does not: while requests keep coming."""
        if not self._client._pending:
            return
        if self._is_silent() and not self._fill() and self._is_silent():
            silence = monotonic() - self.heard_at
            raise OSError(errno.ETIMEDOUT, f"nothing heard for {silence:.1f} s")

    def _is_silent(self) -> bool:
        since = max(self.heard_at, self._waits_since)
        return monotonic() - since > 2 * self.interval > 0

    def _check_heartbeat(self, now: float) -> None:
        """Warn where a heartbeat was due and this thread was not there to send it."""
        is_late = now - self.sent_at > 1.5 * self.interval > 0
        if now < self._clocks_due and not is_late:
            return
        self._clocks_due = now + CLOCKS_EVERY
        held_up = self.facts.note_silence(self, now)
        if held_up is not None:
            report(log_late_heartbeat, self.facts.server, held_up, self.interval)

    def stands(self) -> bool:
        """Tell whether a session is served over it."""
        return self._closed_by is None and self.facts.session_timeout > 0

    def unanswered(self) -> int:
        """Return how many requests were sent, and have no reply yet."""
        return 0 if self._client is None else len(self._client._pending)

    def sent_since(self, xid: int) -> float:
        """Return when the request *xid* was sent."""
        turn = self._turn
        if turn is not None and turn.xid == xid:
            return turn.sent_at
        return self.sampler.sent_since(xid)

    def all_round_trips(self) -> list[RoundTripCounters]:
        """Return what was sampled of it, in this thread and in others."""
        turn = self._turn
        return [self.round_trips, *([] if turn is None else [turn.round_trips])]

    def oldest_unanswered(self, now: float) -> float:
        """Return how long the oldest of them has been waiting, in seconds."""
        try:
            since = self.sent_since(self._client._pending[0][2])
        except (AttributeError, IndexError):
            return 0.0
        return now - since if since else 0.0
