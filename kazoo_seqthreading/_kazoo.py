"""What is known here of kazoo's inside, in one place.

Nothing in kazoo is replaced. These functions only recognise objects that kazoo hands
to its handler; ``tests/test_kazoo_facts.py`` holds them against the installed kazoo.
"""

from __future__ import annotations

import functools
import re
import sys
from types import FunctionType
from typing import Any

from kazoo.protocol.connection import ConnectionHandler

_CHAIN_LINK = re.compile(r"KazooClient\.\w+_async\.<locals>\.")
#: What ``kazoo.handlers.utils.wrap`` makes of a function.
_WRAPPED = "wrap.<locals>.capture.<locals>.captured_function"


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


def is_connection_loop(func: Any) -> bool:
    """Tell whether *func* is the routine of a client's connection thread."""
    return getattr(func, "__func__", None) is ConnectionHandler.zk_loop


def calling_listener() -> str:
    """Name the code that kazoo called in this thread, and that made this call."""
    frame = sys._getframe(1)
    caller = frame
    own = __name__.rpartition(".")[0]
    outer = frame.f_back
    while outer is not None:
        package = outer.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("kazoo", own):
            caller = outer
        elif caller is not frame and outer.f_code.co_name == "_make_state_change":
            break
        outer = outer.f_back
    code = caller.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name} ({code.co_filename}:{caller.f_lineno})"
