"""``AsyncResult``: the rules at the top of its module."""

from __future__ import annotations

import builtins
import concurrent.futures
import contextvars
import gc
import itertools
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kazoo import exceptions
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.interfaces import IAsyncResult

import kazoo_seqthreading
from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler, TimeoutError
from kazoo_seqthreading._batch import end_batch, flush_batch, start_batch
from tests.background import in_background
from tests.internals import link_inline, run_as_connection, waiting
from tests.support import (
    RAISED,
    TIMEOUT,
    frequent_switches,
    in_thread,
    interrupt,
    make_exception,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    OnSignal = Callable[[AsyncResult[Any], Callable[[], Any]], None]


@pytest.fixture
def stopped() -> SequentialThreadingHandler:
    return SequentialThreadingHandler()


@pytest.fixture(params=["running", "stopped"])
def either(request: pytest.FixtureRequest) -> Iterator[SequentialThreadingHandler]:
    handler = SequentialThreadingHandler()
    if request.param == "running":
        handler.start()
    yield handler
    handler.stop()


def settle(handler: SequentialThreadingHandler) -> None:
    """Wait until all callbacks that are queued have run."""
    done = threading.Event()
    handler.completion_queue.put(done.set)
    assert done.wait(TIMEOUT)


class Boom(Exception):
    pass


# -- state -----------------------------------------------------------------------------


def test_new_result_is_pending(stopped: SequentialThreadingHandler) -> None:
    result = stopped.async_result()
    assert isinstance(result, AsyncResult)
    assert isinstance(result, IAsyncResult)
    assert (result.ready(), result.successful()) == (False, False)
    assert (result.value, result.exception) == (None, None)


@pytest.mark.parametrize("value", [None, 0, "", [], "value", Boom("a value")])
def test_value(stopped: SequentialThreadingHandler, value: object) -> None:
    result = AsyncResult[Any](stopped)
    result.set(value)

    assert (result.ready(), result.successful()) == (True, True)
    assert result.value is value
    assert result.exception is None
    assert result.get() is value
    assert result.get_nowait() is value
    assert result.wait(0) is True


def test_value_is_none_by_default(stopped: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](stopped)
    result.set()

    assert result.successful()
    assert result.get() is None


def test_exception(stopped: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](stopped)
    error = Boom("it", "failed")
    result.set_exception(error)
    assert (result.ready(), result.successful()) == (True, False)
    assert result.value is None
    assert result.exception is error
    assert result.wait() is True
    for get in (result.get, result.get_nowait):
        with pytest.raises(Boom) as caught:
            get()
        assert caught.value.args == ("it", "failed")


def test_exception_class_is_as_good_as_an_instance(
    stopped: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[Any](stopped)
    result.set_exception(exceptions.ConnectionClosedError)
    assert type(result.exception) is exceptions.ConnectionClosedError
    with pytest.raises(exceptions.ConnectionClosedError):
        result.get()


def test_exception_class_that_wants_arguments(
    stopped: SequentialThreadingHandler,
) -> None:
    class Demanding(Exception):
        def __init__(self, needed: object) -> None:
            super().__init__(needed)

    result = AsyncResult[Any](stopped)
    result.set_exception(Demanding)
    assert result.ready()
    with pytest.raises(TypeError, match="needed"):
        result.get()


def complete_with_value(result: AsyncResult[Any]) -> None:
    result.set("later")


def complete_with_exception(result: AsyncResult[Any]) -> None:
    result.set_exception(Boom("later"))


@pytest.mark.parametrize("second", [complete_with_value, complete_with_exception])
def test_first_value_wins(
    stopped: SequentialThreadingHandler, second: Callable[[Any], None]
) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()
    result.rawlink(calls.append)
    result.set("first")
    second(result)

    assert result.get() == "first"
    assert result.exception is None
    assert calls == [result]


@pytest.mark.parametrize("second", [complete_with_value, complete_with_exception])
def test_first_exception_wins(
    stopped: SequentialThreadingHandler, second: Callable[[Any], None]
) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()
    first = Boom("first")
    result.rawlink(calls.append)
    result.set_exception(first)
    second(result)

    assert result.exception is first
    assert result.value is None
    assert calls == [result]


def test_one_of_many_sets_wins(handler: SequentialThreadingHandler) -> None:
    def complete(result: AsyncResult[Any], number: int) -> Any:
        result.set(number)
        return result.get_nowait()

    with frequent_switches():
        for _ in range(200):
            result, calls = AsyncResult[Any](handler), list[Any]()
            result.rawlink(calls.append)
            seen = together(*(partial(complete, result, n) for n in range(3)))
            settle(handler)
            assert len(set(seen)) == 1
            assert calls == [result]


# -- links -----------------------------------------------------------------------------


def test_links_run_once_in_order(either: SequentialThreadingHandler) -> None:
    result, calls = AsyncResult[Any](either), list[Any]()

    def link(number: int, one: AsyncResult[Any]) -> None:
        calls.append((number, one.value))

    for number in range(5):
        result.rawlink(partial(link, number))
    result.set("value")
    settle(either)

    assert calls == [(number, "value") for number in range(5)]


def test_late_link_runs_once_and_no_other_again(
    either: SequentialThreadingHandler,
) -> None:
    result, calls = AsyncResult[Any](either), list[str]()
    result.rawlink(lambda _: calls.append("early"))
    result.set()
    result.rawlink(lambda _: calls.append("late"))
    result.rawlink(lambda _: calls.append("later"))
    settle(either)

    assert calls == ["early", "late", "later"]


def test_equal_links_are_one(stopped: SequentialThreadingHandler) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()
    result.rawlink(calls.append)
    result.rawlink(calls.append)  # another object, and equal
    result.set()

    assert calls == [result]


def test_link_of_a_ready_result_is_one_of_its_own(
    stopped: SequentialThreadingHandler,
) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()
    result.set()
    result.rawlink(calls.append)
    result.rawlink(calls.append)

    assert calls == [result, result]


def test_link_made_by_a_link(either: SequentialThreadingHandler) -> None:
    result, calls = AsyncResult[Any](either), list[str]()

    def first(one: AsyncResult[Any]) -> None:
        calls.append("first")
        one.rawlink(lambda _: calls.append("second"))

    result.rawlink(first)
    result.set()
    settle(either)
    settle(either)

    assert calls == ["first", "second"]


def test_unlink(stopped: SequentialThreadingHandler) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()
    kept = list[Any]()
    result.rawlink(calls.append)
    result.rawlink(kept.append)
    result.unlink(calls.append)
    result.unlink(print)  # never linked
    result.set()
    result.unlink(kept.append)  # too late

    assert calls == []
    assert kept == [result]


def test_link_again_after_unlink(stopped: SequentialThreadingHandler) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()
    result.rawlink(calls.append)
    result.unlink(calls.append)
    result.rawlink(calls.append)
    result.set()

    assert calls == [result]


def test_links_racing_set_run_once_each(handler: SequentialThreadingHandler) -> None:
    def link(result: AsyncResult[Any], calls: list[int], numbers: range) -> None:
        for number in numbers:
            result.rawlink(partial(called, calls, number))

    def called(calls: list[int], number: int, result: AsyncResult[Any]) -> None:
        calls.append(number)

    with frequent_switches():
        for _ in range(100):
            result, calls = AsyncResult[Any](handler), list[int]()
            together(
                partial(link, result, calls, range(20)),
                partial(link, result, calls, range(20, 40)),
                result.set,
            )
            settle(handler)
            assert sorted(calls) == list(range(40))


def test_unlink_racing_set_never_runs_twice_and_keeps_the_others(
    handler: SequentialThreadingHandler,
) -> None:
    with frequent_switches():
        for _ in range(200):
            result, taken, kept = AsyncResult[Any](handler), list[Any](), list[Any]()
            result.rawlink(taken.append)
            result.rawlink(kept.append)
            together(partial(result.unlink, taken.append), result.set)
            settle(handler)
            assert kept == [result]
            assert len(taken) <= 1


def test_set_racing_stop_runs_every_link_once() -> None:
    def complete(results: list[AsyncResult[Any]]) -> None:
        for result in results:
            result.set()

    with frequent_switches():
        for _ in range(50):
            handler, calls = SequentialThreadingHandler(), list[Any]()
            handler.start()
            results = [AsyncResult[Any](handler) for _ in range(40)]
            for result in results:
                result.rawlink(calls.append)
            together(
                partial(complete, results[::2]),
                partial(complete, results[1::2]),
                handler.stop,
            )
            assert len(calls) == 40
            assert set(calls) == set(results)


def test_link_runs_in_the_context_of_rawlink(
    handler: SequentialThreadingHandler,
) -> None:
    request = contextvars.ContextVar("request", default="none")
    result, seen = AsyncResult[Any](handler), list[str]()
    for name in ("a", "b"):

        def link(name: str = name) -> None:
            request.set(name)
            result.rawlink(lambda _: seen.append(request.get()))

        contextvars.Context().run(link)
    result.set()
    settle(handler)

    assert seen == ["a", "b"]
    assert request.get() == "none"


def test_a_foreign_handler_gets_the_links() -> None:
    """kazoo's own tests hand over handlers of which nothing but the queue is real."""

    class Foreign:
        running = True
        completion_queue = queue.Queue[Any]()

    result, calls = AsyncResult[Any](Foreign()), list[Any]()  # type: ignore[arg-type]
    result.rawlink(calls.append)
    result.set()
    assert calls == []
    Foreign.completion_queue.get_nowait()()
    assert calls == [result]
    assert Foreign.completion_queue.empty()
    late = AsyncResult[Any](Foreign())  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        late.get(timeout=0.001)


# -- user code and locks ---------------------------------------------------------------


@pytest.mark.parametrize("name", RAISED)
def test_nothing_a_link_raises_gets_out(
    either: SequentialThreadingHandler, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    result, calls = AsyncResult[Any](either), list[str]()

    def fails(one: AsyncResult[Any]) -> None:
        raise make_exception(name)

    result.rawlink(lambda _: calls.append("before"))
    result.rawlink(fails)
    result.rawlink(lambda _: calls.append("after"))
    with caplog.at_level(logging.ERROR, "kazoo_seqthreading"):
        result.set()
        result.rawlink(fails)
        result.rawlink(lambda _: calls.append("late"))
        settle(either)
    assert calls == ["before", "after", "late"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    for record in caplog.records:
        assert "test_nothing_a_link_raises_gets_out.<locals>.fails" in record.message
        assert record.exc_info is not None
        assert record.exc_info[0] is type(make_exception(name))


@pytest.mark.parametrize("name", RAISED)
def test_failing_chain_in_a_connection_thread_is_logged_elsewhere(
    handler: SequentialThreadingHandler, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    result, calls = AsyncResult[Any](handler), list[int]()

    def fails(one: AsyncResult[Any]) -> None:
        raise make_exception(name)

    link_inline(result, fails)
    link_inline(result, lambda _: calls.append(threading.get_ident()))
    run_as_connection(handler, result.set)
    assert calls == [threading.get_ident()]  # where the result was completed
    wait_until(lambda: caplog.records)
    (record,) = caplog.records

    assert "elsewhere.<locals>.fails" in record.message
    assert record.thread != threading.get_ident()
    assert record.exc_info is not None
    assert record.exc_info[0] is type(make_exception(name))


def test_interrupt_in_a_chain_reaches_who_completes_and_the_others_run(
    stopped: SequentialThreadingHandler,
) -> None:
    result, calls = AsyncResult[Any](stopped), list[Any]()

    def fails(one: AsyncResult[Any]) -> None:
        raise KeyboardInterrupt

    link_inline(result, fails)
    result.rawlink(calls.append)
    with pytest.raises(KeyboardInterrupt):
        result.set("value")

    assert result.get_nowait() == "value"
    assert calls == [result]


def test_waiters_wake_before_links_run(stopped: SequentialThreadingHandler) -> None:
    result, seen = AsyncResult[Any](stopped), list[bool]()
    woken = threading.Semaphore(0)

    def wait() -> None:
        assert result.get(timeout=TIMEOUT) == "value"
        woken.release()

    def complete() -> None:
        wait_until(lambda: len(waiting(result)) == 4)
        result.set("value")

    result.rawlink(
        lambda _: seen.extend(woken.acquire(timeout=TIMEOUT / 4) for _ in "123")
    )
    together(complete, wait, wait, wait)

    assert seen == [True] * 3


# -- batches ---------------------------------------------------------------------------


def complete_in_a_batch(
    handler: SequentialThreadingHandler, then: Callable[[], Any]
) -> bool:
    """Complete what a thread waits for, in a batch, and call *then*.

    :returns: whether that thread was woken by then, in a limited time
    """
    result = AsyncResult[Any](handler)
    waiter = in_background(result.get, timeout=TIMEOUT)
    wait_until(lambda: waiting(result))
    woken: list[bool] = []

    def connection() -> None:
        start_batch()
        result.set("value")
        then()
        done, _ = concurrent.futures.wait([waiter], TIMEOUT / 4)
        woken.append(bool(done))

    run_as_connection(handler, connection)
    assert waiter.result(TIMEOUT) == "value"
    return woken[0]


def test_a_batch_is_kept_until_the_connection_thread_sleeps(
    handler: SequentialThreadingHandler,
) -> None:
    flushed: list[int] = []
    assert complete_in_a_batch(handler, lambda: flushed.append(flush_batch()))
    assert flushed == [1]  # it was not woken before
    assert complete_in_a_batch(handler, end_batch)


def test_a_batch_ends_with_its_connection_thread(
    handler: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[Any](handler)
    waiter = in_background(result.get, timeout=TIMEOUT)
    wait_until(lambda: waiting(result))

    def connection() -> None:
        start_batch()
        result.set("value")

    run_as_connection(handler, connection)

    assert waiter.result(TIMEOUT) == "value"


def test_another_thread_has_no_batch(handler: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](handler)
    waiter = in_background(result.get, timeout=TIMEOUT)
    wait_until(lambda: waiting(result))
    start_batch()
    result.set("value")

    assert waiter.result(TIMEOUT) == "value"
    assert flush_batch() == 0


def link(handler: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](handler)
    result.rawlink(print_nothing)
    result.set()


def print_nothing(result: AsyncResult[Any]) -> None:
    pass


@pytest.mark.parametrize(
    "calls_users",
    [
        link,
        lambda handler: AsyncResult[Any](handler).set_exception(Boom()),
        lambda handler: handler.event_object().set(),
        lambda handler: handler.event_object().clear(),
    ],
    ids=["link", "exception", "set", "clear"],
)
def test_batched_waiters_wake_before_a_user_is_called(
    either: SequentialThreadingHandler,
    calls_users: Callable[[SequentialThreadingHandler], Any],
) -> None:
    """Also those of other results that the connection thread has completed before."""
    assert complete_in_a_batch(either, lambda: calls_users(either))


# -- interrupts ------------------------------------------------------------------------

METHODS: dict[str, Callable[[AsyncResult[Any]], Any]] = {
    "set": lambda result: result.set("value"),
    "rawlink": lambda result: result.rawlink(print_nothing),
    "unlink": lambda result: result.unlink(print_nothing),
    "get": lambda result: result.get(timeout=0.001),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_results_can_be_used_in_the_middle_of_each_method(
    stopped: SequentialThreadingHandler, method: str, where: str
) -> None:
    """As signal handlers and finalizers do, and as other threads do meanwhile."""

    def use() -> None:
        other = AsyncResult[Any](stopped)
        other.rawlink(late.append)
        other.set("other")
        assert other.get(timeout=TIMEOUT) == "other"
        result.rawlink(late.append)
        result.set("value")
        assert result.get(timeout=TIMEOUT) == "value"
        used.append(True)

    meanwhile = use if where == "here" else partial(in_thread, use)
    for number in itertools.count(1):
        result, used = AsyncResult[Any](stopped), list[bool]()
        early, late = list[Any](), list[Any]()
        result.rawlink(early.append)
        try:
            reached = interrupt(lambda: METHODS[method](result), number, meanwhile)  # noqa: B023
        except TimeoutError:  # of get: the last steps lead to it
            reached = bool(used)
        if not reached:
            break
        assert used == [True]
        assert early == [result]
        assert len(late) == 2
        assert waiting(result) == []

    assert number > 10


def test_set_that_is_interrupted_is_complete_or_can_be_completed(
    handler: SequentialThreadingHandler,
) -> None:
    def raise_interrupt() -> None:
        raise KeyboardInterrupt

    for number in itertools.count(1):
        result, calls = AsyncResult[Any](handler), list[Any]()
        result.rawlink(calls.append)
        waiter = in_background(result.get, timeout=TIMEOUT)
        wait_until(lambda: len(waiting(result)) == 2)  # noqa: B023
        try:
            interrupt(partial(result.set, "value"), number, raise_interrupt)
        except (KeyboardInterrupt, SystemError):  # 3.9 may make the latter of it
            interrupted = True
        else:
            interrupted = False
        if not result.ready():
            result.set("value")
        assert waiter.result(TIMEOUT) == "value"
        settle(handler)
        assert calls == [result]
        assert waiting(result) == []
        if not interrupted:
            break
    assert number > 10


USES: dict[str, Callable[[AsyncResult[Any]], Any]] = {
    "rawlink": lambda result: result.rawlink(print_nothing),
    "unlink": lambda result: result.unlink(print_nothing),
    "as_future": lambda result: result.as_future(),
    "ready": lambda result: result.ready(),
    "successful": lambda result: result.successful(),
    "wait": lambda result: result.wait(0),
    "get": lambda result: result.get(timeout=0),
    "get_nowait": lambda result: result.get_nowait(),
    "__await__": lambda result: next(result.__await__()),
}
COMPLETES: dict[str, Callable[[AsyncResult[Any]], Any]] = {
    "set": lambda result: result.set("value"),
    "set_exception": lambda result: result.set_exception(Boom()),
}


@pytest.mark.parametrize("name", [*USES, *COMPLETES])
def test_an_override_is_called_by_no_other_method(
    stopped: SequentialThreadingHandler, name: str
) -> None:
    """But for ``get``, which ``get_nowait`` calls as kazoo's does."""
    calls: list[str] = []

    def override(self: object, *args: object, **kwargs: object) -> None:
        calls.append(name)

    overridden = type("Overridden", (AsyncResult,), {name: override})
    for complete in COMPLETES:
        result = overridden(stopped)
        for method in (*USES, complete, *USES):
            if method != name and (method, name) != ("get_nowait", "get"):
                with suppress(TimeoutError, Boom, RuntimeError, StopIteration):
                    {**USES, **COMPLETES}[method](result)

    assert calls == []


def test_complete_result_lets_go_of_its_links(
    either: SequentialThreadingHandler,
) -> None:
    class Link:
        def __call__(self, result: AsyncResult[Any]) -> None:
            pass

    result = AsyncResult[Any](either)
    links = [Link(), Link()]
    references = [weakref.ref(link) for link in links]
    result.rawlink(links[0])
    result.set()
    result.rawlink(links[1])
    settle(either)
    links.clear()

    def gone() -> bool:
        gc.collect()
        return not any(reference() for reference in references)

    wait_until(gone, what="the links, freed")

    assert result.ready()


# -- waiting ---------------------------------------------------------------------------


def test_timeout_error_is_of_every_family() -> None:
    assert issubclass(TimeoutError, KazooTimeoutError)
    assert issubclass(TimeoutError, builtins.TimeoutError)
    assert kazoo_seqthreading.KazooTimeoutError is TimeoutError
    assert SequentialThreadingHandler.timeout_exception is TimeoutError
    assert SequentialThreadingHandler().timeout_exception is TimeoutError


@pytest.mark.parametrize(
    "family", [KazooTimeoutError, builtins.TimeoutError, TimeoutError]
)
def test_nothing_in_time(
    stopped: SequentialThreadingHandler, family: type[Exception]
) -> None:
    result = AsyncResult[Any](stopped)
    with pytest.raises(family, match="no result yet"):
        result.get_nowait()
    with pytest.raises(family, match="no result yet"):
        result.get(block=False)
    for timeout in (0, 0.0, 0.01):
        with pytest.raises(family, match="no result in time"):
            result.get(timeout=timeout)
        with pytest.raises(family):
            result.get(True, timeout)
        assert result.wait(timeout) is False

    assert waiting(result) == []  # those who gave up are forgotten


@pytest.mark.parametrize("timeout", [None, TIMEOUT, 10**20, 1e300, math.inf])
def test_waiting_for_a_value(
    stopped: SequentialThreadingHandler, timeout: float | None
) -> None:
    result = AsyncResult[Any](stopped)

    def complete() -> None:
        wait_until(lambda: len(waiting(result)) == 4)
        result.set("value")

    values = together(
        lambda: result.get(timeout=timeout),
        lambda: result.get(True, timeout),
        lambda: result.wait(timeout),
        lambda: result.wait(timeout=timeout),
        complete,
    )

    assert values[:4] == ["value", "value", True, True]


def test_waiters_racing_set_all_wake(stopped: SequentialThreadingHandler) -> None:
    with frequent_switches():
        for _ in range(200):
            result = AsyncResult[Any](stopped)
            gets = [partial(result.get, timeout=TIMEOUT)] * 3
            values = together(*gets, partial(result.set, "value"))
            assert values[:3] == ["value"] * 3


def test_timeouts_racing_set(stopped: SequentialThreadingHandler) -> None:
    def wait(result: AsyncResult[Any]) -> bool:
        return result.wait(0.0001)

    with frequent_switches():
        for _ in range(200):
            result = AsyncResult[Any](stopped)
            together(*[lambda result=result: wait(result)] * 3, result.set)
            assert result.get(timeout=TIMEOUT) is None
            assert waiting(result) == []


@pytest.fixture
def on_signal() -> Iterator[OnSignal]:
    """Have a signal handler call a function, once the main thread waits."""
    before, main = signal.getsignal(signal.SIGUSR1), threading.get_ident()
    senders = list[threading.Thread]()

    def call(result: AsyncResult[Any], function: Callable[[], Any]) -> None:
        def send() -> None:
            wait_until(lambda: waiting(result))
            time.sleep(0.05)  # it goes to sleep
            signal.pthread_kill(main, signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, lambda *_: function())
        senders.append(threading.Thread(target=send, daemon=True))
        senders[-1].start()

    yield call
    for sender in senders:
        sender.join(TIMEOUT)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(os.name != "posix", reason="it needs signals")
@pytest.mark.parametrize("method", ["get", "wait"])
def test_wait_is_interrupted_by_a_signal(
    stopped: SequentialThreadingHandler, on_signal: OnSignal, method: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    result = AsyncResult[Any](stopped)
    on_signal(result, interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(result, method)(timeout=TIMEOUT)
    assert waiting(result) == []
    result.set("value")

    assert result.get() == "value"


@pytest.mark.skipif(os.name != "posix", reason="it needs signals")
def test_signal_handler_completes_what_is_waited_for(
    stopped: SequentialThreadingHandler, on_signal: OnSignal
) -> None:
    result = AsyncResult[Any](stopped)
    on_signal(result, lambda: result.set("from the handler"))
    assert result.get(timeout=TIMEOUT) == "from the handler"


# -- exceptions ------------------------------------------------------------------------


def length(error: BaseException | None) -> int:
    assert error is not None
    return len(list(traceback.walk_tb(error.__traceback__)))


def raised_by(result: AsyncResult[Any]) -> BaseException:
    try:
        result.get(timeout=TIMEOUT)
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def test_get_does_not_grow_a_traceback(stopped: SequentialThreadingHandler) -> None:
    try:
        raise Boom("from somewhere")
    except Boom as error:
        origin = error
    result = AsyncResult[Any](stopped)
    result.set_exception(origin)
    before = length(origin)
    lengths = {length(raised_by(result)) for _ in range(10)}

    assert len(lengths) == 1
    assert length(result.exception) == before
    # where it came from can still be told
    assert traceback.extract_tb(raised_by(result).__traceback__)[-1].name == (
        "test_get_does_not_grow_a_traceback"
    )


def test_one_exception_of_many_results(stopped: SequentialThreadingHandler) -> None:
    """kazoo gives one to all that wait when a connection is lost."""
    lost = exceptions.ConnectionLoss("lost")
    results = [AsyncResult[Any](stopped) for _ in range(50)]
    for result in results:
        result.set_exception(lost)
    errors = [raised_by(result) for result in results]

    assert len({id(error) for error in errors}) == len(results)
    assert len({length(error) for error in errors}) == 1
    assert lost.__traceback__ is None


def test_threads_share_no_traceback(stopped: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](stopped)
    result.set_exception(Boom("shared"))
    single = length(in_thread(lambda: raised_by(result)))

    def get_often() -> list[BaseException]:
        return [raised_by(result) for _ in range(100)]

    with frequent_switches():
        found = together(get_often, get_often, get_often)
    errors = list(itertools.chain(*found))

    assert len({id(error) for error in errors}) == 300
    assert {length(error) for error in errors} == {single}


class Slotted(Exception):
    __slots__ = ("empty", "filled")

    def __init__(self, filled: object) -> None:
        self.filled = filled


class KeywordsOnly(Exception):
    def __init__(self, *, path: str) -> None:
        super().__init__(f"no {path}")
        self.path = path


class Counting(Exception):
    made = 0

    def __init__(self) -> None:
        Counting.made += 1


def decode_error() -> UnicodeDecodeError:
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")


COPIED = [
    Boom("one", 2),
    KeyError("key"),
    StopIteration("value"),
    SystemExit(3),
    OSError(2, "no such file", "/path"),
    OSError("only a message"),
    ConnectionResetError(104, "reset"),
    ImportError("no module", name="module", path="/path"),
    SyntaxError("bad", ("file", 1, 2, "text")),
    decode_error(),
    exceptions.NoNodeError(),
    exceptions.NoNodeError("/path"),
    exceptions.RolledBackError(),
    exceptions.ConnectionLoss(),
    exceptions.SessionExpiredError(),
    TimeoutError("late"),
    Slotted("kept"),
    KeywordsOnly(path="/a"),
    *(
        [builtins.ExceptionGroup("several", [Boom("one"), Boom("two")])]
        if sys.version_info >= (3, 11)
        else []
    ),
]
ATTRIBUTES = [
    *("errno", "strerror", "filename", "value", "code", "name", "path", "lineno"),
    *("msg", "text", "encoding", "object", "start", "end", "reason", "filled"),
    *("exceptions", "message", "extra"),
]


@pytest.mark.parametrize("original", COPIED, ids=lambda one: type(one).__name__)
def test_copy_is_like_the_original(
    stopped: SequentialThreadingHandler, original: BaseException
) -> None:
    original.extra = object()  # type: ignore[attr-defined]
    original.__cause__ = Boom("cause")
    result = AsyncResult[Any](stopped)
    result.set_exception(original)
    copy = raised_by(result)
    assert copy is not original
    assert type(copy) is type(original)
    assert (copy.args, str(copy)) == (original.args, str(original))
    assert copy.__cause__ is original.__cause__
    assert copy.__suppress_context__ is original.__suppress_context__
    missing = object()
    for name in ATTRIBUTES:
        assert getattr(copy, name, missing) == getattr(original, name, missing), name


def test_copy_runs_no_constructor(stopped: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](stopped)
    result.set_exception(Counting())
    made = Counting.made

    assert type(raised_by(result)) is Counting
    assert Counting.made == made


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_copies_share_no_notes(stopped: SequentialThreadingHandler) -> None:
    if sys.version_info >= (3, 11):
        original = Boom()
        original.add_note("of the original")
        result = AsyncResult[Any](stopped)
        result.set_exception(original)
        copy = raised_by(result)
        copy.add_note("of the copy")
        assert raised_by(result).__notes__ == ["of the original"]


def test_exception_that_cannot_be_copied_does_not_grow(
    stopped: SequentialThreadingHandler,
) -> None:
    class Single(Exception):
        instance: Single | None = None

        def __new__(cls, *args: object) -> Single:
            if cls.instance is not None:
                raise RuntimeError("there is one already")
            cls.instance = super().__new__(cls, *args)
            return cls.instance

    result = AsyncResult[Any](stopped)
    result.set_exception(Single())
    errors = [raised_by(result), raised_by(result)]
    assert errors[0] is errors[1] is result.exception
    first = length(raised_by(result))

    assert [length(raised_by(result)) for _ in range(5)] == [first] * 5


# -- representation and bad input ------------------------------------------------------


def test_repr(stopped: SequentialThreadingHandler) -> None:
    class Named(AsyncResult[Any]):
        pass

    result, failed = stopped.async_result(), Named(stopped)
    assert repr(result) == "<AsyncResult pending>"
    result.set("x")
    assert repr(result) == "<AsyncResult value='x'>"
    failed.set_exception(ValueError("x"))

    assert repr(failed) == "<Named exception=ValueError('x')>"


def test_repr_of_what_is_large(stopped: SequentialThreadingHandler) -> None:
    for large in (b"x" * 100_000, ["x" * 1000] * 1000, ValueError("x" * 100_000)):
        result = AsyncResult[Any](stopped)
        if isinstance(large, Exception):
            result.set_exception(large)
        else:
            result.set((large, None))
        assert len(repr(result)) < 2000


@pytest.mark.parametrize("callback", [None, 1, "name"])
@pytest.mark.parametrize("ready", [False, True])
def test_callback_must_be_callable(
    stopped: SequentialThreadingHandler, callback: Any, ready: bool
) -> None:
    result = AsyncResult[Any](stopped)
    if ready:
        result.set()
    with pytest.raises(TypeError, match="callback must be callable"):
        result.rawlink(callback)


@pytest.mark.parametrize("exception", [None, "failed", 1, object, int])
def test_exception_must_be_one(
    stopped: SequentialThreadingHandler, exception: Any
) -> None:
    result = AsyncResult[Any](stopped)
    with pytest.raises(TypeError, match="not an exception"):
        result.set_exception(exception)
    assert not result.ready()


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("1", TypeError)],
)
def test_timeout_must_make_sense(
    stopped: SequentialThreadingHandler, timeout: Any, error: type[Exception]
) -> None:
    result = AsyncResult[Any](stopped)
    for method in (result.get, result.wait):
        with pytest.raises(error, match="timeout must be"):
            method(timeout=timeout)


# -- a queue of the user's that fails ------------------------------------------------


def test_queue_that_raises_is_heard(handler: SequentialThreadingHandler) -> None:
    class Full(queue.Queue[Any]):
        is_full = True

        def put(self, *args: Any, **kwargs: Any) -> None:
            if self.is_full:
                raise ValueError("full")
            super().put(*args, **kwargs)

    handler.stop()
    handler.completion_queue = mine = Full()
    handler.start()
    result = AsyncResult[int](handler)
    result.rawlink(print)
    with pytest.raises(ValueError, match="full"):
        in_thread(lambda: result.set(1))
    assert result.get() == 1
    mine.is_full = False
