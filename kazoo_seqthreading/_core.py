"""The core of a handler: its workers, threads and connections, and their life cycle.

The core is the only attribute of a handler, so that subclasses can choose their names
freely. Threads refer to the core, never to the handler, which can thus be collected.

Rules
-----
1. ``start`` and ``stop`` may be called at any time, by any thread and any number of
   times, in callbacks, state listeners and signal handlers.
2. ``stop`` lets queued callbacks run, and returns when the workers have ended, or after
   ``stop_timeout`` seconds; callbacks that are still running are logged. In a callback
   it waits neither for that callback nor for those queued behind it, nor for another
   callback that is stopping the handler; in a connection thread it does not wait.
3. On a stopped handler, callbacks of a result run in the thread that completes it, each
   isolated; in a connection thread they run in a separate worker.
4. Watch events that reach a stopped handler wait for the next start, as clients may
   share the handler. An event is stale, and dropped, if its client's session has ended.
5. If a worker cannot be started, ``start`` ends the other one and raises.
6. A worker runs nothing until its predecessors have ended, so callbacks of one type
   never overlap, except with a callback that ``stop`` has given up.
7. A handler is stopped at exit, like kazoo's; no callback delays the end of the process
   for longer than ``stop_timeout``.
8. In a forked child the handler is stopped, until it is started there.

The lock ``_changed`` guards the state: ``running``, ``_workers`` and ``_stopping``. It
is reentrant, for signal handlers; connection threads do not take it in steady state.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import threading
import weakref
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from kazoo.exceptions import ConnectionClosedError

from . import _fork
from ._callbacks import WatchCallback, describe, run_isolated, stack_of
from ._create_connection import Connector
from ._kazoo import unsent
from ._monitor import Watchdog
from ._options import Options
from ._spawned import SpawnedThreads
from ._stats import QueueCounters
from ._sync import Condition
from ._worker import Item, Worker
from ._zk_loop import ConnectionThreads, current_connection_thread

_log = logging.getLogger("kazoo_seqthreading.handler")
_handler_numbers = itertools.count(1)


class Core:
    """The state of a handler with *options*."""

    def __init__(self, options: Options) -> None:
        self.prefix = f"kazoo-seqthreading-{next(_handler_numbers)}"
        self.running = False
        self.options = options
        self._stop_timeout = options.stop_timeout
        self._changed = Condition()
        self._stopping: set[int] = set()  # idents of the threads in stop()
        self._workers: list[Worker] = []  # which may still run callbacks
        self._late_workers: list[Worker] = []  # those of connection threads
        self._completion_counters, self._watch_counters = (
            QueueCounters(),
            QueueCounters(),
        )
        self._watchdog = Watchdog(self.all_workers, options.slow_callback_duration)
        self.completions = self._make_completion_worker()
        self.watches = self._make_watch_worker()
        self.spawned = SpawnedThreads(self.prefix, options.max_spawned_threads)
        self.connector = Connector(
            options.connect_timeout,
            options.ssl_context,
            options.tcp_keepalive,
            self.spawned.spawn_uncounted,
        )
        self.connections = ConnectionThreads(
            self._start_late_worker, self._wait_for, options.slow_request_duration
        )
        self._forked = False
        _fork.register(self)

    def check_fork(self) -> None:
        """Raise if a wait could only be ended by the parent of this forked child.

        :raises kazoo.exceptions.ConnectionClosedError: if that is the case
        """
        if self._forked:
            raise _closed_by_fork()

    # -- workers ---------------------------------------------------------------------

    def all_workers(self) -> list[Worker]:
        """Return the workers that may still run callbacks."""
        return [*self._workers, *self._late_workers]

    def _make_worker(self, kind: str, **options: Any) -> Worker:
        name = f"{self.prefix}-{kind}"
        predecessors = [
            worker
            for worker in self.all_workers()
            if worker.name == name and not worker.ended
        ]
        return Worker(
            name,
            self._changed,
            on_busy=self._watchdog.arm,
            predecessors=predecessors,
            **options,
        )

    def _make_completion_worker(self, queue: Any = None) -> Worker:
        return self._make_worker(
            "completion",
            when_closed=self._run_on_stopped,
            counters=self._completion_counters,
            queue=queue,
        )

    def _make_watch_worker(self, queue: Any = None) -> Worker:
        worker = self._make_worker(
            "watch",
            when_closed=self._hold_watch,
            counters=self._watch_counters,
            queue=queue,
        )
        worker.accept()
        return worker

    def _start_late_worker(self) -> Worker:
        worker = self._make_worker(
            "completion", when_closed=run_isolated, counters=QueueCounters()
        )
        worker.start()
        self._late_workers.append(worker)
        return worker

    def _run_on_stopped(self, callback: Item) -> None:
        thread = current_connection_thread()
        if thread is None or not self.connections.run_late(thread, callback):
            run_isolated(callback)

    def _hold_watch(self, callback: Item) -> None:
        if type(callback) is WatchCallback:
            callback.held = True
        self.watches.put(callback)

    def dispatch_watch(self, func: Callable[..., Any], args: Any) -> None:
        """Queue a watch event's function."""
        callback = WatchCallback(func, args, current_connection_thread())
        worker = self.watches
        callback.held = worker.thread is None  # if it closes now, _hold_watch sets it
        worker.put(callback)

    def use_completion_queue(self, queue: Any) -> None:
        """Use a user's queue from the next start on."""
        self.completions = self._make_completion_worker(queue)

    def use_watch_queue(self, queue: Any) -> None:
        """Use a user's queue from the next start on."""
        self.watches = self._make_watch_worker(queue)

    # -- start and stop ----------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, unless they are running.

        :raises RuntimeError: if a worker cannot be started
        """
        self.close_inherited()
        with self._changed:
            if self.running:
                return
            self._close_workers()  # if a signal handler has interrupted stop()
            self._workers[:] = _alive(self._workers)
            self._late_workers[:] = _alive(self._late_workers)
            completions, watches = self.completions, self.watches
            if completions.thread is not None:
                completions = self._make_completion_worker()
            try:
                completions.start()
                watches.start()
            except BaseException:
                for worker in (completions, watches):
                    if worker.thread is not None:  # let it end
                        self._workers.append(worker)
                        worker.close(refuse=True)
                if watches.thread is not None:
                    self.watches = self._make_watch_worker()
                raise
            self._workers += (completions, watches)
            self.completions = completions
            self._forked = False
            self.running = True
            _register_exit(self)

    def stop(self) -> None:
        """Stop the workers, if they are running."""
        self.close_inherited()
        with self._changed:
            self.running = False
            _running.discard(self)
            self._close_workers()
            if current_connection_thread() is not None:
                return
            late = self._wait_for_workers()
        for worker in late:
            self._give_up(worker)

    def _close_workers(self) -> None:
        watches = self.watches
        if watches.thread is not None:
            self.watches = self._make_watch_worker()
        completions = self.completions
        if completions.queue_is_foreign and completions.thread is not None:
            self.completions = self._make_completion_worker()
        for worker in self._workers:
            worker.close(refuse=worker is watches)

    def _wait_for_workers(self) -> list[Worker]:
        """Wait for the workers to end; return those that did not in time.

        Must be called with ``_changed`` held.
        """
        ident = threading.get_ident()
        nested = ident in self._stopping  # in a signal handler during stop()
        workers = self.all_workers()  # not those of a later start()
        in_callback = any(worker.is_current() for worker in workers)
        deadline = monotonic() + self._stop_timeout

        def is_awaited(worker: Worker) -> bool:
            if worker.ended or worker.abandoned:
                return False
            # A callback waits for no worker that has called stop(), nor for successors.
            return not in_callback or not any(
                other.name == worker.name and other.ident in self._stopping
                for other in workers
                if not other.ended
            )

        try:
            self._stopping.add(ident)
            self._changed.notify_all()
            while True:
                awaited = [worker for worker in workers if is_awaited(worker)]
                remaining = deadline - monotonic()
                if not awaited or remaining <= 0:
                    return awaited
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
        finally:
            if not nested:
                self._stopping.discard(ident)

    def _wait_for(self, worker: Worker) -> None:
        """Wait for the worker of a connection thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: worker.ended or worker.ident in self._stopping,
                min(self._stop_timeout, threading.TIMEOUT_MAX),
            )

    def _give_up(self, worker: Worker) -> None:
        worker.abandon()
        running = worker.running
        if running is None and worker.empty():
            return  # it is about to end
        _log.error(
            "%s did not stop within %s s: still running %s, %d queued behind it. "
            "Stack:\n%s",
            worker.name,
            self._stop_timeout,
            "nothing" if running is None else describe(running[0]),
            worker.qsize(),
            stack_of(worker.ident),
        )

    def dispose(self) -> None:
        """Let the threads end, as the handler was collected."""
        for worker in self._workers:
            worker.close(refuse=True)

    def stop_at_exit(self) -> None:
        """Wait until requests are sent, then stop."""
        deadline = monotonic() + self._stop_timeout
        for connection in self.connections.connections():
            while unsent(connection) and monotonic() < deadline:
                sleep(0.001)
        self.stop()

    # -- in a forked child -------------------------------------------------------------

    def _after_fork(self) -> None:
        """Mark the handler stopped, as the parent's threads do not exist here."""
        self._forked = self._forked or self.running or len(self.connections) > 0
        self.running = False
        _running.discard(self)
        self._changed = Condition()
        self._stopping.clear()
        for worker in self.all_workers():
            worker.after_fork(self._changed)
        self._workers.clear()
        self._late_workers.clear()
        self._watchdog.disarm()
        self.completions = self._make_completion_worker()
        if self._forked:
            self.watches = self._make_watch_worker()
        self.spawned.after_fork()
        self.connections.after_fork()

    def on_send_in_child(self, queue: Any) -> None:
        """Fail the requests in the queue of a client that belongs to the parent."""
        while True:
            try:
                _, result = queue.popleft()
            except IndexError:
                break
            if result is not None:
                result.set_exception(_closed_by_fork())
        self.close_inherited(warn=True)

    def close_inherited(self, warn: bool = False) -> None:
        """Let kazoo close the clients that a parent's threads served."""
        if self.connections.inherited:
            self.connections.close_inherited(warn)


def _alive(workers: list[Worker]) -> list[Worker]:
    return [worker for worker in workers if not (worker.ended or worker.abandoned)]


_running: weakref.WeakSet[Core] = weakref.WeakSet()
_exit_is_registered = False


def _register_exit(core: Core) -> None:
    """Stop *core* at exit, not before kazoo's handler would stop."""
    global _exit_is_registered
    _running.add(core)
    if not _exit_is_registered:
        _exit_is_registered = True
        atexit.register(_stop_running)


def _stop_running() -> None:
    for core in list(_running):
        core.stop_at_exit()


def _closed_by_fork() -> ConnectionClosedError:
    return ConnectionClosedError(
        "The client belongs to the parent of this forked process; start() it here, or "
        "make a new one"
    )
