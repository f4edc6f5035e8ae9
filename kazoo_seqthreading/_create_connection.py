"""Establishing a connection: DNS, TCP and TLS, with one deadline.

On failure the socket is closed, and the error is an ``OSError`` or a subclass.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Optional, Union

from ._connection import Connection
from ._exceptions import add_to_message
from ._history import Facts
from ._kazoo import is_socket_of
from ._tls import Codec, ContextCache, TLSArguments
from ._waiting import check_timeout
from ._zk_loop import current_connection_thread

#: Used if there is no timeout, as when kazoo looks for a read-write server.
DEFAULT_TIMEOUT = 10.0

Address = tuple[str, int]
KeepAlive = Union[bool, tuple[int, int, int]]
Spawn = Callable[..., threading.Thread]


class Deadline:
    """A point in time, and the time remaining until then."""

    def __init__(self, timeout: float) -> None:
        self._end = monotonic() + timeout

    def remaining(self, share: int = 1) -> float:
        """Return the remaining seconds, divided by *share*.

        :raises OSError: ``ETIMEDOUT`` if the deadline has passed
        """
        seconds = self._end - monotonic()
        if seconds <= 0:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return seconds / share


class Connector:
    """Establishes a handler's connections.

    :param connect_timeout: timeout for one attempt in seconds, or ``None``
    :param ssl_context: used instead of one made from kazoo's arguments
    :param keepalive: ``True``, or idle time, interval (seconds) and count
    :param spawn: starts a thread
    """

    def __init__(
        self,
        connect_timeout: Optional[float],
        ssl_context: Optional[ssl.SSLContext],
        keepalive: KeepAlive,
        spawn: Spawn,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._ssl_context = ssl_context
        self._keepalive = keepalive
        self._spawn = spawn
        self._contexts = ContextCache()
        self._hostnames: dict[Address, str] = {}  # the servers' names, for TLS

    def connect(
        self,
        address: Any,
        hostname: Any,
        timeout: Optional[float],
        arguments: Optional[TLSArguments],
    ) -> Connection:
        """Connect to *address*, with TLS if there are *arguments* for it.

        :param hostname: the server's name for SNI and ``check_hostname``
        :param timeout: in seconds; ``connect_timeout`` is used if it is less
        """
        if not (isinstance(address, (tuple, list)) and len(address) >= 2):
            raise TypeError(f"address must be (host, port), not {address!r}")
        address = (address[0], address[1])
        if isinstance(hostname, str):
            if arguments is not None:
                self._hostnames[address] = hostname
        else:
            # kazoo's command() passes a port here: use the name of this server.
            hostname = self._hostnames.get(address, address[0])
        limit = self._effective_timeout(timeout)
        server = f"{address[0]}:{address[1]}"
        thread = current_connection_thread()
        try:
            context = None
            if arguments is not None:
                context = self._ssl_context or self._contexts.get(arguments)
            connection = self._connect(address, hostname, Deadline(limit), context)
            connection.settimeout(limit)
        except BaseException as error:
            if thread is not None:
                thread.traffic.connections_failed += 1
                if is_socket_of(thread.connection, None):
                    why = getattr(error, "strerror", None) or type(error).__name__
                    thread.history.attempt_failed(server, why)
            if isinstance(error, OSError):
                add_to_message(error, server)
            raise
        if thread is not None:
            thread.traffic.connections_made += 1
        connection.facts = Facts(server, None if thread is None else thread.history)
        return connection

    def _effective_timeout(self, timeout: Optional[float]) -> float:
        """Return the timeout of a connection attempt, in seconds."""
        check_timeout(timeout)
        limits = [
            limit for limit in (timeout, self._connect_timeout) if limit is not None
        ]
        return min(limits) if limits else socket.getdefaulttimeout() or DEFAULT_TIMEOUT

    def _connect(
        self,
        address: Address,
        hostname: Optional[str],
        deadline: Deadline,
        context: Optional[ssl.SSLContext],
    ) -> Connection:
        """Connect to the first of the host's addresses that accepts.

        :raises OSError: if none does in time; :exc:`ssl.SSLError` if TLS fails
        """
        failure: Optional[OSError] = None
        try:
            infos = _resolve(address, deadline, self._spawn)
            for number, (family, kind, protocol, _, sockaddr) in enumerate(infos):
                try:
                    sock = socket.socket(family, kind, protocol)
                    try:
                        # Share the time: an address may be unreachable.
                        sock.settimeout(deadline.remaining(len(infos) - number))
                        sock.connect(sockaddr)
                        _set_options(sock, self._keepalive)
                        codec = _tls_handshake(sock, context, hostname, deadline)
                        return Connection(sock, codec)
                    except BaseException:
                        sock.close()
                        raise
                except ssl.SSLError:
                    raise
                except OSError as error:
                    failure = error
            raise failure or OSError(
                errno.EADDRNOTAVAIL, f"no addresses for {address[0]!r}"
            )
        except socket.timeout as error:
            if error.errno is None:
                error.errno = errno.ETIMEDOUT
                error.strerror = "no answer in time"
            raise
        finally:
            failure = None  # break the reference cycle of its traceback


def _resolve(address: Address, deadline: Deadline, spawn: Spawn) -> list[Any]:
    host, port = address[:2]
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:  # no DNS look-up is needed
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except Exception as error:
            answer.append(error)

    # getaddrinfo has no timeout, so it runs in a thread of its own.
    try:
        spawn(ask, "resolve").join(deadline.remaining())
        if not answer:
            raise OSError(errno.ETIMEDOUT, "the name was not resolved in time")
        if isinstance(answer[0], Exception):
            raise answer[0]
        infos: list[Any] = answer[0]
        return infos
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    finally:
        answer.clear()  # break the reference cycle of an exception's traceback


def _set_options(sock: socket.socket, keepalive: KeepAlive) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if isinstance(keepalive, tuple):
        # The first option has another name on macOS.
        idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
        for name, value in zip((idle, "TCP_KEEPINTVL", "TCP_KEEPCNT"), keepalive):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _tls_handshake(
    sock: socket.socket,
    context: Optional[ssl.SSLContext],
    hostname: Optional[str],
    deadline: Deadline,
) -> Optional[Codec]:
    if context is None:
        return None
    codec = Codec(context, hostname)

    def receive(size: int) -> bytes:
        sock.settimeout(deadline.remaining())
        return sock.recv(size)

    def send(data: bytes) -> None:
        sock.settimeout(deadline.remaining())
        sock.sendall(data)

    codec.handshake(receive, send)
    return codec
