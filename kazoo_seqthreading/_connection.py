"""A connection to a server: a socket with buffers on both sides.

The way of the bytes::

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
   of heartbeats, also under a flood of requests, where kazoo sends no heartbeat.
5. Neither direction starves: at most ``TURNS`` answers are given from memory before
   the socket is looked at, and a request that waits is reported with every reply.
6. Another thread that closes the connection shuts it down, which wakes the connection
   thread; only that one, its owner, closes the descriptor. So no thread ever uses a
   descriptor that has become somebody else's.
7. What is not sent when the connection is closed is dropped: kazoo has failed it.

All this begins with ``setblocking(False)``, which kazoo calls once it is connected.
Before, and for ``client.command()``, the connection behaves as a blocking socket does.

``_lock`` makes ``close`` and ``setblocking`` exclude each other; ``_closed`` is only
ever set. Everything else belongs to the owner: the thread that called
``setblocking(False)``.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import sys
import threading
from collections import deque
from struct import Struct
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _fork, _select
from ._result import collect_waiters, release_waiters

if TYPE_CHECKING:
    from ._stats import Ledger
    from ._tls import Codec
    from ._wakeup import WakeUp
    from ._watchdog import Watchdog

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
#: A reply has a header of this size, the answer to a connect request is longer.
MIN_FRAME = 16
#: More than any server's ``jute.maxbuffer`` can sensibly be.
MAX_FRAME = 1 << 28

_length_and_xid = Struct("!ii").unpack_from
_WATCH_EVENT = -1  # its xid: the one frame that answers no request
_log = logging.getLogger("kazoo_seqthreading.connection")


def _closed() -> OSError:
    return OSError(errno.EBADF, "the connection is closed")


class Connection:
    """A connected socket, with TLS if a codec is given, as kazoo uses it.

    :param sock: connected; the connection owns it
    :param codec: the TLS of the connection, after its handshake
    :param ledger: counts what goes over the connection
    :param watchdog: asked whenever the connection thread is about to sleep
    """

    def __init__(
        self,
        sock: socket.socket,
        codec: Optional[Codec],
        ledger: Ledger,
        watchdog: Watchdog,
    ) -> None:
        self._sock = sock
        self._poller = _select.make_poller(sock.fileno())
        self._codec = codec
        self._watchdog = watchdog
        self._lock = threading.RLock()
        self._closed = False
        self._owner: Optional[int] = None
        self.framed = False  # by setblocking(False)
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
        self._unanswered: deque[int] = deque()  # xids of requests, heartbeats apart
        self._turns = TURNS
        # heartbeats
        self._interval = 0.0
        self._sent_at = self._heard_at = monotonic()
        self._ledger = ledger
        self._traffic = ledger.open()
        _fork.register(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Connection {state} {self._sock!r}>"

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    # -- as a socket -----------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor, -1 once the connection is closed."""
        return -1 if self._closed else self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Choose between a blocking socket and a connection of whole frames."""
        self.settimeout(None if flag else 0)

    def settimeout(self, timeout: Optional[float]) -> None:
        """Set the limit of a blocking call, in seconds; 0 as ``setblocking(False)``."""
        with self._lock:
            if not self._closed:  # by another thread: select() is to say so
                self._sock.settimeout(timeout)
            self.framed = timeout == 0
            self._owner = threading.get_ident() if self.framed else None

    def gettimeout(self) -> Optional[float]:
        """Return the limit of a blocking call, in seconds."""
        return self._sock.gettimeout()

    def getpeername(self) -> Any:
        """Return the address of the server."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """Return the address of this end."""
        return self._sock.getsockname()

    def getsockopt(self, *args: int) -> Any:
        """Return a socket option."""
        return self._sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        """Set a socket option."""
        self._sock.setsockopt(*args)

    def ioctl(self, *args: Any) -> Any:
        """Control the socket, on Windows."""
        return self._sock.ioctl(*args)  # type: ignore[attr-defined,unused-ignore]

    def shutdown(self, how: int) -> None:
        """Shut down one direction of the connection, or both."""
        self._sock.shutdown(how)

    @property
    def ssl_object(self) -> Optional[ssl.SSLObject]:
        """What tells of the connection's TLS: its version, cipher, certificates."""
        return None if self._codec is None else self._codec.ssl

    def buffered(self) -> int:
        """Return how many bytes :meth:`recv` has without asking the socket."""
        return self._end - self._read

    def pending(self) -> int:
        """Return how many bytes of a frame that was begun are left to read.

        At the beginning of a frame kazoo is to ask ``handler.select()``, which may be
        overridden: a time-out there is one of the connection.
        """
        return self._left if self.framed else self.buffered()

    def recv(self, size: int) -> bytes:
        """Return up to *size* bytes, ``b""`` if the peer has closed.

        :raises BlockingIOError: if the connection does not block, and has no frame
        """
        if self._read == self._end:
            while not self._fill():
                if self.framed:
                    raise BlockingIOError(errno.EAGAIN, "no whole frame is there")
        read = self._read
        end = read + size
        if end > self._end:
            end = self._end
        self._read = end
        if self.framed and end > read:
            if not self._left:
                self._left = 4 + _length_and_xid(self._frames, read)[0]
            self._left -= end - read
        data = self._frames[read:end]
        if end == self._end:
            self._frames = b""  # it may be large
        return data

    def send(self, data: Data) -> int:
        """Take *data* to be sent, all of it.

        :returns: the number of bytes
        """
        self._out.append(data)
        self._out_size += len(data)
        if not self.framed:
            while self._flush():
                pass
        elif len(data) >= 8:
            xid = _length_and_xid(data)[1]
            if xid > 0:
                if not self._unanswered:
                    self._heard_at = monotonic()
                self._unanswered.append(xid)
        return len(data)

    def sendall(self, data: Data) -> None:
        """Send *data* now; a blocking socket has taken it all on return."""
        self.send(data)
        self._flush()

    def close(self) -> None:
        """Close the connection; what was not sent is dropped."""
        with self._lock:
            self._closed = True
            try:
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes whoever polls
            except OSError:
                pass  # not connected any more
            if self._owner in (None, threading.get_ident()):
                self._release()
                self._ledger.close(self._traffic)

    def _release(self) -> None:
        self._sock.close()
        self._poller.close()

    def __del__(self) -> None:
        if hasattr(self, "_traffic"):
            self._release()
            if not sys.is_finalizing():  # a frozen thread may hold the lock
                self._ledger.close(self._traffic)

    def after_fork(self) -> None:
        """Close the child's copy of the descriptor; the peer does not notice."""
        self._lock = threading.RLock()
        self._closed = True
        self._release()

    # -- as kazoo's select asks for it -------------------------------------------------

    def wait_writable(self) -> Ready:
        """Return the connection: it always takes what is written."""
        if self._closed:
            raise _closed()
        return [self]

    def wait(self, wakeup: Optional[WakeUp], timeout: Optional[float]) -> Ready:
        """Return which of the connection and *wakeup* can be read.

        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises OSError: if the connection is closed, or broken
        """
        turns = self._turns
        if turns:
            self._turns = turns - 1
            if wakeup is not None and wakeup.requests and self._out_size < HIGH_WATER:
                return [self, wakeup] if self._read < self._end else [wakeup]
            if self._read < self._end:
                return [self]
        return self._wait(wakeup, timeout, look=not turns or timeout == 0)

    def _wait(
        self, wakeup: Optional[WakeUp], timeout: Optional[float], look: bool
    ) -> Ready:
        """Wait as :meth:`wait`; *look* at the socket first, if that is due."""
        self._turns = TURNS
        now = monotonic()
        deadline = None if timeout is None else now + timeout
        if wakeup is not None and timeout is not None and timeout > self._interval:
            self._interval = timeout  # heartbeats are due as often
        self._check_heartbeat(now)
        collect_waiters()
        if look:
            self._watchdog.check()
            self._flush()
            release_waiters()  # under a flood of replies it never sleeps
            if self._read == self._end and not self._fill():
                self._check_silence()
        while True:
            if self._closed:
                raise _closed()
            readable = self._read < self._end or self._eof
            if wakeup is not None and wakeup.requests and self._out_size < HIGH_WATER:
                return [self, wakeup] if readable else [wakeup]
            if readable:
                return [self]
            left = None
            if deadline is not None:
                left = deadline - monotonic()
                if left <= 0:
                    return []
            self._sleep(wakeup, left)

    def _sleep(self, wakeup: Optional[WakeUp], timeout: Optional[float]) -> None:
        """Sleep until something happens, and read if it is that."""
        patience = self._watchdog.check()
        if patience is not None and (timeout is None or patience < timeout):
            timeout = patience
        if self._out or self._wire is not None:
            release_waiters()
            self._flush()
        if len(self._unanswered) >= BUSY and wakeup is not None and self._wire is None:
            release_waiters()
            sleep(min(len(self._unanswered) * DWELL, MAX_DWELL))
            if self._fill():
                return
        if wakeup is not None and self._out_size >= HIGH_WATER:
            wakeup = None  # its requests have to wait
        # As late as possible: who is woken needs the interpreter's lock.
        if release_waiters() > 1:
            sleep(0)  # they get it, and need not ring for their next requests
        if wakeup is not None and not wakeup.fall_asleep():
            return
        rung = False
        try:
            readable, rung = self._poller.poll(self._wire is not None, wakeup, timeout)
        finally:
            if wakeup is not None:
                wakeup.wake_up(rung)
        if readable:
            self._fill()
        else:
            self._check_silence()

    # -- the socket ------------------------------------------------------------------

    def _fill(self) -> bool:
        """Read from the socket once; tell whether :meth:`recv` has an answer now."""
        if self._eof:
            return True
        try:
            data = self._sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return False
        self._eof = not data
        self._heard_at = monotonic()
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
        unanswered = self._unanswered
        end, size, answers = 0, len(data), 0
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
            if xid > 0 and not (unanswered and unanswered.popleft() == xid):
                raise OSError(errno.EPROTO, f"nothing asked for reply {xid}")
            if xid != _WATCH_EVENT:
                answers += 1
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
                sent = self._sock.send(wire)
            except BlockingIOError:
                sent = 0
            self._traffic.sends += 1
            self._traffic.bytes_out += sent
            self._sent_at = monotonic()
            if sent < len(wire):
                self._wire = wire[sent:]
                self._out_size = len(self._wire) + sum(map(len, self._out))
                return True
            self._wire = None
        self._out_size = 0
        return False

    def _check_silence(self) -> None:
        """Give the connection up where kazoo does not: while requests keep coming."""
        if self._unanswered:
            silence = monotonic() - self._heard_at
            if silence > 2 * self._interval > 0:
                raise OSError(errno.ETIMEDOUT, f"nothing heard for {silence:.1f} s")

    def _check_heartbeat(self, now: float) -> None:
        """Warn where a heartbeat was due and this thread was not there to send it."""
        silence = now - self._sent_at
        if silence > 1.5 * self._interval > 0:
            self._sent_at = now
            _log.warning(
                "Nothing was sent to %s for %.1f s, though a heartbeat is due every "
                "%.1f s: the connection thread was held up, by a state listener that "
                "blocks or by a process short of CPU. The session may be lost.",
                self._peer(),
                silence,
                self._interval,
            )

    def _peer(self) -> str:
        try:
            return "{}:{}".format(*self._sock.getpeername()[:2])
        except OSError:
            return "the server"
