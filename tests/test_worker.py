"""The worker: the rules at the top of its module."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import _worker
from kazoo_seqthreading._stats import Tally
from kazoo_seqthreading._worker import Worker
from tests.concurrency import (
    LIMIT,
    RAISED,
    Gate,
    frequent_switches,
    in_thread,
    make_exception,
    together,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Workers:
    """Makes workers, which are ended after the test."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.made: list[Worker] = []
        self.turned_away: list[Any] = []

    def make(self, **options: Any) -> Worker:
        options.setdefault("when_closed", self.turned_away.append)
        name = f"kazoo-seqthreading-test-{len(self.made)}"
        worker = Worker(name, changed=self.changed, tally=Tally(), **options)
        self.made.append(worker)
        return worker

    def started(self) -> Worker:
        worker = self.make()
        worker.start()
        return worker

    def wait_ended(self, worker: Worker) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: worker.ended, LIMIT)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    for worker in workers.made:
        worker.close(refuse=True)


def settle(worker: Worker) -> None:
    done = threading.Event()
    worker.put(done.set)
    assert done.wait(LIMIT)


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
    assert worker.stats().failed == 0
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
    worker, seen = workers.make(accepting=True), list[str]()
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
    worker = workers.make(when_closed=_worker.run_isolated)
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

            left = together(partial(put, 0), partial(put, 50), worker.abandon)[2]
            inside.open()
            workers.wait_ended(worker)
            assert seen == []
            others = [item.args[0] for item in (*left, *workers.turned_away)]
            assert sorted(others) == list(range(100))


def test_signal_handler_in_the_middle_of_put(workers: Workers) -> None:
    def interrupted() -> None:
        with worker._lock:  # here is where the signal arrives
            worker.put(lambda: seen.append("inner"))
            worker.close()

    worker, seen = workers.started(), list[str]()
    in_thread(interrupted, 5.0)
    workers.wait_ended(worker)
    assert seen == ["inner"]


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
    wait_until(lambda: worker.stats().run == 3)
    assert worker.stats().failed == 1


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


# -- rule 5: a predecessor -------------------------------------------------------------


def test_worker_waits_for_its_predecessor(workers: Workers) -> None:
    first, second, seen = workers.started(), workers.make(), list[str]()
    with Gate() as inside:
        first.put(inside)
        first.put(lambda: seen.append("first"))
        inside.wait_entered()
        first.close()
        second.start(first)
        second.put(lambda: seen.append("second"))
        assert second.qsize() == 1
    settle(second)
    assert seen == ["first", "second"]
    assert first.ended


def test_worker_does_not_wait_for_an_abandoned_predecessor(workers: Workers) -> None:
    first, second = workers.started(), workers.make()
    with Gate() as inside:
        first.put(inside)
        inside.wait_entered()
        second.start(first)
        first.abandon()
        settle(second)
        assert not inside.passed.is_set()
    workers.wait_ended(first)


# -- rule 6: abandoned -----------------------------------------------------------------


def test_abandoned_worker_runs_nothing_more(workers: Workers) -> None:
    worker, seen = workers.started(), list[str]()
    left = [partial(seen.append, "first"), partial(seen.append, "second")]
    with Gate() as inside:
        worker.put(inside)
        inside.wait_entered()
        for callback in left:
            worker.put(callback)
        assert worker.abandon() == left
        assert worker.abandoned
        worker.put(print)
        assert workers.turned_away == [print]
    workers.wait_ended(worker)
    assert inside.passed.is_set()
    assert seen == []


def test_callback_of_an_abandoned_worker_puts(workers: Workers) -> None:
    worker = workers.started()
    with Gate() as inside:

        def puts() -> None:
            inside()
            worker.put(print)

        worker.put(puts)
        inside.wait_entered()
        assert worker.abandon() == []
    workers.wait_ended(worker)
    assert workers.turned_away == [print]


# -- starting --------------------------------------------------------------------------


@pytest.mark.parametrize("accepting", [False, True])
def test_thread_that_cannot_be_started(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, accepting: bool
) -> None:
    worker = workers.make(accepting=accepting)
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


def no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_thread_that_does_not_come_alive(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(_worker, "START_TIMEOUT", 0.05)
    worker = workers.make()
    with pytest.raises(RuntimeError, match=r"did not come alive .*uWSGI"):
        worker.start()
    assert worker.ended


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
    assert all(event.wait(LIMIT) for event in done)


def test_counts(workers: Workers) -> None:
    worker, inside = workers.started(), Gate()
    worker.put(inside)
    inside.wait_entered()
    running = worker.running
    assert running is not None
    assert running[0] is inside
    worker.put(print_nothing)
    assert (worker.qsize(), worker.empty()) == (1, False)
    assert worker.stats().running == "tests.concurrency.Gate"
    assert worker.stats().running_for > 0
    assert repr(worker) == f"<Worker {worker.name} queued=1 ended=False>"
    inside.open()
    wait_until(lambda: worker.stats().run == 2)
    stats = worker.stats()
    assert (stats.depth, stats.failed, stats.running) == (0, 0, None)
    assert 0 < stats.longest_run <= stats.run_time
    assert 0 < stats.longest_wait <= stats.waiting_time
    worker.close()
    workers.wait_ended(worker)
    assert repr(worker) == f"<Worker {worker.name} queued=0 ended=True>"


def print_nothing() -> None:
    pass


# -- rule 7: a start that is given up --------------------------------------------------


def test_interrupted_start(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that has come alive ends, and the next one follows it."""
    worker, inside, seen = workers.make(accepting=True), Gate(), list[str]()

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        wait_until(worker._alive.is_set)
        raise KeyboardInterrupt

    worker.put(inside)
    monkeypatch.setattr(worker._alive, "wait", partial(wait, worker._alive))
    with inside:
        with pytest.raises(KeyboardInterrupt):
            worker.start()
        inside.wait_entered()
        follower = workers.make()
        follower.start(worker)
        follower.put(lambda: seen.append("next"))
        worker.put(print_nothing)
        assert workers.turned_away == [print_nothing]
        assert seen == []
    settle(follower)
    assert seen == ["next"]
    assert worker.ended


def test_thread_that_comes_alive_too_late(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def start_later(thread: threading.Thread) -> None:
        threads.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    monkeypatch.setattr(_worker, "START_TIMEOUT", 0.05)
    worker, seen = workers.make(accepting=True), list[str]()
    worker.put(lambda: seen.append("kept"))
    with pytest.raises(RuntimeError, match="did not come alive"):
        worker.start()
    start(threads[0])
    threads[0].join(LIMIT)
    assert not threads[0].is_alive()
    assert seen == []
    monkeypatch.undo()
    worker.start()
    settle(worker)
    assert seen == ["kept"]


def test_abandoned_just_before_a_callback(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """What was taken from the queue, but has not begun, does not begin any more."""
    worker, inside, seen = workers.make(), Gate(), list[str]()

    class Items(deque[Any]):
        def popleft(self) -> Any:
            item = super().popleft()
            if threading.current_thread() is worker.thread:
                inside()
            return item

    worker._items = Items()
    worker.start()
    with inside:
        worker.put(lambda: seen.append("late"))
        inside.wait_entered()
        assert worker.abandon() == []
        assert worker.running is None
    wait_until(lambda: worker.ended)
    assert seen == []
    assert "Dropped" in caplog.text
    assert "<lambda>" in caplog.text
