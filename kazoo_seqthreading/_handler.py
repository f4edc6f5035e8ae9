"""The handler: the interface that kazoo calls.

The path of a request::

    caller            client.get_async() -> AsyncResult, wake-up        _wakeup
    connection thread select, send, recv, result.set()                  _connection
    caller            result.get()                                      _result
    worker            callbacks linked to the result; watches           _worker

``_core`` has the handler's state, and its start and stop.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from socket import socket as Socket
from threading import Thread
from typing import Any, NoReturn, Optional

from . import _bases, _select
from ._bases import Callback, IHandler, KazooTimeoutError
from ._callbacks import check_callable
from ._connection import Connection
from ._core import Core
from ._create_connection import Address, KeepAlive
from ._exceptions import TimeoutError
from ._kazoo import connection_of, has_queues
from ._options import Options
from ._report import make_report
from ._result import AsyncResult
from ._snapshot import snapshot
from ._stats import Stats
from ._steps import steps_of
from ._surroundings import warn_about_environment
from ._sync import Event, Lock, make_rlock
from ._tls import TLSArguments
from ._wakeup import WakeupReader, attach, make_channel
from ._zk_loop import current_connection


class _TimeoutExceptionDescriptor:
    """``timeout_exception``: the package's, but kazoo's own in a connection thread.

    There kazoo raises it in places where it takes any ``OSError``, and so Python's
    ``TimeoutError``, for a lost connection, or during SASL for a failed authentication.
    """

    def __get__(self, handler: object, owner: type[Any]) -> type[Exception]:
        if handler is not None and current_connection() is not None:
            return KazooTimeoutError
        return TimeoutError


class _RunningDescriptor:
    """``_running``, which kazoo's tests read; a subclass may override it."""

    def __get__(self, handler: Any, owner: type[Any]) -> Any:
        return self if handler is None else handler._kazoo_seqthreading.running


class SequentialThreadingHandler(_bases.SequentialThreadingHandler, IHandler):
    """Runs the callbacks of kazoo's clients, one after the other, in two threads.

    One thread runs the callbacks of results, the other one the watches. Pass a handler
    to one client, or to several::

        handler = SequentialThreadingHandler(slow_callback_duration=0.5)
        client = KazooClient(hosts="...", handler=handler)

    Implements :class:`kazoo.interfaces.IHandler`. It is a subclass of kazoo's own
    handler, for ``isinstance``, but uses none of its code. Every method may be called
    from any thread.

    :param stop_timeout: how long :meth:`stop` waits for callbacks, in seconds
    :param slow_callback_duration: a callback that runs for longer than this, in
        seconds, is logged with its stack; ``None`` for no warnings
    :param connect_timeout: timeout for one connection attempt, in seconds, covering
        DNS, TCP and TLS; ``None`` for the session timeout
    :param ssl_context: used for every TLS connection, instead of a context made from
        the client's TLS arguments, see :meth:`create_connection`
    :param tcp_keepalive: ``True`` for TCP keep-alive with the system's settings, or a
        tuple of idle time (seconds), interval (seconds) and number of probes
    :param max_spawned_threads: how many functions given to :meth:`spawn` may run at
        once, not counting connection threads; others wait. ``None`` for no limit
    :param slow_request_duration: a request that is unanswered for longer than this, in
        seconds, is logged; ``None`` for no warnings
    :raises TypeError, ValueError: if an option is invalid
    """

    name = "sequential_threading_handler"
    timeout_exception: type[Exception] = _TimeoutExceptionDescriptor()  # type: ignore[assignment]
    sleep_func: Callable[[float], None] = staticmethod(time.sleep)  # type: ignore[assignment]
    queue_impl = queue.Queue
    queue_empty = queue.Empty
    _running = _RunningDescriptor()

    def __init__(
        self,
        *,
        stop_timeout: float = 5.0,
        slow_callback_duration: Optional[float] = 1.0,
        connect_timeout: Optional[float] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
        tcp_keepalive: KeepAlive = False,
        max_spawned_threads: Optional[int] = None,
        slow_request_duration: Optional[float] = 5.0,
    ) -> None:
        options = Options(
            stop_timeout,
            slow_callback_duration,
            connect_timeout,
            ssl_context,
            tcp_keepalive,
            max_spawned_threads,
            slow_request_duration,
        )
        options.check()
        core = Core(options)
        #: The only attribute, so that subclasses can choose their names freely.
        self._kazoo_seqthreading = core
        weakref.finalize(self, core.dispose).atexit = False

    def __repr__(self) -> str:
        core = self._kazoo_seqthreading
        state = "running" if core.running else "stopped"
        return (
            f"<{type(self).__name__} {core.prefix} {state} "
            f"completions={core.completions.qsize()} watches={core.watches.qsize()} "
            f"connections={len(core.connections)}>"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: its threads belong "
            "to it alone; make another one"
        )

    def stats(self) -> Stats:
        """Return a snapshot of the handler's counters, at little cost."""
        return snapshot(self._kazoo_seqthreading)

    def report(self) -> str:
        """Return a text about the handler and its clients, for a bug report.

        It has versions, options, clients, queues, requests in flight, the latest
        disconnects and the stacks of the threads, but no data and no credentials. It
        never blocks, and may be called in a signal handler, and while all hangs::

            signal.signal(signal.SIGUSR1, lambda *_: print(handler.report()))
        """
        return make_report(self._kazoo_seqthreading)

    # -- start and stop --------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the handler is started."""
        return self._kazoo_seqthreading.running

    @property
    def completion_queue(self) -> Any:
        """The queue of the callbacks of results; it has ``put`` and ``empty``.

        A queue assigned to it is used from the next :meth:`start` on.
        """
        worker = self._kazoo_seqthreading.completions
        return worker.queue if worker.queue_is_foreign else worker

    @completion_queue.setter
    def completion_queue(self, value: Any) -> None:
        self._kazoo_seqthreading.use_completion_queue(value)

    @property
    def callback_queue(self) -> Any:
        """The queue of the watches, like :attr:`completion_queue`."""
        worker = self._kazoo_seqthreading.watches
        return worker.queue if worker.queue_is_foreign else worker

    @callback_queue.setter
    def callback_queue(self, value: Any) -> None:
        self._kazoo_seqthreading.use_watch_queue(value)

    def start(self) -> None:
        """Start the two threads, unless they are running.

        kazoo calls it in ``client.start()``.

        :raises RuntimeError: if a thread cannot be started
        """
        warn_about_environment()
        self._kazoo_seqthreading.start()

    def stop(self) -> None:
        """Stop the two threads, if they are running.

        Queued callbacks run first. ``stop`` returns when they have, or after
        ``stop_timeout`` seconds. A callback that is still running is then logged with
        its stack, and goes on.

        Afterwards no watch is called: events wait for the next :meth:`start`. Results
        can still be completed; their callbacks are then called at once.

        ``stop`` may be called at any time. In a callback, it waits neither for that
        callback nor for those queued behind it. kazoo calls it in ``client.stop()``.
        Handlers that are running at exit are stopped.
        """
        self._kazoo_seqthreading.stop()

    # -- callbacks and results -------------------------------------------------------

    def async_result(self) -> AsyncResult[Any]:
        """Return a new :class:`~kazoo_seqthreading.AsyncResult`."""
        return AsyncResult(self)

    def dispatch_callback(self, callback: Callback) -> None:
        """Queue a watch event's callback.

        :param callback: kazoo's ``Callback(type, func, args)``
        :raises TypeError: if its function is not callable
        """
        self._kazoo_seqthreading.dispatch_watch(callback.func, callback.args)

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
        """Run ``func(*args, **kwargs)`` in a new daemon thread.

        With the option ``max_spawned_threads``, the function may be queued first.

        :returns: the thread, which can be joined
        :raises TypeError: if *func* is not callable
        :raises RuntimeError: if no thread can be started
        """
        check_callable(func)
        core = self._kazoo_seqthreading
        connection = connection_of(func)
        if connection is None:
            return core.spawned.spawn(func, *args, **kwargs)
        reader: Any = connection._read_sock
        if type(reader) is WakeupReader and has_queues(connection):
            attach(reader, connection._write_sock, connection.client)
        # If select() is overridden, all reads and writes must go through it.
        own = getattr(self.select, "__func__", None)
        steps = steps_of(connection) if own is _select_of_this_class else None
        run = partial(core.connections.run, connection, func, steps)
        return core.spawned.spawn_uncounted(run, "connection")

    # -- synchronization -------------------------------------------------------------

    def event_object(self) -> threading.Event:
        """Return a new :class:`threading.Event`."""
        return Event(self._kazoo_seqthreading)

    def lock_object(self) -> Lock:
        """Return a new lock with the interface of :class:`threading.Lock`."""
        return Lock()

    def rlock_object(self) -> threading.RLock:
        """Return a new :class:`threading.RLock`."""
        return make_rlock()

    # -- sockets ---------------------------------------------------------------------

    def select(  # type: ignore[override]
        self,
        rlist: Sequence[Any],
        wlist: Sequence[Any],
        xlist: Sequence[Any],
        timeout: Optional[float] = None,
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Wait as :func:`select.select` does, for any number of descriptors.

        :param timeout: how long to wait, in seconds; ``None`` waits forever
        :raises OSError: if a descriptor is closed or invalid
        :raises TypeError, ValueError: if an argument is invalid
        """
        if not xlist:
            # kazoo's own calls are answered by the connection.
            if rlist:
                connection = rlist[0]
                if type(connection) is Connection and not wlist:
                    if len(rlist) == 1:
                        if connection.framed:
                            return connection.wait(None, timeout), [], []
                    elif len(rlist) == 2:
                        wakeup = rlist[1]
                        if type(wakeup) is WakeupReader and wakeup.client is not None:
                            return connection.wait(wakeup, timeout), [], []
            elif len(wlist) == 1:
                connection = wlist[0]
                if type(connection) is Connection and connection.framed:
                    return [], connection.ready_to_write(), []
        return _select.select(rlist, wlist, xlist, timeout)

    def socket(self) -> Socket:
        """Return a new TCP socket."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def create_socket_pair(self) -> tuple[Socket, Socket]:
        """Return two connected sockets, which kazoo uses to wake its thread."""
        return make_channel(self._kazoo_seqthreading.on_send_in_child)

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
    ) -> Socket:
        """Connect to a server.

        kazoo calls it with the TLS arguments given to
        :class:`kazoo.client.KazooClient`. TLS is version 1.2 or newer. With the
        handler's option ``ssl_context``, only *use_ssl* and *hostname* are used.

        :param address: host and port
        :param hostname: the server's name for SNI, and for *check_hostname*
        :param timeout: in seconds, covering DNS, TCP and TLS; the option
            ``connect_timeout`` is used if it is less
        :param use_ssl: whether to use TLS
        :param ca: PEM file with trusted certificates, in addition to the system's
        :param certfile: PEM file with the client's certificate; needs *keyfile*
        :param keyfile: PEM file with the certificate's private key
        :param keyfile_password: the password of the private key
        :param verify_certs: whether to verify the server's certificate
        :param check_hostname: whether the certificate must match *hostname*
        :param options: flags for :attr:`ssl.SSLContext.options`
        :param ciphers: a string for :meth:`ssl.SSLContext.set_ciphers`
        :returns: a connected socket
        :raises OSError: if the connection fails, with the address in the message;
            :exc:`ssl.SSLError` if TLS fails
        :raises TypeError, ValueError: if an argument is invalid
        """
        arguments = None
        if use_ssl:
            arguments = TLSArguments(
                ca,
                certfile,
                keyfile,
                keyfile_password,
                verify_certs,
                check_hostname,
                options,
                ciphers,
            )
        return self._kazoo_seqthreading.connector.connect(
            address, hostname, timeout, arguments
        )


_select_of_this_class = SequentialThreadingHandler.select
