"""``AsyncResult.as_future()``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import queue
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import pytest
from kazoo.exceptions import ConnectionClosedError, NoNodeError

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler, TimeoutError
from tests.internals import run_as_connection
from tests.support import (
    TIMEOUT,
    Gate,
    MakeClient,
    frequent_switches,
    in_thread,
    refcounted,
    together,
)


def settle(result: AsyncResult[Any]) -> None:
    """Wait until all callbacks that are queued have run."""
    done = threading.Event()
    result._handler.completion_queue.put(done.set)
    assert done.wait(TIMEOUT)


# -- on a server -----------------------------------------------------------------------


def test_wait(client: Any) -> None:
    futures = [client.get_async(path).as_future() for path in ("/", "/no", "/")]
    done, not_done = concurrent.futures.wait(futures, TIMEOUT)

    assert (done, not_done) == (set(futures), set())
    assert futures[0].result()[0] == futures[2].result()[0] == b""
    assert type(futures[1].exception()) is NoNodeError


def test_wait_for_the_first_exception(client: Any, result: AsyncResult[Any]) -> None:
    failing, pending = client.get_async("/no").as_future(), result.as_future()
    done, not_done = concurrent.futures.wait(
        [failing, pending], TIMEOUT, concurrent.futures.FIRST_EXCEPTION
    )
    assert (done, not_done) == ({failing}, {pending})
    result.set()


def test_as_completed(client: Any) -> None:
    futures = {client.create_async(f"/{n}").as_future(): f"/{n}" for n in range(200)}
    seen = set()
    for future in concurrent.futures.as_completed(futures, TIMEOUT):
        assert future.result() == futures[future]
        seen.add(future)

    assert seen == set(futures)


def test_wrap_future(client: Any) -> None:
    async def main() -> None:
        wrapped = asyncio.wrap_future(client.get_async("/").as_future())
        assert (await asyncio.wait_for(wrapped, TIMEOUT))[0] == b""
        wrapped = asyncio.wrap_future(client.get_async("/no").as_future())
        with pytest.raises(NoNodeError):
            await asyncio.wait_for(wrapped, TIMEOUT)

    asyncio.run(main())


def test_client_that_stops_completes_all(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    futures = [client.get_async("/").as_future() for _ in range(100)]
    client.stop()
    futures.append(client.get_async("/").as_future())
    done, not_done = concurrent.futures.wait(futures, TIMEOUT)
    assert not not_done
    for future in done:
        assert future.exception() is None or isinstance(
            future.exception(), ConnectionClosedError
        )

    assert isinstance(futures[-1].exception(), ConnectionClosedError)


# -- one future ------------------------------------------------------------------------


def test_one_for_each_result(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    assert isinstance(future, Future)
    assert result.as_future() is future
    assert result._handler.async_result().as_future() is not future
    result.set("value")

    assert result.as_future() is future


@pytest.mark.parametrize("late", [False, True])
def test_value(result: AsyncResult[Any], late: bool) -> None:
    if late:
        result.set("value")
    future = result.as_future()
    if not late:
        assert not future.done()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0)
        result.set("value")

    assert future.done()
    assert future.result(0) == "value"


def test_future_of_a_stopped_handler() -> None:
    result = AsyncResult[str](SequentialThreadingHandler())
    future = result.as_future()
    result.set("value")

    assert future.result(TIMEOUT) == "value"


def test_exception_is_the_futures_own(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    result.set_exception(NoNodeError("/no"))
    error = future.exception(0)
    assert type(error) is NoNodeError
    assert error.args == ("/no",)
    assert error is not result.exception
    with pytest.raises(NoNodeError):
        future.result(0)
    with pytest.raises(NoNodeError) as caught:
        result.get()
    names = [one.name for one in traceback.extract_tb(caught.value.__traceback__)]

    assert names == ["test_exception_is_the_futures_own", "get"]


def test_completed_once(result: AsyncResult[Any]) -> None:
    calls: list[Any] = []
    future = result.as_future()
    future.add_done_callback(lambda future: calls.append(future.result()))
    result.set("value")
    result.set("other")
    result.set_exception(NoNodeError)
    assert result.as_future() is future
    settle(result)

    assert calls == ["value"]


def test_failing_done_callback_harms_nobody(result: AsyncResult[Any]) -> None:
    def fail(future: Future[Any]) -> None:
        raise SystemExit("out of a callback")

    called, next_ones = threading.Event(), list[Future[Any]]()
    result.as_future().add_done_callback(fail)
    result.as_future().add_done_callback(next_ones.append)
    result.rawlink(lambda result: called.set())
    result.set("value")
    assert called.wait(TIMEOUT)
    assert result.as_future().result(0) == "value"
    settle(result)

    assert next_ones == [result.as_future()]


# -- callbacks of the future -----------------------------------------------------------


def running_thread(seen: Future[str]) -> Callable[[object], None]:
    return lambda future: seen.set_result(threading.current_thread().name)


@pytest.mark.parametrize("late", [False, True])
def test_done_callback_of_a_client_runs_in_the_completion_worker(
    client: Any, late: bool
) -> None:
    future, seen = client.get_async("/").as_future(), Future[str]()
    if late:
        future.result(TIMEOUT)
    future.add_done_callback(running_thread(seen))

    assert seen.result(TIMEOUT).endswith("-completion")


def test_done_callback_of_a_cancelled_future(result: AsyncResult[Any]) -> None:
    seen = Future[str]()
    result.as_future().add_done_callback(running_thread(seen))
    result.as_future().cancel()

    assert seen.result(TIMEOUT).endswith("-completion")


def test_done_callback_on_a_stopped_handler_runs_where_it_is_completed() -> None:
    result, seen = AsyncResult[str](SequentialThreadingHandler()), Future[str]()
    result.as_future().add_done_callback(running_thread(seen))
    result.set("value")

    assert seen.result(0) == threading.current_thread().name


def test_done_callback_where_nobody_takes_from_the_queue() -> None:
    """As a link of the result, it runs where the result is completed."""
    handler = SequentialThreadingHandler()
    handler.completion_queue = queue.Queue()  # it serves from the next start on
    result, calls = AsyncResult[str](handler), list[Any]()
    result.rawlink(calls.append)
    result.as_future().add_done_callback(calls.append)
    result.set("value")

    assert calls == [result, result.as_future()]


def test_done_callback_that_blocks_does_not_hold_up_a_client(client: Any) -> None:
    with Gate() as inside:
        client.get_async("/").as_future().add_done_callback(inside)
        inside.wait_entered()
        assert client.get("/")[0] == b""
        assert client.get_async("/").as_future().result(TIMEOUT)[0] == b""


def test_who_holds_a_futures_lock_does_not_hold_up_a_connection_thread(
    handler: SequentialThreadingHandler, result: AsyncResult[Any]
) -> None:
    """Whoever waits for several futures takes it, and so does ``repr``."""
    future = result.as_future()
    with future._condition:
        in_thread(lambda: run_as_connection(handler, lambda: result.set("value")))
    assert future.result(TIMEOUT) == "value"


# -- cancelling ------------------------------------------------------------------------


def test_cancelled_future_leaves_the_request_alone(client: Any) -> None:
    made = client.create_async("/made")
    made.as_future().cancel()

    assert made.get(timeout=TIMEOUT) == "/made"
    assert client.exists("/made")


def test_cancelled_future_stays_cancelled(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    assert future.cancel()
    with pytest.raises(TimeoutError):
        result.get_nowait()
    called = threading.Event()
    result.rawlink(lambda result: called.set())
    result.set("value")
    assert called.wait(TIMEOUT)
    assert result.get() == "value"
    assert future.cancelled()
    assert concurrent.futures.wait([future], 0).done == {future}
    with pytest.raises(CancelledError):
        future.result(0)


def test_completed_future_cannot_be_cancelled(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    result.set("value")

    assert not future.cancel()
    assert future.result(0) == "value"


def test_cancelling_a_wrapped_future(result: AsyncResult[Any]) -> None:
    async def main() -> None:
        wrapped = asyncio.wrap_future(result.as_future())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wrapped, 0.01)

    asyncio.run(main())
    assert result.as_future().cancelled()
    result.set("value")

    assert result.get() == "value"


# -- races -----------------------------------------------------------------------------


def test_race_of_set_and_cancel(handler: SequentialThreadingHandler) -> None:
    results = [AsyncResult[int](handler) for _ in range(500)]
    futures = [result.as_future() for result in results]

    def complete() -> None:
        for result in results:
            result.set(1)

    def cancel() -> list[bool]:
        return [future.cancel() for future in futures]

    with frequent_switches():
        _, cancelled = together(complete, cancel)
    assert [future.cancelled() for future in futures] == cancelled
    assert [result.get() for result in results] == [1] * 500
    done, not_done = concurrent.futures.wait(futures, TIMEOUT)

    assert not not_done
    assert {future.result() for future in done if not future.cancelled()} <= {1}


def test_race_for_the_future(handler: SequentialThreadingHandler) -> None:
    """Several threads ask for it, while the result is set."""
    results = [AsyncResult[int](handler) for _ in range(500)]
    calls: list[int] = []

    def ask() -> list[Future[int]]:
        return [result.as_future() for result in results]

    def complete() -> None:
        for result in results:
            result.set(1)

    with frequent_switches():
        *answers, _ = together(ask, ask, ask, complete)
    for futures in zip(*answers):
        assert len({id(future) for future in futures}) == 1
        futures[0].add_done_callback(lambda future: calls.append(future.result()))
    concurrent.futures.wait(answers[0], TIMEOUT)
    settle(results[0])

    assert calls == [1] * 500


# -- memory ----------------------------------------------------------------------------


def test_future_outlives_its_result(handler: SequentialThreadingHandler) -> None:
    result = AsyncResult[str](handler)
    future = result.as_future()
    gone = weakref.ref(result)
    complete = partial(result.set, "value")
    del result
    complete()
    del complete
    gc.collect()

    assert gone() is None
    assert future.result(0) == "value"


@refcounted
def test_unanswered_result_is_freed_with_its_future(
    handler: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[str](handler)
    gone = weakref.ref(result.as_future())
    del result
    gc.collect()

    assert gone() is None
