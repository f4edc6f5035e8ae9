"""``select`` based on ``poll``, for any number of descriptors; pollers for connections.

Systems without ``select.poll`` (Windows) use ``select.select``.
"""

from __future__ import annotations

import errno
import select as _system
import threading
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Optional

from ._waiting import check_timeout
from ._wakeup import WakeupReader

Lists = tuple[list[Any], list[Any], list[Any]]

HAVE_POLL = hasattr(_system, "poll")


def to_fileno(obj: Any) -> int:
    """Return the descriptor of *obj*, a number or something with ``fileno()``.

    :raises TypeError: if it is neither
    :raises OSError: if the descriptor is closed
    """
    if isinstance(obj, int):
        fd = int(obj)
    else:
        fileno = getattr(obj, "fileno", None)
        if fileno is None:
            raise TypeError(f"not a descriptor, and without fileno(): {obj!r}")
        fd = fileno()
        if not isinstance(fd, int):
            raise TypeError(f"fileno() of {obj!r} returned {fd!r}")
    if fd < 0:
        raise OSError(errno.EBADF, f"the descriptor is closed: {obj!r}")
    return fd


def select(
    rlist: Sequence[Any],
    wlist: Sequence[Any],
    xlist: Sequence[Any],
    timeout: Optional[float] = None,
) -> Lists:
    """Wait as :func:`select.select` does, for any number of descriptors.

    An object with buffered data, according to its ``pending()``, is readable, too.
    """
    check_timeout(timeout)
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        buffered = [obj for obj in rlist if _pending(obj)]
        wakeups = [
            obj for obj in rlist if type(obj) is WakeupReader and obj.client is not None
        ]
        asleep = [wakeup for wakeup in wakeups if wakeup.begin_sleep()]
        left = 0.0 if buffered or len(asleep) < len(wakeups) else _left(deadline)
        wait = _by_poll if HAVE_POLL else _by_select
        try:
            readable, writable, urgent = wait(rlist, wlist, xlist, left)
        finally:
            for wakeup in asleep:
                wakeup.end_sleep()
                wakeup.drain()
        # A wake-up is spurious if its request has been sent meanwhile.
        ready = {id(obj) for obj in readable if obj not in wakeups or obj.client._queue}
        ready.update(id(wakeup) for wakeup in wakeups if wakeup.client._queue)
        ready.update(map(id, buffered))
        if ready or writable or urgent or not readable or _left(deadline) == 0:
            return [obj for obj in rlist if id(obj) in ready], writable, urgent


def _left(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - monotonic())


def _pending(obj: Any) -> bool:
    pending = getattr(obj, "buffered", None) or getattr(obj, "pending", None)
    try:
        return pending is not None and pending() > 0
    except (OSError, ValueError):  # ssl: closed, or before the handshake
        return False


def _by_poll(
    rlist: Iterable[Any],
    wlist: Iterable[Any],
    xlist: Iterable[Any],
    timeout: Optional[float],
) -> Lists:
    wanted = (
        [(obj, to_fileno(obj)) for obj in rlist],
        [(obj, to_fileno(obj)) for obj in wlist],
        [(obj, to_fileno(obj)) for obj in xlist],
    )
    masks: dict[int, int] = {}
    # A descriptor is registered once, for both directions.
    for entries, mask in zip(
        wanted, (_system.POLLIN, _system.POLLOUT, _system.POLLPRI)
    ):
        for _, fd in entries:
            masks[fd] = masks.get(fd, 0) | mask
    poller = _system.poll()
    for fd, mask in masks.items():
        poller.register(fd, mask)
    deadline = None if timeout is None else monotonic() + timeout
    # As in the kernel's select: an error counts as readable and writable.
    failed = _system.POLLERR
    bits = (
        _system.POLLIN | _system.POLLHUP | failed,
        _system.POLLOUT | failed,
        _system.POLLPRI,
    )
    while True:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        happened = dict(poller.poll(milliseconds(left)))
        for fd, events in happened.items():
            if events & _system.POLLNVAL:
                raise OSError(errno.EBADF, f"descriptor {fd} is closed")
        readable, writable, urgent = (
            [obj for obj, fd in entries if happened.get(fd, 0) & mask]
            for entries, mask in zip(wanted, bits)
        )
        if readable or writable or urgent or not (happened or left):
            return readable, writable, urgent
        for fd in happened:  # hung up, which select does not report for writing
            poller.unregister(fd)


def milliseconds(timeout: Optional[float]) -> Optional[float]:
    """Return *timeout* in milliseconds for ``poll``, limited to 24 days."""
    return None if timeout is None else min(timeout * 1000, 0x7FFFFFFF)


def _by_select(
    rlist: Sequence[Any],
    wlist: Sequence[Any],
    xlist: Sequence[Any],
    timeout: Optional[float],
) -> Lists:
    for obj in (*rlist, *wlist, *xlist):
        to_fileno(obj)
    if not (rlist or wlist or xlist):  # an error on Windows
        threading.Event().wait(timeout)
        return [], [], []
    return _system.select(rlist, wlist, xlist, timeout)


class Poller:
    """Waits for one connection and one wake-up channel, repeatedly.

    :param fd: the connection's descriptor, which is always polled for reading
    """

    #: Whether the wake-up channel is edge-triggered, and need not be drained.
    edge_triggered = False

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._registered: Optional[tuple[bool, Optional[WakeupReader]]] = None

    def poll(
        self, writing: bool, wakeup: Optional[WakeupReader], timeout: Optional[float]
    ) -> tuple[bool, bool]:
        """Sleep until there is an event.

        :param writing: whether to wait for the connection to be writable, too
        :param timeout: in seconds; ``None`` waits forever
        :returns: whether the connection, and whether *wakeup*, is readable
        :raises OSError: if a descriptor is closed
        """
        wanted = (writing, wakeup)
        if wanted != self._registered:
            self._register(writing, wakeup)
            self._registered = wanted
        return self._poll(timeout)

    def close(self) -> None:
        """Release its system resources."""

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        raise NotImplementedError

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        raise NotImplementedError


class SelectPoller(Poller):
    """A poller for systems without ``poll``."""

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        self._reading = [self._fd] if wakeup is None else [self._fd, wakeup.fileno()]
        self._writing = [self._fd] if writing else []

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        readable, _, _ = _by_select(self._reading, self._writing, [], timeout)
        return self._fd in readable, any(fd != self._fd for fd in readable)


class PollPoller(Poller):
    """A poller for systems without ``epoll``."""

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        self._object = _system.poll()
        mask = _system.POLLIN | (_system.POLLOUT if writing else 0)
        self._object.register(self._fd, mask)
        if wakeup is not None:
            self._object.register(wakeup, _system.POLLIN)

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        readable = woken = False
        for fd, events in self._object.poll(milliseconds(timeout)):
            if events & _system.POLLNVAL:
                raise OSError(errno.EBADF, f"descriptor {fd} is closed")
            if fd != self._fd:
                woken = True
            elif events & ~_system.POLLOUT:
                readable = True
        return readable, woken


class EpollPoller(Poller):
    """A poller that keeps its registrations in the kernel."""

    edge_triggered = True

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._suspended = False
        self._object = _system.epoll()
        try:
            self._object.register(fd, 0)
        except BaseException:
            self._object.close()
            raise

    def suspend(self) -> None:
        """Ignore the connection until :meth:`resume` or the next poll."""
        self._suspended = True
        self._object.modify(self._fd, 0)
        self._suspended = True  # another caller may have reset it meanwhile

    def resume(self) -> None:
        """Poll the connection again."""
        self._suspended = False
        self._object.modify(self._fd, _system.EPOLLIN)

    def close(self) -> None:
        """Close the descriptor; in a forked child, the parent's is not affected."""
        self._object.close()

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        mask = _system.EPOLLIN | (_system.EPOLLOUT if writing else 0)
        self._object.modify(self._fd, mask)
        old = None if self._registered is None else self._registered[1]
        if wakeup is not old:
            if old is not None:
                self._object.unregister(old)
            if wakeup is not None:
                self._object.register(wakeup, _system.EPOLLIN | _system.EPOLLET)

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        if self._suspended:
            self.resume()
        readable = woken = False
        for fd, events in self._object.poll(timeout, 2):
            if fd != self._fd:
                woken = True
            elif events & ~_system.EPOLLOUT:
                readable = True
        return readable, woken


def make_poller(fd: int) -> Poller:
    """Return the best poller available, for the connection *fd*."""
    if hasattr(_system, "epoll"):
        return EpollPoller(fd)
    return PollPoller(fd) if HAVE_POLL else SelectPoller(fd)
