"""kazoo's steps, taken outside of its main loop.

kazoo's main loop sends one request or reads one reply, and goes around: it draws a
random number, looks at the clock, asks ``select``. In steady state nothing of that does
anything. So ``select`` takes the steps itself, with kazoo's own methods, while kazoo
waits in it: then kazoo is between two steps.

1. Only what is ordinary is taken: a request of a type that is known, its reply, a watch
   event. Everything else, and every failure, is left to kazoo's loop as it is.
2. Only where kazoo's methods are those that are known (see ``_kazoo``). Otherwise, or
   with ``KAZOO_SEQTHREADING_STEPS=0`` in the environment, kazoo goes around its loop.
"""

from __future__ import annotations

import errno
import os
from struct import Struct
from typing import TYPE_CHECKING, Any, Optional

from kazoo.exceptions import EXCEPTIONS
from kazoo.protocol.serialization import Exists, ReplyHeader, Transaction

from ._kazoo import ORDINARY, methods_are_known

if TYPE_CHECKING:
    from kazoo.protocol.connection import ConnectionHandler

#: Whether steps are taken at all.
ENABLED = os.environ.get("KAZOO_SEQTHREADING_STEPS") != "0"

#: Of a frame: its length, and the header of a reply: xid, zxid, err.
length_and_header = Struct("!iiqi").unpack_from
HEADER_SIZE = 20
_length_xid_type = Struct("!iii").pack
_WATCH_EVENT = -1  # the xid of one
_AUTH = -4  # the xid of its reply
_NO_NODE = -101


class Steps:
    """The steps of one connection; only its connection thread takes them.

    :param connection: kazoo's
    """

    def __init__(self, connection: ConnectionHandler) -> None:
        self._connection: Any = connection
        self._client: Any = connection.client

    def send(self) -> bool:
        """Send the request that waits first; ``False`` if it is not ordinary."""
        if type(self._client._queue[0][0]) not in ORDINARY:
            return False
        self._connection._send_request(0, 0)  # a write never waits
        return True

    def receive(self, frames: bytes, offset: int) -> int:
        """Read the whole frame at *offset*.

        :returns: the offset after it; *offset* if the frame is not ordinary
        """
        length, xid, zxid, err = length_and_header(frames, offset)
        end: int = offset + 4 + length
        frame = frames[offset + 4 : end]
        if xid == _WATCH_EVENT:
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

    def server_is_alive(self) -> None:
        """Have kazoo wait no longer for the answer to a heartbeat.

        It comes after all other replies, which may take longer than kazoo waits; kazoo
        itself does not look while there is something to read.
        """
        self._connection.ping_outstanding.clear()


def steps_of(connection: ConnectionHandler) -> Optional[Steps]:
    """Return the steps of *connection*, ``None`` if kazoo is to take them itself."""
    if ENABLED and methods_are_known(connection):
        return Steps(connection)
    return None


def check_expected(pending: Any, xid: int) -> None:
    """Raise an :exc:`OSError` if reply *xid* is not the one that is due.

    kazoo would end its thread.

    :param pending: the client's requests that wait for a reply
    """
    if (xid > 0 or xid == _AUTH) and not (pending and pending[0][2] == xid):
        raise OSError(errno.EPROTO, f"nothing asked for reply {xid}")


# -- a step in a caller's thread, without any effect --------------------------------


def frame_of(request: Any, xid: int) -> bytes:
    """Return what ``ConnectionHandler._submit`` writes."""
    body: bytes = request.serialize()
    return _length_xid_type(len(body) + 8, xid, request.type) + body


def outcome_of(client: Any, request: Any, err: int, frame: bytes) -> tuple[Any, Any]:
    """Return what ``ConnectionHandler._read_response`` completes a result with.

    :returns: a value, and an exception or ``None``
    """
    if err:
        if err == _NO_NODE and request.type == Exists.type:
            return None, None
        return None, EXCEPTIONS[err]()
    value = request.deserialize(frame, HEADER_SIZE)
    if request.type == Transaction.type:
        value = Transaction.unchroot(client, value)
    return value, None
