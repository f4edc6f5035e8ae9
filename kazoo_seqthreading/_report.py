"""A text report about a handler's state, for bug reports.

Making it takes no lock, never blocks, imports nothing and reads no file: it works in a
signal handler, and while everything else hangs. It contains operations and paths, but
no data, credentials or session passwords; stacks come without source lines.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Optional

from kazoo.version import __version__ as kazoo_version

from . import _fork, _kazoo
from ._callbacks import describe
from ._monitor import monitor_thread
from ._snapshot import snapshot
from ._version import __version__

if TYPE_CHECKING:
    from ._core import Core
    from ._stats import Stats
    from ._zk_loop import ConnectionThread

#: Maximum number of a queue's entries in the report.
MAX_LISTED = 10
#: Maximum number of a stack's frames in the report.
MAX_STACK_DEPTH = 30


def make_report(core: Core) -> str:
    """Return the report about the handler of *core*."""
    sections: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: _head(core),
        lambda: _clients(core),
        lambda: _queues(core),
        lambda: _history(snapshot(core)),
        lambda: _threads(core),
    )
    lines: list[str] = []
    for section in sections:
        try:
            lines.extend(section())
        except Exception as error:
            # An unexpected version of kazoo: go on with the rest.
            lines.append(f"  ({type(error).__name__}: {error})")
    return "\n".join(lines) + "\n"


def _head(core: Core) -> Iterator[str]:
    python = f"{sys.implementation.name} {sys.version.split()[0]}"
    yield f"kazoo-seqthreading {__version__}, kazoo {kazoo_version}, {python}"
    yield f"System: {' '.join(os.uname()[::2]) if hasattr(os, 'uname') else os.name}"
    state = "running" if core.running else "stopped"
    forked = ", in a forked child" if _fork.generation else ""
    yield f"Handler: {core.prefix}, {state}{forked}"
    options = core.options._asdict()
    if options["ssl_context"] is not None:
        options["ssl_context"] = "given"
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    yield f"Options: {given}"


def _clients(core: Core) -> Iterator[str]:
    yield "Clients:"
    threads = core.connections.threads()
    for number, thread in enumerate(threads, 1):
        yield from _client(number, thread)
    for connection in tuple(core.connections.inherited.values()):
        yield f"  inherited over a fork: {_kazoo.state_of(connection)}"
    if not (threads or core.connections.inherited):
        yield "  none"


def _client(number: int, thread: ConnectionThread) -> Iterator[str]:
    client = getattr(thread.connection, "client", None)
    now = monotonic()
    hosts = ",".join(f"{host}:{port}" for host, port in getattr(client, "hosts", ()))
    yield (
        f"  {number}. {_kazoo.state_of(thread.connection)}, "
        f"hosts {hosts}{getattr(client, 'chroot', '')}"
    )
    sock = thread.socket()
    if sock is None or not sock.has_session():
        yield "     no connection"
    else:
        facts = sock.facts
        yield (
            f"     {facts.server} for {now - facts.made_at:.1f} s, "
            f"last heard {now - sock.heard_at:.1f} s ago, "
            f"last sent {now - sock.sent_at:.1f} s ago"
        )
        yield (
            f"     session {facts.session_id:#x}, "
            f"time-out {facts.session_timeout:.1f} s"
        )
    if client is None or not _kazoo.has_queues(thread.connection):
        return
    pending = _copy(client._pending)
    queued = _copy(client._queue)
    yield f"     requests in flight: {len(pending)}, not sent yet: {len(queued)}"
    for request, _, xid in pending[:MAX_LISTED]:
        since = thread.sent_since(xid)
        age = f", for {now - since:.1f} s" if since else ""
        yield f"       {_kazoo.operation_of(request)}{age}"
    for request, _ in queued[:MAX_LISTED]:
        yield f"       {_kazoo.operation_of(request)}, not sent"


def _queues(core: Core) -> Iterator[str]:
    yield "Queues:"
    for name, worker in (("completions", core.completions), ("watches", core.watches)):
        stats = worker.stats()
        yield (
            f"  {name}: {stats.runs} run, {stats.failures} failed, longest "
            f"{stats.longest_run_seconds:.3f} s, {stats.depth} waiting"
        )
        if stats.current_callback is not None:
            yield (
                f"    runs for {stats.current_run_seconds:.1f} s: "
                f"{stats.current_callback}"
            )
        first = _first_waiting(worker.queue)
        if first is not None:
            queued, callback = first
            yield f"    waits for {monotonic() - queued:.1f} s: {describe(callback)}"


def _first_waiting(queue: Any) -> Optional[tuple[float, Any]]:
    """Return when the first waiting callback was queued, and the callback.

    A ``SimpleQueue`` cannot be read without taking the entries out, so they are found
    by means of the garbage collector.
    """
    entries = gc.get_referents(queue)
    for held in tuple(entries):
        if type(held) in (list, deque):
            entries += held
    waiting = [
        item for item in entries if type(item) is tuple and type(item[0]) is float
    ]
    return min(waiting, key=lambda item: item[0], default=None)


def _history(stats: Stats) -> Iterator[str]:
    yield (
        f"Traffic: {stats.requests} requests, {stats.replies} replies, "
        f"{stats.bytes_sent} bytes sent, {stats.bytes_received} received, "
        f"{stats.connections_made} connections made, "
        f"{stats.connections_failed} failed, {stats.spawned_threads} spawned threads"
    )
    for name in ("server", "client"):
        histogram = getattr(stats.round_trips, name)
        yield (
            f"Round trips, {name}: {histogram.count} samples, mean "
            f"{histogram.mean_seconds * 1e3:.3f} ms, longest "
            f"{histogram.longest_seconds * 1e3:.3f} ms"
        )
    counts = ", ".join(
        f"{cause}: {count}" for cause, count in stats.disconnects_by_cause.items()
    )
    yield f"Disconnects: {counts or 'none'}"
    now = time()
    for disconnect in stats.disconnects:
        yield f"  {now - disconnect.at:.1f} s ago: {disconnect}"


def _threads(core: Core) -> Iterator[str]:
    yield "Threads:"
    frames = sys._current_frames()
    own: dict[Optional[int], str] = {
        worker.ident: worker.name for worker in core.all_workers()
    }
    for thread in core.connections.threads():
        own[thread.history.ident] = f"{core.prefix}-connection"
    for spawned in core.spawned.running():
        own.setdefault(spawned.ident, spawned.name)
    monitor = monitor_thread()
    if monitor is not None:
        own[monitor.ident] = monitor.name
    own.setdefault(threading.get_ident(), "the one that reports")
    for ident, name in own.items():
        frame = frames.get(ident) if ident is not None else None
        if frame is None:
            continue
        yield f"  {name}:"
        yield from _stack(frame)


def _stack(frame: Any) -> Iterable[str]:
    calls = list[str]()
    while frame is not None and len(calls) < MAX_STACK_DEPTH:
        code = frame.f_code
        calls.append(f"    {code.co_filename}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return reversed(calls)


def _copy(entries: Any) -> list[Any]:
    """Return the first *entries* of a deque that other threads may change."""
    for _ in range(10):
        try:
            return list(islice(entries.copy(), 1000))
        except RuntimeError:
            pass  # changed during the copy
    return []
