"""Records facts about a connection thread's connections, to tell why one has ended.

Rules
-----
1. The cause is determined where the fact is observed, and stored as plain data: nothing
   is logged here, no foreign object is formatted, no lock is taken. The background
   thread does the logging.
2. The first fact counts. Later ones, such as an error of ``close``, are consequences.
3. Late heartbeats are the cause if nothing was sent for as long as the session timeout.
   No server expires a session earlier.
4. An exception in this module is reported, and does not affect the connection.

The session's id and timeout are read from the connect response, the first frame that a
server sends. kazoo's objects are only inspected, see ``_kazoo``.
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
    from ._stats import TrafficCounters

#: Number of disconnects that a handler keeps.
MAX_DISCONNECTS = 16
#: Number of servers whose failed attempts to connect are counted separately.
MAX_SERVERS = 64
#: Maximum age of the clock readings when a thread goes to sleep, in seconds.
CLOCK_INTERVAL = 0.5

#: Frame length, protocol version, session timeout in milliseconds, session id.
_connect_response = Struct("!iiiq")
#: With a password of 16 bytes; old servers send no read-only flag.
CONNECT_RESPONSE_SIZES = (36, 37)
_SILENT = (errno.ETIMEDOUT,)
_RESET = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN)

#: Logged when a heartbeat is sent late, while the connection may still be alive.
LATE_HEARTBEAT = (
    "Nothing was sent to %s for %.1f s, though a heartbeat is due every %.1f s: %s. "
    "The session may be lost."
)

_log = logging.getLogger("kazoo_seqthreading.connection")

F = TypeVar("F", bound=Callable[..., Any])


def _guarded(method: F) -> F:
    """Report exceptions of *method* instead of raising them in a connection thread."""

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
    """Readings of the clocks."""

    at: float
    cpu: float  # CPU time of the process
    asleep: float  # total time that the machine was suspended


def read_clocks() -> Clocks:
    """Read the clocks."""
    asleep = 0.0
    if hasattr(time, "CLOCK_BOOTTIME"):
        # CLOCK_BOOTTIME includes the time in suspend; monotonic() does not.
        asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic()
    return Clocks(monotonic(), process_time(), asleep)


class HoldUp(NamedTuple):
    """A time in which a connection thread failed to send a heartbeat."""

    cause: str
    at: float  # when it ended
    seconds: float
    by: Optional[str]
    cpu: float


class StackSample(NamedTuple):
    """Foreign code in a connection thread, as sampled by the background thread."""

    name: str
    is_listener: bool
    since: float
    until: float
    period: float  # the time between two samples


class End(NamedTuple):
    """The first sign that a connection has ended."""

    cause: str
    error: Optional[str]
    at: float
    sent_at: float
    wanted: bool


class Facts:
    """Facts about one connection.

    :param server: the server's address
    :param history: that of the connection thread that made the connection, if one did
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
        #: The beginning of the connect response, until the session is known.
        self.connect_response: Optional[bytearray] = (
            None if history is None else bytearray()
        )
        self._response_size = 0

    @_guarded
    def note_connect_response(self, connection: Connection, data: bytes) -> None:
        """Record data that was received before kazoo's main loop."""
        if not data:
            self.note_end(connection, "closed", None)
        if self.connect_response is None or self.history is None:
            return
        self._response_size += len(data)
        # Not all of it: it ends with the session's password.
        self.connect_response += data[
            : _connect_response.size - len(self.connect_response)
        ]
        if len(self.connect_response) < _connect_response.size:
            return
        length, _, milliseconds, session = _connect_response.unpack_from(
            self.connect_response
        )
        if self._response_size < 4 + length or length not in CONNECT_RESPONSE_SIZES:
            return
        self.connect_response = None
        if not _kazoo.is_socket_of(self.history.connection, connection):
            return
        if milliseconds > 0:
            self.session_id, self.session_timeout = session, milliseconds / 1000
            connection.sent_at = connection.heard_at = monotonic()
            self.history.connected(self)

    def failure_reason(self) -> str:
        """Return why an attempt to establish a session has failed."""
        if self.end is not None:
            return self.end.error or "closed by the server"
        return "no session" if self._response_size else "no answer"

    @_guarded
    def note_error(self, connection: Connection, error: OSError) -> None:
        """Record an error of the connection."""
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
        """Record the end of the connection, unless it is known already."""
        if self.end is not None:
            return
        history, wanted = self.history, False
        if history is not None:
            wanted = _kazoo.is_stopped(history.connection)
            if _kazoo.state_of(history.connection) == _kazoo.AUTH_FAILED:
                cause = "authentication"  # the server then closes the connection
        self.end = End(cause, error, monotonic(), connection.sent_at, wanted)
        if history is not None and self.session_timeout:
            history.begin_transition()

    @_guarded
    def note_silence(self, connection: Connection, now: float) -> Optional[HoldUp]:
        """Return the hold-up if a heartbeat is overdue, once for each."""
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
        """Record that this thread closes the connection."""
        history = self.history
        if history is None:
            return
        if history.ident != threading.get_ident():
            self.note_end(connection, "thread", threading.current_thread().name)
        elif _kazoo.is_socket_of(history.connection, connection):
            history.ended(connection)


class History:
    """The history of one connection thread.

    Only that thread writes it, except for ``stack_sample``.

    :param connection: kazoo's
    :param traffic: counts the causes
    :param disconnects: the handler's last disconnects
    :param on_transition: called when state listeners may run next
    """

    def __init__(
        self,
        connection: ConnectionHandler,
        traffic: TrafficCounters,
        disconnects: deque[Disconnect],
        on_transition: Callable[[], Any],
    ) -> None:
        self.connection = connection
        self.ident = threading.get_ident()
        self.clocks = read_clocks()
        self.stack_sample: Optional[StackSample] = None
        #: Whether a state listener may be running.
        self.in_transition = False
        self._traffic = traffic
        self._disconnects = disconnects
        self._on_transition = on_transition
        self._tried: dict[str, tuple[int, str]] = {}
        # The session:
        self._session_id = 0
        self._session_timeout = 0.0
        # The first one since the last connection:
        self._lost: Optional[Disconnect] = None
        self._lost_at = self._heard_at = monotonic()

    # -- events ------------------------------------------------------------------------

    def begin_transition(self) -> None:
        """Start sampling this thread: kazoo calls the state listeners next."""
        self.in_transition = True
        self._on_transition()

    @_guarded
    def attempt_failed(self, server: str, why: str) -> None:
        """Record a failed attempt to connect."""
        count, _ = self._tried.get(server, (0, ""))
        if count or len(self._tried) < MAX_SERVERS:
            self._tried[server] = (count + 1, why)

    def connected(self, facts: Facts) -> None:
        """Record a session that a server has established or resumed."""
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
        """Record that kazoo closes the connection."""
        self.in_transition = False
        facts, now = connection.facts, monotonic()
        state = _kazoo.state_of(self.connection)
        end = facts.end
        if state == _kazoo.EXPIRED:
            self._expired(facts, now)
        elif not facts.session_timeout:
            self.attempt_failed(facts.server, facts.failure_reason())
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
            seen = self.sampled_between(self._lost_at, now)
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
        """Return the hold-up that ended the connection, if one did."""
        timeout = connection.facts.session_timeout
        if end.cause not in ("closed", "reset", "silent") or not connection.framed:
            return None
        late = connection.facts.late
        if late is None or end.at - late.at > timeout or late.seconds < timeout:
            late = self.hold_up(end.sent_at, end.at)
        return late if late.seconds >= timeout else None

    def hold_up(self, since: float, now: float) -> HoldUp:
        """Return why this thread has not sent anything."""
        clocks = read_clocks()
        asleep = clocks.asleep - self.clocks.asleep
        cpu = clocks.cpu - self.clocks.cpu
        seconds = now - since + asleep
        seen = self.sampled_between(since, now)
        if seen is not None:
            cause = "listener" if seen.is_listener else "call"
            return HoldUp(cause, now, seconds, seen.name, cpu)
        cause = "busy" if cpu > seconds / 2 else "suspended"
        return HoldUp(cause, now, seconds, None, cpu)

    def sampled_between(self, since: float, until: float) -> Optional[StackSample]:
        """Return the foreign code that ran for at least half of the time, if any."""
        seen = self.stack_sample
        if seen is None:
            return None
        overlap = min(seen.until, until) - max(seen.since, since) + 2 * seen.period
        return seen if overlap >= (until - since) / 2 else None


def record(
    disconnect: Disconnect,
    traffic: TrafficCounters,
    disconnects: deque[Disconnect],
    warn: bool = True,
) -> None:
    """Count and keep a disconnect, and log it in the background."""
    traffic.disconnects[disconnect.cause] += 1
    disconnects.append(disconnect)
    if warn:
        report(log_disconnect, "%s", disconnect)


def forked_from(facts: Facts) -> Disconnect:
    """Return the disconnect of a parent's connection in a forked child."""
    return Disconnect(
        cause="forked",
        server=facts.server,
        at=time.time(),
        session_id=facts.session_id,
        session_timeout_seconds=facts.session_timeout,
        connected_seconds=monotonic() - facts.made_at,
    )


def log_late_heartbeat(server: str, held_up: HoldUp, interval: float) -> None:
    """Log a heartbeat that is sent late."""
    words = HOLD_UPS[held_up.cause].format(
        held_up_by=held_up.by,
        held_up_seconds=held_up.seconds,
        cpu_seconds=held_up.cpu,
    )
    _log.warning(LATE_HEARTBEAT, server, held_up.seconds, interval, words)
