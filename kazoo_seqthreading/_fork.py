"""Fork detection: how objects learn that they are in a forked child.

1. ``generation`` is incremented in every child. An object that remembers another number
   was made in a parent, whose threads do not exist here.
2. Objects with threads, locks or descriptors (handlers, connections, wake-up channels,
   events, locks) register here. Their ``_after_fork()`` is called in the child before
   any other code runs there. It takes no lock and runs no user code; it replaces
   locks, which a thread of the parent may have held. (The name is private, as users
   get some of these objects.)
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Optional, Protocol


class ForkAware(Protocol):
    """An object that must be told when it is in a forked child."""

    def _after_fork(self) -> None:
        """Drop everything that belongs to the parent."""


generation = 0
_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_functions: list[Callable[[], None]] = []


def register(obj: ForkAware) -> None:
    """Call ``obj._after_fork()`` in every child forked while *obj* lives."""
    _registered.add(obj)


def run_in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call *function*, of a module, in every forked child; a decorator."""
    _functions.append(function)
    return function


def _after_fork_in_child() -> None:
    global generation
    generation += 1
    for function in _functions:
        function()
    failure: Optional[Exception] = None
    for obj in list(_registered):
        try:
            obj._after_fork()
        except Exception as error:  # out of descriptors, say: still call the others
            failure = error
    if failure is not None:
        raise failure


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
