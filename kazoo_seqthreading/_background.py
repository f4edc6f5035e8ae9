"""Threads that do, outside of the connection threads, what may block.

1. A thread is a daemon, is started by the first entry, and ends when it is idle.
2. ``submit`` takes no lock: it may be called in signal handlers and in finalizers.
3. No entry is left behind: it is queued before the thread is looked at, and a thread
   that ends says so before it looks at the queue once more.

Two calls at once may start two threads; the queue gives each entry to one of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Optional

from . import _fork

#: How long a thread waits for further entries, in seconds.
IDLE_SECONDS = 2.0


class BackgroundThread:
    """A thread that takes entries from a queue.

    :param name: the thread's name
    :param handle: called with the entries that wait, perhaps with none; returns after
        how many seconds it wants to be called again, or ``None``. It never raises.
    """

    def __init__(
        self, name: str, handle: Callable[[list[Any]], Optional[float]]
    ) -> None:
        self._name = name
        self._handle = handle
        self._entries: SimpleQueue[Any] = SimpleQueue()
        self._thread: Optional[threading.Thread] = None
        _fork.register(self)

    def _after_fork(self) -> None:
        """Forget the parent's thread, and what it was to do."""
        self._entries = SimpleQueue()
        self._thread = None

    @property
    def thread(self) -> Optional[threading.Thread]:
        """The thread, if it runs."""
        return self._thread

    def submit(self, entry: Any) -> None:
        """Have the thread handle *entry*."""
        self._entries.put(entry)
        self._start()

    def _start(self) -> None:
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            pass  # no thread can be started: the next entry tries again

    def _run(self) -> None:
        delay: Optional[float] = None
        while True:
            entries = []
            try:
                timeout = IDLE_SECONDS if delay is None else delay
                entries.append(self._entries.get(timeout=timeout))
                while True:
                    entries.append(self._entries.get_nowait())
            except Empty:
                pass
            if not entries and delay is None:
                break
            delay = self._handle(entries)
        self._thread = None
        if not self._entries.empty():
            self._start()
