"""Callbacks: binding, running and describing them.

1. An exception of a callback is logged, and has no further effect.
2. Describing a callback never raises. It may run the object's own code, so it is not
   done in connection threads, but in a thread that may block: the one that logs it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from _thread import LockType, allocate_lock
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Optional

from kazoo.protocol.states import WatchedEvent

from . import _fork

if TYPE_CHECKING:
    from ._zk_loop import ConnectionThread

_log = logging.getLogger("kazoo_seqthreading.worker")


class LinkedCallback:
    """A callback linked to a result; it runs once, however often this is called.

    :param func: the callback
    :param context: the context to run it in; ``None`` for internal callbacks and
        kazoo's, which never block, and run in the thread that completes the result
    :param result: the callback's argument
    :param claim: shared by the links of equal callbacks, of which one runs
    """

    __slots__ = ("_claim", "_generation", "_result", "context", "func")

    def __init__(
        self,
        func: Callable[[Any], Any],
        context: Optional[Context],
        result: Any,
        claim: Optional[LockType] = None,
    ) -> None:
        self.func = func
        self.context = context
        self._result = result
        self._claim = allocate_lock() if claim is None else claim
        self._generation = _fork.generation

    def __call__(self) -> None:
        if not self._claim.acquire(False):
            return
        if self.context is None:
            self.func(self._result)
        elif self._generation == _fork.generation:  # else it is the parent's
            self.context.run(self.func, self._result)


class WatchCallback:
    """A watch function with its event.

    If it was ``held`` by a stopped handler, it does not run if its client was stopped
    meanwhile, as the event's session has ended.

    :param thread: the client's connection thread, if known
    """

    __slots__ = ("_thread", "args", "func", "held")

    def __init__(
        self,
        func: Callable[..., Any],
        args: Any,
        thread: Optional[ConnectionThread],
    ) -> None:
        check_callable(func)
        self.func = func
        self.args = args
        self.held = False
        self._thread = thread

    def __call__(self) -> None:
        if not (self.held and self._thread is not None and self._thread.ended):
            self.func(*self.args)


def check_callable(callback: object) -> None:
    """Raise a :exc:`TypeError` if *callback* cannot be called."""
    if not callable(callback):
        kind = type(callback).__name__
        raise TypeError(f"a callback must be callable, not of type {kind}")


def run_isolated(callback: Callable[[], Any]) -> None:
    """Run *callback*, and log any exception."""
    try:
        callback()
    except BaseException:
        log_failure(callback)


def log_failure(callback: object) -> None:
    """Log the exception raised by *callback*; never raises."""
    try:
        _log.exception("Exception in %s", describe(callback))
    except BaseException:  # a log handler that fails
        pass


def describe(callback: object) -> str:
    """Return a callback's qualified name, with the event's path if it is a watch."""
    try:
        return _describe(callback)
    except BaseException:  # its attributes may raise
        return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _describe(callback: Any) -> str:
    path = ""
    while type(callback) in (partial, LinkedCallback, WatchCallback):
        for argument in getattr(callback, "args", ()):
            if type(argument) is WatchedEvent and argument.path:
                path = f" (watch of {argument.path})"
        callback = callback.func
    try:
        return f"{callback.__module__}.{callback.__qualname__}{path}"
    except BaseException:
        kind = type(callback)
        return f"{kind.__module__}.{kind.__qualname__}{path}"


def stack_of(ident: Optional[int]) -> str:
    """Return the stack of the thread *ident* as text, the innermost frame last."""
    frame = None if ident is None else sys._current_frames().get(ident)
    if frame is None:
        return "  (no such thread)"
    return "".join(traceback.format_stack(frame)).rstrip()
