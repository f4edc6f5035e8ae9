"""A queue of callbacks and the one thread that runs them.

Rules
-----
1. Callbacks run one at a time, in the order in which they were put.
2. ``put`` either queues a callback for the thread, or hands it to ``when_closed`` in
   the caller's thread. The worker closes its queue only while that is empty: whatever
   was queued runs.
3. Nothing that a callback raises ends the thread. It is logged.
4. The thread keeps no reference to what it ran last.
5. A worker that follows another runs nothing before the other has ended.
6. An abandoned worker, one that did not end in time, runs nothing more once its
   callback returns.
7. A thread whose ``start`` was given up runs nothing if it comes alive later; one that
   has come alive ends, and is followed as any other.

``_lock`` guards the step from having work to sleeping, and from sleeping to closed:
``_accepting``, ``_closing``, ``_asleep``, and whose worker ``thread`` is. No callback
runs under it. It is reentrant: a signal handler may put in the middle of a put.
``_bell`` is held while there is nothing to wake up for. ``_changed``, the handler's,
guards ``ended`` and ``abandoned``. ``running`` and the tally have one writer, the
thread; ``_items`` is only used by operations of ``deque`` that are atomic, on
free-threaded builds, too.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Optional

from ._describe import describe
from ._stats import QueueStats, Tally

Item = Callable[[], Any]

#: How long a thread may take to come alive, in seconds.
START_TIMEOUT = 10.0

_log = logging.getLogger("kazoo_seqthreading.worker")


def run_isolated(callback: Item) -> None:
    """Run *callback*, and log whatever it raises."""
    try:
        callback()
    except BaseException:
        log_failure(callback)


def log_failure(callback: Item) -> None:
    """Log the exception that *callback* has raised, whatever it and it are."""
    try:
        _log.exception("Exception in %s", describe(callback))
    except BaseException:  # a broken log handler, or a callback without a name
        pass


class Worker:
    """A thread that runs the callbacks put into its queue.

    :param name: the thread's name
    :param when_closed: takes what is put while the worker does not accept
    :param changed: notified when the thread has ended
    :param tally: counts what has run
    :param accepting: whether callbacks are queued already before :meth:`start`
    """

    def __init__(
        self,
        name: str,
        when_closed: Callable[[Item], Any],
        changed: threading.Condition,
        tally: Tally,
        accepting: bool = False,
    ) -> None:
        self.name = name
        self.thread: Optional[threading.Thread] = None
        self.ended = True
        self.abandoned = False
        #: What runs now and since when (``time.monotonic()``).
        self.running: Optional[tuple[Item, float]] = None
        self.warned_of = 0.0  #: since when that ran that was warned of last
        self.when_closed = when_closed
        self._changed = changed
        self._tally = tally
        self._lock = threading.RLock()
        self._accepting = accepting
        self._closing = False
        self._asleep = False
        self._items: deque[tuple[float, Item]] = deque()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._alive = threading.Event()

    def __repr__(self) -> str:
        return f"<Worker {self.name} queued={self.qsize()} ended={self.ended}>"

    # -- the queue, as kazoo knows it ------------------------------------------------

    def put(
        self, item: Item, block: bool = True, timeout: Optional[float] = None
    ) -> None:
        """Queue a callback; never blocks, whatever the arguments of ``Queue.put``."""
        if not callable(item):
            raise TypeError(f"a callback must be callable, not {item!r}")
        try:  # quicker than a with statement
            self._lock.acquire()
            accepted = self._accepting
            if accepted:
                self._items.append((monotonic(), item))
                if self._asleep:
                    self._wake()
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # a signal handler raised while it was waited for
        if not accepted:
            self.when_closed(item)

    def qsize(self) -> int:
        """Return how many callbacks wait."""
        return len(self._items)

    def empty(self) -> bool:
        """Tell whether no callback waits."""
        return not self._items

    def stats(self) -> QueueStats:
        """Return a snapshot of the queue."""
        running, tally = self.running, self._tally
        return QueueStats(
            depth=self.qsize(),
            run=tally.run,
            failed=tally.failed,
            running=None if running is None else describe(running[0]),
            running_for=0.0 if running is None else monotonic() - running[1],
            run_time=tally.run_time,
            longest_run=tally.longest_run,
            waiting_time=tally.waiting_time,
            longest_wait=tally.longest_wait,
        )

    # -- life ----------------------------------------------------------------------

    def start(self, predecessor: Optional[Worker] = None) -> None:
        """Accept callbacks, and start the thread; it waits for *predecessor* to end.

        :raises RuntimeError: if no thread can be started
        """
        self.thread = threading.Thread(
            target=self._run, args=(predecessor,), name=self.name, daemon=True
        )
        self.ended = False
        with self._lock:
            was_accepting, self._accepting = self._accepting, True
        try:
            self.thread.start()
            if not self._alive.wait(START_TIMEOUT):
                raise RuntimeError(
                    f"{self.name} did not come alive within {START_TIMEOUT} s; are "
                    "threads disabled in this process (uWSGI: --enable-threads)?"
                )
        except BaseException:
            with self._lock:
                if self._alive.is_set():  # a signal handler raised: let it end
                    self.close(refuse=True)
                else:
                    self.thread = None
                    self.ended = True
                    self._accepting = was_accepting
            raise

    def close(self, *, refuse: bool = False) -> None:
        """Have the thread end once its queue is empty.

        :param refuse: whether to accept nothing more from now on
        """
        with self._lock:
            if refuse:
                self._accepting = False
            self._closing = True
            if self._asleep:
                self._wake()

    def abandon(self) -> list[Item]:
        """Give the thread up, and return the callbacks that it will not run."""
        self.close(refuse=True)
        self._tally = Tally()  # the successor counts in the old one
        with self._changed:
            self.abandoned = True
            self._changed.notify_all()
        left = []
        try:
            while True:
                left.append(self._items.popleft()[1])
        except IndexError:
            pass
        return left

    def may_warn_of(self, since: float) -> bool:
        """Tell whether what runs *since* then has not been warned of; once."""
        with self._lock:
            first = self.warned_of != since
            self.warned_of = since
        return first

    def after_fork(self, changed: threading.Condition) -> None:
        """Let go of the parent's callbacks; if this is the thread, let it end."""
        self._lock = threading.RLock()
        self._changed = changed
        self._accepting, self._closing = False, True
        self._items.clear()

    @property
    def ident(self) -> Optional[int]:
        """The ident of the thread."""
        return None if self.thread is None else self.thread.ident

    def is_current(self) -> bool:
        """Tell whether the caller is a callback of this worker."""
        return self.thread is threading.current_thread()

    def _run(self, predecessor: Optional[Worker]) -> None:
        with self._lock:
            if self.thread is not threading.current_thread():
                return  # it came alive too late
            self._alive.set()
        if predecessor is not None:
            with self._changed:
                while not (predecessor.ended or predecessor.abandoned):
                    self._changed.wait()
            predecessor = None
        take = self._items.popleft
        ended = monotonic()
        while True:
            try:
                queued, callback = take()
            except IndexError:
                if not self._sleep():
                    break
                ended = monotonic()
                continue
            began = ended if ended > queued else queued
            self.running = (callback, began)
            if self.abandoned:  # just now, perhaps without this callback
                self.running = None
                self._items.appendleft((queued, callback))
                _log.error("Dropped, %s is stopped: %s", self.name, describe(callback))
                break
            try:
                callback()
            except BaseException:
                log_failure(callback)
                self._tally.failed += 1
            self.running = None
            del callback
            ended = monotonic()
            self._tally.count(began - queued, ended - began)
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _sleep(self) -> bool:
        """Wait for work; tell whether to look for it, or to end."""
        with self._lock:
            if self._items:
                return True
            if self._closing:
                self._accepting = False
                return False
            self._asleep = True
        self._bell.acquire()
        return True

    def _wake(self) -> None:
        self._asleep = False
        self._bell.release()
