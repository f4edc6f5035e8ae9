"""Making a connection: name, TCP and TLS, under one deadline.

Whatever fails, the socket is closed, and the error is an ``OSError`` or one of its
family.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Optional, Union

from ._threads import Spawned
from ._tls import Codec

#: For those who give no timeout: kazoo's pinger.
DEFAULT_TIMEOUT = 10.0

Address = tuple[str, int]
KeepAlive = Union[bool, tuple[int, int, int]]
Spawn = Callable[..., Spawned]


class Deadline:
    """A moment, and how long it is until then."""

    def __init__(self, timeout: float) -> None:
        self._end = monotonic() + timeout

    def left(self, share: int = 1) -> float:
        """Return the seconds left, divided by *share*.

        :raises OSError: ``ETIMEDOUT`` if none are
        """
        seconds = self._end - monotonic()
        if seconds <= 0:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return seconds / share


def connect(
    address: Address,
    deadline: Deadline,
    *,
    context: Optional[ssl.SSLContext],
    hostname: Optional[str],
    keepalive: KeepAlive,
    spawn: Spawn,
) -> tuple[socket.socket, Optional[Codec]]:
    """Connect to the first of the host's addresses that answers.

    :returns: the socket, and with a *context* its TLS, after the handshake
    :raises OSError: if no address answers in time; :exc:`ssl.SSLError` if TLS fails
    """
    try:
        infos = _resolve(address, deadline, spawn)
        failure: Optional[OSError] = None
        for number, (family, kind, protocol, _, sockaddr) in enumerate(infos):
            try:
                sock = socket.socket(family, kind, protocol)
                try:
                    # So that a dead address leaves time for the next.
                    sock.settimeout(deadline.left(len(infos) - number))
                    sock.connect(sockaddr)
                    _set_options(sock, keepalive)
                    codec = _shake_hands(sock, context, hostname, deadline)
                except BaseException:
                    sock.close()
                    raise
                return sock, codec
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
        raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    except socket.timeout as error:
        if error.errno is None:
            error.errno = errno.ETIMEDOUT
            error.strerror = "no answer in time"
        raise


def _resolve(address: Address, deadline: Deadline, spawn: Spawn) -> list[Any]:
    host, port = address[:2]
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:  # no name server is asked
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except Exception as error:
            answer.append(error)

    # getaddrinfo knows no timeout: a thread of its own waits for it.
    try:
        spawn(ask, "resolve", dedicated=True).join(deadline.left())
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    if not answer:
        raise OSError(errno.ETIMEDOUT, "the name was not resolved in time")
    if isinstance(answer[0], Exception):
        raise answer[0]
    infos: list[Any] = answer[0]
    return infos


def _set_options(sock: socket.socket, keepalive: KeepAlive) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if isinstance(keepalive, tuple):
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        for name, value in zip(names, keepalive):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _shake_hands(
    sock: socket.socket,
    context: Optional[ssl.SSLContext],
    hostname: Optional[str],
    deadline: Deadline,
) -> Optional[Codec]:
    if context is None:
        return None
    codec = Codec(context, hostname)

    def receive(size: int) -> bytes:
        sock.settimeout(deadline.left())
        return sock.recv(size)

    def send(data: bytes) -> None:
        sock.settimeout(deadline.left())
        sock.sendall(data)

    codec.handshake(receive, send)
    return codec
