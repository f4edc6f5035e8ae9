"""Background threads, which run what may block in place of connection threads.

1. The thread is a daemon, is started by the first entry, and ends when it is idle.
2. ``submit`` takes no lock: it may be called in signal handlers and in finalizers.
3. No entry is lost: it is queued before the thread is checked, and a thread that ends
   records that before it checks the queue once more.

Two calls at the same time may start two threads; the queue passes each entry to one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Optional

from . import _fork

#: How long an idle thread waits for another entry, in seconds.
IDLE_SECONDS = 2.0


class BackgroundThread:
    """A thread that handles the entries of a queue.

    :param name: the thread's name
    :param handle: called with the waiting entries, if any; returns the seconds until it
        must be called again, or ``None``. It must not raise.
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
        """Drop the parent's thread and its entries."""
        self._entries = SimpleQueue()
        self._thread = None

    @property
    def thread(self) -> Optional[threading.Thread]:
        """The thread, if it is running."""
        return self._thread

    def submit(self, entry: Any) -> None:
        """Queue *entry* for the thread."""
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
