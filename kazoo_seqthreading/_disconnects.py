"""Why connections and sessions have ended, as data and as text.

A connection thread fills in a :class:`Disconnect` with plain data. Its text is made by
its reader: the background thread that logs it, or a user.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Optional

_log = logging.getLogger("kazoo_seqthreading.connection")

#: The causes of late heartbeats, with their texts.
HOLD_UPS = {
    "listener": "state listener {held_up_by} held up the connection thread for "
    "{held_up_seconds:.1f} s",
    "call": "{held_up_by} held up the connection thread for {held_up_seconds:.1f} s",
    "suspended": "the process was suspended, or its threads did not get to run, for "
    "{held_up_seconds:.1f} s",
    "busy": "other threads of the process kept the connection thread from running for "
    "{held_up_seconds:.1f} s, with {cpu_seconds:.1f} s of CPU",
}
#: All causes, with their texts, which are formatted with the fields of a disconnect.
CAUSES = {
    "closed": "the server closed it",
    "reset": "it was reset ({error})",
    "silent": "the server is silent, nothing was heard for {unheard_seconds:.1f} s",
    "invalid": "the server sent what is no reply ({error})",
    "tls": "TLS failed ({error})",
    "network": "the network failed ({error})",
    "thread": "thread {error} of this process closed its socket",
    **{cause: f"heartbeats left late, {text}" for cause, text in HOLD_UPS.items()},
    "forked": "it is the parent's, and this process is a forked child",
    "authentication": "the server refused the client's credentials",
    "read_write": "a server was found that is not read-only",
    "kazoo": "kazoo gave it up ({error})",
    "internal": "there is an error in kazoo-seqthreading ({error})",
    "expired": "its session has expired",
}


@dataclass(frozen=True)
class Disconnect:
    """A connection that ended, not by ``client.stop()``, or a session that expired.

    ``str()`` returns the text that is logged.

    :param cause: ``closed`` by the server, ``reset``, ``silent`` server, ``invalid``
        frame, ``tls`` or ``network`` failed, closed by another ``thread``; heartbeats
        were late because of a state ``listener`` or another ``call`` in the connection
        thread, a ``suspended`` process or one whose other threads were ``busy``;
        ``forked`` child, ``authentication`` failed, a ``read_write`` server was found,
        ``kazoo`` gave it up for another reason, an ``internal`` error; the session has
        ``expired``
    :param server: the server's address
    :param at: when it happened, as a Unix timestamp
    :param session_id: the session's id
    :param session_timeout_seconds: the negotiated session timeout
    :param connected_seconds: how long the connection lasted
    :param unheard_seconds: the time since the server was last heard
    :param requests_unanswered: number of requests sent and not answered
    :param heartbeats_unanswered: number of heartbeats sent and not answered
    :param oldest_unanswered_seconds: how long the oldest of the requests had waited
    :param held_up_seconds: how long the connection thread was held up
    :param held_up_by: the function that held it up, if known
    :param cpu_seconds: CPU time that the process used meanwhile
    :param error: the message of the error, if there was one
    :param disconnected_seconds: how long there had been no connection at the expiry
    :param first_cause: why the connection was lost before the session expired
    """

    cause: str
    server: str
    at: float
    session_id: int = 0
    session_timeout_seconds: float = 0.0
    connected_seconds: float = 0.0
    unheard_seconds: float = 0.0
    requests_unanswered: int = 0
    heartbeats_unanswered: int = 0
    oldest_unanswered_seconds: float = 0.0
    held_up_seconds: float = 0.0
    held_up_by: Optional[str] = None
    cpu_seconds: float = 0.0
    error: Optional[str] = None
    disconnected_seconds: float = 0.0
    first_cause: Optional[str] = None

    def __str__(self) -> str:
        if self.cause == "expired":
            return self._expiry()
        text = (
            f"Connection to {self.server} lost after {self.connected_seconds:.1f} s: "
            f"{self._words(self.cause)}"
        )
        if self.cause in HOLD_UPS:
            text += f", the session's time-out is {self.session_timeout_seconds:.1f} s"
        return f"{text}. {self._unanswered()}"

    def _words(self, cause: str) -> str:
        return CAUSES[cause].format_map(vars(self))

    def _unanswered(self) -> str:
        parts = [
            f"{count} {noun}{'' if count == 1 else 's'}"
            for count, noun in (
                (self.requests_unanswered, "request"),
                (self.heartbeats_unanswered, "heartbeat"),
            )
            if count
        ]
        if not parts:
            return "Nothing was unanswered."
        text = f"{' and '.join(parts)} unanswered"
        if self.requests_unanswered:
            text += f", the oldest for {self.oldest_unanswered_seconds:.1f} s"
        return f"{text}."

    def _expiry(self) -> str:
        session = f"Session {self.session_id:#x}" if self.session_id else "The session"
        if self.first_cause is None:
            return f"{session} has expired: {self.server} says so."
        text = (
            f"{session} has expired: its time-out is "
            f"{self.session_timeout_seconds:.1f} s, no server was heard for "
            f"{self.unheard_seconds:.1f} s, there was no connection for "
            f"{self.disconnected_seconds:.1f} s. The connection had been lost: "
            f"{self._words(self.first_cause)}."
        )
        if self.held_up_by is not None and self.first_cause not in HOLD_UPS:
            text += (
                f" {self.held_up_by} held up the reconnection for "
                f"{self.held_up_seconds:.1f} s."
            )
        return text


@dataclass(frozen=True)
class Reconnect:
    """A client that is connected again.

    :param attempts: the failed attempts: server, their number, and the last error
    """

    server: str
    session_id: int
    same_session: bool
    disconnected_seconds: float
    attempts: tuple[tuple[str, int, str], ...]

    def __str__(self) -> str:
        which = "the same" if self.same_session else "a new"
        text = (
            f"Connected to {self.server} after {self.disconnected_seconds:.1f} s "
            f"without a connection, {which} session {self.session_id:#x}"
        )
        failed = sum(count for _, count, _ in self.attempts)
        if not failed:
            return f"{text}. The first attempt succeeded."
        servers = "; ".join(
            f"{server}{f' ({count} times)' if count > 1 else ''}: {why}"
            for server, count, why in self.attempts
        )
        plural = "attempt" if failed == 1 else "attempts"
        return f"{text}. {failed} {plural} failed: {servers}."


def log_disconnect(message: str, disconnect: Disconnect) -> None:
    """Log a lost connection, with its data as fields of the record."""
    _log.warning(message, disconnect, extra=asdict(disconnect))


def log_reconnect(message: str, reconnect: Reconnect) -> None:
    """Log a reconnection."""
    _log.info(message, reconnect, extra=asdict(reconnect))
