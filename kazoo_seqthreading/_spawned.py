"""Threads for ``spawn``: a new one for each function, named, and a daemon.

With a limit, only the first so many of ``_threads`` may run, and a thread is started
when it gets there. A thread is appended or removed before the list is checked for
threads to start, so no lock is taken, and no thread that may run is left waiting. If
several threads check at the same time, ``_kazoo_starter`` decides which one starts it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Optional

from . import _fork
from ._callbacks import describe

#: A function, its arguments, and its keyword arguments.
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

#: How long a thread may take to begin to run, in seconds.
START_SECONDS = 1.0


class SpawnedThread(threading.Thread):
    """A thread that runs a function, perhaps only when others have ended."""

    def __init__(
        self,
        name: str,
        call: Call,
        pool: Optional[SpawnedThreads] = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._kazoo_generation = _fork.generation
        self._kazoo_pool = pool  # if it counts towards the limit
        self._kazoo_call: Optional[Call] = call
        self._kazoo_begun = threading.Event()
        self._kazoo_starter: dict[None, object] = {}

    def _kazoo_start_once(self) -> None:
        """Start it, unless another thread does.

        :raises RuntimeError: if no thread can be started
        """
        token = object()
        try:
            if self._kazoo_starter.setdefault(None, token) is token:
                self.start()
        except BaseException:
            if self._kazoo_starter.get(None) is token and not self._kazoo_has_begun():
                self._kazoo_starter.clear()
            raise

    def _kazoo_has_begun(self) -> bool:
        """Return whether it was started, even if a signal handler has raised."""
        if self in threading.enumerate():
            self._kazoo_begun.wait(START_SECONDS)
        return self._kazoo_begun.is_set()

    def run(self) -> None:
        """Call the function."""
        self._kazoo_begun.set()
        call, self._kazoo_call = self._kazoo_call, None
        if call is None:
            return
        func, args, kwargs = call
        if self._kazoo_pool is not None:
            # In this thread, as describing a function may run user code.
            self.name = f"{self.name}:{describe(func)}"
        try:
            func(*args, **kwargs)
        finally:
            del call, func, args, kwargs
            if self._kazoo_pool is not None:
                self._kazoo_pool.ended(self)

    def is_alive(self) -> bool:
        """Return whether the function has not returned yet."""
        if self._kazoo_generation != _fork.generation:
            return super().is_alive()
        return not self._kazoo_begun.is_set() or super().is_alive()

    def join(self, timeout: Optional[float] = None) -> None:
        """Wait until the function has returned.

        :param timeout: how long to wait, in seconds; ``None`` waits forever
        :raises RuntimeError: if called by the function itself
        """
        if self._kazoo_generation != _fork.generation:
            return  # the parent's thread does not exist here
        if not self._kazoo_begun.is_set():
            began = monotonic()
            if not self._kazoo_begun.wait(timeout):
                return
            if timeout is not None:
                timeout = max(0.0, timeout - (monotonic() - began))
        super().join(timeout)


class SpawnedThreads:
    """The threads that a handler has spawned.

    :param prefix: the prefix of their names
    :param limit: how many may run at once; others wait
    """

    def __init__(self, prefix: str, limit: Optional[int]) -> None:
        self._prefix = prefix
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._threads: list[SpawnedThread] = []  # in the order of the calls

    def __len__(self) -> int:
        return len(self._threads[: self._limit])

    def running(self) -> list[SpawnedThread]:
        """Return the threads that may run now."""
        return self._threads[: self._limit]

    def spawn_uncounted(self, func: Callable[[], Any], purpose: str) -> SpawnedThread:
        """Run *func* in a thread that does not count towards the limit.

        :param purpose: part of the thread's name
        :raises RuntimeError: if no thread can be started
        """
        thread = SpawnedThread(f"{self._prefix}-{purpose}", (func, (), {}))
        thread.start()
        return thread

    def spawn(
        self, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> SpawnedThread:
        """Run ``func(*args, **kwargs)`` in a thread named after *func*.

        :raises RuntimeError: if no thread can be started
        """
        spawned = SpawnedThread(f"{self._prefix}-spawn", (func, args, kwargs), self)
        try:
            self._threads.append(spawned)
            if self._limit is None:
                spawned._kazoo_start_once()
            else:
                self._start_first(spawned)
        except BaseException:
            if not spawned._kazoo_has_begun():
                self.ended(spawned)
            raise
        return spawned

    def _start_first(self, own: Optional[SpawnedThread] = None) -> None:
        for thread in self._threads[: self._limit]:
            try:
                thread._kazoo_start_once()
            except RuntimeError:  # no thread can be started: retried when one ends
                if thread is own:
                    raise

    def ended(self, thread: SpawnedThread) -> None:
        """Let the next thread run; *thread* calls it when its function has returned."""
        try:
            self._threads.remove(thread)
        except ValueError:
            pass  # it began too late, and was given up
        if self._limit is not None:
            self._start_first()

    def after_fork(self) -> None:
        """Drop the parent's threads."""
        thread = threading.current_thread()
        running = [spawned for spawned in self._threads if spawned is thread]
        self._reset()
        self._threads += running  # it continues in the child
