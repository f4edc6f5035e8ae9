"""The connection threads of a handler's clients.

A client's connection thread reads every reply and runs every state listener.

1. kazoo asks ``spawn`` for it, with ``ConnectionHandler.zk_loop``. While that runs, the
   thread is known by its ident; each thread adds and removes its own entry.
2. On a stopped handler, callbacks of the results that it completes run in a worker of
   its own, for they may block. The thread ends after that worker, or after the
   handler's ``stop_timeout``: who joins it, as ``client.stop()`` does, finds them run.
3. In a forked child these threads are gone, and kazoo's clients do not know. kazoo
   closes a client at the end of ``zk_loop``, which its thread reaches when the client's
   ``_stopped`` event is set. So in the child that event is set, and the loop runs once
   more, for each inherited client: it touches neither network nor session, fails what
   was pending, tells the listeners ``LOST``, and leaves a stopped client, which can be
   started anew.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from . import _fork
from ._batch import enable_batches
from ._connection_watch import ConnectionWatch
from ._disconnects import Disconnect
from ._history import KEPT, History, forked_from, record
from ._stats import Traffic

if TYPE_CHECKING:
    from kazoo.protocol.connection import ConnectionHandler

    from ._connection import Connection
    from ._steps import Steps
    from ._turn import Turn
    from ._worker import Item, Worker

_log = logging.getLogger("kazoo_seqthreading.fork")

#: Of all handlers, by ident.
_current: dict[int, ConnectionThread] = {}


def current_connection() -> Optional[ConnectionHandler]:
    """Return the connection whose thread this is, else ``None``."""
    thread = _current.get(threading.get_ident())
    return None if thread is None else thread.connection


def current_connection_thread() -> Optional[ConnectionThread]:
    """Return what is known of this thread if it is a connection thread."""
    return _current.get(threading.get_ident())


def _nothing_seen() -> object:
    return _nothing_seen


class ConnectionThread:
    """One run of a client's connection loop, in the thread that makes it.

    :param connection: kazoo's
    :param traffic: counts what goes over the connection
    :param steps: kazoo's, if they can be taken here
    :param owner: its handler's
    """

    def __init__(
        self,
        connection: ConnectionHandler,
        traffic: Traffic,
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
        # What the background thread has seen:
        self.call_seen: object = None
        self.head_seen: tuple[Callable[[], object], float] = (_nothing_seen, 0.0)
        self.last_slow: Callable[[], object] = _nothing_seen

    def socket(self) -> Optional[Connection]:
        """Return the connection to the server, if there is one, and it is ours."""
        return socket_of(self.connection)

    def server(self) -> Optional[str]:
        """Return the address of the server, if a session is served."""
        sock = self.socket()
        return sock.facts.server if sock is not None and sock.stands() else None

    def sent_since(self, xid: int) -> float:
        """Return when the request *xid* was sent, 0 if that is not known."""
        sock = self.socket()
        return 0.0 if sock is None or xid < 0 else sock.sent_since(xid)


def socket_of(connection: ConnectionHandler) -> Optional[Connection]:
    """Return kazoo's connection to the server, if there is one, and it is ours."""
    sock: Any = getattr(connection, "_socket", None)
    return sock if hasattr(type(sock), "oldest_unanswered") else None


class ConnectionThreads:
    """The connection threads of one handler, here and before a fork.

    :param start_worker: starts a worker for the callbacks of a stopped handler
    :param wait_for: waits for a worker, for ``stop_timeout`` at the most
    :param slow_request_duration: a request that waits for longer is warned of
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
        self.disconnects: deque[Disconnect] = deque(maxlen=KEPT)  #: the last ones
        self.inherited: dict[int, ConnectionHandler] = {}  #: the parent's, not closed
        #: Of all threads that there were; one at a time uses each.
        self.caller_traffic = Traffic()  #: what callers send and receive themselves
        self.traffics: list[Traffic] = [self.caller_traffic]
        self._unused: list[Traffic] = []
        self.latest_turn: Optional[Turn] = None  #: on which a caller has sent

    def __len__(self) -> int:
        return len(self._threads)

    def threads(self) -> list[ConnectionThread]:
        """Return the threads that run now."""
        return list(self._threads.values())

    def connections(self) -> list[ConnectionHandler]:
        """Return kazoo's connections that have a thread now."""
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
            traffic = Traffic()
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
        """Run a callback of a stopped handler; ``False`` if no thread can be started.

        Called by *thread* alone.
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
        """Remember the parent's connection threads as gone."""
        for ident, thread in self._threads.items():
            self.inherited[ident] = thread.connection
        self._threads.clear()
        self.watch.disarm()

    def close_inherited(self, warn: bool) -> None:
        """Have kazoo close the clients whose connection threads are gone.

        :param warn: whether somebody has used one of them, as if it were connected
        """
        while self.inherited:
            try:
                _, connection = self.inherited.popitem()
            except KeyError:
                return  # another thread was faster
            sock = socket_of(connection)
            if sock is not None and sock.facts.session_timeout:
                traffic = Traffic()
                self.traffics.append(traffic)
                forked = forked_from(sock.facts)
                record(forked, traffic, self.disconnects, warn)
            try:
                connection.client._stopped.set()
                connection.zk_loop()
            except Exception:
                _log.exception("Closing a client inherited over a fork failed")


@_fork.in_child
def _after_fork() -> None:
    _current.clear()
