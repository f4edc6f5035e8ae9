"""The wake-up channel: from the threads that make requests to the connection thread.

kazoo sends one byte into it for every request, and takes one out for every request that
it has written to the server. Here the client's queue says what waits to be sent, and a
byte is only sent while the connection thread sleeps.

1. ``send`` takes no lock, never blocks and never fills up; it raises only when the
   channel is closed.
2. No request is left behind: kazoo queues it before it calls ``send``, which then looks
   whether the connection thread sleeps; that thread says that it will sleep before it
   looks at the queue. A caller that is interrupted between the two delays its own
   request, and no other. One byte is sent for each sleep, whose number tells a caller
   that comes late from one that has to wake.
3. Where ``select`` is overridden, a byte is sent with every request, and the reader is
   readable while one waits. Where the client is not known, the ends are what they are:
   a pair of sockets.
4. In a forked child ``send`` fails what was requested there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _fork

if TYPE_CHECKING:
    from ._turn import Turn

#: What :attr:`Channel.sleep` is while no connection thread sleeps: it is awake; no
#: client is known; the client is a parent's; ``select`` was not called yet, and may be
#: overridden.
AWAKE, UNATTACHED, INHERITED, PLAIN = 0, -1, -2, -3


class Channel:
    """What the two ends share.

    :param on_send_in_child: called by ``send`` in a forked child with the client's
        queue
    """

    def __init__(self, on_send_in_child: Callable[[Any], None]) -> None:
        self.client: Any = None
        self.reader: Any = None  # the two ends, while a client is known
        self.writer: Any = None
        self.sleep = UNATTACHED  # the number of the connection thread's sleep
        self.sleeps = 0  # how many there were
        self.woken = 0  # the number of the last one that a byte has ended
        self.turn: Optional[Turn] = None  # of the connection that stands
        self.on_send_in_child = on_send_in_child
        _fork.register(self)

    def _after_fork(self) -> None:
        """Remember that the connection thread is the parent's."""
        if self.client is not None:
            self.sleep = INHERITED
            self.turn = None

    def wake_connection_thread(self) -> None:
        """Wake it, if it sleeps and was not woken."""
        try:
            self.writer.wake_sleeper()
        except OSError:
            pass  # closed

    def wake_caller(self) -> None:
        """Wake the caller that polls the writer's end."""
        try:
            socket.socket.send(self.reader, b"\0")
        except OSError:
            pass  # full of bytes that it has not taken out, or closed

    def drain_caller(self) -> None:
        """Take out the bytes that have woken the caller."""
        try:
            self.writer.recv(4096)
        except OSError:
            pass  # another thread was faster, or it is closed


class WakeupReader(socket.socket):
    """The end that the connection thread polls."""

    channel: Channel
    client: Any = None  #: whose queue says what waits; ``None`` while not attached

    def leave_plain(self) -> None:
        """Have ``send`` do without a byte while this thread is awake."""
        if self.channel.sleep == PLAIN:
            self.channel.sleep = AWAKE

    def begin_sleep(self) -> bool:
        """Have ``send`` wake this thread; ``False`` if a request waits already."""
        channel = self.channel
        channel.sleeps += 1
        channel.sleep = channel.sleeps
        if self.client._queue:
            channel.sleep = AWAKE
            return False
        return True

    def end_sleep(self) -> None:
        """Have ``send`` wake nobody."""
        self.channel.sleep = AWAKE

    def drain(self, size: int = 4096) -> None:
        """Take out bytes that were sent to wake this thread, *size* at the most."""
        try:
            super().recv(size)
        except OSError:
            pass  # another thread was faster, or the channel is closed

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return a byte for a request, whose number the client's queue knows."""
        if self.client is None:
            return super().recv(bufsize, flags)
        if self.channel.sleep == PLAIN and not self.client._queue:
            self.drain()
            if self.client._queue:  # a byte of this request may have gone, too
                self.channel.writer.wake()
        return b"\0"


class WakeupWriter(socket.socket):
    """The end that kazoo gives a byte for each request."""

    channel: Channel

    def send(  # type: ignore[override]
        self, data: Union[bytes, bytearray, memoryview], flags: int = 0
    ) -> int:
        """Wake the connection thread if it sleeps; a plain ``send`` without a client.

        :returns: the number of bytes
        :raises OSError: if the channel is closed; kazoo then fails the request
        """
        channel = self.channel
        sleep = channel.sleep
        if sleep > 0:
            turn = channel.turn
            if turn is None or not turn.send():
                self.wake_sleeper()
        elif sleep == PLAIN:
            self.wake()
        elif sleep == UNATTACHED:
            return super().send(data, flags)
        elif sleep == INHERITED:
            channel.on_send_in_child(channel.client._queue)
        return len(data)

    def wake_sleeper(self) -> None:
        """Wake the connection thread, once for each of its sleeps."""
        channel = self.channel
        sleep = channel.sleep
        if sleep > 0 and channel.woken != sleep:
            self.wake()
            channel.woken = sleep

    def wake(self) -> None:
        """Make the other end readable, once more if it is."""
        try:
            super().send(b"\0")
        except BlockingIOError:  # full of bytes that nobody had to take out
            self.channel.reader.drain(1)  # the others may not have woken yet
            try:
                super().send(b"\0")
            except BlockingIOError:
                pass  # other threads have sent them just now

    def close(self) -> None:
        """Close this end; ``send`` raises from now on."""
        channel = self.channel
        channel.sleep = UNATTACHED
        turn, channel.turn = channel.turn, None
        if turn is None:
            super().close()
        else:
            self.shutdown(socket.SHUT_RDWR)  # wakes a caller that polls it
            turn.close(super().close)


def make_channel(
    on_send_in_child: Callable[[Any], None],
) -> tuple[WakeupReader, WakeupWriter]:
    """Return a channel's two ends."""
    ours, theirs = socket.socketpair()
    channel = Channel(on_send_in_child)
    reader = WakeupReader(ours.family, ours.type, ours.proto, fileno=ours.detach())
    writer = WakeupWriter(
        theirs.family, theirs.type, theirs.proto, fileno=theirs.detach()
    )
    reader.channel = writer.channel = channel
    return reader, writer


def attach(reader: WakeupReader, writer: Any, client: Any) -> None:
    """Serve *client*, whose queue says from now on what waits to be sent."""
    channel = reader.channel
    if channel.sleep == INHERITED:  # the parent has the same sockets
        for end, fresh in zip((reader, writer), socket.socketpair()):
            with fresh:
                os.dup2(fresh.fileno(), end.fileno(), inheritable=False)
    reader.setblocking(False)
    writer.setblocking(False)
    channel.client = reader.client = client
    channel.reader, channel.writer = reader, writer
    channel.sleep = PLAIN
