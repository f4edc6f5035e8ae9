"""What to call a callback in a log, and where a thread stands."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from contextvars import Context
from typing import Any, Optional

from kazoo.protocol.states import WatchedEvent


def describe(callback: Callable[..., Any]) -> str:
    """Return a callback's qualified name, and for a watch its event's path."""
    path = ""
    while isinstance(callback, functools.partial):
        for argument in callback.args:
            if isinstance(argument, WatchedEvent) and argument.path:
                path = f" (watch of {argument.path})"
        inner = callback.func
        if isinstance(getattr(inner, "__self__", None), Context) and callback.args:
            inner = callback.args[0]  # the context's run: name what it runs
        callback = inner
    name = getattr(callback, "__qualname__", None) or type(callback).__qualname__
    module = getattr(callback, "__module__", None) or type(callback).__module__
    return f"{module}.{name}{path}"


def stack_of(ident: Optional[int]) -> str:
    """Return the stack of the thread *ident* as text, the innermost call last."""
    frame = None if ident is None else sys._current_frames().get(ident)
    if frame is None:
        return "  (no such thread)"
    return "".join(traceback.format_stack(frame)).rstrip()
