"""Threads for ``spawn``: named, daemons, used again while they are idle.

``_lock`` guards the counts; ``_running`` is used by single operations of ``dict``. A
task is queued only if an idle thread is sure to take it, or if the cap is reached; so
no task waits for a thread that never comes. A thread is idle before its last task
counts as done: who spawns and joins in turn needs one. An idle thread ends after
``IDLE_SECONDS``, or at once when the handler stops.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Optional

from ._describe import describe
from ._worker import run_isolated

#: How long an idle thread waits for another task.
IDLE_SECONDS = 5.0

_log = logging.getLogger("kazoo_seqthreading.threads")


class Spawned:
    """A function that runs, or waits to run, in a thread: what ``spawn`` returns.

    It has what callers use of a :class:`threading.Thread`.
    """

    daemon = True

    def __init__(
        self, name: str, task: Callable[[], Any], dedicated: bool = False
    ) -> None:
        self.name = name
        self.dedicated = dedicated
        self.ident: Optional[int] = None
        self._task: Optional[Callable[[], Any]] = task
        self._done = threading.Event()

    def __repr__(self) -> str:
        state = "running" if self.is_alive() else "done"
        return f"<Spawned {self.name} {state}>"

    def is_alive(self) -> bool:
        """Tell whether the function has not returned yet."""
        return not self._done.is_set()

    def join(self, timeout: Optional[float] = None) -> None:
        """Wait until the function has returned.

        :param timeout: how long to wait, in seconds; ``None`` waits for ever
        :raises RuntimeError: if called by the function itself
        """
        if self.ident == threading.get_ident() and self.is_alive():
            raise RuntimeError("cannot join the current thread")
        self._done.wait(timeout)

    def run(self) -> None:
        """Call the function; whatever it raises is logged."""
        self.ident = threading.get_ident()
        task, self._task = self._task, None
        if task is not None:
            run_isolated(task)

    def finish(self) -> None:
        """Say that the function has returned."""
        self._done.set()

    def cancel(self) -> None:
        """Be done without having run."""
        self._task = None
        self._done = threading.Event()  # the old one's lock may be a dead thread's
        self._done.set()


class Threads:
    """The threads that a handler spawned.

    :param prefix: what their names begin with
    :param limit: how many may run at once; more wait for their turn
    """

    def __init__(self, prefix: str, limit: Optional[int]) -> None:
        self._prefix = prefix
        self._limit = limit
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._queue: SimpleQueue[Optional[Spawned]] = SimpleQueue()
        self._live = 0  # threads
        self._idle = 0  # threads that wait in _queue.get
        self._queued = 0  # tasks in _queue
        self._keep_idle = False
        self._running: dict[Spawned, None] = {}

    def __len__(self) -> int:
        return self._live

    def spawn(
        self, task: Callable[[], Any], name: str, *, dedicated: bool = False
    ) -> Spawned:
        """Run *task* in a thread.

        :param dedicated: whether the thread does not count for the limit
        """
        spawned = Spawned(f"{self._prefix}-{name}", task, dedicated)
        with self._lock:
            self._running[spawned] = None
            full = self._limit is not None and self._live >= self._limit
            if not dedicated and (self._idle > self._queued or full):
                self._queued += 1
                self._queue.put(spawned)
                return spawned
            thread = threading.Thread(
                target=self._run_dedicated if dedicated else self._run,
                args=(spawned,),
                name=spawned.name,
                daemon=True,
            )
            self._live += not dedicated
            try:
                thread.start()  # under the lock: nobody counts on it before it runs
            except RuntimeError as error:
                self._live -= not dedicated
                self._running.pop(spawned, None)
                spawned.cancel()
                if "shutdown" not in str(error):
                    raise
                # The interpreter ends (3.12 and later): nothing new is started, and
                # nobody is left to read a traceback.
                _log.debug("Not started, the interpreter ends: %s", describe(task))
        return spawned

    def start(self) -> None:
        """Keep idle threads from now on."""
        with self._lock:
            self._keep_idle = True

    def stop(self) -> None:
        """Let idle threads end, and the others when their tasks return."""
        with self._lock:
            self._keep_idle = False
            for _ in range(self._idle):
                self._queue.put(None)

    def after_fork(self) -> None:
        """Forget the parent's threads; what they ran is done with.

        So is a connection loop that forks: kazoo closes its client here.
        """
        spawned = list(self._running)
        self._forget()
        for one in spawned:
            if one.dedicated or one.ident != threading.get_ident():
                one.cancel()
            else:  # it goes on, in the thread that has forked
                self._live = 1
                self._running[one] = None

    def _run_dedicated(self, spawned: Spawned) -> None:
        spawned.run()
        self._running.pop(spawned, None)
        spawned.finish()

    def _run(self, spawned: Optional[Spawned]) -> None:
        thread = threading.current_thread()
        while spawned is not None:
            thread.name = spawned.name
            spawned.run()
            self._running.pop(spawned, None)
            thread.name = f"{self._prefix}-idle"
            stays = self._become_idle()
            spawned.finish()  # now: who has waited for it finds the thread idle
            spawned = None  # an idle thread keeps no reference
            if stays:
                spawned = self._next()

    def _become_idle(self) -> bool:
        """Count this thread as idle, or, if it is to end, not at all."""
        with self._lock:
            stays = self._keep_idle or self._queued > 0
            if stays:
                self._idle += 1
            else:
                self._live -= 1
        return stays

    def _next(self) -> Optional[Spawned]:
        """Wait for another task; ``None``: end, you are not counted any more."""
        try:
            spawned = self._queue.get(timeout=IDLE_SECONDS)
        except Empty:
            spawned = None
        with self._lock:
            self._idle -= 1
            while spawned is None and self._queued:  # it came as the wait ended
                try:
                    spawned = self._queue.get_nowait()
                except Empty:
                    break  # another thread has it
            if spawned is None:
                self._live -= 1
            else:
                self._queued -= 1
        return spawned
