"""The worker: the rules at the top of its module."""

from __future__ import annotations

import gc
import itertools
import logging
import queue
import threading
import weakref
from functools import partial
from queue import Empty, Queue, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import _worker
from kazoo_seqthreading._callbacks import run_isolated
from kazoo_seqthreading._stats import QueueCounters
from kazoo_seqthreading._worker import Worker
from tests.background import in_background
from tests.support import (
    RAISED,
    TIMEOUT,
    Gate,
    frequent_switches,
    in_thread,
    interrupt,
    make_exception,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Workers:
    """Makes workers, which are ended after the test."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.made: list[Worker] = []
        self.turned_away: list[Any] = []

    def make(self, *predecessors: Worker, **options: Any) -> Worker:
        options.setdefault("when_closed", self.turned_away.append)
        options.setdefault("on_busy", do_nothing)
        worker = Worker(
            f"kazoo-seqthreading-test-{len(self.made)}",
            self.changed,
            counters=QueueCounters(),
            predecessors=predecessors,
            **options,
        )
        self.made.append(worker)
        return worker

    def started(self) -> Worker:
        worker = self.make()
        worker.start()
        return worker

    def wait_ended(self, worker: Worker) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: worker.ended, TIMEOUT)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    for worker in workers.made:
        worker.close(refuse=True)


def settle(worker: Worker) -> None:
    in_thread(worker.join)


def do_nothing() -> None:
    pass


# -- rule 1: one at a time, in order ---------------------------------------------------


def test_callbacks_run_in_order_in_one_daemon_thread(workers: Workers) -> None:
    worker, seen = workers.started(), list[Any]()

    def callback(number: int) -> None:
        seen.append((number, threading.current_thread()))

    for number in range(100):
        worker.put(partial(callback, number))
    settle(worker)

    assert worker.thread is not None
    assert seen == [(number, worker.thread) for number in range(100)]
    assert worker.thread.daemon
    assert worker.thread.name == worker.name
    assert worker.ident == worker.thread.ident


def test_callbacks_of_many_threads_never_overlap(workers: Workers) -> None:
    worker, seen = workers.started(), list[tuple[int, int]]()
    inside = threading.Lock()

    def callback(thread: int, number: int) -> None:
        assert inside.acquire(blocking=False)
        seen.append((thread, number))
        inside.release()

    def put(thread: int) -> None:
        for number in range(200):
            worker.put(partial(callback, thread, number))

    with frequent_switches():
        together(*(partial(put, thread) for thread in range(3)))
        settle(worker)
    assert worker.stats().failures == 0
    for thread in range(3):
        assert [n for one, n in seen if one == thread] == list(range(200))


def test_is_current(workers: Workers) -> None:
    worker, other, seen = workers.started(), workers.started(), list[bool]()
    worker.put(lambda: seen.extend([worker.is_current(), other.is_current()]))
    settle(worker)

    assert seen == [True, False]
    assert not worker.is_current()


# -- rule 2: queued or handed over, never lost -----------------------------------------


def test_put_before_start_is_turned_away(workers: Workers) -> None:
    worker = workers.make()
    worker.put(print)

    assert workers.turned_away == [print]
    assert worker.empty()


def test_put_before_start_is_kept_if_asked_for(workers: Workers) -> None:
    worker, seen = workers.make(), list[str]()
    worker.accept()
    worker.put(lambda: seen.append("early"))
    assert worker.qsize() == 1
    worker.start()
    settle(worker)

    assert seen == ["early"]
    assert workers.turned_away == []


def test_close_runs_what_is_queued_then_turns_away(workers: Workers) -> None:
    worker, seen, inside = workers.started(), list[str](), Gate()

    def puts_more() -> None:
        seen.append("queued")
        worker.put(lambda: seen.append("put by a callback"))

    worker.put(inside)
    inside.wait_entered()
    worker.put(puts_more)
    worker.close()
    worker.close()
    worker.put(lambda: seen.append("put while it closes"))
    inside.open()
    workers.wait_ended(worker)
    assert seen == ["queued", "put while it closes", "put by a callback"]
    worker.put(print)

    assert workers.turned_away == [print]


def test_close_and_refuse_runs_what_is_queued_only(workers: Workers) -> None:
    worker, seen, inside = workers.started(), list[str](), Gate()
    worker.put(inside)
    inside.wait_entered()
    worker.put(lambda: seen.append("queued"))
    worker.close(refuse=True)
    worker.put(print)
    assert workers.turned_away == [print]
    inside.open()
    workers.wait_ended(worker)

    assert seen == ["queued"]


def test_what_is_turned_away_runs_in_the_thread_that_puts(workers: Workers) -> None:
    seen = list[int]()
    worker = workers.make(when_closed=run_isolated)
    worker.put(lambda: seen.append(threading.get_ident()))

    assert seen == [threading.get_ident()]


def test_when_closed_runs_under_no_lock(workers: Workers) -> None:
    def use() -> None:
        in_thread(lambda: worker.put(lambda: calls.append("inner")), 5.0)
        calls.append("outer")

    calls = list[str]()
    worker = workers.make(when_closed=lambda item: item())
    worker.put(use)

    assert calls == ["inner", "outer"]


def test_callback_runs_under_no_lock(workers: Workers) -> None:
    worker, calls = workers.started(), list[str]()

    def use() -> None:
        in_thread(lambda: worker.put(lambda: calls.append("put")), 5.0)
        in_thread(worker.close, 5.0)
        calls.append("used")

    worker.put(use)
    workers.wait_ended(worker)

    assert calls == ["used", "put"]


def test_entry_that_is_counted_late(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Gate()

    class PyPyQueue(queue._PySimpleQueue):  # type: ignore[name-defined,misc]
        def put(self, item: object) -> None:
            self._queue.append(item)
            if len(self._queue) == 1:  # the end of the worker
                counted()
            self._count.release()

    monkeypatch.setattr(_worker, "SimpleQueue", PyPyQueue)
    worker, seen = workers.started(), list[str]()

    closing = in_background(worker.close)
    counted.wait_entered()
    worker.put(partial(seen.append, "late"))
    wait_until(lambda: worker._closed)
    counted.open()
    closing.result(TIMEOUT)
    workers.wait_ended(worker)

    assert [item.args[0] for item in workers.turned_away] + seen == ["late"]


@pytest.mark.parametrize("refuse", [False, True])
def test_puts_racing_close_run_once_each(workers: Workers, refuse: bool) -> None:
    with frequent_switches():
        for _ in range(50):
            workers.turned_away.clear()
            worker, seen = workers.started(), list[int]()

            def put(first: int, worker: Worker = worker, seen: Any = seen) -> None:
                for number in range(first, first + 50):
                    worker.put(partial(seen.append, number))

            together(
                partial(put, 0), partial(put, 50), partial(worker.close, refuse=refuse)
            )
            workers.wait_ended(worker)
            turned_away = [item.args[0] for item in workers.turned_away]
            assert sorted(seen + turned_away) == list(range(100))
            for first in (0, 50):  # and each thread's own in order
                own = [n for n in seen if first <= n < first + 50]
                assert own == list(range(first, first + len(own)))


def test_puts_racing_abandon_are_not_lost(workers: Workers) -> None:
    with frequent_switches():
        for _ in range(50):
            workers.turned_away.clear()
            worker, seen, inside = workers.started(), list[int](), Gate()
            worker.put(inside)
            inside.wait_entered()

            def put(first: int, worker: Worker = worker, seen: Any = seen) -> None:
                for number in range(first, first + 50):
                    worker.put(partial(seen.append, number))

            together(partial(put, 0), partial(put, 50), worker.abandon)
            worker.close()
            inside.open()
            workers.wait_ended(worker)
            assert seen == []
            numbers = [item.args[0] for item in workers.turned_away]
            assert sorted(numbers) == list(range(100))


class SlowQueue(SimpleQueue[Any]):
    """A queue that lets others go first where a step is between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.before_put: dict[int, Callable[[], Any]] = {}  # by the thread's ident
        self.when_empty: list[Callable[[], Any]] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self.before_put.get(threading.get_ident(), do_nothing)()
        super().put(item)

    def get_nowait(self) -> Any:
        try:
            return super().get_nowait()
        except Empty:
            if self.when_empty:
                self.when_empty.pop(0)()
            raise


def test_put_that_comes_after_the_thread_has_looked(workers: Workers) -> None:
    """It looked whether the queue is open before the thread closed it."""

    def put() -> None:
        queue.before_put[threading.get_ident()] = inside
        worker.put(print)

    queue = SlowQueue()
    worker, inside = workers.make(queue=queue), Gate()
    worker.start()
    with inside:
        putting = in_background(put)
        inside.wait_entered()
        worker.close()
        workers.wait_ended(worker)
        assert workers.turned_away == []
    putting.result(TIMEOUT)

    assert workers.turned_away == [print]
    assert worker.empty()


def test_put_while_the_thread_closes_the_queue(workers: Workers) -> None:
    """The thread has found its queue empty, and not closed it yet."""
    queue, seen = SlowQueue(), list[str]()
    worker = workers.make(queue=queue)
    queue.when_empty = [lambda: worker.put(partial(seen.append, "late"))]
    worker.accept()
    worker.close()
    worker.start()
    workers.wait_ended(worker)

    assert seen == ["late"]
    assert workers.turned_away == []


def test_put_that_comes_late_takes_no_others_callback(workers: Workers) -> None:
    """What was put into the open queue runs in the thread, one after the other."""

    def put_late() -> None:
        queue.before_put[threading.get_ident()] = late
        worker.put(print)

    def put_two() -> None:  # the thread is about to close the queue
        worker.put(inside)
        worker.put(partial(seen.append, "second"))

    queue, seen = SlowQueue(), list[str]()
    worker, late, inside = workers.make(queue=queue), Gate(), Gate()
    queue.when_empty = [put_two]
    worker.accept()
    with late, inside:
        putting = in_background(put_late)
        late.wait_entered()
        worker.close()
        worker.start()
        inside.wait_entered()
        late.open()
        putting.result(TIMEOUT)
        assert seen == []
        assert [item for item in workers.turned_away if item is not print] == []
    workers.wait_ended(worker)

    assert seen == ["second"]


# -- rule 3: nothing ends the thread ---------------------------------------------------


@pytest.mark.parametrize("name", RAISED)
def test_nothing_a_callback_raises_ends_the_thread(
    workers: Workers, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker, seen = workers.started(), list[str]()

    def fails() -> None:
        raise make_exception(name)

    with caplog.at_level(logging.ERROR, "kazoo_seqthreading.worker"):
        worker.put(fails)
        worker.put(lambda: seen.append("next"))
        settle(worker)
    assert seen == ["next"]
    (record,) = caplog.records
    assert record.name == "kazoo_seqthreading.worker"
    assert record.message == (
        f"Exception in {__name__}."
        "test_nothing_a_callback_raises_ends_the_thread.<locals>.fails"
    )
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], type(make_exception(name)))
    wait_until(lambda: worker.stats().runs == 3)

    assert worker.stats().failures == 1


def test_callback_that_cannot_be_named_ends_nothing(workers: Workers) -> None:
    class Nameless:
        def __call__(self) -> None:
            raise OSError

        def __getattr__(self, name: str) -> Any:
            raise SystemExit(name)

    worker, seen = workers.started(), list[str]()
    worker.put(Nameless())
    worker.put(lambda: seen.append("next"))
    settle(worker)

    assert seen == ["next"]


def test_log_handler_that_fails_ends_nothing(workers: Workers) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise SystemExit

    def fails() -> None:
        raise OSError

    worker, seen, broken = workers.started(), list[str](), Broken()
    logger = logging.getLogger("kazoo_seqthreading.worker")
    logger.addHandler(broken)
    try:
        worker.put(fails)
        worker.put(lambda: seen.append("next"))
        settle(worker)
    finally:
        logger.removeHandler(broken)

    assert seen == ["next"]


# -- rule 4: no reference --------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_idle_worker_keeps_no_reference(workers: Workers, fails: bool) -> None:
    class Payload:
        pass

    def callback(payload: Payload) -> None:
        if fails:
            raise OSError(payload)

    worker, payload = workers.started(), Payload()
    reference = weakref.ref(payload)
    settle(worker)
    logging.disable(logging.CRITICAL)  # records that are kept, keep tracebacks
    try:
        worker.put(partial(callback, payload))
        del payload

        def gone() -> bool:
            gc.collect()
            return reference() is None

        wait_until(gone, what="the argument of the last callback, freed")
    finally:
        logging.disable(logging.NOTSET)

    assert worker.running is None


# -- rule 5: predecessors --------------------------------------------------------------


def test_worker_waits_for_its_predecessors(workers: Workers) -> None:
    first, second = workers.started(), workers.started()
    third, seen, gates = workers.make(first, second), list[str](), [Gate(), Gate()]
    for worker, gate in zip((first, second), gates):
        worker.put(gate)
        worker.put(partial(seen.append, worker.name))
        gate.wait_entered()
        worker.close()
    third.start()
    third.put(partial(seen.append, third.name))
    for worker, gate in zip((first, second), gates):
        assert third.qsize() == 1
        assert third.name not in seen
        gate.open()
        workers.wait_ended(worker)
    settle(third)

    assert seen == [first.name, second.name, third.name]


def test_worker_does_not_wait_for_an_abandoned_predecessor(workers: Workers) -> None:
    first = workers.started()
    second = workers.make(first)
    with Gate() as inside:
        first.put(inside)
        inside.wait_entered()
        first.close()
        second.start()
        first.abandon()
        settle(second)
        assert not inside.passed.is_set()
    workers.wait_ended(first)


def test_predecessor_is_freed(workers: Workers) -> None:
    first = workers.started()
    second = workers.make(first)
    second.start()
    first.close()
    workers.wait_ended(first)
    workers.made.remove(first)
    reference = weakref.ref(first)
    del first

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone)
    settle(second)


# -- rule 6: abandoned -----------------------------------------------------------------


def test_abandoned_worker_hands_over_what_is_left(workers: Workers) -> None:
    worker, seen = workers.started(), list[str]()
    left = [partial(seen.append, "first"), partial(seen.append, "second")]
    with Gate() as inside:
        worker.put(inside)
        inside.wait_entered()
        for callback in left:
            worker.put(callback)
        worker.close()
        worker.abandon()
        assert worker.abandoned
        assert worker.qsize() == 2
        worker.put(print)
        assert workers.turned_away == [print]
    workers.wait_ended(worker)

    assert inside.passed.is_set()
    assert workers.turned_away == [print, *left]
    assert seen == []


def test_callback_of_an_abandoned_worker_puts(workers: Workers) -> None:
    worker = workers.started()
    with Gate() as inside:

        def puts() -> None:
            inside()
            worker.put(print)

        worker.put(puts)
        inside.wait_entered()
        worker.close()
        worker.abandon()
    workers.wait_ended(worker)

    assert workers.turned_away == [print]


def test_abandoned_worker_counts_nothing_more(workers: Workers) -> None:
    """Its successor goes on with its counters, each of which has one writer."""
    worker = workers.started()
    with Gate() as inside:
        worker.put(inside)
        inside.wait_entered()
        worker.close()
        counters = worker._counters
        worker.abandon()
    workers.wait_ended(worker)

    assert counters.run == 0
    assert worker.stats().runs == 1


# -- rule 7: no lock -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put", "close", "abandon"])
def test_interrupted_method(workers: Workers, method: str) -> None:
    """Whatever step it is at, one may put, and wait for what one has put."""

    def put_and_wait() -> None:
        ran = threading.Event()
        worker.put(ran.set)
        if ran.set in workers.turned_away:
            ran.set()
        waited.append(ran.wait(TIMEOUT))

    waited = list[bool]()
    for number in itertools.count(1):
        worker, seen = workers.started(), list[str]()
        arguments = [partial(seen.append, "outer")] if method == "put" else []
        call = partial(getattr(worker, method), *arguments)
        came = in_thread(partial(interrupt, call, number, put_and_wait))
        worker.close()
        workers.wait_ended(worker)
        assert len(seen) == len(arguments)
        assert waited == [True] * len(waited)
        if not came:
            break

    assert len(waited) == number - 1 > 1


def test_interrupted_thread(workers: Workers) -> None:
    """A finalizer that runs in the worker's thread may put, whatever it is doing."""
    came = list[bool]()
    for number in itertools.count(1):
        worker, seen = workers.make(when_closed=run_isolated), list[str]()
        finalizer = partial(worker.put, partial(seen.append, "inner"))
        run = partial(interrupt, worker._run, number, finalizer)

        def run_interrupted(run: Callable[[], bool] = run) -> None:
            came.append(run())

        worker._run = run_interrupted  # type: ignore[method-assign]
        worker.start()
        worker.put(partial(seen.append, "outer"))
        worker.close(refuse=number % 2 == 0)
        assert worker.thread is not None
        worker.thread.join(TIMEOUT)
        assert not worker.thread.is_alive()
        if not came[-1]:
            assert seen == ["outer"]
            break
        assert sorted(seen) == ["inner", "outer"]
    assert number > 1


# -- starting --------------------------------------------------------------------------


@pytest.mark.parametrize("accepting", [False, True])
def test_thread_that_cannot_be_started(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, accepting: bool
) -> None:
    def no_more_threads(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker = workers.make()
    if accepting:
        worker.accept()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            worker.start()
    assert worker.ended
    assert worker.ident is None
    seen = list[str]()
    worker.put(lambda: seen.append("early"))
    assert len(workers.turned_away) == (not accepting)
    worker.start()
    settle(worker)

    assert seen == (["early"] if accepting else [])


def test_interrupted_start(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that has come alive ends, and the next one follows it."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    worker, inside, seen = workers.make(), Gate(), list[str]()
    worker.accept()
    worker.put(inside)
    with inside:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                worker.start()
        inside.wait_entered()
        follower = workers.make(worker)
        follower.start()
        follower.put(lambda: seen.append("next"))
        worker.put(print)
        assert workers.turned_away == [print]
        assert seen == []
    settle(follower)

    assert seen == ["next"]
    assert worker.ended


def test_thread_that_comes_alive_too_late(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start was interrupted before that, and given up."""
    threads, start = list[threading.Thread](), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        raise KeyboardInterrupt

    worker, seen = workers.make(), list[str]()
    worker.accept()
    worker.put(lambda: seen.append("kept"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.start()
    start(threads[0])
    threads[0].join(TIMEOUT)
    assert not threads[0].is_alive()
    assert seen == []
    worker.start()
    settle(worker)

    assert seen == ["kept"]


# -- the rest --------------------------------------------------------------------------


@pytest.mark.parametrize("put", [None, 1, "callback"])
def test_callback_must_be_callable(workers: Workers, put: Any) -> None:
    worker = workers.started()
    with pytest.raises(TypeError, match="callback must be callable"):
        worker.put(put)


def test_put_takes_the_arguments_of_a_queue(workers: Workers) -> None:
    worker = workers.started()
    done = [threading.Event(), threading.Event()]
    worker.put(done[0].set, False)
    worker.put(done[1].set, block=True, timeout=0.1)

    assert all(event.wait(TIMEOUT) for event in done)


def test_counts(workers: Workers) -> None:
    worker, inside = workers.started(), Gate()
    worker.put(inside)
    inside.wait_entered()
    running = worker.running
    assert running is not None
    assert running[0] is inside
    worker.put(do_nothing)
    assert (worker.qsize(), worker.empty()) == (1, False)
    assert worker.stats().current_callback == "tests.support.Gate"
    assert worker.stats().current_run_seconds > 0
    assert repr(worker) == f"<Worker {worker.name} queued=1 ended=False>"
    inside.open()
    wait_until(lambda: worker.stats().runs == 2)
    stats = worker.stats()
    assert (stats.depth, stats.failures, stats.current_callback) == (0, 0, None)
    assert 0 < stats.longest_run_seconds <= stats.run_seconds_total
    assert 0 < stats.longest_wait_seconds <= stats.wait_seconds_total
    worker.close()
    workers.wait_ended(worker)

    assert repr(worker) == f"<Worker {worker.name} queued=0 ended=True>"


@pytest.mark.parametrize("when", ["before the start", "idle", "at work"])
def test_watchdog_is_told_once_it_can_see_what_runs(
    workers: Workers, when: str
) -> None:
    """Else it may look too early, and see an idle worker."""
    busy, before, inside = list[Any](), Gate(), Gate()
    worker: Worker = workers.make(on_busy=lambda: busy.append(worker.running))
    if when == "before the start":
        worker.accept()
    else:
        worker.start()
    if when == "at work":
        worker.put(before)
        before.wait_entered()
    elif when == "idle":
        settle(worker)
    with before, inside:
        worker.put(inside)
        if when == "before the start":
            worker.start()
        before.open()
        inside.wait_entered()
        assert busy
        assert None not in busy
        assert busy[-1][0] is inside


def test_queue_of_the_users(workers: Workers) -> None:
    """It holds callbacks that were put there without the worker, too."""
    theirs: Queue[Any] = Queue()
    worker, seen = workers.make(queue=theirs), list[str]()
    theirs.put(partial(seen.append, "before the start"))
    worker.start()
    theirs.put(partial(seen.append, "past the worker"))
    worker.put(partial(seen.append, "put"))
    settle(worker)
    assert worker.queue_is_foreign
    assert seen == ["before the start", "past the worker", "put"]
    worker.close()
    workers.wait_ended(worker)

    assert (theirs.empty(), worker.stats().runs) == (True, 4)


def test_join_of_a_closed_worker(workers: Workers) -> None:
    worker = workers.make(when_closed=run_isolated)
    in_thread(worker.join)
    worker.start()
    with Gate() as inside:
        worker.put(inside)
        inside.wait_entered()
        worker.close()
        joining = in_background(worker.join)
        wait_until(lambda: worker.qsize() == 1)
        worker.abandon()
        assert not joining.done()
    joining.result(TIMEOUT)
