"""The work that is compared on a real server.

Every work takes a client, a path and a number of operations, and returns the number
of operations that it did.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from kazoo.protocol.serialization import Create, GetData, SetData
from kazoo.security import OPEN_ACL_UNSAFE

from tests.benchmarks import floor, one_thread, raw
from tests.benchmarks.measure import Sample, Task, take, take_each
from tests.benchmarks.subjects import DATA, HANDLERS, Site

#: How many requests are outstanding at a time.
WINDOW = 256
#: A burst: so many requests at once.
BURST = 2500
#: How long to wait for callbacks, in seconds.
PATIENCE = 120.0

#: The share of the raw limit from which on the server is what bounds a row.
SATURATED = 0.9

#: Beside the handlers: the raw socket, one with a second thread, kazoo's protocol code
#: alone, with the loop around it, and in one thread on the server.
RAW_SOCKET, HANDOVER = "raw socket", "raw socket, two threads"
FLOOR, LOOP, BOUND = "protocol", "protocol and loop", "protocol, one thread"

Work = Callable[[Any, str, int], int]


class Countdown:
    """A callback that is called a known number of times."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._done = threading.Event()

    def __call__(self, *arguments: Any) -> None:
        self._left -= 1  # callbacks of one type never overlap
        if not self._left:
            self._done.set()

    def wait(self) -> None:
        if not self._done.wait(PATIENCE):
            raise TimeoutError(f"{self._left} callbacks have not been called")


def pipelined(client: Any, path: str, operations: int) -> int:
    """Read with :data:`WINDOW` reads outstanding."""
    results: deque[Any] = deque()
    for _ in range(operations):
        if len(results) == WINDOW:
            results.popleft().get()
        results.append(client.get_async(path))
    for result in results:
        result.get()
    return operations


def burst(client: Any, path: str, operations: int) -> int:
    """Read, all at once."""
    for result in [client.get_async(path) for _ in range(operations)]:
        result.get()
    return operations


def rawlink(client: Any, path: str, operations: int) -> int:
    """Read, all at once, each with a callback."""
    countdown = Countdown(operations)
    for _ in range(operations):
        client.get_async(path).rawlink(countdown)
    countdown.wait()
    return operations


def writes(client: Any, path: str, operations: int) -> int:
    """Write, all at once."""
    for result in [client.set_async(path, DATA) for _ in range(operations)]:
        result.get()
    return operations


def watches(client: Any, path: str, operations: int) -> int:
    """Set watches of different functions, which one write then calls."""
    countdown = Countdown(operations)
    for result in [
        client.get_async(path, watch=partial(countdown)) for _ in range(operations)
    ]:
        result.get()
    client.set(path, DATA)
    countdown.wait()
    return operations


def sync(client: Any, path: str, operations: int) -> int:
    """Read, one after the other."""
    for _ in range(operations):
        client.get(path)
    return operations


def sync_threads(threads: int, client: Any, path: str, operations: int) -> int:
    """Read in several threads, in each one after the other."""
    each = -(-operations // threads)
    with ThreadPoolExecutor(threads) as pool:
        reads = [pool.submit(sync, client, path, each) for _ in range(threads)]
        return sum(read.result() for read in reads)


def create(client: Any, path: str, operations: int) -> int:
    """Create nodes, one after the other."""
    for _ in range(operations):
        client.create(f"{path}/n-", DATA, ephemeral=True, sequence=True)
    return operations


def lock(client: Any, path: str, operations: int) -> int:
    """Take a lock that nobody else wants, and release it."""
    for _ in range(operations):
        with client.Lock(f"{path}/lock"):
            pass
    return operations


@contextmanager
def computing() -> Iterator[None]:
    """Have a thread compute meanwhile."""
    going_on = [True]

    def compute() -> None:
        while going_on:
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        going_on.clear()
        thread.join()


@dataclass(frozen=True)
class Limit:
    """What a raw socket sends for a row, and how much of it at a time."""

    request: Callable[[str], Any]
    window: int = WINDOW


READS = Limit(lambda path: GetData(path, None))
READ = Limit(READS.request, 1)
WATCHES = Limit(lambda path: GetData(path, print))
WRITES = Limit(lambda path: SetData(path, DATA, -1))
CREATES = Limit(lambda path: Create(f"{path}/n-", DATA, OPEN_ACL_UNSAFE, 3), 1)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    :param operations: of one sample; *quick*, of one in a short run
    :param at_least: the operations per second to reach, as a multiple of kazoo's
    :param at_most: the CPU per operation, as a multiple of kazoo's
    """

    title: str
    work: Work | None
    operations: int
    quick: int
    at_least: float | None
    at_most: float | None
    limit: Limit | None
    tls: bool = False


def _sync_row(
    threads: int, operations: int, quick: int, at_least: float, at_most: float
) -> Row:
    work = partial(sync_threads, threads)
    limit = Limit(READS.request, threads)
    title = f"{threads} threads of synchronous reads"
    return Row(title, work, operations, quick, at_least, at_most, limit)


ROWS = {
    "pipelined": Row(
        "pipelined reads, 256 outstanding", pipelined, 6000, 2000, None, 0.11, READS
    ),
    "burst": Row("burst of 2,500 async reads", burst, BURST, BURST, None, 0.14, READS),
    "rawlink": Row(
        "the same with rawlink callbacks", rawlink, BURST, BURST, None, 0.12, READS
    ),
    "writes": Row("async writes", writes, BURST, 1000, None, 0.15, WRITES),
    "watches": Row("watch fan-out", watches, BURST, 1000, None, 0.20, WATCHES),
    "sync12": _sync_row(12, 3600, 1200, 1.9, 0.45),
    "sync8": _sync_row(8, 4000, 1200, 1.9, 0.45),
    "sync2": _sync_row(2, 2000, 600, 1.7, 0.42),
    "sync": Row("synchronous read, one thread", sync, 2000, 500, 1.6, 0.38, READ),
    "busy": Row(
        "read beside a thread that computes (p50)", sync, 80, 20, 2.5, None, None
    ),
    "create": Row("create() sequential", create, 1000, 300, 1.9, 0.34, CREATES),
    "lock": Row("Lock taken and released", lock, 300, 100, 1.4, 0.42, None),
    "tls-pipelined": Row(
        "pipelined reads over TLS", pipelined, 4000, 1500, 3.5, 0.10, READS, tls=True
    ),
    "tls-sync": Row(
        "synchronous read over TLS", sync, 1500, 500, None, 0.42, READ, tls=True
    ),
    "tls-connect": Row(
        "TLS connection attempt after the first", None, 40, 10, None, 0.15, None, True
    ),
}

#: Which should be as quick as the raw socket.
AS_RAW = ("pipelined", "burst", "rawlink", "writes", "watches")
#: Beside which a thread computes: it is not the operations per second that count, but
#: how long one takes.
BUSY = ("busy",)
#: What is measured in one thread, too.
IN_ONE_THREAD = ("pipelined", "sync", "busy", "create", "lock", "tls-sync")
#: Whose samples are bursts of a size that is part of the row.
BURSTS = ("burst", "rawlink")


def make_task(key: str, site: Site, operations: int) -> Task:
    """Return the task of a row on *site*."""
    row = ROWS[key]
    subjects: dict[str, Callable[[], Sample]] = {}
    for name, client in site.clients.items():
        if row.work is None:
            attempt = Attempts(site, HANDLERS[name]())
            subjects[name] = partial(take, partial(attempt, operations))
        else:
            subjects[name] = partial(_take, key, client, site.path, operations)
    if key in IN_ONE_THREAD:
        subjects[BOUND] = partial(_take_in_one_thread, key, site, operations)
    if row.limit is not None:
        context = None
        if site.tls is not None:
            context = ssl.create_default_context(cafile=site.tls.ca)
        subjects[RAW_SOCKET] = partial(
            raw.measure,
            (site.host, site.port),
            context,
            row.limit.request(site.chroot + site.path),
            row.limit.window,
            operations,
        )
    if key == "pipelined":
        subjects[FLOOR] = floor.Protocol(site.path, operations).measure
        subjects[LOOP] = floor.Protocol(site.path, operations, loop=True).measure
    if key == "sync":
        subjects[HANDOVER] = partial(
            raw.measure_handover,
            (site.host, site.port),
            READS.request(site.chroot + site.path),
            operations,
        )
    return Task(row.title, subjects)


def _take(key: str, client: Any, path: str, operations: int) -> Sample:
    """Measure, then remove the nodes that were created."""
    work = ROWS[key].work
    assert work is not None
    if key in BUSY:
        with computing():
            sample = take_each(partial(work, client, path, 1), operations)
    else:
        sample = take(partial(work, client, path, operations))
    names = client.get_children(path)
    for result in [client.delete_async(f"{path}/{name}") for name in names]:
        result.get()
    return sample


def _take_in_one_thread(key: str, site: Site, operations: int) -> Sample:
    with one_thread.connected(site) as client:
        return _take(key, client, site.path, operations)


class Attempts:
    """Connections as kazoo asks for them, each closed at once."""

    def __init__(self, site: Site, handler: Any) -> None:
        self._handler = handler
        assert site.tls is not None
        self._arguments: Mapping[str, Any] = {
            "address": (site.host, site.port),
            "hostname": site.host,
            "timeout": 10.0,
            "use_ssl": True,
            "ca": site.tls.ca,
            "certfile": site.tls.client_cert,
            "keyfile": site.tls.client_key,
            "keyfile_password": None,
            "verify_certs": True,
            "check_hostname": False,
        }

    def __call__(self, operations: int) -> int:
        for _ in range(operations):
            self._handler.create_connection(**self._arguments).close()
        return operations
