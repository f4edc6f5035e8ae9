"""TLS: cached contexts, and a codec between plain data and TLS records.

The codec uses memory BIOs instead of a socket: one ``recv`` can read dozens of records,
and no received data is hidden from ``poll``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple, Optional, Union

from ._exceptions import add_to_message

Data = Union[bytes, bytearray, memoryview]


class TLSArguments(NamedTuple):
    """kazoo's TLS arguments; see ``KazooClient``."""

    ca: Optional[str]
    certfile: Optional[str]
    keyfile: Optional[str]
    keyfile_password: Optional[str]
    verify_certs: bool
    check_hostname: bool
    options: Optional[int]
    ciphers: Optional[str]


class ContextCache:
    """Contexts made from kazoo's arguments, cached until a file changes on disk."""

    def __init__(self) -> None:
        self._cache: dict[TLSArguments, tuple[object, ssl.SSLContext]] = {}

    def get(self, arguments: TLSArguments) -> ssl.SSLContext:
        """Return a context, TLS 1.2 or newer.

        :raises ValueError: for ``check_hostname`` without ``verify_certs``
        :raises OSError: if a file cannot be read; an :exc:`ssl.SSLError` if its content
            is invalid
        """
        if arguments.check_hostname and not arguments.verify_certs:
            raise ValueError("check_hostname needs verify_certs")
        if not (arguments.certfile and arguments.keyfile):  # kazoo ignores one alone
            arguments = arguments._replace(certfile=None, keyfile=None)
        # Before they are read: a change in between is then detected next time.
        versions = tuple(
            _file_version(path)
            for path in (arguments.ca, arguments.certfile, arguments.keyfile)
        )
        cached = self._cache.get(arguments)
        if cached is not None and cached[0] == versions:
            return cached[1]
        context = _make_context(arguments)
        self._cache[arguments] = (versions, context)
        return context


def _file_version(path: Optional[str]) -> object:
    if not path:
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


def _make_context(arguments: TLSArguments) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if arguments.options is not None:
        context.options = ssl.Options(arguments.options)
    if arguments.ciphers:
        context.set_ciphers(arguments.ciphers)
    context.check_hostname = arguments.check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if arguments.verify_certs else ssl.CERT_NONE
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    files = arguments.ca
    try:
        if arguments.ca:
            context.load_verify_locations(arguments.ca)
        if arguments.certfile:
            files = f"{arguments.certfile}, {arguments.keyfile}"
            context.load_cert_chain(
                arguments.certfile, arguments.keyfile, arguments.keyfile_password
            )
    except OSError as error:
        add_to_message(error, str(files))
        raise
    return context


class Codec:
    """Encrypts and decrypts the data of one connection.

    :param hostname: the server's name for SNI, and for the context's check
    """

    def __init__(self, context: ssl.SSLContext, hostname: Optional[str]) -> None:
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.ssl = context.wrap_bio(
            self._incoming, self.outgoing, server_hostname=hostname
        )

    def handshake(
        self, receive: Callable[[int], bytes], send: Callable[[bytes], Any]
    ) -> None:
        """Perform the handshake.

        :param receive: a blocking ``recv``
        :param send: a blocking ``sendall``
        :raises ssl.SSLError: if it fails
        """
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                send(self.outgoing.read())
                data = receive(65536)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                alert = self.outgoing.read()
                if alert:
                    try:
                        send(alert)
                    except OSError:
                        pass  # the first error is raised
                raise
            else:
                send(self.outgoing.read())
                return

    def encrypt(self, data: Data) -> bytes:
        """Return the records for *data*."""
        self.ssl.write(data)
        return self.outgoing.read()

    def decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """Return the content of the records in *data*, and whether the peer has closed.

        :param data: received data; ``b""`` if the peer has closed the connection
        """
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        parts: list[bytes] = []
        try:
            while True:
                part = self.ssl.read(65536)
                if not part:
                    return b"".join(parts), True
                parts.append(part)
        except ssl.SSLWantReadError:
            return b"".join(parts), False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b"".join(parts), True
