"""Clients under load, and the books that prove what became of every call.

::

    with Load(handler_class, hosts, keeper_hosts) as load:
        load.progress()  # everything works
        ...              # break something, and repair it
        load.progress()  # everything works again
                         # leaving: the books are checked

What is checked:

1. Every call returns or raises within ``bound`` seconds, ``stop()`` included, and
   raises nothing but what a lost connection or session explains.
2. Every acknowledged write is there exactly once, every other one at most once: each
   has a token of its own, and the server adds a number to each node of that name. The
   version of a node that was set grew once for each acknowledged write, and at most
   once for each other one.
3. Every callback runs exactly once, in the order of the requests, none while another
   one runs.
4. Every watch fires exactly once, for the change or for the lost connection; one whose
   registration failed does not fire.
5. A lock has one holder at a time.
6. Each kind of call succeeds again, in each client, once the fault is over; a recipe
   that watches (``DataWatch``) sees the last value.

Each job is a thread that owns its books; they are read when it has ended.
"""

from __future__ import annotations

import atexit
import itertools
import secrets
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable

from kazoo.client import KazooClient
from kazoo.exceptions import (
    CancelledError,
    ConnectionClosedError,
    ConnectionLoss,
    LockTimeout,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.retry import RetryFailedError

from tests.support import thread_stacks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

#: How long a call may take: longer than any outage here, and shorter than for ever.
BOUND = 30.0
#: The session's time-out, in seconds, unless a test says otherwise.
SESSION = 4.0
#: How many asynchronous requests a job has outstanding.
WINDOW = 16
#: Between two rounds of a job, so that the books stay small.
PAUSE = 0.02

#: What a lost connection, or a lost session, explains.
LOST: tuple[type[Exception], ...] = (
    ConnectionLoss,
    SessionExpiredError,
    ConnectionClosedError,
    OperationTimeoutError,
    RetryFailedError,
)
#: What is raised at once where the session has ended, before older requests fail.
REFUSED = (SessionExpiredError, ConnectionClosedError)

RETRY = {"max_tries": -1, "delay": 0.02, "backoff": 2, "max_delay": 0.3}


#: The handlers of all clients that a test has made.
handlers: list[Any] = []


def new_client(handler_class: type[Any], hosts: str, **options: Any) -> Any:
    """Return an unstarted client that reconnects quickly, and for ever."""
    handlers.append(handler_class())
    options.setdefault("timeout", SESSION)
    options.setdefault("connection_retry", dict(RETRY))
    options.setdefault("command_retry", dict(RETRY))
    return KazooClient(hosts, handler=handlers[-1], **options)


def close(client: Any, bound: float = BOUND) -> str:
    """Stop and close *client*; return what was wrong with that, or ``""``."""

    def run() -> None:
        try:
            client.stop()
            client.close()
        except Exception as error:
            wrong.append(f"stop() raised {error!r}")

    wrong: list[str] = []
    atexit.unregister(client.handler.stop)  # kazoo's own may hang there
    thread = threading.Thread(target=run, name="closing", daemon=True)
    thread.start()
    thread.join(bound)
    if thread.is_alive():
        return f"stop() did not return within {bound} s"
    return "; ".join(wrong)


class Job(threading.Thread):
    """A thread that makes one kind of calls with one client, until it is stopped.

    :param path: of a node of its own, which exists
    """

    def __init__(self, load: Load, client: Any, path: str) -> None:
        super().__init__(name=path.rpartition("/")[2], daemon=True)
        self.load = load
        self.client = client
        self.path = path
        self.done = 0  # calls that succeeded
        self.failed: Counter[str] = Counter()  # calls that raised what is allowed
        self.slowest = 0.0
        self.wrong: list[str] = []
        self._tokens = itertools.count()

    def run(self) -> None:
        try:
            while not self.load.stopping.is_set():
                self.step()
                self.load.stopping.wait(PAUSE)
            self.finish()
        except Exception as error:
            self.wrong.append(f"raised {error!r}")

    def step(self) -> None:
        """Make some calls."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for what is outstanding."""

    def check(self, keeper: Any) -> None:
        """Hold the books against what the servers have."""

    @contextmanager
    def call(self, *allowed: type[Exception]) -> Iterator[None]:
        """Account for one call, which may raise what is *allowed*."""
        began = time.monotonic()
        try:
            yield
        except LOST + allowed as error:
            self.failed[type(error).__name__] += 1
        else:
            self.succeeded()
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)

    def succeeded(self) -> None:
        self.done += 1
        self.load.succeeded()

    def next_token(self) -> str:
        """Return a name that no other request has."""
        return f"{next(self._tokens):x}"


class Creator(Job):
    """Keeps the books of sequence nodes."""

    def __init__(self, load: Load, client: Any, path: str) -> None:
        super().__init__(load, client, path)
        self.acknowledged: dict[str, str] = {}  # token -> path
        self.unknown: set[str] = set()  # sent or not, the call has failed

    def create(self, token: str) -> Any:
        return self.client.create_async(f"{self.path}/{token}-", sequence=True)

    def check(self, keeper: Any) -> None:
        found = Counter(
            name.rpartition("-")[0] for name in keeper.get_children(self.path)
        )
        names = {f"{self.path}/{name}" for name in keeper.get_children(self.path)}
        for token, path in self.acknowledged.items():
            if not path.startswith(f"{self.path}/{token}-"):
                self.wrong.append(f"the answer for {token} is {path}")
            if path not in names:
                self.wrong.append(f"{path} was acknowledged, and is not there")
        for token, count in found.items():
            if count > 1:
                self.wrong.append(f"{token} was written {count} times")
            if token not in self.acknowledged and token not in self.unknown:
                self.wrong.append(f"{token} is there, and nobody has written it")


class Sync(Creator):
    """Synchronous calls: ``create`` of sequence nodes, and ``set`` of one node."""

    def __init__(self, load: Load, client: Any, path: str) -> None:
        super().__init__(load, client, path)
        self.versions: list[int] = []
        self.lost_sets = 0

    def step(self) -> None:
        token = self.next_token()
        self.unknown.add(token)
        with self.call():
            path = self.client.create(f"{self.path}/{token}-", sequence=True)
            self.acknowledged[token] = path
            self.unknown.discard(token)
        self.lost_sets += 1
        with self.call():
            self.versions.append(self.client.set(self.path, token.encode()).version)
            self.lost_sets -= 1

    def check(self, keeper: Any) -> None:
        super().check(keeper)
        version = keeper.get(self.path)[1].version
        if not len(self.versions) <= version <= len(self.versions) + self.lost_sets:
            self.wrong.append(
                f"version {version} after {len(self.versions)} acknowledged writes "
                f"and {self.lost_sets} others"
            )
        if self.versions != sorted(set(self.versions)):
            self.wrong.append("the versions of acknowledged writes do not grow")


class Async(Creator):
    """Asynchronous calls, whose results are waited for one after the other."""

    def step(self) -> None:
        burst = []
        for _ in range(WINDOW):
            token = self.next_token()
            self.unknown.add(token)
            burst.append((token, self.create(token)))
        for token, result in burst:
            with self.call():
                try:
                    self.acknowledged[token] = result.get(timeout=self.load.bound)
                except self.client.handler.timeout_exception:
                    self.wrong.append(f"no answer for {token}")
                    continue
                self.unknown.discard(token)


class Callbacks(Creator):
    """Asynchronous calls, whose results come to a callback."""

    def __init__(self, load: Load, client: Any, path: str) -> None:
        super().__init__(load, client, path)
        self._free = threading.Semaphore(WINDOW)
        self._running = threading.Lock()
        self._called: list[tuple[int, bool]] = []  # number, refused?
        self._number = 0

    def step(self) -> None:
        for _ in range(WINDOW):
            if not self._free.acquire(timeout=self.load.bound):
                self.wrong.append("a callback did not run")
                return
            number, token = self._number, self.next_token()
            self._number += 1
            self.unknown.add(token)
            self.create(token).rawlink(
                lambda result, number=number, token=token: self._back(
                    result, number, token
                )
            )

    def _back(self, result: Any, number: int, token: str) -> None:
        if not self._running.acquire(blocking=False):
            self.wrong.append("two callbacks at once")
            return
        try:
            refused = isinstance(result.exception, REFUSED)
            self._called.append((number, refused))
            with self.call():
                self.acknowledged[token] = result.get(block=False)
                self.unknown.discard(token)
        finally:
            self._running.release()
            self._free.release()

    def finish(self) -> None:
        deadline = time.monotonic() + self.load.bound
        for _ in range(WINDOW):
            if not self._free.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                self.wrong.append("a callback did not run")

    def check(self, keeper: Any) -> None:
        super().check(keeper)
        numbers = [number for number, _ in self._called]
        if sorted(numbers) != list(range(self._number)):
            self.wrong.append(
                f"{len(numbers)} callbacks ran, {len(set(numbers))} different ones, "
                f"of {self._number}"
            )
        in_order = [number for number, refused in self._called if not refused]
        if in_order != sorted(in_order):
            self.wrong.append("callbacks ran in another order than the requests")


class Watches(Job):
    """A watch is set, and its node changed, again and again."""

    def __init__(self, load: Load, client: Any, path: str) -> None:
        super().__init__(load, client, path)
        self._fired: Counter[int] = Counter()
        self._registered: set[int] = set()
        self._changed = threading.Condition()

    def step(self) -> None:
        number = int(self.next_token(), 16)

        def watch(event: Any) -> None:
            with self._changed:
                self._fired[number] += 1
                self._changed.notify_all()

        with self.call():
            self.client.get(self.path, watch=watch)
            self._registered.add(number)
        if number not in self._registered:
            return
        with self.call():
            self.client.set(self.path, b"")
        with self._changed:
            if not self._changed.wait_for(lambda: self._fired[number], self.load.bound):
                self.wrong.append(f"watch {number} has seen nothing")

    def check(self, keeper: Any) -> None:
        for number, times in self._fired.items():
            if times != (number in self._registered):
                self.wrong.append(f"watch {number} has fired {times} times")


class Locks(Job):
    """A lock, taken and released, that the jobs of all clients want.

    It counts as held from the moment when ``acquire`` has returned until a write to its
    node is called that the server then accepts: until then nobody else may have it.
    """

    def __init__(self, load: Load, client: Any, path: str) -> None:
        super().__init__(load, client, path)
        self._lock = client.Lock(path, self.name)
        self.held: list[tuple[float, float]] = []

    def step(self) -> None:
        with self.call(LockTimeout, CancelledError):
            if not self._lock.acquire(timeout=2.0):
                raise LockTimeout
        if self._lock.is_acquired:
            since = time.monotonic()
            with self.call(NoNodeError):
                until = time.monotonic()
                self.client.set(f"{self.path}/{self._lock.node}", b"")
                self.held.append((since, until))
        while self._lock.is_acquired:
            with self.call():
                self._lock.release()


class Load:
    """Several clients, each with a job of every kind.

    :param handler_class: what makes the clients' handlers
    :param hosts: where the clients connect to
    :param keeper_hosts: where the one connects to that checks the books afterwards
    :param options: for the clients
    """

    def __init__(
        self,
        handler_class: type[Any],
        hosts: str,
        keeper_hosts: str,
        *,
        clients: int = 2,
        bound: float = BOUND,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.bound = bound
        self.stopping = threading.Event()
        self.wrong: list[str] = []
        self.jobs: list[Job] = []
        self.clients = [
            new_client(handler_class, hosts, **(options or {})) for _ in range(clients)
        ]
        self._keeper_hosts = keeper_hosts
        self.root = f"/load-{secrets.token_hex(4)}"
        self._progress = threading.Condition()
        self._seen: list[deque[bytes]] = []  # by the recipe of each client

    def __enter__(self) -> Load:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._set_last_value()
        finally:
            self._stop()
        if error is None:
            self._check()

    def succeeded(self) -> None:
        """Note that a job has something done."""
        with self._progress:
            self._progress.notify_all()

    def progress(self, calls: int = 3, timeout: float | None = None) -> None:
        """Wait until every job has made so many more successful calls."""
        goal = {job: job.done + calls for job in self.jobs}

        def behind() -> list[Job]:
            return [job for job in self.jobs if job.done < goal[job]]

        with self._progress:
            if not self._progress.wait_for(
                lambda: not behind(), self.bound if timeout is None else timeout
            ):
                raise AssertionError(
                    f"does not work: {', '.join(job.name for job in behind())}\n"
                    f"{self.report()}\n{thread_stacks()}"
                )

    def report(self) -> str:
        """Return what each job has done so far."""
        return "\n".join(
            f"{job.name}: {job.done} done, {dict(job.failed)}, slowest "
            f"{job.slowest:.2f} s{''.join(f', {wrong}' for wrong in job.wrong[:5])}"
            for job in self.jobs
        )

    def _start(self) -> None:
        with self._keeper() as keeper:
            keeper.create(self.root)
            for number, client in enumerate(self.clients):
                client.start(timeout=self.bound)
                for kind in (Sync, Async, Callbacks, Watches):
                    path = f"{self.root}/{kind.__name__.lower()}-{number}"
                    keeper.create(path)
                    self.jobs.append(kind(self, client, path))
                keeper.ensure_path(f"{self.root}/lock")
                lock = Locks(self, client, f"{self.root}/lock")
                lock.name = f"lock-{number}"
                self.jobs.append(lock)
                self._watch_recipe(client)
        for job in self.jobs:
            job.start()

    def _watch_recipe(self, client: Any) -> None:
        seen: deque[bytes] = deque(maxlen=1)
        self._seen.append(seen)

        def note(data: bytes | None, stat: Any) -> None:
            if data is not None:
                seen.append(data)
                self.succeeded()

        client.DataWatch(self.root, note)

    def _set_last_value(self) -> None:
        with self._keeper() as keeper:
            keeper.set(self.root, b"last")
        with self._progress:
            if not self._progress.wait_for(
                lambda: all(b"last" in seen for seen in self._seen), self.bound
            ):
                self.wrong.append(f"a DataWatch has not seen the end: {self._seen}")

    def _stop(self) -> None:
        self.stopping.set()
        deadline = time.monotonic() + self.bound
        for job in self.jobs:
            if job.ident is not None:
                job.join(max(deadline - time.monotonic(), 0.0))
        stuck = [job.name for job in self.jobs if job.is_alive()]
        if stuck:
            self.wrong.append(
                f"calls that do not return: {', '.join(stuck)}\n{thread_stacks()}"
            )
        closers = [(client, close(client, self.bound)) for client in self.clients]
        self.wrong.extend(wrong for _, wrong in closers if wrong)

    def _check(self) -> None:
        with self._keeper() as keeper:
            for job in self.jobs:
                job.check(keeper)
                if job.slowest > self.bound:
                    job.wrong.append(f"a call took {job.slowest:.1f} s")
                self.wrong.extend(f"{job.name}: {wrong}" for wrong in job.wrong[:10])
            self._check_locks()
            self._remove(keeper)
        assert not self.wrong, "\n".join([*self.wrong, self.report()])

    def _check_locks(self) -> None:
        held = sorted(
            (*times, job.name)
            for job in self.jobs
            if isinstance(job, Locks)
            for times in job.held
        )
        for (_, until, holder), (since, _, other) in zip(held, held[1:]):
            if since < until:
                self.wrong.append(f"{holder} and {other} had the lock at once")

    def _remove(self, keeper: Any) -> None:
        for folder in keeper.get_children(self.root):
            path = f"{self.root}/{folder}"
            for start in range(0, len(names := keeper.get_children(path)), 500):
                results = [
                    keeper.delete_async(f"{path}/{name}")
                    for name in names[start : start + 500]
                ]
                for result in results:
                    with suppress(NoNodeError):  # of a session that has ended
                        result.get(timeout=self.bound)

    @contextmanager
    def _keeper(self) -> Iterator[Any]:
        """Yield a client of kazoo's own, which sees the last state of all."""
        keeper = KazooClient(self._keeper_hosts, timeout=30.0)
        atexit.unregister(keeper.handler.stop)
        try:
            keeper.start(timeout=self.bound)
            keeper.sync("/")
            yield keeper
        finally:
            keeper.stop()
            keeper.close()


def wait_for_state(
    client: Any, *states: str, timeout: float = BOUND
) -> Callable[[], str]:
    """Begin to watch for *states*; return what waits until one of them has come."""
    came = threading.Event()
    first: list[str] = []

    def listen(state: str) -> bool:
        if state in states:
            first.append(state)
            came.set()
            return True
        return False

    def wait() -> str:
        assert came.wait(timeout), f"not {states} within {timeout} s"
        return first[0]

    client.add_listener(listen)
    return wait
