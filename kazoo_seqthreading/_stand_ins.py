"""Stand-ins for kazoo's classes, for type checkers that do not know kazoo.

Nothing here is imported at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class IHandler:
    """:class:`kazoo.interfaces.IHandler`."""


class IAsyncResult:
    """:class:`kazoo.interfaces.IAsyncResult`."""


class SequentialThreadingHandler:
    """:class:`kazoo.handlers.threading.SequentialThreadingHandler`."""


class KazooTimeoutError(Exception):
    """:exc:`kazoo.handlers.threading.KazooTimeoutError`."""


class Callback(NamedTuple):
    """:class:`kazoo.protocol.states.Callback`."""

    type: Any
    func: Callable[..., Any]
    args: tuple[Any, ...]
