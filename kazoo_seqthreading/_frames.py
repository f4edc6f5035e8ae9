"""Splitting received bytes into frames, without I/O.

1. A frame is complete or is not given: what has come of the last one is kept until the
   rest arrives, and copied once, however many parts it comes in.
2. A length that no server sends raises an ``OSError``, before the frame is collected.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import NamedTuple

from kazoo.protocol.connection import WATCH_XID

#: The length of a frame, and the header of a reply: xid, zxid, err.
length_and_header = Struct("!iiqi").unpack_from
length_and_xid = Struct("!ii").unpack_from
HEADER_SIZE = 20
#: The size of a reply's header; a connect response is longer.
MIN_FRAME = HEADER_SIZE - 4
#: More than any sensible ``jute.maxbuffer`` of a server.
MAX_FRAME = 1 << 28


class Frames(NamedTuple):
    """Complete frames, one after the other.

    :param data: begins with the frames
    :param end: where they end in *data*
    :param replies: number of frames that are no watch events
    :param last_xid: of the last reply to a request; 0 if there is none
    """

    data: bytes
    end: int
    replies: int
    last_xid: int


class FrameSplitter:
    """Collects received bytes until frames are complete. Not thread-safe."""

    def __init__(self) -> None:
        self.partial = bytearray()  #: the beginning of the next frame
        self._needed = 8  # size of the partial frame that allows progress

    def split(self, data: bytes) -> Frames:
        """Return the frames that *data*, the bytes received next, completes.

        :raises OSError: if they are not those of a server
        """
        partial = self.partial
        if partial:
            partial += data
            if len(partial) < self._needed:
                return _NONE
            data = bytes(partial)
            partial.clear()
        end, size, replies, last_xid = 0, len(data), 0, 0
        self._needed = 8
        while size - end >= 8:
            length, xid = length_and_xid(data, end)
            if not MIN_FRAME <= length <= MAX_FRAME:
                raise OSError(
                    errno.EPROTO, f"the server sent a frame of {length} bytes"
                )
            if size - end < 4 + length:
                self._needed = 4 + length
                break
            end += 4 + length
            if xid != WATCH_XID:  # every other frame is a reply
                replies += 1
            if xid > 0:
                last_xid = xid
        partial += data[end:]
        return Frames(data, end, replies, last_xid)


_NONE = Frames(b"", 0, 0, 0)
