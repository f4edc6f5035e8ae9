"""The handler: what kazoo calls, and where each call goes.

The way of a request::

    caller            client.get_async() -> AsyncResult, wake-up        _wakeup
    connection thread select, send, recv, result.set()                  _connection
    caller            result.get()                                      _result
    worker            callbacks linked to the result; watches           _worker

Rules
-----
1. ``start`` and ``stop`` may be called at any time, by any thread, as often as one
   likes, from callbacks, state listeners and signal handlers.
2. ``stop`` refuses watch events, lets what is queued run, and returns when the workers
   have ended, or after ``stop_timeout`` seconds; what did not end by then is logged and
   runs nothing more. In a callback it does not wait for that callback, nor for what
   follows it, nor for another one that stops the handler, too; in a connection thread
   it waits for nothing.
3. On a stopped handler, the callbacks of a result run in the thread that completes it,
   each isolated. Watch events are dropped: their session has ended.
4. If a worker cannot be started, ``start`` ends the other one and raises.
5. A worker runs nothing before its predecessor, stopped by its own callback, has ended:
   callbacks of one type never overlap.
6. In a forked child the handler is stopped, until it is started there.
7. Threads are daemons and hold no reference to the handler: it is collected when
   nobody needs it, and no callback keeps the process from ending.

``_changed`` is the lock of the state: ``_running``, ``_workers`` and ``_stopping``. It
is reentrant, for signal handlers; no user code runs under it. ``_hostnames``, which has
an entry per server, and ``_made_in_child`` are used by single operations of ``dict``.
"""

from __future__ import annotations

import itertools
import logging
import queue
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Optional

import kazoo.protocol.states
from kazoo.exceptions import ConnectionClosedError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.interfaces import IHandler

from . import _fork, _select
from ._connect import DEFAULT_TIMEOUT, Address, Deadline, KeepAlive, connect
from ._connection import Connection
from ._connections import ConnectionThreads
from ._describe import describe, stack_of
from ._errors import BlockingCallError, TimeoutError, add_to_message
from ._kazoo import calling_listener, is_connection_loop
from ._result import AsyncResult, check_timeout
from ._stats import Ledger, Stats, Tally
from ._surroundings import warn_in_event_loop, warn_of_surroundings
from ._sync import Event, Lock, RLock
from ._threads import Spawned, Threads
from ._tls import Arguments, Contexts
from ._wakeup import WakeUp
from ._watchdog import Watchdog
from ._worker import Item, Worker, run_isolated

_log = logging.getLogger("kazoo_seqthreading.handler")
_numbers = itertools.count(1)


def _drop(callback: Item) -> None:
    _log.debug("Dropped, the handler is stopped: %s", describe(callback))


class _TimeoutClass:
    """``timeout_exception``: ours, but kazoo's own in a connection thread.

    There kazoo raises it where it turns any ``OSError``, and Python's ``TimeoutError``
    is one, into a lost connection, or during SASL into a failed authentication.
    """

    def __get__(
        self, handler: Optional[SequentialThreadingHandler], owner: type[Any]
    ) -> type[Exception]:
        if handler is not None and handler._connections.is_current():
            return KazooTimeoutError
        return TimeoutError


class SequentialThreadingHandler(IHandler):
    """Runs kazoo's callbacks one after the other, in threads of its own.

    Give it to a client, or to several::

        handler = SequentialThreadingHandler(slow_callback_duration=0.5)
        client = KazooClient(hosts="...", handler=handler)

    Implements :class:`kazoo.interfaces.IHandler`. Every method may be called from any
    thread, unless it says otherwise.

    :param stop_timeout: how long :meth:`stop` waits for callbacks, in seconds
    :param slow_callback_duration: a callback that has run for longer, in seconds, is
        warned of while it runs; ``None`` for no warnings
    :param connect_timeout: the limit for one connection attempt (name, TCP and TLS),
        in seconds; ``None`` for the session's time-out, which kazoo gives
    :param ssl_context: used for every TLS connection instead of one made of the
        client's arguments
    :param tcp_keepalive: ``True``, or idle time, interval (seconds) and count
    :param max_spawned_threads: how many functions given to :meth:`spawn` may run at
        once, the client's connection thread not counted; ``None`` for no limit
    :raises TypeError, ValueError: if an option makes no sense
    """

    name = "sequential_threading_handler"
    timeout_exception = _TimeoutClass()
    sleep_func = staticmethod(time.sleep)
    queue_impl = queue.Queue
    queue_empty = queue.Empty

    def __init__(
        self,
        *,
        stop_timeout: float = 5.0,
        slow_callback_duration: Optional[float] = 1.0,
        connect_timeout: Optional[float] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
        tcp_keepalive: KeepAlive = False,
        max_spawned_threads: Optional[int] = None,
    ) -> None:
        _check_options(
            stop_timeout,
            slow_callback_duration,
            connect_timeout,
            ssl_context,
            tcp_keepalive,
            max_spawned_threads,
        )
        self._stop_timeout = stop_timeout
        self._connect_timeout = connect_timeout
        self._ssl_context = ssl_context
        self._tcp_keepalive = tcp_keepalive
        self._contexts = Contexts()
        self._hostnames: dict[Address, str] = {}

        self._prefix = f"kazoo-seqthreading-{next(_numbers)}"
        self._ledger = Ledger()
        self._completion_tally, self._watch_tally = Tally(), Tally()
        self._running = False
        self._changed = threading.Condition(threading.RLock())
        self._stopping: set[int] = set()  # idents of the threads in stop()
        self._workers: list[Worker] = []  # that may still run a callback
        self._completions = self._completion_worker()
        # A watch event that comes before the first start is kept for it.
        self._watches = self._watch_worker(accepting=True)
        self._threads = Threads(self._prefix, max_spawned_threads)
        self._connections = ConnectionThreads()
        self._forked = False
        self._made_in_child: dict[int, AsyncResult[Any]] = {}
        self._watchdog = Watchdog(self._workers, slow_callback_duration)
        _fork.register(self)

    def __del__(self) -> None:
        if sys.is_finalizing():
            return  # a frozen thread may hold the locks
        for worker in getattr(self, "_workers", ()):
            worker.close(refuse=True)
        if hasattr(self, "_threads"):
            self._threads.stop()

    def _completion_worker(self) -> Worker:
        return Worker(
            f"{self._prefix}-completion",
            run_isolated,
            self._changed,
            self._completion_tally,
        )

    def _watch_worker(self, *, accepting: bool = False) -> Worker:
        return Worker(
            f"{self._prefix}-watch",
            _drop,
            self._changed,
            self._watch_tally,
            accepting,
        )

    def __repr__(self) -> str:
        state = "running" if self._running else "stopped"
        return (
            f"<{type(self).__name__} {self._prefix} {state} "
            f"completions={self._completions.qsize()} watches={self._watches.qsize()} "
            f"connections={len(self._connections)}>"
        )

    def stats(self) -> Stats:
        """Return a snapshot of what the handler has done, cheap and at any time."""
        traffic = self._ledger.total()
        one_by_one = 2 * traffic.replies + 3 * traffic.requests
        made = traffic.receives + traffic.sends + 2 * traffic.wake_ups
        return Stats(
            running=self._running,
            completions=self._completions.stats(),
            watches=self._watches.stats(),
            connections_made=self._ledger.made,
            connections_failed=self._ledger.failed,
            requests=traffic.requests,
            replies=traffic.replies,
            bytes_sent=traffic.bytes_out,
            bytes_received=traffic.bytes_in,
            wake_ups=traffic.wake_ups,
            # A reply is read in two parts; a request is sent, and sends a byte
            # through the wake-up channel, which is received.
            system_calls_saved=max(0, one_by_one - made),
            spawned_threads=len(self._threads),
        )

    # -- start and stop --------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the handler is started."""
        return self._running

    @property
    def completion_queue(self) -> Worker:
        """The queue of the callbacks of results; it has ``put`` and ``empty``."""
        return self._completions

    @property
    def callback_queue(self) -> Worker:
        """The queue of watch events; it has ``put`` and ``empty``."""
        return self._watches

    def start(self) -> None:
        """Start the workers; does nothing if they are started.

        :raises RuntimeError: if a worker cannot be started, or does not come alive
        """
        warn_of_surroundings()
        self._close_inherited()
        with self._changed:
            if self._running:
                return
            pairs = []
            for old, make in (
                (self._completions, self._completion_worker),
                (self._watches, self._watch_worker),
            ):
                following = old.thread is not None
                pairs.append((make() if following else old, old if following else None))
            started: list[Worker] = []
            try:
                for worker, predecessor in pairs:
                    worker.start(predecessor)
                    started.append(worker)
            except BaseException:
                for worker in started:
                    worker.close(refuse=True)
                # They end by themselves; a stop() waits for them.
                self._workers += [one for one, _ in pairs if not one.ended]
                raise
            (self._completions, _), (self._watches, _) = pairs
            self._workers[:] = started + [
                worker
                for worker in self._workers
                if not (worker.ended or worker.abandoned)
            ]
            self._threads.start()
            self._forked = False
            self._running = True

    def stop(self) -> None:
        """Stop the workers; does nothing if they are stopped.

        Lets the callbacks that are queued run first, for ``stop_timeout`` seconds at
        the most. See the rules of this module for calls from callbacks.
        """
        self._close_inherited()
        with self._changed:
            self._running = False
            for worker in self._workers:
                worker.close(refuse=worker is not self._completions)
            self._threads.stop()
            if self._connections.is_current():
                return
            late = self._wait_for_workers()
        for worker in late:
            self._give_up(worker)

    def _wait_for_workers(self) -> list[Worker]:
        """Wait until the workers have ended; return those that did not in time."""
        me = threading.get_ident()
        inner = me in self._stopping  # a signal handler, in the middle of another stop
        workers = list(self._workers)  # not those of another thread's next start
        in_callback = any(one.is_current() for one in workers)
        deadline = time.monotonic() + self._stop_timeout

        def is_awaited(worker: Worker) -> bool:
            if worker.ended or worker.abandoned:
                return False
            # A callback waits for none that stops, nor for one that follows it.
            return not in_callback or not any(
                one.name == worker.name and one.ident in self._stopping
                for one in workers
                if not one.ended
            )

        self._stopping.add(me)
        self._changed.notify_all()
        try:
            while True:
                awaited = [one for one in workers if is_awaited(one)]
                left = deadline - time.monotonic()
                if not awaited or left <= 0:
                    return awaited
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
        finally:
            if not inner:
                self._stopping.discard(me)

    def _give_up(self, worker: Worker) -> None:
        left = worker.abandon()
        running = worker.running
        _log.error(
            "%s did not end within %s s: %s still runs, %d callbacks behind it are "
            "dropped%s. It stands at:\n%s",
            worker.name,
            self._stop_timeout,
            "nothing" if running is None else describe(running[0]),
            len(left),
            "".join(f", {describe(callback)}" for callback in left[:10]),
            stack_of(worker.ident),
        )

    # -- callbacks and results -------------------------------------------------------

    def async_result(self) -> AsyncResult[Any]:
        """Return a new :class:`~kazoo_seqthreading.AsyncResult`."""
        result: AsyncResult[Any] = AsyncResult._of(self)
        if self._forked:
            self._made_in_child[threading.get_ident()] = result
        return result

    def dispatch_callback(self, callback: kazoo.protocol.states.Callback) -> None:
        """Queue a watch event's callback.

        :param callback: kazoo's ``Callback(type, func, args)``
        :raises TypeError: if its function is not callable
        """
        self._watches.put(partial(callback.func, *callback.args))

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Spawned:
        """Run ``func(*args, **kwargs)`` in a daemon thread of its own.

        :returns: what has ``join(timeout)`` and ``is_alive()``
        :raises TypeError: if *func* is not callable
        :raises RuntimeError: if no thread can be started
        """
        if not callable(func):
            raise TypeError(f"cannot run {func!r}: it is not callable")
        if is_connection_loop(func):
            run = partial(self._connections.run, func)
            return self._threads.spawn(run, "connection", dedicated=True)
        task = partial(func, *args, **kwargs)
        return self._threads.spawn(task, f"spawn:{describe(func)}")

    def _check_wait(self, blocks: bool) -> None:
        """Refuse to wait for a result where that would never end.

        :param blocks: whether the caller is going to block, and not just looking
        """
        if self._forked:
            raise _closed_by_fork()
        if blocks:
            if self._connections.is_current():
                raise _would_block_connection()
            warn_in_event_loop()

    def _check_event_wait(self, changed_by: Optional[int], born: int) -> None:
        """Refuse to wait for an event where that would never end.

        :param changed_by: the thread that set or cleared it last
        :param born: the fork generation that made it
        """
        if self._forked and born != _fork.generation:
            raise _closed_by_fork()
        if changed_by == threading.get_ident() and self._connections.is_current():
            raise _would_block_connection()

    # -- synchronization -------------------------------------------------------------

    def event_object(self) -> Event:
        """Return a new event, a :class:`threading.Event`."""
        return Event(self)

    def lock_object(self) -> Lock:
        """Return a new lock with the interface of :class:`threading.Lock`."""
        return Lock()

    def rlock_object(self) -> RLock:
        """Return a new lock with the interface of :class:`threading.RLock`."""
        return RLock()

    # -- sockets ---------------------------------------------------------------------

    def select(  # type: ignore[override]
        self,
        rlist: Sequence[Any],
        wlist: Sequence[Any],
        xlist: Sequence[Any],
        timeout: Optional[float] = None,
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Wait as :func:`select.select` does, for any number of descriptors.

        :param timeout: how long, in seconds; ``None`` for ever
        :raises OSError: if a descriptor is closed or invalid
        :raises TypeError, ValueError: if an argument makes no sense
        """
        if not xlist:
            # What kazoo asks for is answered by the connection.
            if rlist:
                connection = rlist[0]
                if type(connection) is Connection and connection.framed and not wlist:
                    if len(rlist) == 1:
                        return connection.wait(None, timeout), [], []
                    if len(rlist) == 2 and type(rlist[1]) is WakeUp:
                        return connection.wait(rlist[1], timeout), [], []
            elif len(wlist) == 1:
                connection = wlist[0]
                if type(connection) is Connection and connection.framed:
                    return [], connection.wait_writable(), []
        return _select.select(rlist, wlist, xlist, timeout)

    def socket(self) -> socket.socket:
        """Return a new TCP socket."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def create_socket_pair(self) -> tuple[WakeUp, WakeUp]:
        """Return the wake-up channel of a client, its ends to read and to write."""
        wakeup = WakeUp(self._ledger, self._on_send_in_child)
        return wakeup, wakeup

    def create_connection(  # type: ignore[override]
        self,
        address: Address,
        hostname: Any = None,
        timeout: Optional[float] = None,
        use_ssl: bool = False,
        ca: Optional[str] = None,
        certfile: Optional[str] = None,
        keyfile: Optional[str] = None,
        keyfile_password: Optional[str] = None,
        verify_certs: bool = True,
        check_hostname: bool = False,
        options: Optional[int] = None,
        ciphers: Optional[str] = None,
    ) -> Connection:
        """Connect to a server.

        :param address: host and port
        :param hostname: the name for SNI and ``check_hostname``
        :param timeout: for name, TCP and TLS together, in seconds; ``connect_timeout``
            if that is less
        :param use_ssl: whether to use TLS; the remaining arguments are for it
        :raises OSError: if that fails, with the address in the message;
            :exc:`ssl.SSLError` if it is TLS that fails
        :raises TypeError, ValueError: if an argument makes no sense
        """
        if not (isinstance(address, (tuple, list)) and len(address) >= 2):
            raise TypeError(f"address must be (host, port), not {address!r}")
        address = (address[0], address[1])
        if isinstance(hostname, str):
            if use_ssl:
                self._hostnames[address] = hostname
        else:
            # kazoo's command() gives a port here: take the name we connected to.
            hostname = self._hostnames.get(address, address[0])
        timeout = self._limit(timeout)
        self._watchdog.check()
        try:
            context = self._ssl_context
            if not use_ssl:
                context = None
            elif context is None:
                arguments = Arguments(
                    ca,
                    certfile,
                    keyfile,
                    keyfile_password,
                    verify_certs,
                    check_hostname,
                    options,
                    ciphers,
                )
                context = self._contexts.get(arguments)
            sock, codec = connect(
                address,
                Deadline(timeout),
                context=context,
                hostname=hostname,
                keepalive=self._tcp_keepalive,
                spawn=self._threads.spawn,
            )
            try:
                sock.settimeout(timeout)
                connection = Connection(sock, codec, self._ledger, self._watchdog)
            except BaseException:
                sock.close()
                raise
        except BaseException as error:
            self._ledger.connected(False)
            if isinstance(error, OSError):
                add_to_message(error, f"{address[0]}:{address[1]}")
            raise
        self._ledger.connected(True)
        return connection

    def _limit(self, timeout: Optional[float]) -> float:
        """Return the seconds that a connection attempt may take."""
        check_timeout(timeout)
        limits = [one for one in (timeout, self._connect_timeout) if one is not None]
        return min(limits) if limits else socket.getdefaulttimeout() or DEFAULT_TIMEOUT

    # -- in a forked child -----------------------------------------------------------

    def after_fork(self) -> None:
        """Be stopped: the parent's threads are not here."""
        self._forked = self._forked or self._running or len(self._connections) > 0
        self._running = False
        self._changed = threading.Condition(threading.RLock())
        self._stopping.clear()
        for worker in self._workers:
            worker.after_fork(self._changed)
        self._workers.clear()
        started_before = self._watches.thread is not None
        self._completions = self._completion_worker()
        self._watches = self._watch_worker(accepting=not started_before)
        self._threads.after_fork()
        self._connections.after_fork()
        self._contexts.after_fork()
        self._ledger.after_fork()

    def _on_send_in_child(self) -> bool:
        """Fail the request that was made in a child with an inherited client.

        :returns: whether to ask again at the next one
        """
        result = self._made_in_child.pop(threading.get_ident(), None)
        if self._forked and result is not None:
            result.set_exception(_closed_by_fork())
            self._close_inherited()
        return self._forked

    def _close_inherited(self) -> None:
        """Have kazoo close the clients that a parent's threads served."""
        if not self._connections.inherited:
            return
        # The callbacks of the parent's requests are the parent's to run.
        self._completions.when_closed = _drop
        try:
            self._connections.close_inherited()
        finally:
            self._completions.when_closed = run_isolated


def _closed_by_fork() -> ConnectionClosedError:
    return ConnectionClosedError(
        "The client belongs to the parent of this forked process; start() it here, or "
        "make a new one"
    )


def _would_block_connection() -> BlockingCallError:
    return BlockingCallError(
        f"{calling_listener()} blocks in the client's connection thread, which alone "
        "could end that; use the *_async methods there, or handler.spawn()"
    )


def _check_options(
    stop_timeout: float,
    slow_callback_duration: Optional[float],
    connect_timeout: Optional[float],
    ssl_context: Optional[ssl.SSLContext],
    tcp_keepalive: KeepAlive,
    max_spawned_threads: Optional[int],
) -> None:
    seconds = {
        "stop_timeout": stop_timeout,
        "slow_callback_duration": slow_callback_duration,
        "connect_timeout": connect_timeout,
    }
    for name, value in seconds.items():
        if value is None and name != "stop_timeout":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number of seconds, not {value!r}")
        if not (value > 0 or (value == 0 and name == "stop_timeout")):
            raise ValueError(f"{name} must be positive, not {value!r}")
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an SSLContext, not {ssl_context!r}")
    if not isinstance(tcp_keepalive, bool) and not (
        isinstance(tcp_keepalive, tuple)
        and len(tcp_keepalive) == 3
        and all(isinstance(value, int) and value > 0 for value in tcp_keepalive)
    ):
        raise TypeError(
            "tcp_keepalive must be a bool or (idle, interval, count), "
            f"not {tcp_keepalive!r}"
        )
    if max_spawned_threads is not None:
        if isinstance(max_spawned_threads, bool) or not isinstance(
            max_spawned_threads, int
        ):
            raise TypeError(
                f"max_spawned_threads must be a number, not {max_spawned_threads!r}"
            )
        if max_spawned_threads < 1:
            raise ValueError("max_spawned_threads must be at least 1")
