"""A queue of callbacks and the one thread that runs them.

Rules
-----
1. Callbacks run one at a time, in the order in which they were put.
2. ``put`` either queues a callback for the thread, or hands it to ``when_closed`` in
   the caller's thread. What is put into an open queue runs.
3. Nothing that a callback raises ends the thread. It is logged.
4. The thread keeps no reference to what it ran last.
5. A worker that follows others runs nothing before they have ended, or were abandoned.
6. An abandoned worker, one that did not end in time, hands what is left to
   ``when_closed`` once its callback returns.
7. No lock is held by who puts, closes or runs: a signal handler or a finalizer that
   interrupts one of them may put, and wait for what it has put. ``put`` looks at
   ``_closed`` after it has queued, the thread at the queue after it has set it; so one
   of them finds a callback that came late.

``_changed``, the handler's condition, guards ``ended`` and ``abandoned``. ``running``
and the counters have one writer, the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Optional

from ._callbacks import check_callable, describe, log_failure, run_isolated
from ._stats import QueueStats, Tally

Item = Callable[[], Any]


def _stop() -> None:
    """What ``close`` puts into the queue."""


class Worker:
    """A thread that runs the callbacks put into its queue.

    :param name: the thread's name
    :param changed: notified when the thread has ended
    :param when_closed: takes what is put while the queue is closed
    :param tally: counts what has run
    :param on_busy: called by the thread before each callback
    :param predecessors: the workers that it follows
    :param queue: one of the user's instead of its own, with the interface of
        :class:`queue.Queue`; it holds callbacks, its own also when they were put
    """

    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        *,
        when_closed: Callable[[Item], Any],
        tally: Tally,
        on_busy: Callable[[], Any],
        predecessors: Sequence[Worker] = (),
        queue: Any = None,
    ) -> None:
        self.name = name
        self.thread: Optional[threading.Thread] = None
        self.ended = True
        self.abandoned = False
        #: What runs now and since when (``time.monotonic()``).
        self.running: Optional[tuple[Item, float]] = None
        self.last_warned = 0.0  #: since when that ran that was warned of last
        self._changed = changed
        self._when_closed = when_closed
        self._tally = tally
        self._on_busy = on_busy
        self._predecessors = predecessors
        self._refusing = True  # whether put() queues nothing
        self._closing = False  # whether close() was called
        self._stop_queued = False
        self._closed = False  # whether the thread looks at the queue no more
        self.queue_is_foreign = queue is not None
        self.queue = SimpleQueue() if queue is None else queue

    def __repr__(self) -> str:
        return f"<Worker {self.name} queued={self.qsize()} ended={self.ended}>"

    # -- the queue, as kazoo knows it ------------------------------------------------

    def put(
        self, item: Item, block: bool = True, timeout: Optional[float] = None
    ) -> None:
        """Queue a callback; never blocks, whatever the arguments of ``Queue.put``."""
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
        """Return how many callbacks wait."""
        return max(0, self.queue.qsize() - self._stop_queued)

    def empty(self) -> bool:
        """Tell whether no callback waits."""
        return self.qsize() == 0

    def stats(self) -> QueueStats:
        """Return a snapshot of the queue."""
        running, tally = self.running, self._tally
        return QueueStats(
            depth=self.qsize(),
            runs=tally.run,
            failures=tally.failed,
            current_callback=None if running is None else describe(running[0]),
            current_run_seconds=0.0 if running is None else monotonic() - running[1],
            run_seconds_total=tally.run_time,
            longest_run_seconds=tally.longest_run,
            wait_seconds_total=tally.waiting_time,
            longest_wait_seconds=tally.longest_wait,
        )

    # -- life ----------------------------------------------------------------------

    def accept(self) -> None:
        """Queue what is put, already before the thread is started."""
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
        """Have the thread end once its queue is empty.

        :param refuse: whether to queue nothing more from now on
        """
        if refuse:
            self._refusing = True
        if not self._closing:
            self._stop_queued = True
            self.queue.put(_stop)
            self._closing = True  # not before: a signal handler may raise

    def abandon(self) -> None:
        """Give the thread up: nobody waits for it any more."""
        self._refusing = True
        self._tally = Tally()  # the successor counts in the old one
        with self._changed:
            self.abandoned = True
            self._changed.notify_all()

    def after_fork(self, changed: threading.Condition) -> None:
        """Let go of the parent's callbacks; if this is the thread, let it end."""
        self._changed = changed
        self.queue = SimpleQueue()
        self._refusing = self.abandoned = True
        self._closing = False
        self.close()

    @property
    def ident(self) -> Optional[int]:
        """The ident of the thread."""
        return None if self.thread is None else self.thread.ident

    def is_current(self) -> bool:
        """Tell whether the caller is a callback of this worker."""
        return self.thread is threading.current_thread()

    def _run(self) -> None:
        if self.thread is not threading.current_thread():
            return  # its start was given up before it came alive
        try:
            self._wait_for_predecessors()
            self._run_callbacks()
        finally:
            self._refusing = self._closed = True
            self._hand_back()
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
                    continue  # something may have come just before that
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
            self._on_busy()  # not before: who is told looks at what runs
            try:
                callback()
            except BaseException:
                log_failure(callback)
                self._tally.failed += 1
            self.running = None
            del entry, callback
            ended = monotonic()
            self._tally.count(began - queued, ended - began)

    def _hand_back(self) -> None:
        while True:
            try:
                entry = self.queue.get_nowait()
            except Empty:
                return
            if entry is not _stop:
                self._when_closed(entry[1] if type(entry) is tuple else entry)


def queue_callback(handler: Any, callback: Item) -> None:
    """Put a callback of a result into the completion queue of *handler*."""
    queue = handler.completion_queue
    if type(queue) is Worker or handler.running:
        queue.put(callback)
    else:  # the queue is a user's, and nobody takes from it
        run_isolated(callback)
