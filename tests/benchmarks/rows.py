"""The work that is compared on a real server.

Every work takes a client, a path and a number of operations, and returns the number
of operations that it did.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from kazoo.protocol.serialization import Create, GetData, SetData
from kazoo.security import OPEN_ACL_UNSAFE

from tests.benchmarks import floor, raw
from tests.benchmarks.measure import Sample, Task, take
from tests.benchmarks.subjects import DATA, HANDLERS, Site

#: How many requests are outstanding at a time.
WINDOW = 256
#: A burst: so many requests at once.
BURST = 2500
THREADS = 8
#: How long to wait for callbacks, in seconds.
PATIENCE = 120.0

#: The share of the raw limit from which on the server is what bounds a row.
SATURATED = 0.8

#: Beside the handlers: the raw socket, one with a second thread, kazoo's protocol code
#: alone, and with the loop around it.
LIMIT, HANDOVER = "raw socket", "raw socket, two threads"
FLOOR, LOOP = "protocol", "protocol and loop"

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


def sync_threads(client: Any, path: str, operations: int) -> int:
    """Read in :data:`THREADS` threads, in each one after the other."""
    each = -(-operations // THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        reads = [pool.submit(sync, client, path, each) for _ in range(THREADS)]
        return sum(read.result() for read in reads)


def create(client: Any, path: str, operations: int) -> int:
    """Create nodes, one after the other."""
    for _ in range(operations):
        client.create(f"{path}/n-", DATA, ephemeral=True, sequence=True)
    return operations


@dataclass(frozen=True)
class Limit:
    """What a raw socket sends for a row, and how much of it at a time."""

    request: Callable[[str], Any]
    window: int = WINDOW


READS = Limit(lambda path: GetData(path, None))
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
    at_most: float
    limit: Limit | None
    tls: bool = False


ROWS = {
    "pipelined": Row(
        "pipelined reads, 256 outstanding", pipelined, 6000, 2000, 3.5, 0.20, READS
    ),
    "burst": Row("burst of 2,500 async reads", burst, BURST, BURST, 2.5, 0.22, READS),
    "rawlink": Row(
        "the same with rawlink callbacks", rawlink, BURST, BURST, 3.5, 0.16, READS
    ),
    "writes": Row("async writes", writes, BURST, 1000, 3.0, 0.22, WRITES),
    "watches": Row("watch fan-out", watches, BURST, 1000, 2.5, 0.28, WATCHES),
    "sync8": Row(
        "8 threads of synchronous reads",
        sync_threads,
        4000,
        1200,
        2.2,
        0.40,
        Limit(READS.request, THREADS),
    ),
    "sync": Row(
        "synchronous read, one thread",
        sync,
        2000,
        500,
        1.5,
        0.50,
        Limit(READS.request, 1),
    ),
    "create": Row("create() sequential", create, 1000, 300, 1.5, 0.50, CREATES),
    "tls-pipelined": Row(
        "pipelined reads over TLS", pipelined, 4000, 1500, 3.5, 0.25, READS, tls=True
    ),
    "tls-connect": Row(
        "TLS connection attempt after the first", None, 40, 10, None, 0.15, None, True
    ),
}

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
            work = partial(row.work, client, site.path, operations)
            subjects[name] = partial(_take_and_tidy, work, client, site.path)
    if row.limit is not None:
        context = None
        if site.tls is not None:
            context = ssl.create_default_context(cafile=site.tls.ca)
        subjects[LIMIT] = partial(
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


def _take_and_tidy(work: Callable[[], int], client: Any, path: str) -> Sample:
    """Measure, then remove the nodes that were created."""
    sample = take(work)
    names = client.get_children(path)
    for result in [client.delete_async(f"{path}/{name}") for name in names]:
        result.get()
    return sample


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
