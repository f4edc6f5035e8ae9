"""All knowledge of kazoo's internals.

kazoo is not patched. These functions recognise objects that kazoo passes to its
handler, and inspect its queues; ``tests/test_kazoo_facts.py`` checks them against the
installed kazoo. If kazoo is not as expected, they say so, and the handler works without
the feature.
"""

from __future__ import annotations

import functools
import re
import sys
import zlib
from collections import deque
from types import FrameType, FunctionType, MethodType
from typing import Any, Optional

from kazoo.interfaces import IAsyncResult
from kazoo.protocol import serialization
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.states import KeeperState

#: States of a client that tell why kazoo has closed its connection.
EXPIRED, AUTH_FAILED = KeeperState.EXPIRED_SESSION, KeeperState.AUTH_FAILED

_OWN = __name__.rpartition(".")[0]
_IN_SELECT = (f"{_OWN}._connection", f"{_OWN}._select")
_INTERNAL_CALLBACK = re.compile(r"KazooClient\.\w+_async\.<locals>\.")
#: The qualified name of a function made by ``kazoo.handlers.utils.wrap``.
_WRAPPED = "wrap.<locals>.capture.<locals>.captured_function"

#: The methods that make a step of the main loop, with a checksum of the names that
#: their code uses. They are the same in kazoo 2.8 to 2.11.
_METHODS = {
    "_send_request": 0x74490BB2,
    "_submit": 0x905D5953,
    "_write": 0x8389D79F,
    "_read_response": 0xB1998869,
    "_read_watch_event": 0x6751DE41,
}

#: The types of requests that do not change the state of the connection.
ORDINARY = frozenset(
    (
        serialization.CheckVersion,
        serialization.Create,
        serialization.Create2,
        serialization.Delete,
        serialization.Exists,
        serialization.GetACL,
        serialization.GetChildren,
        serialization.GetChildren2,
        serialization.GetData,
        serialization.Reconfig,
        serialization.SetACL,
        serialization.SetData,
        serialization.Sync,
        serialization.Transaction,
    )
)


def methods_are_known(connection: ConnectionHandler) -> bool:
    """Return whether the methods of the main loop's steps are the known ones."""
    return type(connection) is ConnectionHandler and all(
        name not in vars(connection)
        and _checksum(getattr(ConnectionHandler, name, None)) == expected
        for name, expected in _METHODS.items()
    )


@functools.cache
def _checksum(function: Any) -> Optional[int]:
    if type(function) is not FunctionType:
        return None
    names = sorted(set(function.__code__.co_names))
    return zlib.crc32(" ".join(names).encode())


def is_internal_callback(callback: Any) -> bool:
    """Return whether *callback* is one of kazoo's own, as in ``create_async``.

    ``KazooClient.create_async``, ``ensure_path_async`` and ``sync_async`` link local
    functions to results, wrapped, and some in a ``functools.partial``. None of them
    blocks.
    """
    if type(callback) is functools.partial:
        callback = callback.func
    if type(callback) is FunctionType and callback.__qualname__ == _WRAPPED:
        callback = _unwrap(callback)
    return (
        type(callback) is FunctionType
        and callback.__module__ == "kazoo.client"
        and _INTERNAL_CALLBACK.match(callback.__qualname__) is not None
    )


def _unwrap(function: FunctionType) -> Any:
    """Return the function that was passed to ``kazoo.handlers.utils.wrap``."""
    inner = getattr(function, "__wrapped__", function)
    cells = dict(zip(inner.__code__.co_freevars, inner.__closure__ or ()))
    return cells["function"].cell_contents if "function" in cells else None


def connection_of(func: Any) -> Optional[ConnectionHandler]:
    """Return the connection if *func* is its ``zk_loop``, else ``None``."""
    if type(func) is MethodType and func.__func__ is ConnectionHandler.zk_loop:
        connection: Any = func.__self__
        return connection  # type: ignore[no-any-return]
    return None


def has_queues(connection: ConnectionHandler) -> bool:
    """Return whether the client has the request queues of kazoo 2.8 to 2.11."""
    client = getattr(connection, "client", None)
    return (
        type(getattr(client, "_queue", None)) is deque
        and type(getattr(client, "_pending", None)) is deque
    )


def in_flight(connection: ConnectionHandler) -> list[Any]:
    """Return the results of the requests that are unanswered or not sent yet."""
    if not has_queues(connection):
        return []
    client = connection.client
    return [entry[1] for entry in (*client._queue, *client._pending)]


def results_behind(callback: Any) -> list[Any]:
    """Return the results that one of kazoo's own callbacks can complete."""
    todo, found, seen = [callback], list[Any](), set[int]()
    while todo:
        obj = todo.pop()
        if id(obj) in seen:
            continue
        seen.add(id(obj))
        if issubclass(type(obj), IAsyncResult):
            found.append(obj)
        elif type(obj) is functools.partial:
            todo += (obj.func, *obj.args)
        elif type(obj) is FunctionType:
            for cell in obj.__closure__ or ():
                try:
                    todo.append(cell.cell_contents)
                except ValueError:
                    pass  # an empty cell
    return found


def is_set_by(connection: ConnectionHandler, event: object, forever: bool) -> bool:
    """Return whether the connection's thread must set *event* to end a wait for it.

    :param forever: whether the wait has no timeout. kazoo's ``stop`` joins that thread
        after it has waited for ``connection_stopped``, with or without a timeout.
    """
    if event is getattr(connection, "connection_stopped", None):
        return True
    return forever and event is getattr(connection.client, "_live", None)


def unsent(connection: ConnectionHandler) -> bool:
    """Return whether an established connection has unsent requests."""
    if not (has_queues(connection) and connection.client._live.is_set()):
        return False
    buffered = getattr(connection._socket, "unsent", None)
    return bool(connection.client._queue) or bool(buffered is not None and buffered())


def is_socket_of(connection: ConnectionHandler, sock: Optional[object]) -> bool:
    """Return whether *sock* is the socket of kazoo's connection to the server.

    That is ``None`` while kazoo connects. A connection thread makes other sockets, too,
    to look for a read-write server.
    """
    return getattr(connection, "_socket", connection) is sock


def is_stopped(connection: ConnectionHandler) -> bool:
    """Return whether ``client.stop()`` was called."""
    client = getattr(connection, "client", None)
    stopped = getattr(client, "_stopped", None)
    return stopped is not None and bool(stopped.is_set())


def state_of(connection: ConnectionHandler) -> object:
    """Return the state of the connection's client, one of ``KeeperState``."""
    return getattr(getattr(connection, "client", None), "_state", None)


def found_server(connection: ConnectionHandler) -> bool:
    """Return whether kazoo has found a read-write server."""
    return bool(getattr(connection, "_rw_server", None))


def current_exception() -> str:
    """Return the name of the exception with which kazoo's loop ends."""
    kind = sys.exc_info()[0]
    return "for an unknown reason" if kind is None else kind.__name__


def operation_of(request: Any) -> str:
    """Return a request's operation and path, without its data."""
    operation = type(request).__name__
    if operation == "Transaction":
        return f"{operation} of {len(request.operations)} operations"
    path = getattr(request, "path", None)
    return operation if path is None else f"{operation} {path}"


def foreign_code(frame: Optional[FrameType]) -> Optional[tuple[object, str, bool]]:
    """Return the foreign code that kazoo has called in a connection thread.

    :param frame: the thread's current frame
    :returns: the identity of the call, the code's name, and whether it is a state
        listener; ``None`` if only kazoo and this package are on the stack
    """
    found: Optional[FrameType] = None
    called_by: Optional[FrameType] = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if frame.f_code is ConnectionHandler.zk_loop.__code__:
            break
        if module in _IN_SELECT and found is None:
            return None  # it waits for the server
        if module.partition(".")[0] not in ("kazoo", _OWN, "logging"):
            found, called_by = frame, frame.f_back
        frame = frame.f_back
    if frame is None or found is None:
        return None
    is_listener = (
        called_by is not None and called_by.f_code.co_name == "_make_state_change"
    )
    return id(found), _place(found), is_listener


def _place(frame: FrameType) -> str:
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name} ({code.co_filename}:{frame.f_lineno})"


def calling_listener() -> str:
    """Return the name of the code, called by kazoo, that has made this call."""
    frame = sys._getframe(1)
    caller = frame
    outer = frame.f_back
    while outer is not None:
        package = outer.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("kazoo", _OWN):
            caller = outer
        elif caller is not frame and outer.f_code.co_name == "_make_state_change":
            break
        outer = outer.f_back
    return _place(caller)
