"""The handler: the rules at the top of its module, without a server."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import os
import queue
import re
import signal
import ssl
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.protocol.states import Callback, WatchedEvent

from kazoo_seqthreading import SequentialThreadingHandler
from tests.background import in_background
from tests.internals import core_of, run_as_connection, stopping
from tests.support import (
    RAISED,
    TIMEOUT,
    Gate,
    frequent_switches,
    in_thread,
    interrupt,
    make_exception,
    run_python,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., SequentialThreadingHandler]

KINDS = ["completion", "watch"]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make handlers, started, which are stopped after the test."""
    made = list[SequentialThreadingHandler]()

    def make(**options: Any) -> SequentialThreadingHandler:
        handler = SequentialThreadingHandler(**options)
        handler.start()
        made.append(handler)
        return handler

    yield make
    for handler in made:
        handler.stop()


@pytest.fixture
def handler(make: Make) -> SequentialThreadingHandler:
    return make()


def dispatch(
    handler: SequentialThreadingHandler, kind: str, function: Callable[[], Any]
) -> None:
    """Have *function* run as a callback of *kind*."""
    if kind == "watch":
        handler.dispatch_callback(Callback("watch", lambda event: function(), (None,)))
    else:
        result = handler.async_result()
        result.rawlink(lambda _: function())
        result.set()


def settle(handler: SequentialThreadingHandler, *kinds: str) -> None:
    """Wait until the callbacks that are queued have run."""
    for kind in kinds or KINDS:
        done = threading.Event()
        dispatch(handler, kind, done.set)
        assert done.wait(TIMEOUT)


def other_than(kind: str) -> str:
    return KINDS[1 - KINDS.index(kind)]


def threads_of(handler: SequentialThreadingHandler) -> list[str]:
    """Return the roles of the threads of *handler* that live."""
    prefix = core_of(handler).prefix + "-"
    return sorted(
        thread.name[len(prefix) :]
        for thread in threading.enumerate()
        if thread.name.startswith(prefix)
    )


# -- callbacks -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_of_one_type_keep_their_order(
    handler: SequentialThreadingHandler, kind: str
) -> None:
    seen, inside = list[int](), threading.Lock()

    def callback(number: int) -> None:
        assert inside.acquire(blocking=False)
        seen.append(number)
        inside.release()

    for number in range(100):
        dispatch(handler, kind, partial(callback, number))
    settle(handler, kind)

    assert seen == list(range(100))


@pytest.mark.parametrize("kind", KINDS)
def test_the_types_do_not_wait_for_each_other(
    handler: SequentialThreadingHandler, kind: str
) -> None:
    with Gate() as inside:
        dispatch(handler, kind, inside)
        inside.wait_entered()
        settle(handler, other_than(kind))
        assert not inside.passed.is_set()


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_a_callback_raises_stops_anything(
    handler: SequentialThreadingHandler,
    kind: str,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(event: object = None) -> None:
        raise make_exception(name)

    if kind == "watch":
        event = WatchedEvent("CHANGED", "CONNECTED", "/a/path")
        handler.dispatch_callback(Callback("watch", fails, (event,)))
    else:
        result = handler.async_result()
        result.rawlink(fails)
        result.set()
    settle(handler)
    (record,) = caplog.records

    assert ".<locals>.fails" in record.message
    assert ("(watch of /a/path)" in record.message) is (kind == "watch")
    assert handler.running


def test_a_watch_named_run_is_logged_by_its_name(
    handler: SequentialThreadingHandler, caplog: pytest.LogCaptureFixture
) -> None:
    class Job:
        def run(self, event: object) -> None:
            raise ValueError

    event = WatchedEvent("CHANGED", "CONNECTED", "/a/path")
    handler.dispatch_callback(Callback("watch", Job().run, (event,)))
    settle(handler)
    (record,) = caplog.records

    assert record.message.endswith(".Job.run (watch of /a/path)")


def test_watches_before_the_first_start_are_kept() -> None:
    handler, seen = SequentialThreadingHandler(), list[str]()
    dispatch(handler, "watch", lambda: seen.append("early"))
    assert not handler.callback_queue.empty()
    handler.start()
    try:
        settle(handler)
        assert seen == ["early"]
    finally:
        handler.stop()


def test_queues_are_kazoos(handler: SequentialThreadingHandler) -> None:
    seen = list[str]()
    handler.completion_queue.put(lambda: seen.append("completion"))
    handler.callback_queue.put(lambda: seen.append("watch"))
    settle(handler)

    assert sorted(seen) == KINDS
    assert handler.completion_queue.empty()
    assert handler.callback_queue.empty()


@pytest.mark.parametrize("kind", KINDS)
def test_queue_that_is_assigned_serves_from_the_next_start_on(
    handler: SequentialThreadingHandler, kind: str
) -> None:
    name = {"completion": "completion_queue", "watch": "callback_queue"}[kind]
    theirs, seen = queue.Queue[Any](), list[str]()
    handler.stop()
    setattr(handler, name, theirs)
    assert getattr(handler, name) is theirs
    if kind == "watch":  # those of results run at once on a stopped handler
        dispatch(handler, kind, lambda: seen.append("early"))
        assert theirs.qsize() == 1
    handler.start()
    settle(handler)
    theirs.put(lambda: seen.append("theirs"))
    settle(handler)
    assert seen == ["early"] * (kind == "watch") + ["theirs"]
    handler.stop()
    assert theirs.empty()
    assert getattr(handler, name) is not theirs  # as with kazoo's
    handler.start()
    settle(handler)


@pytest.mark.parametrize("kind", KINDS)
def test_queue_that_is_assigned_to_a_running_handler(
    handler: SequentialThreadingHandler, kind: str
) -> None:
    name = {"completion": "completion_queue", "watch": "callback_queue"}[kind]
    theirs, seen = queue.Queue[Any](), list[str]()
    setattr(handler, name, theirs)
    dispatch(handler, kind, lambda: seen.append("theirs"))
    settle(handler, other_than(kind))
    assert (theirs.qsize(), seen) == (1, [])  # it waits for the next start
    theirs.get_nowait()
    handler.stop()
    handler.start()
    settle(handler)

    assert threads_of(handler) == KINDS


def test_handler_has_one_attribute(handler: SequentialThreadingHandler) -> None:
    settle(handler)
    handler.spawn(print_nothing).join(TIMEOUT)
    assert len(vars(handler)) == 1


def test_threads_do_not_hold_the_handler() -> None:
    """Also while they run: it is collected when nobody needs it."""
    other, inside = SequentialThreadingHandler(), Gate()
    other.start()
    prefix, reference = core_of(other).prefix, weakref.ref(other)
    with inside:
        other.callback_queue.put(inside)
        other.spawn(inside)
        inside.wait_entered()
        del other

        def gone() -> bool:
            gc.collect()
            return reference() is None

        wait_until(gone)
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith(prefix)]
    )


@pytest.mark.parametrize("func", [None, 1, "name"])
def test_callbacks_must_be_callable(
    handler: SequentialThreadingHandler, func: Any
) -> None:
    with pytest.raises(TypeError, match="callable"):
        handler.dispatch_callback(Callback("watch", func, ()))
    with pytest.raises(TypeError, match="callable"):
        handler.spawn(func)
    with pytest.raises(TypeError, match="callable"):
        handler.completion_queue.put(func)


# -- start and stop --------------------------------------------------------------------


def test_start_and_stop_are_idempotent() -> None:
    handler = SequentialThreadingHandler()
    handler.stop()
    assert threads_of(handler) == []
    for _ in range(3):
        handler.start()
        handler.start()
        assert (handler.running, handler._running) == (True, True)
        assert threads_of(handler) == KINDS
        settle(handler)
        handler.stop()
        assert (handler.running, handler._running) == (False, False)
        handler.stop()
        wait_until(lambda: threads_of(handler) == [])


def test_threads_are_daemons_with_telling_names(make: Make) -> None:
    one, two = make(), make()
    names = [thread.name for thread in threading.enumerate()]
    for handler in (one, two):
        for role in KINDS:
            assert names.count(f"{core_of(handler).prefix}-{role}") == 1
    assert core_of(one).prefix != core_of(two).prefix
    assert core_of(one).prefix.startswith("kazoo-seqthreading-")
    for thread in threading.enumerate():
        if thread.name.startswith(core_of(one).prefix):
            assert thread.daemon


def test_spawned_threads_are_named(handler: SequentialThreadingHandler) -> None:
    names = list[str]()

    def work(number: int, *, keyword: int) -> None:
        names.append(threading.current_thread().name)
        assert (number, keyword) == (1, 2)

    spawned = handler.spawn(work, 1, keyword=2)
    spawned.join(TIMEOUT)

    assert not spawned.is_alive()
    assert names[0].startswith(f"{core_of(handler).prefix}-spawn:{__name__}.")
    assert names[0].endswith("<locals>.work")


def test_spawn_is_capped(make: Make) -> None:
    handler, gates = make(max_spawned_threads=2), [Gate() for _ in range(5)]
    spawned = [handler.spawn(gate) for gate in gates]
    for gate in gates[:2]:
        gate.wait_entered()
    assert handler.stats().spawned_threads == 2
    assert not gates[2].entered.is_set()
    for gate in gates:
        gate.open()
    for one in spawned:
        one.join(TIMEOUT)
        assert not one.is_alive()

    assert all(gate.passed.is_set() for gate in gates)


@pytest.mark.parametrize("kind", KINDS)
def test_stop_lets_what_is_queued_run(make: Make, kind: str) -> None:
    handler, seen = make(stop_timeout=TIMEOUT), list[str]()
    inside = Gate()
    dispatch(handler, kind, inside)
    inside.wait_entered()
    for name in ("one", "two"):
        dispatch(handler, kind, partial(seen.append, name))

    def opens() -> None:
        wait_until(lambda: stopping(handler))  # watches wait for the next start now
        dispatch(handler, "watch", lambda: seen.append("next start"))
        inside.open()

    together(handler.stop, opens)
    assert seen == ["one", "two"]
    handler.start()
    settle(handler)

    assert seen == ["one", "two", "next start"]


def test_links_of_a_stopped_handler_run_where_the_result_is_set(
    handler: SequentialThreadingHandler,
) -> None:
    handler.stop()
    seen, result = list[int](), handler.async_result()
    result.rawlink(lambda _: seen.append(threading.get_ident()))

    def complete() -> int:
        result.set()
        return threading.get_ident()

    ident = in_thread(complete)
    result.rawlink(lambda _: seen.append(threading.get_ident()))

    assert seen == [ident, threading.get_ident()]


def test_link_on_a_stopped_handler_that_raises(
    handler: SequentialThreadingHandler, caplog: pytest.LogCaptureFixture
) -> None:
    """It is isolated from who completes the result, and from the others."""
    handler.stop()
    seen, result = list[str](), handler.async_result()

    def fails(_: object) -> None:
        raise make_exception("SystemExit")

    result.rawlink(fails)
    result.rawlink(lambda _: seen.append("next"))
    result.set()

    assert seen == ["next"]
    assert [record.name for record in caplog.records] == ["kazoo_seqthreading.worker"]


def test_watches_of_a_stopped_handler_wait_for_the_next_start(
    handler: SequentialThreadingHandler,
) -> None:
    handler.stop()
    seen = list[str]()
    for number in ("one", "two"):
        dispatch(handler, "watch", partial(seen.append, number))
    dispatch(handler, "completion", lambda: seen.append("at once"))
    handler.stop()
    assert not handler.callback_queue.empty()
    assert seen == ["at once"]
    handler.start()
    settle(handler)

    assert seen == ["at once", "one", "two"]


def test_watches_of_an_ended_session_are_dropped(
    handler: SequentialThreadingHandler,
) -> None:
    """Those of another client, that lives on, run at the next start."""

    def dispatch_from(name: str) -> None:
        dispatch(handler, "watch", partial(seen.append, name))

    def live_on() -> None:
        dispatch_from("lives")
        inside()

    seen = list[str]()
    handler.stop()
    with Gate() as inside:
        living = in_background(run_as_connection, handler, live_on)
        inside.wait_entered()
        run_as_connection(handler, partial(dispatch_from, "ended"))
        handler.start()
        settle(handler)
    living.result(TIMEOUT)

    assert seen == ["lives"]


def test_watch_of_an_ended_session_whose_dispatch_meets_a_stop(make: Make) -> None:
    """It runs before the workers end, or not at all, whatever step it was at."""

    def dispatch_interrupted(number: int) -> None:
        came.append(interrupt(call, number, handler.stop))

    came = list[bool]()
    for number in itertools.count(1):
        handler, seen = make(), list[str]()
        callback = Callback("watch", seen.append, ("ended",))
        call = partial(handler.dispatch_callback, callback)
        in_thread(
            partial(run_as_connection, handler, partial(dispatch_interrupted, number))
        )
        handler.stop()
        before = list(seen)
        handler.start()
        settle(handler)
        assert seen == before, f"interrupted at step {number}"
        handler.stop()
        if not came[-1]:
            assert seen == ["ended"]
            break

    assert number > 1


def test_watches_that_come_in_time_run_though_their_session_ends(
    handler: SequentialThreadingHandler,
) -> None:
    seen = list[str]()
    with Gate() as inside:
        dispatch(handler, "watch", inside)
        inside.wait_entered()
        run_as_connection(
            handler, lambda: dispatch(handler, "watch", lambda: seen.append("ran"))
        )
    handler.stop()

    assert seen == ["ran"]


def test_links_in_a_connection_thread_of_a_stopped_handler(make: Make) -> None:
    """They may block: a worker runs them, and the thread ends after it."""
    handler, seen, inside = make(stop_timeout=TIMEOUT), list[Any](), Gate()
    handler.stop()
    links = list[int]()

    def complete() -> int:
        for number in range(3):
            result = handler.async_result()
            result.rawlink(inside if number == 0 else lambda _: links.append(1))
            result.set()
        seen.append("completed")
        return threading.get_ident()

    with inside:
        thread = in_background(run_as_connection, handler, complete)
        inside.wait_entered()
        wait_until(lambda: seen == ["completed"])
        assert not thread.done()
        assert links == []
        assert threads_of(handler) == ["completion"]
    thread.result(TIMEOUT)
    assert links == [1, 1]
    wait_until(lambda: threads_of(handler) == [])


def test_next_start_follows_the_links_of_a_connection_thread(make: Make) -> None:
    handler, seen = make(stop_timeout=TIMEOUT), list[str]()
    handler.stop()

    def complete() -> None:
        result = handler.async_result()
        result.rawlink(inside)
        result.rawlink(lambda _: seen.append("late"))
        result.set()

    with Gate() as inside:
        thread = in_background(run_as_connection, handler, complete)
        inside.wait_entered()
        handler.start()
        dispatch(handler, "completion", lambda: seen.append("started"))
        settle(handler, "watch")
        assert seen == []
    thread.result(TIMEOUT)
    settle(handler)

    assert seen == ["late", "started"]


def test_stop_in_a_connection_thread_waits_for_nothing(make: Make) -> None:
    handler = make(stop_timeout=2 * TIMEOUT)
    with Gate() as inside:
        for kind in KINDS:
            dispatch(handler, kind, inside)
        inside.wait_entered()
        in_thread(partial(run_as_connection, handler, handler.stop), TIMEOUT / 2)
        assert not handler.running
        assert not inside.passed.is_set()
    wait_until(lambda: threads_of(handler) == [])


def test_watches_racing_stop_run_once_and_in_order() -> None:
    """Before stop returns, or at the next start."""
    with frequent_switches():
        for _ in range(50):
            handler, seen = SequentialThreadingHandler(), list[int]()
            handler.start()

            def put(handler: Any = handler, seen: list[int] = seen) -> None:
                for number in range(50):
                    dispatch(handler, "watch", partial(seen.append, number))

            def stop(handler: Any = handler, seen: list[int] = seen) -> int:
                handler.stop()
                return len(seen)

            _, count = together(put, stop)
            assert len(seen) == count
            handler.start()
            settle(handler)
            handler.stop()
            assert seen == list(range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_stop_gives_up_in_time_and_reports(
    make: Make, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """What is left then runs once the callback returns, or at the next start."""
    handler, seen = make(stop_timeout=0.1), list[str]()

    def stands_still() -> None:
        inside()

    with Gate() as inside:
        dispatch(handler, kind, stands_still)
        inside.wait_entered()
        for number in ("one", "two"):
            dispatch(handler, kind, partial(seen.append, number))
        in_thread(handler.stop, TIMEOUT / 2)  # the gate opens after TIMEOUT
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.name == "kazoo_seqthreading.handler"
        first, _, stack = record.message.partition("\n")
        assert f"{core_of(handler).prefix}-{kind} did not stop within 0.1 s" in first
        assert ".<lambda>" in first
        assert "2 queued behind it. Stack:" in first
        assert "in stands_still" in stack
        assert seen == []
        assert threads_of(handler) == [kind]
    wait_until(lambda: threads_of(handler) == [])
    if kind == "completion":
        assert seen == ["one", "two"]
    else:
        assert seen == []
        handler.start()
        settle(handler)
        assert seen == ["one", "two"]


@pytest.mark.parametrize("kind", KINDS)
def test_start_goes_on_without_what_was_given_up(make: Make, kind: str) -> None:
    handler, seen = make(stop_timeout=0.1), list[str]()
    with Gate() as inside:
        dispatch(handler, kind, inside)
        inside.wait_entered()
        dispatch(handler, kind, lambda: seen.append("left"))
        in_thread(handler.stop, TIMEOUT / 2)
        handler.start()
        settle(handler)
        assert threads_of(handler) == sorted([*KINDS, kind])
        assert seen == []
    wait_until(lambda: threads_of(handler) == KINDS)
    settle(handler)

    assert seen == ["left"]


def test_stop_timeout_of_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    handler = make(stop_timeout=0)
    with Gate() as inside:
        dispatch(handler, "watch", inside)
        inside.wait_entered()
        in_thread(handler.stop, TIMEOUT / 2)
        (record,) = caplog.records  # the other worker has nothing to do
        assert f"-watch did not stop within 0 s: still running {__name__}." in (
            record.message
        )
    wait_until(lambda: threads_of(handler) == [])


@pytest.mark.parametrize("kind", KINDS)
def test_stop_in_a_callback(handler: SequentialThreadingHandler, kind: str) -> None:
    seen, stopped, inside = list[str](), threading.Event(), Gate()

    def stops() -> None:
        inside()
        handler.stop()
        seen.append("stopped")
        stopped.set()

    dispatch(handler, kind, stops)
    inside.wait_entered()
    dispatch(handler, kind, lambda: seen.append("queued"))
    dispatch(handler, other_than(kind), lambda: seen.append("other"))
    inside.open()
    assert stopped.wait(TIMEOUT)
    assert not handler.running
    wait_until(lambda: threads_of(handler) == [])
    assert seen == ["other", "stopped", "queued"]
    handler.start()
    settle(handler)


@pytest.mark.parametrize("kind", KINDS)
def test_restart_in_a_callback(handler: SequentialThreadingHandler, kind: str) -> None:
    """A worker runs nothing before its predecessor has ended."""
    seen, restarted = list[str](), threading.Event()

    def restarts() -> None:
        handler.stop()
        handler.start()
        dispatch(handler, kind, lambda: seen.append("queued after"))
        settle(handler, other_than(kind))
        restarted.set()
        inside()
        seen.append("returns")

    with Gate() as inside:
        dispatch(handler, kind, restarts)
        assert restarted.wait(TIMEOUT)
        assert handler.running
        assert seen == []
    settle(handler)
    assert seen == ["returns", "queued after"]
    wait_until(lambda: threads_of(handler) == KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_many_restarts_in_one_callback(
    handler: SequentialThreadingHandler, kind: str
) -> None:
    seen, done = list[int](), threading.Event()

    def restarts() -> None:
        for number in range(5):
            handler.stop()
            handler.start()
            dispatch(handler, kind, partial(seen.append, number))
        done.set()

    dispatch(handler, kind, restarts)
    assert done.wait(TIMEOUT)
    settle(handler)
    assert seen == list(range(5))
    wait_until(lambda: threads_of(handler) == KINDS)


def test_two_callbacks_stop_at_once(make: Make) -> None:
    handler = make(stop_timeout=2 * TIMEOUT)
    barrier, done = threading.Barrier(2), [threading.Event() for _ in KINDS]

    def stops(event: threading.Event) -> None:
        barrier.wait(TIMEOUT)
        handler.stop()
        event.set()

    for kind, event in zip(KINDS, done):
        dispatch(handler, kind, partial(stops, event))
    assert all(event.wait(TIMEOUT) for event in done)
    wait_until(lambda: threads_of(handler) == [])


@pytest.mark.parametrize("kind", KINDS)
def test_callback_and_main_stop_at_once(make: Make, kind: str) -> None:
    handler, done = make(stop_timeout=2 * TIMEOUT), threading.Event()

    def stops() -> None:
        entered.set()
        wait_until(lambda: stopping(handler))  # main is in stop
        handler.stop()
        done.set()

    entered = threading.Event()
    dispatch(handler, kind, stops)
    assert entered.wait(TIMEOUT)
    in_thread(handler.stop)
    assert done.is_set()
    wait_until(lambda: threads_of(handler) == [])


def test_many_stop_and_start_at_once(make: Make) -> None:
    handler = make()

    def restart() -> None:
        for _ in range(20):
            handler.stop()
            handler.start()

    together(restart, restart, restart)
    handler.start()
    settle(handler)
    wait_until(lambda: threads_of(handler) == KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_of_restarts_never_overlap(make: Make, kind: str) -> None:
    handler, inside, ran = make(), threading.Lock(), list[bool]()
    done, last = threading.Semaphore(0), Gate()

    def callback() -> None:
        ran.append(inside.acquire(blocking=False))
        inside.release()
        done.release()

    def restart() -> None:
        handler.stop()
        handler.start()
        for _ in range(10):
            dispatch(handler, kind, callback)
        callback()

    dispatch(handler, kind, last)
    for number in range(20):
        dispatch(handler, kind, callback if number % 5 else restart)
    with frequent_switches():
        last.open()
        for _ in range(20 + 4 * 10):
            assert done.acquire(timeout=TIMEOUT)
    assert ran == [True] * 60
    settle(handler)


@pytest.mark.skipif(os.name != "posix", reason="it needs signals")
def test_signal_handler_stops_in_the_middle_of_stop(make: Make) -> None:
    handler = make(stop_timeout=TIMEOUT)
    signalled, calls = threading.Event(), list[str]()
    main = threading.get_ident()

    def on_signal(*_: object) -> None:
        signalled.set()
        handler.stop()
        calls.append("stopped")

    def interrupt() -> None:
        wait_until(lambda: main in stopping(handler))
        signal.pthread_kill(main, signal.SIGUSR1)
        assert signalled.wait(TIMEOUT)
        inside.open()

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with Gate() as inside:
            dispatch(handler, "completion", inside)
            inside.wait_entered()
            interrupter = threading.Thread(target=interrupt, daemon=True)
            interrupter.start()
            handler.stop()
            interrupter.join(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert calls == ["stopped"]
    assert inside.passed.is_set()
    assert not handler.running


@pytest.mark.skipif(os.name != "posix", reason="it needs signals")
def test_interrupt_of_stop(make: Make) -> None:
    handler = make(stop_timeout=TIMEOUT)
    main = threading.get_ident()

    def on_signal(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt() -> None:
        wait_until(lambda: main in stopping(handler))
        time.sleep(0.05)  # it goes to sleep
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with Gate() as inside:
            dispatch(handler, "watch", inside)
            inside.wait_entered()
            interrupter = threading.Thread(target=interrupt, daemon=True)
            interrupter.start()
            with pytest.raises(KeyboardInterrupt):
                handler.stop()
            interrupter.join(TIMEOUT)
            assert not inside.passed.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not handler.running
    assert stopping(handler) == set()
    handler.stop()
    wait_until(lambda: threads_of(handler) == [])


@pytest.mark.parametrize("failing", [1, 2])
def test_start_that_fails_rolls_back(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    handler, starts = SequentialThreadingHandler(), list[threading.Thread]()
    start, seen = threading.Thread.start, list[str]()

    def fail(thread: threading.Thread) -> None:
        starts.append(thread)
        if len(starts) == failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    dispatch(handler, "watch", lambda: seen.append("early"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            handler.start()
    assert len(starts) == failing
    assert not handler.running
    wait_until(lambda: threads_of(handler) == [])
    handler.start()
    try:
        settle(handler)
        assert threads_of(handler) == KINDS
        assert seen == ["early"]
    finally:
        handler.stop()


def test_restart_that_fails_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, calls = SequentialThreadingHandler(), list[str]()
    handler.start()
    handler.stop()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            handler.start()
    dispatch(handler, "completion", lambda: calls.append("at once"))
    assert calls == ["at once"]
    handler.start()
    settle(handler)
    handler.stop()


# -- events ----------------------------------------------------------------------------


def test_event_that_is_set_in_the_middle_of_set(
    handler: SequentialThreadingHandler,
) -> None:
    """As a signal handler may do."""
    event: Any = handler.event_object()

    def interrupted() -> None:
        with event._cond:  # here is where the signal arrives
            event.clear()
            event.set()

    waiting = in_background(event.wait, TIMEOUT)
    in_thread(interrupted, TIMEOUT / 2)

    assert waiting.result(TIMEOUT) is True


# -- life ------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [False, True])
def test_unreferenced_handler_is_collected(started: bool) -> None:
    handler = SequentialThreadingHandler()
    result = handler.async_result()
    if started:
        handler.start()
        settle(handler)
        handler.spawn(print_nothing).join(TIMEOUT)
    reference, prefix = weakref.ref(handler), core_of(handler).prefix
    del handler, result

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone, what="the handler, collected")
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith(prefix)]
    )


def print_nothing() -> None:
    pass


EXITS = """
import threading
from kazoo.protocol.states import Callback
from kazoo_seqthreading import SequentialThreadingHandler

handler = SequentialThreadingHandler(stop_timeout=0.1, slow_callback_duration=None)
handler.start()
entered = threading.Semaphore(0)

def block(*args):
    entered.release()
    threading.Event().wait()

handler.dispatch_callback(Callback("watch", block, (None,)))
handler.completion_queue.put(block)
handler.spawn(block)
for _ in range(3):
    entered.acquire(timeout=10)
print("main returns")
"""


def test_process_exits_with_callbacks_that_block() -> None:
    done = run_python(EXITS, timeout=TIMEOUT)
    assert (done.stdout, done.returncode) == ("main returns\n", 0)
    reports = re.findall(
        r"^\S+-(\w+) did not stop .* running (\S+),", done.stderr, re.M
    )

    assert sorted(reports) == [(kind, "__main__.block") for kind in KINDS]


QUEUED = """
import atexit, threading
from kazoo.protocol.states import Callback
from kazoo_seqthreading import SequentialThreadingHandler

seen = []
atexit.register(lambda: print(*seen))  # after what is registered later
handler = SequentialThreadingHandler()
handler.start()
entered, ended = threading.Event(), threading.Event()

def wait(result):
    entered.set()
    ended.wait(10)
    seen.append("completion")

result = handler.async_result()
result.rawlink(wait)
result.rawlink(lambda result: seen.append("queued"))
result.set()
entered.wait(10)
handler.dispatch_callback(Callback("watch", seen.append, ("watch",)))
atexit.register(ended.set)  # before what is registered earlier
"""


def test_what_is_queued_at_exit_runs() -> None:
    done = run_python(QUEUED, timeout=TIMEOUT)
    assert (done.stderr, done.returncode) == ("", 0)
    seen = done.stdout.split()

    assert sorted(seen) == ["completion", "queued", "watch"]
    assert seen.index("completion") < seen.index("queued")


# -- options ---------------------------------------------------------------------------


SECONDS = ["stop_timeout", "slow_callback_duration", "connect_timeout"]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        *((name, "1", TypeError) for name in SECONDS),
        *((name, True, TypeError) for name in SECONDS),
        *((name, -1, ValueError) for name in SECONDS),
        *((name, math.nan, ValueError) for name in SECONDS),
        ("stop_timeout", None, TypeError),
        ("slow_callback_duration", 0, ValueError),
        ("connect_timeout", 0, ValueError),
        ("ssl_context", True, TypeError),
        ("ssl_context", ssl.SSLContext, TypeError),
        ("tcp_keepalive", 1, TypeError),
        ("tcp_keepalive", (1, 2), TypeError),
        ("tcp_keepalive", (1, 2, 0), TypeError),
        ("tcp_keepalive", (1, 2, "3"), TypeError),
        ("max_spawned_threads", 1.5, TypeError),
        ("max_spawned_threads", True, TypeError),
        ("max_spawned_threads", 0, ValueError),
    ],
)
def test_option_must_make_sense(
    option: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option):
        SequentialThreadingHandler(**{option: value})  # type: ignore[arg-type]


def test_options_that_make_sense() -> None:
    SequentialThreadingHandler(
        stop_timeout=0,
        slow_callback_duration=None,
        connect_timeout=None,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        tcp_keepalive=(10, 5, 3),
        max_spawned_threads=1,
    )
    SequentialThreadingHandler(
        stop_timeout=math.inf, connect_timeout=0.5, tcp_keepalive=True
    )


def test_stop_timeout_of_ever(make: Make) -> None:
    handler = make(stop_timeout=math.inf)
    inside = Gate()
    dispatch(handler, "watch", inside)
    inside.wait_entered()

    def opens() -> None:
        wait_until(lambda: not handler.running)
        inside.open()

    together(handler.stop, opens)

    assert inside.passed.is_set()


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError, match="positional"):
        SequentialThreadingHandler(1.0)  # type: ignore[call-arg]


# -- surroundings ----------------------------------------------------------------------


SURROUNDINGS = """
import sys, warnings
{before}
from kazoo_seqthreading import SequentialThreadingHandler

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        handler = SequentialThreadingHandler()
        handler.start()
        handler.stop()
for warning in caught:
    if warning.category is RuntimeWarning:
        print(warning.message)
"""

QUIET = "import warnings\nwarnings.simplefilter('ignore')\n"

UWSGI = """
import types
uwsgi = types.ModuleType("uwsgi")
uwsgi.opt = {options}
sys.modules["uwsgi"] = uwsgi
"""


def warnings_after(before: str) -> list[str]:
    done = run_python(SURROUNDINGS.format(before=before))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("module", "patch", "advice"),
    [
        ("gevent", "gevent.monkey.patch_all()", "kazoo.handlers.gevent"),
        ("eventlet", "eventlet.monkey_patch()", "kazoo.handlers.eventlet"),
    ],
)
def test_monkey_patched_process_is_warned_of_once(
    module: str, patch: str, advice: str
) -> None:
    imports = (
        QUIET
        + f"import {module}, {module}.{'monkey' if module == 'gevent' else 'patcher'}\n"
    )
    # Not imported here: eventlet would warn of each fork from then on.
    error = run_python(imports).stderr
    if re.search("^(ImportError|ModuleNotFoundError)", error, re.MULTILINE):
        pytest.skip(f"{module} cannot be imported")
    (warning,) = warnings_after(imports + patch)

    assert module in warning
    assert advice in warning
    assert warnings_after(imports) == []  # imported and not patched


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({b"processes": b"4"}, 1),
        ({b"enable-threads": b"false"}, 1),
        ({b"enable-threads": True}, 0),
        ({"enable-threads": b"true"}, 0),
        ({b"threads": b"2"}, 0),
    ],
)
def test_uwsgi_without_threads_is_warned_of_once(
    options: dict[Any, Any], count: int
) -> None:
    warnings = warnings_after(UWSGI.format(options=options))
    assert len(warnings) == count
    assert all("--enable-threads" in warning for warning in warnings)


def test_ordinary_surroundings() -> None:
    assert warnings_after("") == []
