"""What is known here of kazoo's inside, in one place.

Nothing in kazoo is replaced. These functions only recognise objects that kazoo hands
to its handler, and look at its queues; ``tests/test_kazoo_facts.py`` holds them against
the installed kazoo. Where kazoo is not as expected, they say so, and the handler does
without.
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

#: States of a connection's client that tell why kazoo has closed it.
EXPIRED, AUTH_FAILED = KeeperState.EXPIRED_SESSION, KeeperState.AUTH_FAILED

_OWN = __name__.rpartition(".")[0]
_IN_SELECT = (f"{_OWN}._connection", f"{_OWN}._select")
_CHAIN_LINK = re.compile(r"KazooClient\.\w+_async\.<locals>\.")
#: What ``kazoo.handlers.utils.wrap`` makes of a function.
_WRAPPED = "wrap.<locals>.capture.<locals>.captured_function"

#: The methods that take a step of the main loop, with a checksum of the names that
#: their code uses. They are the same in 2.8 to 2.11.
_METHODS = {
    "_send_request": 0x74490BB2,
    "_submit": 0x905D5953,
    "_write": 0x8389D79F,
    "_read_response": 0xB1998869,
    "_read_watch_event": 0x6751DE41,
}

#: The types of requests after whose replies the connection goes on as before.
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
    """Tell whether the methods that take a connection's steps are those known here."""
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


def is_chain_link(callback: Any) -> bool:
    """Tell whether *callback* is a link of one of kazoo's own asynchronous chains.

    ``KazooClient.create_async``, ``ensure_path_async`` and ``sync_async`` link local
    functions to results, wrapped and some as ``functools.partial``. None of them
    blocks.
    """
    if type(callback) is functools.partial:
        callback = callback.func
    if type(callback) is FunctionType and callback.__qualname__ == _WRAPPED:
        callback = _unwrap(callback)
    return (
        type(callback) is FunctionType
        and callback.__module__ == "kazoo.client"
        and _CHAIN_LINK.match(callback.__qualname__) is not None
    )


def _unwrap(function: FunctionType) -> Any:
    """Return the function that ``kazoo.handlers.utils.wrap`` was given."""
    inner = getattr(function, "__wrapped__", function)
    cells = dict(zip(inner.__code__.co_freevars, inner.__closure__ or ()))
    return cells["function"].cell_contents if "function" in cells else None


def connection_of(func: Any) -> Optional[ConnectionHandler]:
    """Return the connection if *func* is the routine of its connection thread."""
    if type(func) is MethodType and func.__func__ is ConnectionHandler.zk_loop:
        connection: Any = func.__self__
        return connection  # type: ignore[no-any-return]
    return None


def has_queues(connection: ConnectionHandler) -> bool:
    """Tell whether the connection's requests are where 2.8 to 2.11 have them."""
    client = getattr(connection, "client", None)
    return (
        type(getattr(client, "_queue", None)) is deque
        and type(getattr(client, "_pending", None)) is deque
    )


def in_flight(connection: ConnectionHandler) -> list[Any]:
    """Return the results of the requests that wait for a reply, or to be sent."""
    if not has_queues(connection):
        return []
    client = connection.client
    return [entry[1] for entry in (*client._queue, *client._pending)]


def results_behind(callback: Any) -> list[Any]:
    """Return the results that a link of kazoo's own chains can complete."""
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
                    pass  # empty
    return found


def is_set_by(connection: ConnectionHandler, event: object, forever: bool) -> bool:
    """Tell whether it is the connection's thread that sets *event*.

    :param forever: whether it is waited for without a time-out. kazoo's ``stop`` joins
        that thread after it has waited for ``connection_stopped``, time-out or not.
    """
    if event is getattr(connection, "connection_stopped", None):
        return True
    return forever and event is getattr(connection.client, "_live", None)


def unsent(connection: ConnectionHandler) -> bool:
    """Tell whether a connection that stands has something to send."""
    if not (has_queues(connection) and connection.client._live.is_set()):
        return False
    buffered = getattr(connection._socket, "unsent", None)
    return bool(connection.client._queue) or bool(buffered is not None and buffered())


def is_socket_of(connection: ConnectionHandler, sock: Optional[object]) -> bool:
    """Tell whether *sock* is the one over which kazoo talks to the server.

    ``None`` while it makes another one. A connection thread makes further sockets, to
    look for a server that is not read-only.
    """
    return getattr(connection, "_socket", connection) is sock


def is_stopped(connection: ConnectionHandler) -> bool:
    """Tell whether ``client.stop()`` was called."""
    client = getattr(connection, "client", None)
    stopped = getattr(client, "_stopped", None)
    return stopped is not None and bool(stopped.is_set())


def state_of(connection: ConnectionHandler) -> object:
    """Return the state of the connection's client, one of ``KeeperState``."""
    return getattr(getattr(connection, "client", None), "_state", None)


def found_server(connection: ConnectionHandler) -> bool:
    """Tell whether kazoo has found a server that is not read-only."""
    return bool(getattr(connection, "_rw_server", None))


def current_exception() -> str:
    """Name the exception that kazoo does not handle, at the end of a connection."""
    kind = sys.exc_info()[0]
    return "for an unknown reason" if kind is None else kind.__name__


def operation_of(request: Any) -> str:
    """Name a request's operation and path, and nothing else of it."""
    operation = type(request).__name__
    if operation == "Transaction":
        return f"{operation} of {len(request.operations)} operations"
    path = getattr(request, "path", None)
    return operation if path is None else f"{operation} {path}"


def foreign_code(frame: Optional[FrameType]) -> Optional[tuple[object, str, bool]]:
    """Find the code that kazoo called in its connection thread, which is at *frame*.

    :returns: what tells one call from another one, the code's name, and whether it is a
        state listener; ``None`` if kazoo, or this package, is itself at work
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
    """Name the code that kazoo called in this thread, and that made this call."""
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
