"""``select`` by ``poll``: no limit on descriptors, nothing made and thrown away.

Where there is no ``select.poll`` (on Windows), ``select.select`` does it.
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

    What has been read already, as ``pending()`` tells, is readable, too.
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
        # A wake-up may be late: what woke for it has been sent.
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
    except (OSError, ValueError):  # ssl: closed, or not shaken hands yet
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
    # One registration for both directions of a descriptor.
    for entries, mask in zip(
        wanted, (_system.POLLIN, _system.POLLOUT, _system.POLLPRI)
    ):
        for _, fd in entries:
            masks[fd] = masks.get(fd, 0) | mask
    poller = _system.poll()
    for fd, mask in masks.items():
        poller.register(fd, mask)
    deadline = None if timeout is None else monotonic() + timeout
    # As the kernel's select sees them: an error is readable and writable.
    failed = _system.POLLERR
    bits = (
        _system.POLLIN | _system.POLLHUP | failed,
        _system.POLLOUT | failed,
        _system.POLLPRI,
    )
    while True:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        happened = dict(poller.poll(_milliseconds(left)))
        for fd, events in happened.items():
            if events & _system.POLLNVAL:
                raise OSError(errno.EBADF, f"descriptor {fd} is closed")
        readable, writable, urgent = (
            [obj for obj, fd in entries if happened.get(fd, 0) & mask]
            for entries, mask in zip(wanted, bits)
        )
        if readable or writable or urgent or not (happened or left):
            return readable, writable, urgent
        for fd in happened:  # hung up, which a caller who does not read cannot see
            poller.unregister(fd)


def _milliseconds(timeout: Optional[float]) -> Optional[float]:
    """Return *timeout* as ``poll`` takes it: 24 days are the most it knows."""
    return None if timeout is None else min(timeout * 1000, 0x7FFFFFFF)


def _by_select(
    rlist: Sequence[Any],
    wlist: Sequence[Any],
    xlist: Sequence[Any],
    timeout: Optional[float],
) -> Lists:
    for obj in (*rlist, *wlist, *xlist):
        to_fileno(obj)
    if not (rlist or wlist or xlist):  # Windows cannot wait for nothing
        threading.Event().wait(timeout)
        return [], [], []
    return _system.select(rlist, wlist, xlist, timeout)


class Poller:
    """Waits for one connection and one wake-up channel, again and again.

    :param fd: the connection's descriptor; it waits for replies
    """

    #: Whether bytes that woke once wake no more, so that they need not be taken out.
    edge_triggered = False

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._registered: Optional[tuple[bool, Optional[WakeupReader]]] = None

    def poll(
        self, writing: bool, wakeup: Optional[WakeupReader], timeout: Optional[float]
    ) -> tuple[bool, bool]:
        """Sleep until something happens.

        :param writing: whether the connection waits to be writable, too
        :param timeout: in seconds; ``None`` waits for ever
        :returns: whether the connection can be read, and whether *wakeup* can
        :raises OSError: if a descriptor is closed
        """
        wanted = (writing, wakeup)
        if wanted != self._registered:
            self._register(writing, wakeup)
            self._registered = wanted
        return self._poll(timeout)

    def close(self) -> None:
        """Release what the system keeps for it."""

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        raise NotImplementedError

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        raise NotImplementedError


class SelectPoller(Poller):
    """For systems without ``poll``."""

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        self._reading = [self._fd] if wakeup is None else [self._fd, wakeup.fileno()]
        self._writing = [self._fd] if writing else []

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        readable, _, _ = _by_select(self._reading, self._writing, [], timeout)
        return self._fd in readable, any(fd != self._fd for fd in readable)


class PollPoller(Poller):
    """For systems without ``epoll``."""

    def _register(self, writing: bool, wakeup: Optional[WakeupReader]) -> None:
        self._object = _system.poll()
        mask = _system.POLLIN | (_system.POLLOUT if writing else 0)
        self._object.register(self._fd, mask)
        if wakeup is not None:
            self._object.register(wakeup, _system.POLLIN)

    def _poll(self, timeout: Optional[float]) -> tuple[bool, bool]:
        readable = woken = False
        for fd, events in self._object.poll(_milliseconds(timeout)):
            if events & _system.POLLNVAL:
                raise OSError(errno.EBADF, f"descriptor {fd} is closed")
            if fd != self._fd:
                woken = True
            elif events & ~_system.POLLOUT:
                readable = True
        return readable, woken


class EpollPoller(Poller):
    """Keeps its registrations in the kernel."""

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
        """Do not wake for the connection, until :meth:`resume` or the next poll."""
        self._suspended = True
        self._object.modify(self._fd, 0)
        self._suspended = True  # another caller may have resumed it meanwhile

    def resume(self) -> None:
        """Wake for the connection again."""
        self._suspended = False
        self._object.modify(self._fd, _system.EPOLLIN)

    def close(self) -> None:
        """Close the descriptor; in a forked child the parent's stays as it is."""
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
    """Return the best poller that the system has, for the connection *fd*."""
    if hasattr(_system, "epoll"):
        return EpollPoller(fd)
    return PollPoller(fd) if HAVE_POLL else SelectPoller(fd)
