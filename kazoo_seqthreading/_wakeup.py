"""The wake-up channel: from the threads that make requests to the connection thread.

kazoo sends one byte into it for every request, and takes one out for every request
that it has written to the server. Here a byte is an entry in a deque; a system call
is made only if the connection thread sleeps.

Rules
-----
1. ``send`` neither blocks nor fills up, whatever waits; it raises only when the channel
   is closed.
2. A request is never left behind: it is counted before the sleeper is looked at, and
   who wants to sleep says so before it looks at the count. Both under ``_lock``, which
   also keeps a closed descriptor from being written to.
3. In a forked child the channel has a descriptor of its own.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Union

from . import _fork
from ._stats import Ledger


class _Bell:
    """A descriptor that becomes readable when it is rung."""

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, ...] = ()
        self._fd = -1
        if hasattr(os, "eventfd"):
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
            self._fd = self._pair[0].fileno()

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        try:
            if self._pair:
                self._pair[1].send(b"\0")
            else:
                os.eventfd_write(self._fd, 1)
        except BlockingIOError:
            pass  # it rings already

    def quiet(self) -> None:
        try:
            if self._pair:
                self._pair[0].recv(4096)
            else:
                os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        for end in self._pair:
            end.close()
        if fd >= 0 and not self._pair:
            os.close(fd)

    __del__ = close


class WakeUp:
    """The channel; kazoo gets it twice, as the end to read and as the end to write.

    :param ledger: counts the wake-ups
    :param in_child: called by ``send`` in a forked child, while it returns ``True``
    """

    def __init__(self, ledger: Ledger, in_child: Callable[[], bool]) -> None:
        self._bell = _Bell()
        self._ledger = ledger
        self._traffic = ledger.open()
        self.requests: deque[int] = deque()
        self._lock = threading.RLock()
        self._sleepers = 0  # guarded by _lock, as the next
        self._rung = False  # whether they have been woken
        self._in_child = in_child
        self._forked = False
        self._closed = False
        _fork.register(self)

    # -- the threads that make requests ----------------------------------------------

    def send(self, data: Union[bytes, memoryview]) -> int:
        """Count a request for each byte, and wake the connection thread if it sleeps.

        :returns: the number of bytes, all of them
        :raises OSError: if the channel is closed; kazoo then fails the request
        """
        self.requests.extend(data)
        try:  # quicker than a with statement
            self._lock.acquire()
            if self._closed:
                raise OSError(errno.EBADF, "the wake-up channel is closed")
            if self._sleepers and not self._rung:
                self._rung = True
                self._traffic.wake_ups += 1
                self._bell.ring()
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # a signal handler raised while it was waited for
        if self._forked:
            self._forked = self._in_child()
        return len(data)

    def recv(self, size: int) -> bytes:
        """Take back a byte, whatever *size* allows.

        :raises BlockingIOError: if there is none
        """
        try:
            self.requests.popleft()
        except IndexError:
            raise BlockingIOError("no request waits") from None
        return b"\0"

    def pending(self) -> int:
        """Return how many bytes :meth:`recv` can take now."""
        return len(self.requests)

    def fall_asleep(self) -> bool:
        """Have ``send`` ring until :meth:`wake_up`; ``False`` if something waits."""
        with self._lock:
            if self.requests:
                return False
            self._sleepers += 1
            return True

    def wake_up(self, rung: bool) -> None:
        """Have ``send`` ring no more.

        :param rung: whether the descriptor has to be made quiet
        """
        with self._lock:
            self._sleepers -= 1
            if not self._sleepers:
                self._rung = False
            if rung and not self._closed:
                self._bell.quiet()
                self._rung = self._sleepers > 0 and bool(self.requests)
                if self._rung:  # another sleeper may not have heard it
                    self._bell.ring()

    def getsockname(self) -> str:
        """Return what an end of a socket pair has for a name."""
        return ""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable, -1 after :meth:`close`."""
        return self._bell.fileno()

    def close(self) -> None:
        """Close the descriptor."""
        with self._lock:
            self._closed = True
            self._bell.close()
        self._ledger.close(self._traffic)

    def after_fork(self) -> None:
        """Take a descriptor of the child's own."""
        self._lock = threading.RLock()
        self._sleepers = 0
        self._rung = False
        self._forked = True
        self.requests.clear()
        self._bell.close()
        if not self._closed:
            self._bell = _Bell()
