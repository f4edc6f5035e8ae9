"""A queue of callbacks and the thread that runs them.

Rules
-----
1. Callbacks run one at a time, in the order in which they were put.
2. ``put`` either queues a callback for the thread, or passes it to ``when_closed`` in
   the caller's thread. A callback put into an open queue runs.
3. No exception of a callback ends the thread. It is logged.
4. The thread keeps no reference to the callback that it ran last.
5. A worker with predecessors runs nothing before they have ended or were abandoned.
6. An abandoned worker, one that did not end in time, passes the remaining callbacks to
   ``when_closed`` once its current callback returns.
7. No lock is held while putting, closing or running: a signal handler or a finalizer
   that interrupts one of these may put a callback, and wait for it. ``put`` checks
   ``_closed`` after queuing; the thread checks the queue after setting it. So one of
   them finds a callback that came late.

``_changed``, the handler's condition, guards ``ended`` and ``abandoned``. ``running``
and the counters are only written by the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, Optional

from ._callbacks import check_callable, describe, log_failure, run_isolated
from ._stats import QueueCounters, QueueStats

Item = Callable[[], Any]

#: How long a thread that ends waits for a ``put`` that has begun, in seconds.
PUT_TIMEOUT = 1.0


def _stop() -> None:
    """The sentinel that ``close`` puts into the queue."""


class Worker:
    """A thread that runs the callbacks put into its queue.

    :param name: the thread's name
    :param changed: notified when the thread has ended
    :param when_closed: called with each callback that is put into a closed queue
    :param counters: counts callbacks
    :param on_busy: called by the thread before each callback
    :param predecessors: the workers that must end first
    :param queue: a user's queue to be used instead of its own, with the interface of
        :class:`queue.Queue`; it has callbacks alone, its own has them with a timestamp
    """

    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        *,
        when_closed: Callable[[Item], Any],
        counters: QueueCounters,
        on_busy: Callable[[], Any],
        predecessors: Sequence[Worker] = (),
        queue: Any = None,
    ) -> None:
        self.name = name
        self.thread: Optional[threading.Thread] = None
        self.ended = True
        self.abandoned = False
        #: The current callback, and when it began (``time.monotonic()``).
        self.running: Optional[tuple[Item, float]] = None
        self.last_warned = 0.0  #: when the callback began that was last warned of
        self._changed = changed
        self._when_closed = when_closed
        self._counters = counters
        self._on_busy = on_busy
        self._predecessors = predecessors
        self._refusing = True  # whether put() passes callbacks to when_closed
        self._closing = False  # whether close() was called
        self._stop_queued = False
        self._closed = False  # whether the thread has left the queue
        self.queue_is_foreign = queue is not None
        self.queue = SimpleQueue() if queue is None else queue

    def __repr__(self) -> str:
        return f"<Worker {self.name} queued={self.qsize()} ended={self.ended}>"

    # -- the interface of a queue ----------------------------------------------------

    def put(
        self, item: Item, block: bool = True, timeout: Optional[float] = None
    ) -> None:
        """Queue a callback. Never blocks; the other arguments are those of a queue."""
        check_callable(item)
        if self._refusing:
            self._when_closed(item)
            return
        self.queue.put((monotonic(), item))
        if self._closed:
            self._hand_back()

    put_nowait = put

    def join(self) -> None:
        """Wait until the callbacks put so far have run."""
        done = threading.Event()
        self.put(done.set)
        done.wait()

    def qsize(self) -> int:
        """Return the number of waiting callbacks."""
        return max(0, self.queue.qsize() - self._stop_queued)

    def empty(self) -> bool:
        """Return whether no callback is waiting."""
        return self.qsize() == 0

    def stats(self) -> QueueStats:
        """Return a snapshot of the queue."""
        running, counters = self.running, self._counters
        return QueueStats(
            depth=self.qsize(),
            runs=counters.run,
            failures=counters.failed,
            current_callback=None if running is None else describe(running[0]),
            current_run_seconds=0.0 if running is None else monotonic() - running[1],
            run_seconds_total=counters.run_time,
            longest_run_seconds=counters.longest_run,
            wait_seconds_total=counters.waiting_time,
            longest_wait_seconds=counters.longest_wait,
        )

    # -- life cycle ----------------------------------------------------------------

    def accept(self) -> None:
        """Open the queue before the thread is started."""
        self._refusing = False

    def start(self) -> None:
        """Start the thread.

        :raises RuntimeError: if no thread can be started
        """
        refusing = self._refusing
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.thread = thread
        self.ended = self._refusing = False
        try:
            thread.start()
        except BaseException:
            if thread.is_alive():  # a signal handler raised: let it end
                self.close(refuse=True)
            else:
                self.thread = None
                self.ended, self._refusing = True, refusing
            raise

    def close(self, *, refuse: bool = False) -> None:
        """Let the thread end once its queue is empty.

        :param refuse: whether to close the queue at once
        """
        if refuse:
            self._refusing = True
        if not self._closing:
            self._stop_queued = True
            self.queue.put(_stop)
            self._closing = True  # last: a signal handler may raise before

    def abandon(self) -> None:
        """Give the thread up; successors wait for it no longer."""
        self._refusing = True
        self._counters = QueueCounters()  # the successor uses the old ones
        with self._changed:
            self.abandoned = True
            self._changed.notify_all()

    def after_fork(self, changed: threading.Condition) -> None:
        """Drop the parent's callbacks; if this is the worker's thread, let it end."""
        self._changed = changed
        self.queue = SimpleQueue()
        self._refusing = self.abandoned = True
        self._closing = False
        self.close()

    @property
    def ident(self) -> Optional[int]:
        """The thread's ident."""
        return None if self.thread is None else self.thread.ident

    def is_current(self) -> bool:
        """Return whether this is the worker's thread."""
        return self.thread is threading.current_thread()

    def _run(self) -> None:
        if self.thread is not threading.current_thread():
            return  # start() has given this thread up
        try:
            self._wait_for_predecessors()
            self._run_callbacks()
        finally:
            self._refusing = self._closed = True
            self._hand_back(PUT_TIMEOUT)
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _wait_for_predecessors(self) -> None:
        for worker in self._predecessors:
            with self._changed:
                while not (worker.ended or worker.abandoned):
                    self._changed.wait()
        self._predecessors = ()

    def _run_callbacks(self) -> None:
        closing, refused, ended = False, False, 0.0
        while True:
            try:
                entry = self.queue.get_nowait()
            except Empty:
                if refused:
                    return
                if closing:
                    self._refusing = refused = True
                    continue  # something may have come just before
                entry = self.queue.get()
                ended = monotonic()
            if entry is _stop:
                closing, self._stop_queued = True, False
                continue
            queued, callback = entry if type(entry) is tuple else (ended, entry)
            if self.abandoned:
                self._when_closed(callback)
                continue
            began = ended if ended > queued else queued
            self.running = (callback, began)
            self._on_busy()  # last: the watchdog checks self.running
            try:
                callback()
            except BaseException:
                log_failure(callback)
                self._counters.failed += 1
            self.running = None
            del entry, callback
            ended = monotonic()
            self._counters.count(began - queued, ended - began)

    def _hand_back(self, timeout: float = 0.0) -> None:
        """Pass the callbacks that came late to ``when_closed``.

        PyPy's queue is not atomic: it adds an entry, then counts it. So a thread can
        take an entry while it is another one that was counted.

        :param timeout: how long to wait for an entry to be counted, in seconds
        """
        deadline = monotonic() + timeout
        while True:
            try:
                entry = self.queue.get_nowait()
            except Empty:
                uncounted = not self.queue_is_foreign and self.queue.qsize() > 0
                if not uncounted or monotonic() >= deadline:
                    return
                sleep(0.001)
                continue
            if entry is not _stop:
                self._when_closed(entry[1] if type(entry) is tuple else entry)


def queue_callback(handler: Any, callback: Item) -> None:
    """Put a callback of a result into the completion queue of *handler*."""
    queue = handler.completion_queue
    if type(queue) is Worker or handler.running:
        queue.put(callback)
    else:  # a user's queue, which no thread reads now
        run_isolated(callback)
