"""What a forked child must know: that it is one, and what it inherited.

1. ``generation`` grows by one in every child. Whoever remembers another number was
   made in a parent: its threads are gone, and a lock of its may be held by one of
   them for ever.
   Here and below, each ``_lock`` is a module's or an object's own; in the child it is
   made anew, for it may be held by a thread that is not there.
2. Few and important objects (handlers, connections, wake-ups) register here and are
   told in the child before any other code runs there, in ``after_fork()``. They take
   no lock and run no user code in it.
3. The many (events, locks) compare generations when they are used next.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Optional, Protocol


class ForkAware(Protocol):
    """An object that has to know that it now lives in a child."""

    def after_fork(self) -> None:
        """Let go of everything that belongs to the parent."""


generation = 0
survivor = threading.get_ident()  #: the one thread that a child has of its parent's
_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_functions: list[Callable[[], None]] = []


def register(obj: ForkAware) -> None:
    """Call ``obj.after_fork()`` in every child forked while *obj* lives."""
    _registered.add(obj)


def in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call *function*, of a module, in every child: a decorator."""
    _functions.append(function)
    return function


def _in_child() -> None:
    global generation, survivor
    generation += 1
    survivor = threading.get_ident()
    for function in _functions:
        function()
    failure: Optional[Exception] = None
    for obj in list(_registered):
        try:
            obj.after_fork()
        except Exception as error:  # no descriptor left: tell the others all the same
            failure = error
    if failure is not None:
        raise failure


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
