"""What the server gives: a socket that sends frames built beforehand.

It only counts the bytes of the replies, so nothing written in Python has more.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from _thread import allocate_lock
from contextlib import suppress
from functools import partial
from typing import Any

from kazoo.protocol.serialization import Close, Connect, int_struct

from tests.benchmarks.measure import Sample, take

TIMEOUT = 60.0


def measure_handover(address: tuple[str, int], request: Any, operations: int) -> Sample:
    """Send *request* so many times, one after the other, for another thread.

    It is what any handler has to do for a synchronous call, and nothing more: the
    caller wakes a thread that waits for it and for the server, and is woken by it.
    """
    with socket.create_connection(address, TIMEOUT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _say_hello(sock)
        frame = _frame(request, 1)

        def work() -> int:
            ring, rings = socket.socketpair()
            poll, done = select.poll(), allocate_lock()
            poll.register(sock, select.POLLIN)
            poll.register(ring, select.POLLIN)

            def serve() -> None:
                for _ in range(operations):
                    poll.poll()
                    ring.recv(1)
                    sock.send(frame)
                    poll.poll()
                    sock.recv(65536)
                    done.release()

            thread = threading.Thread(target=serve)
            with ring, rings:
                done.acquire()
                thread.start()
                for _ in range(operations):
                    rings.send(b"0")
                    done.acquire()
                thread.join()
            return operations

        return take(work)


def measure(
    address: tuple[str, int],
    context: ssl.SSLContext | None,
    request: Any,
    window: int,
    operations: int,
) -> Sample:
    """Send *request* so many times, with up to *window* outstanding."""
    with socket.create_connection(address, TIMEOUT) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return _measure(plain, request, window, operations)
        with context.wrap_socket(plain, server_hostname=address[0]) as secure:
            return _measure(secure, request, window, operations)


def _say_hello(sock: socket.socket) -> None:
    hello = Connect(0, 0, int(TIMEOUT * 1000), 0, b"\0" * 16, False).serialize()
    sock.sendall(int_struct.pack(len(hello)) + hello)
    _receive_frame(sock)


def _measure(sock: socket.socket, request: Any, window: int, operations: int) -> Sample:
    _say_hello(sock)
    sock.sendall(_frame(request, 1))
    reply = _receive_frame(sock)
    error = int_struct.unpack_from(reply, 12)[0]
    if error:
        raise RuntimeError(f"the server answered {request!r} with error {error}")
    frames = b"".join(_frame(request, xid + 2) for xid in range(operations))
    sample = take(partial(_exchange, sock, frames, 4 + len(reply), window, operations))
    sock.sendall(_frame(Close, 1))
    with suppress(OSError):  # TLS does not like how the server ends it
        while sock.recv(65536):
            pass
    return sample


def _exchange(
    sock: socket.socket, frames: bytes, reply_size: int, window: int, operations: int
) -> int:
    frame_size = len(frames) // operations
    sent = received = 0
    while received < operations * reply_size:
        end = min(operations, received // reply_size + window)
        if end > sent:
            sock.sendall(frames[sent * frame_size : end * frame_size])
            sent = end
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("the server has closed the connection")
        received += len(data)
    return operations


def _frame(request: Any, xid: int) -> bytes:
    content = int_struct.pack(xid) + int_struct.pack(request.type)
    if request is not Close:
        content += bytes(request.serialize())
    return int_struct.pack(len(content)) + content


def _receive_frame(sock: socket.socket) -> bytes:
    return _receive(sock, int_struct.unpack(_receive(sock, 4))[0])


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError("the server has closed the connection")
        data += part
    return data
