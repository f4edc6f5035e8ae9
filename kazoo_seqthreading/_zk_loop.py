"""The connection threads of a handler's clients.

A client's connection thread reads all replies and runs all state listeners.

1. kazoo asks ``spawn`` to run ``ConnectionHandler.zk_loop``. While that runs, the
   thread is registered by its ident; each thread adds and removes its own entry.
2. On a stopped handler, the callbacks of results that a connection thread completes run
   in a worker of its own, as they may block. The thread ends after that worker, or
   after the handler's ``stop_timeout``: once it is joined, as in ``client.stop()``,
   they have run.
3. In a forked child these threads do not exist, but kazoo's clients do not know. kazoo
   closes a client at the end of ``zk_loop``, which is reached when the client's
   ``_stopped`` event is set. So the child sets that event and runs the loop once more
   for each inherited client. This uses neither the network nor the session; it fails
   the pending requests, calls the listeners with ``LOST``, and leaves a stopped client,
   which can be started again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._batch import enable_batches
from ._disconnects import Disconnect
from ._history import MAX_DISCONNECTS, History, forked_from, record
from ._slow_requests import ConnectionWatch
from ._stats import TrafficCounters

if TYPE_CHECKING:
    from kazoo.protocol.connection import ConnectionHandler

    from ._connection import Connection
    from ._steps import Steps
    from ._turn import Turn
    from ._worker import Item, Worker

_log = logging.getLogger("kazoo_seqthreading.fork")

#: The connection threads of all handlers, by ident.
_current: dict[int, ConnectionThread] = {}


def current_connection() -> Optional[ConnectionHandler]:
    """Return kazoo's connection if this is a connection thread, else ``None``."""
    thread = _current.get(threading.get_ident())
    return None if thread is None else thread.connection


def current_connection_thread() -> Optional[ConnectionThread]:
    """Return the state of this thread if it is a connection thread, else ``None``."""
    return _current.get(threading.get_ident())


def _nothing_seen() -> object:
    return _nothing_seen


class ConnectionThread:
    """The state of a connection thread, during one run of a client's connection loop.

    :param connection: kazoo's connection
    :param traffic: the counters for its traffic
    :param steps: runs the loop's steps, if that is possible here
    :param owner: the handler's connection threads
    """

    def __init__(
        self,
        connection: ConnectionHandler,
        traffic: TrafficCounters,
        steps: Optional[Steps],
        owner: ConnectionThreads,
    ) -> None:
        self.connection = connection
        self.steps = steps
        self.traffic = traffic
        self.history = History(connection, traffic, owner.disconnects, owner.watch.arm)
        self.on_request = owner.watch.arm_for_request
        self.late_worker: Optional[Worker] = None
        self.ended = False
        self.owner = owner
        # Used by the background thread alone:
        self.call_seen: object = None
        self.head_seen: tuple[Callable[[], object], float] = (_nothing_seen, 0.0)
        self.last_slow: Callable[[], object] = _nothing_seen

    def socket(self) -> Optional[Connection]:
        """Return the connection to the server, if there is one of this package."""
        return socket_of(self.connection)

    def server(self) -> Optional[str]:
        """Return the address of the server, if there is a session."""
        sock = self.socket()
        return sock.facts.server if sock is not None and sock.has_session() else None

    def sent_since(self, xid: int) -> float:
        """Return when the request *xid* was sent, 0 if unknown."""
        sock = self.socket()
        return 0.0 if sock is None or xid < 0 else sock.sent_since(xid)


def socket_of(connection: ConnectionHandler) -> Optional[Connection]:
    """Return kazoo's socket, if it is one of this package."""
    sock: Any = getattr(connection, "_socket", None)
    return sock if hasattr(type(sock), "oldest_unanswered") else None


class ConnectionThreads:
    """The connection threads of one handler, and of its parent before a fork.

    :param start_worker: starts a worker for the callbacks of a stopped handler
    :param wait_for: waits for a worker, up to ``stop_timeout``
    :param slow_request_duration: the option of the handler
    """

    def __init__(
        self,
        start_worker: Callable[[], Worker],
        wait_for: Callable[[Worker], Any],
        slow_request_duration: Optional[float],
    ) -> None:
        self._start_worker = start_worker
        self._wait_for = wait_for
        self._threads: dict[int, ConnectionThread] = {}
        self.watch = ConnectionWatch(self._threads, slow_request_duration)
        self.disconnects: deque[Disconnect] = deque(
            maxlen=MAX_DISCONNECTS
        )  #: the latest
        self.inherited: dict[int, ConnectionHandler] = {}  #: a parent's, open
        #: Counters are reused, by one thread at a time, and never reset.
        self.caller_traffic = (
            TrafficCounters()
        )  #: what callers send and receive themselves
        self.traffics: list[TrafficCounters] = [self.caller_traffic]
        self._unused: list[TrafficCounters] = []
        self.latest_turn: Optional[Turn] = None  #: last used by a caller to send

    def __len__(self) -> int:
        return len(self._threads)

    def threads(self) -> list[ConnectionThread]:
        """Return the running threads."""
        return list(self._threads.values())

    def connections(self) -> list[ConnectionHandler]:
        """Return kazoo's connections that have a running thread."""
        return [thread.connection for thread in self.threads()]

    def run(
        self,
        connection: ConnectionHandler,
        loop: Callable[[], Any],
        steps: Optional[Steps] = None,
    ) -> None:
        """Run a client's connection loop in this thread."""
        try:
            traffic = self._unused.pop()
        except IndexError:
            traffic = TrafficCounters()
            self.traffics.append(traffic)
        ident = threading.get_ident()
        thread = ConnectionThread(connection, traffic, steps, self)
        self._threads[ident] = _current[ident] = thread
        enable_batches(True)
        try:
            loop()
        finally:
            enable_batches(False)
            thread.ended = True
            self.latest_turn = None
            self._threads.pop(ident, None)
            _current.pop(ident, None)
            self._unused.append(traffic)
            worker = thread.late_worker
            if worker is not None:
                worker.close()
                self._wait_for(worker)

    def run_late(self, thread: ConnectionThread, callback: Item) -> bool:
        """Run a callback of a stopped handler in the worker of *thread*, the caller.

        :returns: ``False`` if that worker cannot be started
        """
        if thread.late_worker is None:
            try:
                thread.late_worker = self._start_worker()
            except RuntimeError:
                return False
        thread.late_worker.put(callback)
        return True

    # -- in a forked child -------------------------------------------------------------

    def after_fork(self) -> None:
        """Move the parent's connection threads, which do not exist here."""
        for ident, thread in self._threads.items():
            self.inherited[ident] = thread.connection
        self._threads.clear()
        self.watch.disarm()

    def close_inherited(self, warn: bool) -> None:
        """Let kazoo close the clients whose connection threads do not exist here.

        :param warn: whether a client was used as if it were connected
        """
        while self.inherited:
            try:
                _, connection = self.inherited.popitem()
            except KeyError:
                return  # another thread has closed the last one
            sock = socket_of(connection)
            if sock is not None and sock.facts.session_timeout:
                traffic = TrafficCounters()
                self.traffics.append(traffic)
                forked = forked_from(sock.facts)
                record(forked, traffic, self.disconnects, warn)
            try:
                connection.client._stopped.set()
                connection.zk_loop()
            except Exception:
                _log.exception("Closing a client inherited over a fork failed")


@_fork.run_in_child
def _after_fork() -> None:
    _current.clear()
