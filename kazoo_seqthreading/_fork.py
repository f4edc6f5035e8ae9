"""What a forked child must know: that it is one, and what it inherited.

1. ``generation`` grows by one in every child. Whoever remembers another number was
   made in a parent: its threads are gone.
2. What has threads, locks or descriptors (handlers, connections, wake-up channels,
   events, locks) registers here, and is told in the child before any other code runs
   there, in ``_after_fork()``. It takes no lock and runs no user code in it; locks
   are made anew, for a thread that is not there may have held them. (Users get some
   of these objects: the method is not theirs to see.)
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Optional, Protocol


class ForkAware(Protocol):
    """An object that has to know that it now lives in a child."""

    def _after_fork(self) -> None:
        """Let go of everything that belongs to the parent."""


generation = 0
_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_functions: list[Callable[[], None]] = []


def register(obj: ForkAware) -> None:
    """Call ``obj._after_fork()`` in every child forked while *obj* lives."""
    _registered.add(obj)


def in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call *function*, of a module, in every child: a decorator."""
    _functions.append(function)
    return function


def _in_child() -> None:
    global generation
    generation += 1
    for function in _functions:
        function()
    failure: Optional[Exception] = None
    for obj in list(_registered):
        try:
            obj._after_fork()
        except Exception as error:  # no descriptor left: tell the others all the same
            failure = error
    if failure is not None:
        raise failure


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
