"""The wake-up channel: how threads that make requests wake the connection thread.

kazoo writes one byte into it for every request, and reads one for every request that it
has sent to the server. Here the client's queue tells whether a request waits, and a
byte is only written while the connection thread sleeps.

1. ``send`` takes no lock, never blocks and never fills up; it raises only when the
   channel is closed.
2. No wake-up is lost: kazoo queues a request before it calls ``send``, which then
   checks whether the connection thread sleeps; that thread announces that it will sleep
   before it checks the queue. A caller that is interrupted between the two delays its
   own request only. Sleeps are numbered, and one byte is written for each, so that a
   late caller does not suppress the wake-up of a later sleep.
3. If ``select`` is overridden, a byte is written for every request, and the reader is
   readable while a request waits. If the client is unknown, the channel is a plain
   socket pair.
4. In a forked child ``send`` fails the requests that were made there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _fork

if TYPE_CHECKING:
    from ._turn import Turn

#: Values of :attr:`Channel.sleep` while no connection thread sleeps: it is awake; there
#: is no client; the client is a parent's; ``select`` was not called yet, and may be
#: overridden.
AWAKE, UNATTACHED, INHERITED, PLAIN = 0, -1, -2, -3


class Channel:
    """The state that the two ends share.

    :param on_send_in_child: called by ``send`` in a forked child with the client's
        queue
    """

    def __init__(self, on_send_in_child: Callable[[Any], None]) -> None:
        self.client: Any = None
        self.reader: Any = None  # the two ends, while a client is known
        self.writer: Any = None
        self.sleep = UNATTACHED  # the number of the current sleep, or a constant
        self.sleeps = 0  # the number of the latest sleep
        self.woken = 0  # the number of the last one that a byte was written for
        self.turn: Optional[Turn] = None  # that of the current connection
        self.on_send_in_child = on_send_in_child
        _fork.register(self)

    def _after_fork(self) -> None:
        """Record that the connection thread does not exist here."""
        if self.client is not None:
            self.sleep = INHERITED
            self.turn = None

    def wake_connection_thread(self) -> None:
        """Wake the connection thread, if it sleeps and was not woken."""
        try:
            self.writer.wake_sleeper()
        except OSError:
            pass  # closed

    def wake_caller(self) -> None:
        """Wake the caller that polls the writer's end."""
        try:
            socket.socket.send(self.reader, b"\0")
        except OSError:
            pass  # full of bytes that were not drained, or closed

    def drain_caller(self) -> None:
        """Drain the bytes that have woken the caller."""
        _drain(self.writer)


class WakeupReader(socket.socket):
    """The end that the connection thread polls."""

    channel: Channel
    client: Any = None  #: the client whose queue is checked, once attached

    def leave_plain(self) -> None:
        """Stop ``send`` from writing a byte while this thread is awake."""
        if self.channel.sleep == PLAIN:
            self.channel.sleep = AWAKE

    def begin_sleep(self) -> bool:
        """Let ``send`` wake this thread; return ``False`` if a request is waiting."""
        channel = self.channel
        channel.sleeps += 1
        channel.sleep = channel.sleeps
        if self.client._queue:
            channel.sleep = AWAKE
            return False
        return True

    def end_sleep(self) -> None:
        """Stop ``send`` from waking this thread."""
        self.channel.sleep = AWAKE

    def drain(self, size: int = 4096) -> None:
        """Drain up to *size* bytes that were written to wake this thread."""
        _drain(self, size)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return one byte, as kazoo expects for each request."""
        if self.client is None:
            return super().recv(bufsize, flags)
        if self.channel.sleep == PLAIN and not self.client._queue:
            self.drain()
            if self.client._queue:  # the byte of this request may be drained, too
                self.channel.writer.wake()
        return b"\0"


class WakeupWriter(socket.socket):
    """The end into which kazoo writes a byte for each request."""

    channel: Channel

    def send(  # type: ignore[override]
        self, data: Union[bytes, bytearray, memoryview], flags: int = 0
    ) -> int:
        """Wake the connection thread if it sleeps; without a client, send *data*.

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
        """Wake the connection thread, at most once for each of its sleeps."""
        channel = self.channel
        sleep = channel.sleep
        if sleep > 0 and channel.woken != sleep:
            self.wake()
            channel.woken = sleep

    def wake(self) -> None:
        """Write a byte, which is an event also if the other end is readable already."""
        try:
            super().send(b"\0")
        except BlockingIOError:  # full of bytes that nobody had to take out
            # Only one is drained: the others may not have woken it yet.
            self.channel.reader.drain(1)
            try:
                super().send(b"\0")
            except BlockingIOError:
                pass  # other threads have just written

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


def _drain(end: socket.socket, size: int = 4096) -> None:
    try:
        socket.socket.recv(end, size)
    except OSError:
        pass  # another thread has drained it, or the channel is closed


def make_channel(
    on_send_in_child: Callable[[Any], None],
) -> tuple[WakeupReader, WakeupWriter]:
    """Return the two ends of a new channel."""
    ours, theirs = socket.socketpair()
    channel = Channel(on_send_in_child)
    reader = WakeupReader(ours.family, ours.type, ours.proto, fileno=ours.detach())
    writer = WakeupWriter(
        theirs.family, theirs.type, theirs.proto, fileno=theirs.detach()
    )
    reader.channel = writer.channel = channel
    return reader, writer


def attach(reader: WakeupReader, writer: Any, client: Any) -> None:
    """Attach *client*, whose queue tells from now on whether requests wait."""
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
