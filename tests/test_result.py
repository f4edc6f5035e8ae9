"""``AsyncResult``: the rules at the top of its module."""

from __future__ import annotations

import builtins
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
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kazoo import exceptions
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.interfaces import IAsyncResult

import kazoo_seqthreading
from kazoo_seqthreading import (
    AsyncResult,
    SequentialThreadingHandler,
    TimeoutError,
    _result,
)
from tests.concurrency import (
    LIMIT,
    RAISED,
    frequent_switches,
    in_thread,
    make_exception,
    together,
)
from tests.support import refcounted, wait_until

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
    assert done.wait(LIMIT)


def waiters(result: AsyncResult[Any]) -> int:
    """Return how many threads wait for a result without links."""
    return len(result._waiting or ())


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


def test_failing_link_that_is_not_a_users_is_logged(
    handler: SequentialThreadingHandler, caplog: pytest.LogCaptureFixture
) -> None:
    result, calls = AsyncResult[Any](handler), list[int]()

    def fails(one: AsyncResult[Any]) -> None:
        raise SystemExit

    result.link(fails, None)
    result.link(lambda _: calls.append(threading.get_ident()), None)
    result.set()
    assert calls == [threading.get_ident()]  # where the result was completed
    assert ["fails" in record.message for record in caplog.records] == [True]


def test_waiters_wake_before_links_run(stopped: SequentialThreadingHandler) -> None:
    result = AsyncResult[Any](stopped)
    waiting = [threading.Event() for _ in range(3)]
    woken = threading.Semaphore(0)

    def wait(began: threading.Event) -> None:
        began.set()
        assert result.get(timeout=LIMIT) == "value"
        woken.release()

    def link(one: AsyncResult[Any]) -> None:
        for _ in waiting:
            assert woken.acquire(timeout=LIMIT)

    def complete() -> None:
        for began in waiting:
            assert began.wait(LIMIT)
        wait_until(lambda: waiters(result) == len(waiting))
        linked.link(link, None)
        result.rawlink(linked.set)
        result.set("value")

    linked = AsyncResult[Any](stopped)
    together(complete, *(lambda began=began: wait(began) for began in waiting))
    # link has seen them all: an assertion in it would have been logged, not raised
    assert linked.value is result
    assert not woken.acquire(blocking=False)


def test_batched_waiters_wake_before_links_run(
    either: SequentialThreadingHandler,
) -> None:
    """Also those of other results that a connection thread has completed before."""
    first, second = AsyncResult[Any](either), AsyncResult[Any](either)
    woken, seen = threading.Semaphore(0), list[bool]()

    def wait(result: AsyncResult[Any]) -> None:
        result.get(timeout=LIMIT)
        woken.release()

    def complete() -> None:
        wait_until(lambda: waiters(first) == waiters(second) == 1)
        _result.allow_batches(True)
        _result.collect_waiters()
        first.set()
        second.rawlink(
            lambda _: seen.extend(woken.acquire(timeout=LIMIT / 4) for _ in "12")
        )
        second.set()

    together(complete, lambda: wait(first), lambda: wait(second))
    settle(either)
    assert seen == [True, True]


def uses_results_elsewhere(handler: SequentialThreadingHandler) -> Callable[[], None]:
    """Return what fails if the caller holds a lock that results need."""

    def use() -> None:
        other, calls = AsyncResult[Any](handler), list[Any]()
        other.rawlink(print)
        other.unlink(print)
        other.link(calls.append, None)
        other.set()
        assert other.get() is None
        assert calls == [other]

    return lambda: in_thread(use, 5.0)


def test_no_lock_is_held_while_a_link_runs(
    stopped: SequentialThreadingHandler,
) -> None:
    use, calls = uses_results_elsewhere(stopped), list[str]()
    for late in (False, True):
        result = AsyncResult[Any](stopped)

        def link(one: AsyncResult[Any]) -> None:
            use()
            calls.append("done")

        if late:
            result.set()
        result.rawlink(link)
        result.set()
    assert calls == ["done", "done"]


def test_no_lock_is_held_while_links_are_compared(
    stopped: SequentialThreadingHandler,
) -> None:
    use, compared = uses_results_elsewhere(stopped), list[object]()

    class Link:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, result: AsyncResult[Any]) -> None:
            raise AssertionError("it was unlinked")

        def __eq__(self, other: object) -> bool:
            use()
            compared.append(other)
            return True

    result = AsyncResult[Any](stopped)
    result.rawlink(Link())
    result.rawlink(Link())
    result.unlink(Link())
    assert compared
    result.set()


@refcounted
def test_no_lock_is_held_while_links_are_freed(
    stopped: SequentialThreadingHandler,
) -> None:
    use, freed = uses_results_elsewhere(stopped), list[str]()

    class Link:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, result: AsyncResult[Any]) -> None:
            pass

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Link) and self.name == other.name

        def __hash__(self) -> int:
            return hash(self.name)

        def __del__(self) -> None:
            use()
            freed.append(self.name)

    result = AsyncResult[Any](stopped)
    result.rawlink(Link("unlinked"))
    result.rawlink(Link("run"))
    result.unlink(Link("unlinked"))
    wait_until(lambda: gc.collect() is not None and freed.count("unlinked") == 2)
    result.set()
    wait_until(lambda: gc.collect() is not None and freed.count("run") == 1)


def test_signal_handler_in_the_middle_of_set(
    stopped: SequentialThreadingHandler,
) -> None:
    def interrupted() -> None:
        with _result._lock:  # here is where the signal arrives
            result = AsyncResult[Any](stopped)
            result.rawlink(calls.append)
            result.set("inner")
            assert result.get() == "inner"

    calls = list[Any]()
    in_thread(interrupted, 5.0)
    assert len(calls) == 1


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


@refcounted
def test_closure_over_its_result_is_freed_without_the_collector(
    stopped: SequentialThreadingHandler,
) -> None:
    class Payload:
        pass

    def make() -> weakref.ref[Any]:
        result, payload = AsyncResult[Any](stopped), Payload()
        result.rawlink(lambda _: (result, payload))
        result.set()
        return weakref.ref(payload)

    gc.disable()
    try:
        assert make()() is None
    finally:
        gc.enable()


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
    assert waiters(result) == 0  # those who gave up are forgotten


@pytest.mark.parametrize("timeout", [None, LIMIT, 10**20, 1e300, math.inf])
def test_waiting_for_a_value(
    stopped: SequentialThreadingHandler, timeout: float | None
) -> None:
    result = AsyncResult[Any](stopped)

    def complete() -> None:
        wait_until(lambda: waiters(result) == 4)
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
            gets = [partial(result.get, timeout=LIMIT)] * 3
            values = together(*gets, partial(result.set, "value"))
            assert values[:3] == ["value"] * 3


def test_timeouts_racing_set(stopped: SequentialThreadingHandler) -> None:
    def wait(result: AsyncResult[Any]) -> bool:
        return result.wait(0.0001)

    with frequent_switches():
        for _ in range(200):
            result = AsyncResult[Any](stopped)
            together(*[lambda result=result: wait(result)] * 3, result.set)
            assert result.get(timeout=LIMIT) is None
            assert waiters(result) == 0


@pytest.fixture
def on_signal() -> Iterator[OnSignal]:
    """Have a signal handler call a function, once the main thread waits."""
    before, main = signal.getsignal(signal.SIGUSR1), threading.get_ident()
    senders = list[threading.Thread]()

    def call(result: AsyncResult[Any], function: Callable[[], Any]) -> None:
        def send() -> None:
            wait_until(lambda: waiters(result))
            time.sleep(0.05)  # it goes to sleep
            signal.pthread_kill(main, signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, lambda *_: function())
        senders.append(threading.Thread(target=send, daemon=True))
        senders[-1].start()

    yield call
    for sender in senders:
        sender.join(LIMIT)
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
        getattr(result, method)(timeout=LIMIT)
    assert waiters(result) == 0
    result.set("value")
    assert result.get() == "value"


@pytest.mark.skipif(os.name != "posix", reason="it needs signals")
def test_signal_handler_completes_what_is_waited_for(
    stopped: SequentialThreadingHandler, on_signal: OnSignal
) -> None:
    result = AsyncResult[Any](stopped)
    on_signal(result, lambda: result.set("from the handler"))
    assert result.get(timeout=LIMIT) == "from the handler"


# -- exceptions ------------------------------------------------------------------------


def length(error: BaseException | None) -> int:
    assert error is not None
    return len(list(traceback.walk_tb(error.__traceback__)))


def raised_by(result: AsyncResult[Any]) -> BaseException:
    try:
        result.get(timeout=LIMIT)
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


@pytest.mark.parametrize("handler", [None, 5, object(), SequentialThreadingHandler])
def test_no_handler(handler: Any) -> None:
    with pytest.raises(TypeError, match="needs a handler"):
        AsyncResult(handler)


@pytest.mark.skipif(os.name != "posix", reason="it needs signals")
@pytest.mark.parametrize("what", ["result", "queue", "wake-up"])
def test_interrupt_while_the_lock_is_waited_for(
    handler: SequentialThreadingHandler, what: str
) -> None:
    """It is the interrupt that is raised, and the lock is not held after it."""
    wakeup = handler.create_socket_pair()[0]
    choices: dict[str, tuple[Any, Callable[[], Any]]] = {
        "result": (_result._lock, AsyncResult[Any](handler).set),
        "queue": (
            handler.callback_queue._lock,
            partial(handler.callback_queue.put, int),
        ),
        "wake-up": (wakeup._lock, partial(wakeup.send, b"0")),
    }
    lock, use = choices[what]
    held, waits, done = threading.Event(), threading.Event(), threading.Event()
    raised: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        if not raised:
            raised.append(number)
            raise KeyboardInterrupt

    def hold() -> None:
        with lock:
            held.set()
            assert waits.wait(LIMIT)
            while not raised:  # it may come just before the main thread blocks
                signal.pthread_kill(main, signal.SIGUSR1)
                done.wait(0.05)
            assert done.wait(LIMIT)

    main, before = threading.get_ident(), signal.signal(signal.SIGUSR1, interrupt)
    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        assert held.wait(LIMIT)
        with pytest.raises(KeyboardInterrupt):
            waits.set()
            use()
    finally:
        done.set()
        holder.join(LIMIT)
        signal.signal(signal.SIGUSR1, before)

    def is_free() -> bool:
        with lock:
            return True

    assert in_thread(is_free)
    wakeup.close()
