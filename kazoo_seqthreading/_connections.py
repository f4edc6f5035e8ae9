"""The connection threads of a handler's clients.

A client's connection thread reads every reply and runs every state listener. So a
blocking call in it can never return.

In a forked child these threads are gone, and kazoo's clients do not know. kazoo has
code that closes a client properly: the end of ``ConnectionHandler.zk_loop``, which its
thread runs when the client's ``stopped`` event is set. Here that code is run once more
in the child, for each inherited client, with the first event that it asks pretending
to be set. It touches neither network nor session: it fails what was pending, tells
the listeners ``LOST``, forgets the parent's session, and leaves a client that can be
stopped, closed and started anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ._result import allow_batches

Loop = Callable[[], Any]

_log = logging.getLogger("kazoo_seqthreading.fork")


class ConnectionThreads:
    """Who runs a client's connection loop, here and before a fork."""

    def __init__(self) -> None:
        # Each thread adds and removes its own entry: single operations of a dict.
        self._loops: dict[int, Loop] = {}
        self.inherited: dict[int, Loop] = {}  #: of the parent, not closed yet
        # Each thread adds and removes itself.
        self._pretending: set[int] = set()

    def __len__(self) -> int:
        return len(self._loops)

    def run(self, loop: Loop) -> None:
        """Run a client's connection loop in this thread."""
        ident = threading.get_ident()
        self._loops[ident] = loop
        allow_batches(True)
        try:
            loop()
        finally:
            allow_batches(False)
            self._loops.pop(ident, None)

    def is_current(self) -> bool:
        """Tell whether the caller runs in a connection thread."""
        return threading.get_ident() in self._loops

    # -- in a forked child -------------------------------------------------------------

    def after_fork(self) -> None:
        """Remember the parent's connection threads as gone."""
        self.inherited.update(self._loops)
        self._loops.clear()

    def close_inherited(self) -> None:
        """Have kazoo close the clients whose connection threads are gone."""
        me = threading.get_ident()
        while self.inherited:
            try:
                _, loop = self.inherited.popitem()
            except KeyError:
                return  # another thread was faster
            self._pretending.add(me)
            try:
                loop()
            except Exception:
                _log.exception("Closing a client inherited over a fork failed")
            finally:
                self._pretending.discard(me)

    def pretend_stopped(self) -> bool:
        """Answer, to the first question of :meth:`close_inherited`, ``True``."""
        if not self._pretending:
            return False
        me = threading.get_ident()
        if me not in self._pretending:
            return False
        self._pretending.discard(me)
        return True
