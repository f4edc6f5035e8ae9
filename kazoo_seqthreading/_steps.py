"""Iterations of kazoo's main loop, taken without returning to it.

In each iteration, kazoo's main loop sends one request or reads one reply; it also draws
a random number, reads the clock and calls ``select``, which has no effect in steady
state. So ``select`` runs the steps itself, with kazoo's own methods, while kazoo waits
in it, between two iterations.

1. Only the ordinary is handled: requests of a known type, their replies, and watch
   events. Everything else, and every failure, is left to kazoo's loop.
2. Steps are taken only if kazoo's methods are those known here (see ``_kazoo``).
   Otherwise, or with ``KAZOO_SEQTHREADING_STEPS=0`` in the environment, kazoo's loop
   does all the work.
"""

from __future__ import annotations

import errno
import os
from struct import Struct
from typing import TYPE_CHECKING, Any, Optional

from kazoo.exceptions import EXCEPTIONS
from kazoo.protocol.connection import AUTH_XID, WATCH_XID
from kazoo.protocol.serialization import Exists, ReplyHeader, Transaction

from ._frames import HEADER_SIZE, length_and_header
from ._kazoo import ORDINARY, methods_are_known

if TYPE_CHECKING:
    from kazoo.protocol.connection import ConnectionHandler

#: Whether steps may be taken.
ENABLED = os.environ.get("KAZOO_SEQTHREADING_STEPS") != "0"

_length_xid_type = Struct("!iii").pack
_NO_NODE = -101


class Steps:
    """Sends requests and reads replies with kazoo's methods, in the connection thread.

    :param connection: kazoo's
    """

    def __init__(self, connection: ConnectionHandler) -> None:
        self._connection: Any = connection
        self._client: Any = connection.client
        self._handler_state = vars(connection.handler)

    def allowed(self) -> bool:
        """Return whether the handler's ``select`` has not been replaced meanwhile."""
        return "select" not in self._handler_state

    def send(self) -> bool:
        """Send the next request; return ``False`` if it is not an ordinary one."""
        if type(self._client._queue[0][0]) not in ORDINARY:
            return False
        self._connection._send_request(0, 0)  # sending only fills a buffer
        return True

    def receive(self, frames: bytes, offset: int) -> int:
        """Process the complete frame at *offset*.

        :returns: the offset after it; *offset* if the frame is not an ordinary one
        """
        length, xid, zxid, err = length_and_header(frames, offset)
        end: int = offset + 4 + length
        frame = frames[offset + 4 : end]
        if xid == WATCH_XID:
            self._connection._read_watch_event(frame, HEADER_SIZE - 4)
            return end
        if xid < 0:
            return offset
        pending = self._client._pending
        check_expected(pending, xid)
        if type(pending[0][0]) not in ORDINARY:
            return offset
        self._connection._read_response(
            ReplyHeader(xid, zxid, err), frame, HEADER_SIZE - 4
        )
        return end

    def clear_outstanding_ping(self) -> None:
        """Make kazoo's loop forget that a heartbeat is unanswered.

        The answer comes after all earlier replies, which may take longer than kazoo
        waits. kazoo's own loop does not check this while there is something to read.
        """
        self._connection.ping_outstanding.clear()


def steps_of(connection: ConnectionHandler) -> Optional[Steps]:
    """Return the steps of *connection*; ``None`` if kazoo's loop must do the work."""
    if ENABLED and methods_are_known(connection):
        return Steps(connection)
    return None


def check_expected(pending: Any, xid: int) -> None:
    """Raise an :exc:`OSError` if reply *xid* is not the next one expected.

    kazoo's own check would end its connection thread.

    :param pending: the client's requests that wait for a reply
    """
    if (xid > 0 or xid == AUTH_XID) and not (pending and pending[0][2] == xid):
        raise OSError(errno.EPROTO, f"nothing asked for reply {xid}")


# -- for callers: the same, without side effects ------------------------------------


def frame_of(request: Any, xid: int) -> bytes:
    """Return the frame that ``ConnectionHandler._submit`` writes."""
    body: bytes = request.serialize()
    return _length_xid_type(len(body) + 8, xid, request.type) + body


def outcome_of(
    client: Any, request: Any, err: int, frame: bytes
) -> Optional[tuple[Any, Any]]:
    """Return the outcome that ``ConnectionHandler._read_response`` sets.

    :returns: a value, and an exception or ``None``; ``None`` for an error that kazoo
        does not know
    """
    if err:
        if err == _NO_NODE and request.type == Exists.type:
            return None, None
        return (None, EXCEPTIONS[err]()) if err in EXCEPTIONS else None
    value = request.deserialize(frame, HEADER_SIZE)
    if request.type == Transaction.type:
        value = Transaction.unchroot(client, value)
    return value, None
