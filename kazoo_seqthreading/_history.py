"""What a connection thread knows of its connections, and why one has ended.

Rules
-----
1. A cause is decided where the fact is seen. What is stored is plain data: no log is
   written here, no text made of foreign objects, no lock waited for. The background
   thread does that.
2. The first fact counts: what follows from it, such as an error of ``close``, does not.
3. Late heartbeats are the cause where nothing was sent for as long as the session's
   time-out. No server gives up a session earlier.
4. What fails here is reported, and changes nothing for the connection.

The wire tells the session's id and time-out: they are in the first frame that a server
sends. kazoo's objects are only looked at, see ``_kazoo``.
"""

from __future__ import annotations

import errno
import functools
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from struct import Struct
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, TypeVar

from . import _kazoo
from ._disconnects import (
    HOLD_UPS,
    Disconnect,
    Reconnect,
    log_disconnect,
    log_reconnect,
)
from ._monitor import report

if TYPE_CHECKING:
    from kazoo.protocol.connection import ConnectionHandler

    from ._connection import Connection
    from ._stats import Traffic

#: How many disconnects a handler keeps.
KEPT = 16
#: How many servers are told apart in what was tried since the last connection.
SERVERS = 64
#: How old the figures of the clocks may be when a thread falls asleep, in seconds.
CLOCKS_EVERY = 0.5

#: Length of the frame, version of the protocol, time-out in milliseconds, session's id.
_hello = Struct("!iiiq")
#: A session has a password of 16 bytes; old servers do not tell if they are read-only.
HELLO_SIZES = (36, 37)
_SILENT = (errno.ETIMEDOUT,)
_RESET = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN)

#: What is said where a heartbeat leaves late, and the connection may yet stand.
LATE_HEARTBEAT = (
    "Nothing was sent to %s for %.1f s, though a heartbeat is due every %.1f s: %s. "
    "The session may be lost."
)

_log = logging.getLogger("kazoo_seqthreading.connection")

F = TypeVar("F", bound=Callable[..., Any])


def _guarded(method: F) -> F:
    """Report what *method* raises: in a connection thread nothing may come of it."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            report(
                _log.error,
                "Unexpected exception: the cause of a disconnect is lost. Please "
                "report it",
                exc_info=error,
            )
            return None

    return call  # type: ignore[return-value]


class Clocks(NamedTuple):
    """What the clocks showed at a moment."""

    at: float
    cpu: float  # of the process
    asleep: float  # how long the machine has slept


def read_clocks() -> Clocks:
    """Return what the clocks show now."""
    asleep = 0.0
    if hasattr(time, "CLOCK_BOOTTIME"):
        # Which goes on while the machine sleeps; monotonic() does not.
        asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic()
    return Clocks(monotonic(), process_time(), asleep)


class HoldUp(NamedTuple):
    """A time in which a connection thread sent nothing, though it should have."""

    cause: str
    at: float  # when it was over
    seconds: float
    by: Optional[str]
    cpu: float


class Sighting(NamedTuple):
    """Foreign code that a connection thread was seen in, by the background thread."""

    name: str
    is_listener: bool
    since: float
    until: float
    period: float  # how often it was looked at


class End(NamedTuple):
    """The first sign that a connection has ended."""

    cause: str
    error: Optional[str]
    at: float
    sent_at: float
    wanted: bool


class Facts:
    """What is known of one connection.

    :param server: its address
    :param history: of the connection thread, if it is one that made it
    """

    def __init__(self, server: str = "?", history: Optional[History] = None) -> None:
        self.server = server
        self.history = history
        self.made_at = monotonic()
        self.session_id = 0
        self.session_timeout = 0.0
        self.ping_at = 0.0  # when the last heartbeat was sent
        self.late: Optional[HoldUp] = None
        self._late_since = 0.0
        self.end: Optional[End] = None
        #: The beginning of what the server says, until the session is known.
        self.hello: Optional[bytearray] = None if history is None else bytearray()
        self._hello_size = 0

    @_guarded
    def note_hello(self, connection: Connection, data: bytes) -> None:
        """Take what the server said before kazoo's main loop began."""
        if not data:
            self.note_end(connection, "closed", None)
        if self.hello is None or self.history is None:
            return
        self._hello_size += len(data)
        # Not all of it: what comes last is the session's password.
        self.hello += data[: _hello.size - len(self.hello)]
        if len(self.hello) < _hello.size:
            return
        length, _, milliseconds, session = _hello.unpack_from(self.hello)
        if self._hello_size < 4 + length or length not in HELLO_SIZES:
            return
        self.hello = None
        if not _kazoo.is_socket_of(self.history.connection, connection):
            return
        if milliseconds > 0:
            self.session_id, self.session_timeout = session, milliseconds / 1000
            connection.sent_at = connection.heard_at = monotonic()
            self.history.connected(self)

    def why_no_session(self) -> str:
        """Say why an attempt to make a session has failed."""
        if self.end is not None:
            return self.end.error or "closed by the server"
        return "no session" if self._hello_size else "no answer"

    @_guarded
    def note_error(self, connection: Connection, error: OSError) -> None:
        """Take an error of the connection."""
        number = error.errno
        if isinstance(error, ssl.SSLError):
            cause = "tls"
        elif number in _RESET:
            cause = "reset"
        elif number in _SILENT:
            cause = "silent"
        elif number == errno.EPROTO:
            cause = "invalid"
        else:
            cause = "network"
        self.note_end(connection, cause, error.strerror or type(error).__name__)

    @_guarded
    def note_end(
        self, connection: Connection, cause: str, error: Optional[str]
    ) -> None:
        """Take the first sign of the connection's end."""
        if self.end is not None:
            return
        history, wanted = self.history, False
        if history is not None:
            wanted = _kazoo.is_stopped(history.connection)
            if _kazoo.state_of(history.connection) == _kazoo.AUTH_FAILED:
                cause = "authentication"  # a server closes the connection then
        self.end = End(cause, error, monotonic(), connection.sent_at, wanted)
        if history is not None and self.session_timeout:
            history.begin_transition()

    @_guarded
    def note_silence(self, connection: Connection, now: float) -> Optional[HoldUp]:
        """Return the hold-up, the first time it is seen, if a heartbeat is overdue."""
        history = self.history
        if history is None:
            return None
        before, clocks = history.clocks, read_clocks()
        silence = now - connection.sent_at + clocks.asleep - before.asleep
        late = None
        if (
            silence > 1.5 * connection.interval > 0
            and self._late_since != connection.sent_at
        ):
            self._late_since = connection.sent_at
            late = self.late = history.hold_up(connection.sent_at, now)
        history.clocks = clocks
        return late

    @_guarded
    def closed(self, connection: Connection) -> None:
        """Take note that this thread closes the connection."""
        history = self.history
        if history is None:
            return
        if history.ident != threading.get_ident():
            self.note_end(connection, "thread", threading.current_thread().name)
        elif _kazoo.is_socket_of(history.connection, connection):
            history.ended(connection)


class History:
    """What one connection thread knows; written by it alone, but for ``sighting``.

    :param connection: kazoo's
    :param traffic: counts causes
    :param disconnects: where the handler keeps them
    :param on_transition: called when a listener of the connection's state may run next
    """

    def __init__(
        self,
        connection: ConnectionHandler,
        traffic: Traffic,
        disconnects: deque[Disconnect],
        on_transition: Callable[[], Any],
    ) -> None:
        self.connection = connection
        self.ident = threading.get_ident()
        self.clocks = read_clocks()
        self.sighting: Optional[Sighting] = None
        #: Whether a state listener may be at work.
        self.in_transition = False
        self._traffic = traffic
        self._disconnects = disconnects
        self._on_transition = on_transition
        self._tried: dict[str, tuple[int, str]] = {}
        # of the session
        self._session_id = 0
        self._session_timeout = 0.0
        self._lost: Optional[Disconnect] = None  # the first one since it was connected
        self._lost_at = self._heard_at = monotonic()

    # -- what happens ------------------------------------------------------------------

    def begin_transition(self) -> None:
        """Have the thread looked after: kazoo calls the state listeners next."""
        self.in_transition = True
        self._on_transition()

    @_guarded
    def attempt_failed(self, server: str, why: str) -> None:
        """Take note of an attempt to connect."""
        count, _ = self._tried.get(server, (0, ""))
        if count or len(self._tried) < SERVERS:
            self._tried[server] = (count + 1, why)

    def connected(self, facts: Facts) -> None:
        """Take note of a session that a server has made, or goes on with."""
        lost, now = self._lost, monotonic()
        self.clocks = read_clocks()
        if lost is not None:
            report(
                log_reconnect,
                "%s",
                Reconnect(
                    facts.server,
                    facts.session_id,
                    facts.session_id == self._session_id,
                    now - self._lost_at,
                    tuple((key, *value) for key, value in self._tried.items()),
                ),
            )
        self._tried.clear()
        self._lost = None
        self._session_id = facts.session_id
        self._session_timeout = facts.session_timeout
        self.begin_transition()

    def ended(self, connection: Connection) -> None:
        """Take note of a connection that kazoo closes."""
        self.in_transition = False
        facts, now = connection.facts, monotonic()
        state = _kazoo.state_of(self.connection)
        end = facts.end
        if state == _kazoo.EXPIRED:
            self._expired(facts, now)
        elif not facts.session_timeout:
            self.attempt_failed(facts.server, facts.why_no_session())
        elif end is None and _kazoo.is_stopped(self.connection):
            pass
        elif end is None or not end.wanted:
            self._disconnected(connection, state, now)

    def _disconnected(self, connection: Connection, state: object, now: float) -> None:
        facts = connection.facts
        end = facts.end or self._end_by_kazoo(connection, state, now)
        held_up = self._fatal_hold_up(connection, end)
        unheard = end.at - connection.heard_at
        silent = end.cause == "silent"
        disconnect = Disconnect(
            cause=end.cause if held_up is None else held_up.cause,
            server=facts.server,
            at=time.time() - (now - end.at),
            session_id=facts.session_id,
            session_timeout_seconds=facts.session_timeout,
            connected_seconds=end.at - facts.made_at,
            unheard_seconds=unheard,
            requests_unanswered=connection.unanswered(),
            heartbeats_unanswered=int(facts.ping_at > connection.heard_at),
            oldest_unanswered_seconds=connection.oldest_unanswered(end.at),
            held_up_seconds=0.0 if held_up is None else held_up.seconds,
            held_up_by=None if held_up is None else held_up.by,
            cpu_seconds=0.0 if held_up is None else held_up.cpu,
            error=None if silent else end.error,
        )
        if self._lost is None:
            self._lost, self._lost_at = disconnect, end.at
            self._heard_at = connection.heard_at
        record(disconnect, self._traffic, self._disconnects)

    def _end_by_kazoo(self, connection: Connection, state: object, now: float) -> End:
        cause, error = "kazoo", None
        if state == _kazoo.AUTH_FAILED:
            cause = "authentication"
        elif _kazoo.found_server(self.connection):
            cause = "read_write"
        elif connection.facts.ping_at > connection.heard_at:
            cause = "silent"
        else:
            error = _kazoo.current_exception()
        return End(cause, error, now, connection.sent_at, False)

    def _expired(self, facts: Facts, now: float) -> None:
        lost = self._lost
        disconnect = Disconnect(
            cause="expired",
            server=facts.server,
            at=time.time(),
            session_id=self._session_id,
            session_timeout_seconds=self._session_timeout,
        )
        if lost is not None:
            disconnect = replace(
                disconnect,
                unheard_seconds=now - self._heard_at,
                disconnected_seconds=now - self._lost_at,
                first_cause=lost.cause,
                held_up_seconds=lost.held_up_seconds,
                held_up_by=lost.held_up_by,
                cpu_seconds=lost.cpu_seconds,
                error=lost.error,
            )
            seen = self.seen_in(self._lost_at, now)
            if lost.cause not in HOLD_UPS and seen is not None:
                disconnect = replace(
                    disconnect,
                    held_up_by=seen.name,
                    held_up_seconds=seen.until - seen.since,
                )
        else:
            self._lost, self._lost_at = disconnect, now
        record(disconnect, self._traffic, self._disconnects)

    # -- hold-ups ----------------------------------------------------------------------

    def _fatal_hold_up(self, connection: Connection, end: End) -> Optional[HoldUp]:
        """Return what had heartbeats left too late, if that ended the connection."""
        timeout = connection.facts.session_timeout
        if end.cause not in ("closed", "reset", "silent") or not connection.framed:
            return None
        late = connection.facts.late
        if late is None or end.at - late.at > timeout or late.seconds < timeout:
            late = self.hold_up(end.sent_at, end.at)
        return late if late.seconds >= timeout else None

    def hold_up(self, since: float, now: float) -> HoldUp:
        """Return what has kept this thread from sending anything."""
        clocks = read_clocks()
        asleep = clocks.asleep - self.clocks.asleep
        cpu = clocks.cpu - self.clocks.cpu
        seconds = now - since + asleep
        seen = self.seen_in(since, now)
        if seen is not None:
            cause = "listener" if seen.is_listener else "call"
            return HoldUp(cause, now, seconds, seen.name, cpu)
        cause = "busy" if cpu > seconds / 2 else "suspended"
        return HoldUp(cause, now, seconds, None, cpu)

    def seen_in(self, since: float, until: float) -> Optional[Sighting]:
        """Return the code that this thread was in for most of the time, if any."""
        seen = self.sighting
        if seen is None:
            return None
        overlap = min(seen.until, until) - max(seen.since, since) + 2 * seen.period
        return seen if overlap >= (until - since) / 2 else None


def record(
    disconnect: Disconnect,
    traffic: Traffic,
    disconnects: deque[Disconnect],
    warn: bool = True,
) -> None:
    """Count and keep a disconnect; log it in the background."""
    traffic.disconnects[disconnect.cause] += 1
    disconnects.append(disconnect)
    if warn:
        report(log_disconnect, "%s", disconnect)


def forked_from(facts: Facts) -> Disconnect:
    """Return the disconnect of a connection that stays with the parent of a fork."""
    return Disconnect(
        cause="forked",
        server=facts.server,
        at=time.time(),
        session_id=facts.session_id,
        session_timeout_seconds=facts.session_timeout,
        connected_seconds=monotonic() - facts.made_at,
    )


def log_late_heartbeat(server: str, held_up: HoldUp, interval: float) -> None:
    """Warn of a heartbeat that left late."""
    words = HOLD_UPS[held_up.cause].format(
        held_up_by=held_up.by,
        held_up_seconds=held_up.seconds,
        cpu_seconds=held_up.cpu,
    )
    _log.warning(LATE_HEARTBEAT, server, held_up.seconds, interval, words)
