"""What is said of connection threads and slow callbacks, and where that is written."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler
from kazoo_seqthreading._monitor import Watch, Watchdog, report
from kazoo_seqthreading._stats import QueueCounters
from kazoo_seqthreading._worker import Worker
from tests.internals import link_inline, run_as_connection
from tests.support import (
    RAISED,
    TIMEOUT,
    Gate,
    in_thread,
    make_exception,
    run_python,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import MakeClient

    MakeWorker = Callable[..., Worker]

MONITOR = "kazoo-seqthreading-monitor"
WATCHDOG = "kazoo_seqthreading.watchdog"
CONNECTION = "kazoo_seqthreading.connection"


def messages(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [record.message for record in caplog.records if record.name == logger]


def nothing() -> None:
    pass


def settle() -> None:
    """Wait until all that was reported is written."""
    written = threading.Event()
    report(lambda message: written.set(), "")
    assert written.wait(TIMEOUT)


# -- what a watchdog sees --------------------------------------------------------------


@pytest.fixture
def make_worker() -> Iterator[MakeWorker]:
    """Return a function that makes a started worker; it takes Worker's options."""
    changed = threading.Condition(threading.RLock())
    workers: list[Worker] = []

    def make(name: str = "kazoo-seqthreading-test", **options: Any) -> Worker:
        defaults = {
            "when_closed": print,
            "counters": QueueCounters(),
            "on_busy": nothing,
        }
        worker = Worker(name, changed, **{**defaults, **options})
        worker.start()
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.close(refuse=True)


def watchdog_of(*workers: Worker, limit: float | None) -> Watchdog:
    return Watchdog(lambda: workers, limit)


def test_idle_workers_need_no_look(make_worker: MakeWorker) -> None:
    assert watchdog_of(make_worker(), make_worker(), limit=1.0).check() is None


def test_no_limit(make_worker: MakeWorker, caplog: pytest.LogCaptureFixture) -> None:
    worker = make_worker()
    with Gate() as inside:
        worker.put(inside)
        inside.wait_entered()
        assert watchdog_of(worker, limit=None).check() is None
    assert messages(caplog, WATCHDOG) == []


def test_looks_again_when_the_callback_is_overdue(make_worker: MakeWorker) -> None:
    workers, gates = [make_worker(), make_worker()], [Gate(), Gate()]
    watchdog = watchdog_of(*workers, limit=TIMEOUT)
    for worker, gate in zip(workers, gates):
        worker.put(gate)
        gate.wait_entered()
        time.sleep(0.01)
    patience = watchdog.check()
    assert patience is not None
    assert TIMEOUT - 10 < patience < TIMEOUT - 0.01  # of the first one
    for gate in gates:
        gate.open()


def test_looks_again_for_what_is_about_to_begin(make_worker: MakeWorker) -> None:
    before = make_worker()
    after = make_worker(predecessors=[before])  # it runs nothing yet
    after.put(nothing)
    assert watchdog_of(before, after, limit=3.0).check() == 3.0
    before.close()


def stands_here(gate: Gate) -> None:
    gate()


def test_warns_once_while_it_runs(
    make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_worker("kazoo-seqthreading-test-completion")
    watchdog = watchdog_of(worker, make_worker(), limit=0.05)

    def slow() -> None:
        stands_here(inside)

    with Gate() as inside:
        worker.put(slow)
        inside.wait_entered()
        for _ in range(3):
            worker.put(nothing)
        wait_until(lambda: watchdog.check() and messages(caplog, WATCHDOG))
        for _ in range(3):
            assert watchdog.check() == 0.05  # for the one after this one
        assert not inside.passed.is_set()
    (record,) = [record for record in caplog.records if record.name == WATCHDOG]
    assert record.levelno == logging.WARNING
    first, _, stack = record.message.partition("\n")
    name = f"{__name__}.test_warns_once_while_it_runs.<locals>.slow"

    assert f"Slow callback: {name} has been running for" in first
    assert " in kazoo-seqthreading-test-completion, 3 queued behind it" in first
    assert "in stands_here" in stack


def test_warns_of_the_same_callback_again(
    make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_worker()
    watchdog = watchdog_of(worker, limit=0.01)

    def watchdog_warned(count: int) -> bool:
        watchdog.check()
        return len(messages(caplog, WATCHDOG)) == count

    for count in (1, 2):
        inside = Gate()
        with inside:
            worker.put(inside)
            inside.wait_entered()
            wait_until(partial(watchdog_warned, count))
        wait_until(lambda: worker.running is None)


# -- when it looks ---------------------------------------------------------------------


@pytest.fixture
def impatient() -> Iterator[SequentialThreadingHandler]:
    """A started handler that soon warns of slow callbacks."""
    handler = SequentialThreadingHandler(slow_callback_duration=0.05)
    handler.start()
    yield handler
    handler.stop()


def assert_warned_of_a_slow_callback(
    put: Callable[[Gate], Any], caplog: pytest.LogCaptureFixture
) -> None:
    before = len(messages(caplog, WATCHDOG))
    with Gate() as inside:
        put(inside)
        inside.wait_entered()
        wait_until(
            lambda: len(messages(caplog, WATCHDOG)) == before + 1,
            TIMEOUT,
            "a warning while it runs",
        )


def test_callback_of_an_idle_worker(make_worker: MakeWorker) -> None:
    """Whoever looks as soon as the worker is at work sees that it is."""
    seen: list[object] = []
    settled = threading.Event()

    def look() -> None:
        seen.append(worker.running)

    worker: Worker = make_worker(on_busy=look)
    worker.put(settled.set)

    assert settled.wait(TIMEOUT)
    assert seen
    assert None not in seen


def test_callback_that_waited_for_the_start(
    impatient: SequentialThreadingHandler, caplog: pytest.LogCaptureFixture
) -> None:
    def put(callback: Callable[[], Any]) -> None:
        impatient.stop()
        impatient.callback_queue.put(callback)
        impatient.start()

    assert_warned_of_a_slow_callback(put, caplog)


def test_callback_that_comes_as_the_monitor_looks_away(
    make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker finds it before it has slept."""

    class Finishing(QueueCounters):
        def count(self, waited: float, took: float) -> None:
            super().count(waited, took)
            if self.run == 1:
                wait_until(lambda: not watchdog._armed)
                workers[0].put(inside)

    workers: list[Worker] = []
    watchdog = Watchdog(lambda: workers, 0.05)
    workers.append(make_worker(counters=Finishing(), on_busy=watchdog.arm))
    with Gate() as inside:
        workers[0].put(nothing)
        inside.wait_entered()
        wait_until(lambda: messages(caplog, WATCHDOG), TIMEOUT, "a warning")


def test_monitor_ends_when_all_is_idle_and_starts_again(
    impatient: SequentialThreadingHandler,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kazoo_seqthreading._background.IDLE_SECONDS", 0.05)
    for _ in range(2):
        assert_warned_of_a_slow_callback(impatient.completion_queue.put, caplog)
        wait_until(lambda: MONITOR not in [one.name for one in threading.enumerate()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_child_warns() -> None:
    """Also if it was forked while the parent's monitor looked after the handler."""
    program = run_python(
        """
import logging, os, sys, warnings
from kazoo_seqthreading import SequentialThreadingHandler
from tests.support import Gate
from tests.support import wait_until

warnings.simplefilter("ignore", DeprecationWarning)
written = []
log = logging.Handler()
log.emit = written.append
logging.getLogger("kazoo_seqthreading.watchdog").addHandler(log)

def warn():
    inside = Gate()
    handler.completion_queue.put(inside)
    inside.wait_entered()
    wait_until(lambda: written)
    written.clear()
    return inside

handler = SequentialThreadingHandler(slow_callback_duration=0.05)
handler.start()
with warn():
    pid = os.fork()
    if not pid:
        try:
            handler.start()
            warn()
            os._exit(0)
        finally:
            os._exit(1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    )
    assert program.returncode == 0, program.stderr


# -- how it is written -----------------------------------------------------------------


def test_report_is_written_elsewhere() -> None:
    seen: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def log(*args: object, **kwargs: object) -> None:
        seen.append((threading.current_thread().name, args, kwargs))

    names = [lambda: threading.current_thread().name]
    report(log, "message %s %s", 1, *names, exc_info=None)
    settle()

    assert seen == [(MONITOR, ("message %s %s", 1, MONITOR), {"exc_info": None})]


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("which", ["log", "argument"])
def test_report_that_fails_harms_no_other(name: str, which: str) -> None:
    def fails(*args: object) -> None:
        raise make_exception(name)

    written: list[str] = []
    report(fails if which == "log" else print, "", fails)
    report(written.append, "the next one")
    settle()

    assert written == ["the next one"]


class LogHandler(logging.Handler):
    """Calls a function with each record of the package."""

    def __init__(self, function: Callable[[logging.LogRecord], Any]) -> None:
        super().__init__()
        self._function = function

    def emit(self, record: logging.LogRecord) -> None:
        self._function(record)

    def __enter__(self) -> LogHandler:
        logging.getLogger("kazoo_seqthreading").addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger("kazoo_seqthreading").removeHandler(self)


def fail(result: object) -> None:
    raise RuntimeError("on purpose")


def test_log_handler_that_blocks_holds_up_no_connection_thread(client: Any) -> None:
    with Gate() as inside, LogHandler(inside):
        result = client.handler.async_result()
        link_inline(result, fail)
        in_thread(partial(run_as_connection, client.handler, result.set))
        inside.wait_entered()
        link_inline(client.get_async("/"), fail)  # in its own connection thread
        assert client.get("/")[0] == b""
        called = threading.Event()
        client.get_async("/").rawlink(lambda result: called.set())
        assert called.wait(TIMEOUT)


@pytest.mark.parametrize("name", RAISED)
def test_log_handler_that_raises_is_called_again(
    impatient: SequentialThreadingHandler, name: str
) -> None:
    """Both for slow callbacks, and for what is reported by others."""
    seen: list[str] = []

    def emit(record: logging.LogRecord) -> None:
        seen.append(record.getMessage())
        raise make_exception(name)

    def was_called(count: int) -> Callable[[], bool]:
        return lambda: len(seen) == count

    with LogHandler(emit):
        for count in (1, 3):
            with Gate() as inside:
                impatient.completion_queue.put(inside)
                inside.wait_entered()
                wait_until(was_called(count))
            result = impatient.async_result()
            link_inline(result, fail)
            in_thread(partial(run_as_connection, impatient, result.set))
            wait_until(was_called(count + 1))


# -- a client's callbacks --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_slow_callback_of_a_client(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    client = make_client(handler=SequentialThreadingHandler(slow_callback_duration=0.2))
    client.start()
    client.create("/slow")
    with Gate() as inside:
        if kind == "completion":
            client.exists_async("/slow").rawlink(inside)
        else:
            client.get("/slow", watch=inside)
            client.delete("/slow")
        inside.wait_entered()
        wait_until(lambda: messages(caplog, WATCHDOG), what="a warning while it runs")
        client.exists("/")  # and nothing else is held up
        (message,) = messages(caplog, WATCHDOG)

    assert "tests.support.Gate" in message
    assert ("(watch of /slow)" in message) is (kind == "watch")
    assert f"-{kind}," in message
    assert "support.py" in message.partition("\n")[2]


@pytest.mark.stock_fails("nothing is logged")
@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_callback_that_waits_for_a_later_one_is_named(
    client: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """It waits for what only a later one of its queue can bring."""
    delivered, done, order = threading.Event(), threading.Event(), list[str]()
    inside = Gate()

    def waits_for_the_next(argument: object) -> None:
        assert delivered.wait(TIMEOUT)
        order.append("waits")

    def delivers(argument: object) -> None:
        delivered.set()
        order.append("delivers")
        done.set()

    def call_back(callback: Callable[[Any], object]) -> None:
        if kind == "completion":
            client.exists_async("/").rawlink(callback)
            return
        path = client.create("/node-", sequence=True)
        client.exists(path, watch=callback)
        client.delete(path)

    def warnings() -> list[str]:
        return [text for text in caplog.messages if "waits_for_the_next" in text]

    queues = client.handler.completion_queue, client.handler.callback_queue
    queue = queues[kind == "watch"]
    try:
        with inside:  # so that both are in the queue before the first one runs
            call_back(inside)
            inside.wait_entered()
            call_back(waits_for_the_next)
            call_back(delivers)
            wait_until(lambda: queue.qsize() == 2)
        wait_until(warnings, TIMEOUT, "a warning while it hangs")
        assert order == []
        client.get_children("/")  # the client works, but for this queue
        (warning,) = warnings()
        assert order == []
    finally:
        delivered.set()  # as nobody else can
    first, _, stack = warning.partition("\n")

    assert f"{__name__}." in first
    assert ("(watch of /node-" in first) is (kind == "watch")
    assert re.search(rf"in kazoo-seqthreading-\d+-{kind}, 1 queued behind it", first)
    assert "in waits_for_the_next" in stack
    assert done.wait(TIMEOUT)
    assert order == ["waits", "delivers"]


def test_heartbeats_in_time_are_no_news(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(timeout=9.0)  # due after 3 s at the most, late after 3.9
    client.start()
    requests = client.handler.stats().requests
    wait_until(lambda: client.handler.stats().requests >= requests + 2)
    settle()

    assert messages(caplog, CONNECTION) == []


def test_watch_that_fails_harms_no_other(
    impatient: SequentialThreadingHandler, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Watch):
        def _look(self, first: bool) -> float | None:
            looked.set()
            raise ValueError("on purpose")

    looked = threading.Event()
    Fails().arm()
    assert looked.wait(TIMEOUT)
    assert_warned_of_a_slow_callback(impatient.completion_queue.put, caplog)
