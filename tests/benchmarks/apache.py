"""Apache's own client, which is written in C: Debian's ``libzookeeper-mt2``."""

from __future__ import annotations

import threading
from ctypes import CDLL, CFUNCTYPE, byref, c_char_p, c_int, c_void_p, string_at
from ctypes import create_string_buffer as make_buffer
from importlib.metadata import PackageNotFoundError
from typing import Any

from tests.benchmarks.rows import Countdown

LIBRARY = "libzookeeper_mt.so.2"

TIMEOUT = 40.0
#: Large enough for what is read, and for ``struct Stat``.
SIZE = 1024
CONNECTED, ERRORS = 3, 1

Watcher = CFUNCTYPE(None, c_void_p, c_int, c_int, c_char_p, c_void_p)
Completion = CFUNCTYPE(None, c_int, c_void_p, c_int, c_void_p, c_void_p)


def find() -> str:
    """Look for the library; which version it is, it does not tell."""
    try:
        CDLL(LIBRARY)
    except OSError as error:
        raise PackageNotFoundError(LIBRARY) from error
    return ""


class Client:
    """A session of the library's, which has two threads of its own."""

    def __init__(self, hosts: str) -> None:
        self._library = library = CDLL(LIBRARY)
        library.zoo_set_debug_level(ERRORS)
        library.zookeeper_init.restype = c_void_p
        connected = threading.Event()

        def watch(handle: Any, kind: int, state: int, path: Any, context: Any) -> None:
            if state == CONNECTED:
                connected.set()

        self._watcher = Watcher(watch)
        self._handle = c_void_p(
            library.zookeeper_init(
                hosts.encode(), self._watcher, int(TIMEOUT * 1000), None, None, 0
            )
        )
        if not connected.wait(TIMEOUT):
            raise TimeoutError(f"no session with {hosts}")

    def close(self) -> None:
        self._library.zookeeper_close(self._handle)

    def sync(self, path: str, reads: int) -> int:
        """Read, one after the other."""
        node, value, stat = path.encode(), make_buffer(SIZE), make_buffer(SIZE)
        size, get = c_int(), self._library.zoo_get
        for _ in range(reads):
            size.value = SIZE
            _check(get(self._handle, node, 0, value, byref(size), stat))
            string_at(value, size.value)
        return reads

    def pipelined(self, path: str, reads: int, window: int) -> int:
        """Read with a number of reads outstanding; each makes the next one."""
        node, get, left = path.encode(), self._library.zoo_aget, iter(range(reads))
        countdown = Countdown(reads)

        def read() -> None:
            for _ in left:
                _check(get(self._handle, node, 0, completion, None))
                return

        def completed(error: int, value: Any, size: int, stat: Any, data: Any) -> None:
            _check(error)
            string_at(value, size)
            countdown()
            read()

        completion = Completion(completed)
        for _ in range(window):
            read()
        countdown.wait()
        return reads


def _check(error: int) -> None:
    if error:
        raise OSError(f"the library returned {error}")
